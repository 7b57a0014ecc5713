//! Everything that is measured, running.

use std::path::Path;

use harness::guests;
use harness::host::Wasi;
use harness::launch::open_to_all;
use harness::proc::Process;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::native;
use crate::options::Options;
use crate::server::Server;
use crate::site::Site;

/// The hosts, all of which run from the beginning to the end.
pub struct Peers {
    ours: Site,
    module: Option<Site>,
    hello_url: Option<Server>,
    lab_url: Option<Server>,
    /// Whether there is a Python component.
    pub python: bool,
    /// Outlives the host that has its modules in it.
    _modules: Option<TempDir>,
}

/// Whose application it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Ours.
    Ours,
    /// The native one; in our host, so that both have the same router.
    Native,
    /// That of the module in `PEER_MODULE`.
    Module,
}

impl Who {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Native => "native C",
            Self::Module => "PEER_MODULE",
        }
    }

    /// Its name for an application that ours calls `app`.
    fn app(self, app: &str) -> String {
        match self {
            Self::Native => format!("native-{app}"),
            Self::Ours | Self::Module => app.to_owned(),
        }
    }
}

/// Makes Unit start a process for a request and end it after a second idle.
fn on_demand() -> Value {
    json!({ "max": 1, "spare": 0, "idle_timeout": 1 })
}

impl Peers {
    /// Starts every host that there is.
    pub fn start(options: &Options) -> Result<Self, String> {
        let mut ours = Site::start(options.host, &options.exe, &options.modules)?;
        let mut apps = components(options);
        if let Some(tree) = &options.tree {
            let program = native::build(tree, &ours.dir())?;
            apps.append(&mut native_apps(&program));
        }
        let mut routes = Map::new();
        routes.insert("ok".into(), json!([{ "action": { "return": 200 } }]));
        ours.configure(apps, routes)?;
        let (module, folder) = match &options.peer_module {
            None => (None, None),
            Some(file) => {
                let (site, folder) = other_module(options, file)?;
                (Some(site), Some(folder))
            }
        };
        let url = |url: &Option<String>| url.as_deref().map(Server::at).transpose();
        Ok(Self {
            ours,
            module,
            hello_url: url(&options.peer_url)?,
            lab_url: url(&options.peer_lab_url)?,
            python: options.python.is_some(),
            _modules: folder,
        })
    }

    fn site(&self, who: Who) -> Option<&Site> {
        match who {
            Who::Ours | Who::Native => Some(&self.ours),
            Who::Module => self.module.as_ref(),
        }
    }

    /// The server of one application, if there is one.
    pub fn server(&self, who: Who, app: &str) -> Option<Server> {
        let addr = self.site(who)?.addr(&who.app(app))?;
        Some(Server::new(who.name(), addr, self.processes(who, app)))
    }

    /// An application of ours under a name of its own in the table.
    pub fn called(&self, app: &str, name: &str) -> Option<Server> {
        let addr = self.ours.addr(app)?;
        Some(Server::new(name, addr, self.processes(Who::Ours, app)))
    }

    /// All servers of an application.
    pub fn all(&self, app: &str) -> Vec<Server> {
        let everyone = [Who::Ours, Who::Native, Who::Module];
        let mut servers: Vec<Server> = everyone
            .into_iter()
            .filter_map(|who| self.server(who, app))
            .collect();
        servers.extend(match app {
            "hello" => self.hello_url.clone(),
            "lab" => self.lab_url.clone(),
            _ => None,
        });
        servers
    }

    /// The processes of one application.
    pub fn processes(&self, who: Who, app: &str) -> Vec<Process> {
        let mark = match who {
            Who::Native => format!("native-app {app}-mark"),
            Who::Ours | Who::Module => format!("\"{app}\" application"),
        };
        self.site(who)
            .map_or_else(Vec::new, |site| site.processes(&mark))
    }
}

