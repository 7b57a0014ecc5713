//! A host that runs for the length of the benchmark.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::Duration;

use harness::control::Control;
use harness::host::{ModuleType, Wasi};
use harness::launch::{free_addr, next_ip, open_to_all, spawn};
use harness::proc::{self, Process};
use harness::{Host, Kind, wait_for};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// How long a host may take to open its control socket, or to exit.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host with its applications, each behind a listener of its own.
pub struct Site {
    control: Control,
    child: Child,
    dir: TempDir,
    addrs: BTreeMap<String, SocketAddr>,
}

impl Site {
    /// Starts `exe` with the modules of a directory, without a configuration.
    pub fn start(kind: Kind, exe: &Path, modules: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("nxt-bench-")
            .tempdir()
            .map_err(|error| format!("a temporary directory: {error}"))?;
        // Unit's processes run as nobody when unitd is root.
        open_to_all(dir.path());
        for name in ["state", "tmp"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            open_to_all(&path);
        }
        let host = Host {
            kind,
            module_type: ModuleType::Component,
            wasi: Wasi::V02,
            exe: exe.to_path_buf(),
            modules: modules.to_path_buf(),
        };
        let site = Self {
            control: Control::at(&dir.path().join("control.sock")),
            child: spawn(&host, dir.path()),
            dir,
            addrs: BTreeMap::new(),
        };
        let up = wait_for(PATIENCE, || site.control.ready().then_some(()));
        up.ok_or_else(|| site.broken("did not start"))?;
        Ok(site)
    }

    /// A directory that applications can read.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Puts the applications and routes in place; each route and application
    /// is then at [`Site::addr`] under its name.
    pub fn configure(
        &mut self,
        applications: Map<String, Value>,
        routes: Map<String, Value>,
    ) -> Result<(), String> {
        let ip = next_ip();
        let mut listeners = Map::new();
        let apps = applications.keys().map(|name| (name, "applications"));
        for (name, place) in apps.chain(routes.keys().map(|name| (name, "routes"))) {
            let addr = free_addr(ip);
            let pass = json!({ "pass": format!("{place}/{name}") });
            listeners.insert(addr.to_string(), pass);
            self.addrs.insert(name.clone(), addr);
        }
        let config = json!({
            "listeners": listeners,
            "applications": applications,
            "routes": routes,
        });
        match self.control.put("/config", &config) {
            Ok(reply) if reply.success() => Ok(()),
            Ok(reply) => Err(self.broken(&format!("refuses the configuration: {}", reply.json))),
            Err(error) => Err(self.broken(&format!("control socket: {error}"))),
        }
    }

    /// Where an application or route listens.
    pub fn addr(&self, name: &str) -> Option<SocketAddr> {
        self.addrs.get(name).copied()
    }

    /// The processes with `mark` in their command lines.
    pub fn processes(&self, mark: &str) -> Vec<Process> {
        let all = proc::group(self.group()).into_iter();
        all.map(|stat| stat.process)
            .filter(|process| process.command().contains(mark))
            .collect()
    }

    fn group(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    fn broken(&self, what: &str) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(12)..);
        format!(
            "the host {what}\nits log ends with:\n{}",
            tail.unwrap_or_default().join("\n")
        )
    }
}

impl Drop for Site {
    /// Stops the host; whatever is left of it after a while is killed.
    fn drop(&mut self) {
        let main = Process::of(self.group());
        if let Some(main) = main {
            main.signal(libc::SIGTERM);
        }
        let exited = wait_for(PATIENCE, || {
            self.child.try_wait().ok().flatten().map(|_| ())
        });
        if exited.is_none() {
            let left: Vec<String> = self
                .processes("")
                .into_iter()
                .map(Process::command)
                .collect();
            let text = format!("did not exit within {PATIENCE:?}; these are killed: {left:#?}");
            eprintln!("{}", self.broken(&text));
        }
        for process in self.processes("") {
            process.signal(libc::SIGKILL);
        }
        let _ = self.child.wait();
        // What was killed needs a moment to be gone.
        thread::sleep(Duration::from_millis(50));
    }
}