/// The applications that run components. Our module's settings are nothing to
/// another module but an environment.
fn components(options: &Options) -> Map<String, Value> {
    let mut apps = Map::new();
    let mut add = |name: &str, component: &Path, processes: Value, env: &[(&str, &str)]| {
        let mut app = Map::new();
        app.insert("type".into(), json!("wasm-wasi-component"));
        app.insert("component".into(), json!(component));
        app.insert("processes".into(), processes);
        let mut environment = Map::new();
        let cache = harness::launch::cache();
        environment.insert("UNIT_WASM_CACHE".into(), json!(cache));
        for (key, value) in env {
            environment.insert((*key).to_owned(), json!(value));
        }
        app.insert("environment".into(), Value::Object(environment));
        apps.insert(name.to_owned(), Value::Object(app));
    };
    let (hello, lab) = (guests::hello(), guests::lab());
    add("hello", &hello, json!(1), &[]);
    add("hello-idle", &hello, json!(1), &[]);
    add("hello-2", &hello, json!(2), &[]);
    add("hello-4", &hello, json!(4), &[]);
    add("hello-start", &hello, on_demand(), &[]);
    add("lab", &lab, json!(1), &[]);
    add(
        "sleep",
        &lab,
        json!(1),
        &[("UNIT_WASM_CONCURRENCY", "1000")],
    );
    let lab3 = guests::lab_for(Wasi::V03);
    let reuse = ("UNIT_WASM_REUSE", "1000");
    let shared = [reuse, ("UNIT_WASM_REUSE_CONCURRENT", "16")];
    add("lab-reuse", &lab, json!(1), &[reuse]);
    add("lab3", &lab3, json!(1), &[]);
    add("lab3-reuse", &lab3, json!(1), &[reuse]);
    add("lab3-shared", &lab3, json!(1), &shared);
    let fuel = ("UNIT_WASM_FUEL", "100000000");
    let tight = [
        fuel,
        ("UNIT_WASM_MEMORY", "16MiB"),
        ("UNIT_WASM_CPU_TIME", "100ms"),
        ("UNIT_WASM_TIMEOUT", "5s"),
        ("UNIT_WASM_IDLE_TIMEOUT", "5s"),
        ("UNIT_WASM_RESPONSE_TIMEOUT", "5s"),
        ("UNIT_WASM_STACK", "256KiB"),
        ("UNIT_WASM_OUTPUT", "16KiB"),
    ];
    add("limits", &hello, json!(1), &tight);
    add("fuel", &hello, json!(1), &[fuel]);
    let threads = [("UNIT_WASM_THREADS", "2")];
    add("threads-2", &hello, json!(1), &threads);
    // Wall-clock time is at least CPU time, so both outlast a run.
    let spin = format!("{}ms", options.time.as_millis() + 500);
    let spin = [("UNIT_WASM_CPU_TIME", spin.as_str())];
    add("spin", &lab, json!(1), &spin);
    if let Some(python) = &options.python {
        add("python", python, json!(1), &[]);
        add("python-idle", python, json!(1), &[]);
        add("python-start", python, on_demand(), &[]);
    }
    apps
}

fn native_apps(program: &Path) -> Map<String, Value> {
    let mut apps = Map::new();
    for (app, processes) in [
        ("hello", json!(1)),
        ("hello-idle", json!(1)),
        ("hello-2", json!(2)),
        ("hello-4", json!(4)),
        ("hello-start", on_demand()),
        ("lab", json!(1)),
    ] {
        let object = json!({
            "type": "external",
            "executable": program,
            // Tells its processes from those of the others.
            "arguments": [format!("{app}-mark")],
            "processes": processes,
        });
        apps.insert(Who::Native.app(app), object);
    }
    apps
}

/// A host of the same make with another module in the place of ours.
fn other_module(options: &Options, file: &Path) -> Result<(Site, TempDir), String> {
    let folder = tempfile::Builder::new()
        .prefix("nxt-bench-modules-")
        .tempdir()
        .map_err(|error| format!("a temporary directory: {error}"))?;
    open_to_all(folder.path());
    std::fs::copy(file, folder.path().join("peer.unit.so"))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let mut site = Site::start(options.host, &options.exe, folder.path())?;
    let mut apps = components(options);
    // Another module need not know WASI 0.3.
    apps.retain(|name, _| !name.starts_with("lab3"));
    site.configure(apps, Map::new())
        .map_err(|error| format!("PEER_MODULE: {error}"))?;
    Ok((site, folder))
}
