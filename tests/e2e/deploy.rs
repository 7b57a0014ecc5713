//! `nxt-wasm deploy`, `list`, `rollback`, `remove`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use harness::cli::{self, Ran};
use harness::launch::{cache, free_addr, next_ip, open_to_all};
use harness::load::{self, Client, Load, checked};
use harness::peers::s3::{BUCKET, KEY, S3Server, SECRET};
use harness::{Host, Request, Response, Server, eventually, guests, http};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["deploy", Cli:
        an_application_is_added_and_nothing_else_changes,
        new_versions_under_load,
        a_broken_component_changes_nothing,
        an_application_that_does_not_answer_is_taken_back,
        what_unit_refuses_is_told_and_taken_back,
        back_to_what_was_there,
        an_application_is_removed,
        two_applications_do_not_disturb_each_other,
        routes_that_others_change_meanwhile_stay,
        everything_is_brought_up_again,
        a_listener_is_made,
        a_store_in_a_bucket,
        two_stores_in_one_folder,
        a_record_is_written_and_the_answer_is_lost,
    ]
}

/// A server with a listener that passes to `routes`, and a store.
pub struct Site {
    pub server: Server,
    pub addr: SocketAddr,
    /// For the store and other files, which outlive the server.
    pub dir: TempDir,
    pub store: PathBuf,
}

impl Site {
    pub fn start(host: &Host) -> Self {
        let mut server = Server::bare(host);
        server.expect_new_workers();
        let dir = tempfile::tempdir().unwrap();
        // Unit's processes read components there.
        open_to_all(dir.path());
        let site = Self {
            addr: free_addr(next_ip()),
            server,
            store: dir.path().join("store"),
            dir,
        };
        site.configure();
        site
    }

    /// Gives the server the configuration that it has without deployments.
    pub fn configure(&self) {
        let config = json!({
            "settings": { "http": { "chunked_transform": true } },
            "listeners": { self.addr.to_string(): { "pass": "routes" } },
            "routes": [{ "match": { "uri": "/other" }, "action": { "return": 204 } }],
            "applications": {},
        });
        let reply = self.server.control.put("/config", &config).unwrap();
        assert!(reply.success(), "{reply:?}");
    }

    pub fn control(&self) -> String {
        let socket = self.server.dir().join("control.sock");
        socket.to_str().unwrap().to_owned()
    }

    /// Runs a command on this server and this store.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let (control, store) = (self.control(), self.store.to_str().unwrap());
        let mut all = arguments.to_vec();
        if arguments[0] != "list" {
            all.extend(["--control", &control]);
        }
        if !arguments.contains(&"--all") && !arguments.contains(&"--store") {
            all.extend(["--store", store]);
        }
        cli::run(all)
    }

    /// Deploys a component.
    pub fn deploy(&self, component: &Path, name: &str, more: &[&str]) -> Ran {
        let cache = format!("UNIT_WASM_CACHE={}", cache().display());
        let component = component.to_str().unwrap();
        let mut all = vec!["deploy", component, "--name", name, "--set", &cache];
        all.extend(more);
        self.run(&all)
    }

    /// The lab guest as application `lab` with `VERSION` in its environment.
    pub fn deploy_version(&self, component: &Path, version: &str) -> Ran {
        let version = format!("VERSION={version}");
        let more = ["--route", "/*", "--probe", "/env", "--env", &version];
        self.deploy(component, "lab", &more)
    }

    pub fn get(&self, path: &str) -> Response {
        http::fetch(self.addr, &Request::get(path)).unwrap()
    }

    pub fn config(&self) -> Value {
        self.server.control.get("/config").unwrap().json
    }

    pub fn list(&self) -> Value {
        serde_json::from_str(&self.run(&["list", "--json"]).ok().out).unwrap()
    }
}

fn lab() -> PathBuf {
    guests::root().join("tests/guests/lab/lab.wasm")
}

fn lab3() -> PathBuf {
    guests::root().join("tests/guests/lab3/lab3.wasm")
}

fn sha256(path: &Path) -> String {
    load::sha256(&fs::read(path).unwrap())
}

/// Writes bytes to a file of the site.
pub fn file(site: &Site, name: &str, bytes: &[u8]) -> PathBuf {
    let path = site.dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn an_application_is_added_and_nothing_else_changes(host: &Host) {
    let site = Site::start(host);
    let before = site.config();
    let ran = site.deploy(
        &guests::hello(),
        "hello",
        &["--memory", "64MiB", "--processes", "2"],
    );
    let digest = sha256(&guests::hello());
    assert_eq!(ran.err, "", "there is nothing to know");
    let told = ran.ok().out;
    let start = format!(
        "hello: deployment 1 of {}, answered with 200",
        &digest[..12]
    );
    assert!(told.starts_with(&start), "{told}");
    let text = site.get("/hello/x?y").ok().text();
    assert!(text.contains("REQUEST_PATH = /hello/x?y"), "{text}");
    assert_eq!(site.get("/other").status(), 204);

    let mut config = site.config();
    let app = config["applications"]["hello"].take();
    let path = site.store.join(format!("components/{digest}.wasm"));
    assert_eq!(
        app["component"],
        path.canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(fs::read(&path).unwrap(), fs::read(guests::hello()).unwrap());
    assert_eq!(app["processes"], 2);
    let environment = &app["environment"];
    assert_eq!(environment["UNIT_WASM_SHA256"], digest);
    assert_eq!(environment["UNIT_WASM_MEMORY"], "64MiB");
    let step = config["routes"].as_array_mut().unwrap().remove(0);
    assert_eq!(
        step,
        json!({ "match": { "uri": "/hello/*" }, "action": { "pass": "applications/hello" } })
    );
    config["applications"].as_object_mut().unwrap().clear();
    assert_eq!(config, before);

    // Once more, nothing is to be done: not even a restart.
    let workers = site.server.workers("hello");
    let again = ["--memory", "64MiB", "--processes", "2"];
    let told = site.deploy(&guests::hello(), "hello", &again).ok().out;
    assert!(told.contains("was there already"), "{told}");
    assert_eq!(site.server.workers("hello"), workers);
    let list = site.list();
    assert_eq!(list["apps"][0]["name"], "hello");
    assert_eq!(list["apps"][0]["history"].as_array().unwrap().len(), 1);
    assert_eq!(list["apps"][0]["current"]["digest"], digest);
    site.server.finish();
}

/// The answer has to be of a version that was deployed at some time between sending
/// the request and having the answer.
fn ask_version(versions: &[AtomicU64; 2], client: &mut Client) -> Result<(), String> {
    let oldest = versions[0].load(Ordering::SeqCst);
    let response = checked(client, &Request::get("/env"))?;
    let newest = versions[1].load(Ordering::SeqCst);
    let text = response.text();
    let number = text.trim_end().strip_prefix("VERSION=");
    match number.and_then(|number| number.parse().ok()) {
        Some(number) if (oldest..=newest).contains(&number) => Ok(()),
        _ => Err(format!("{text:?}, not between {oldest} and {newest}")),
    }
}

fn new_versions_under_load(host: &Host) {
    let site = Site::start(host);
    site.deploy_version(&lab(), "0").ok();
    let versions = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let seen = Arc::clone(&versions);
    let mut clients = vec![Client::fresh(site.addr), Client::fresh(site.addr)];
    clients.push(Client::keeping(site.addr));
    let load = Load::start(clients, move |client, number| match number % 3 {
        0 => load::echo(client, number),
        1 => checked(client, &Request::get("/sleep?ms=30")).map(drop),
        _ => ask_version(&seen, client),
    });
    load.wait_for_more(5);
    for number in 1..=6_u64 {
        let component = if number % 2 == 0 { lab() } else { lab3() };
        versions[1].store(number, Ordering::SeqCst);
        site.deploy_version(&component, &number.to_string()).ok();
        versions[0].store(number, Ordering::SeqCst);
        load.wait_for_more(5);
    }
    versions[1].store(7, Ordering::SeqCst);
    site.run(&["rollback", "lab", "--probe", "/env"]).ok();
    load.wait_for_more(20);
    // The one before is back, which clients that check versions do not expect.
    let tally = load.stop();
    let (wrong, rest): (Vec<_>, Vec<_>) = tally
        .faults
        .iter()
        .partition(|fault| fault.ends_with("\"VERSION=5\\n\", not between 6 and 7"));
    assert!(rest.is_empty(), "{rest:#?}");
    assert!(!wrong.is_empty() && tally.done > 30, "{tally:?}");
    assert_eq!(site.get("/env").ok().text(), "VERSION=5\n");
    eventually("old processes are gone", Duration::from_secs(20), || {
        site.server.workers("lab").len() == 1
    });
    site.server.finish();
}

fn a_broken_component_changes_nothing(host: &Host) {
    let site = Site::start(host);
    let bytes = fs::read(lab()).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2..bytes.len() / 2 + 64].fill(0xff);
    let broken = [
        file(&site, "short.wasm", &bytes[..bytes.len() - 100]),
        file(&site, "damaged.wasm", &damaged),
        file(&site, "text.wasm", b"#!/bin/sh\n"),
        file(&site, "empty.wasm", b""),
        file(&site, "core.wasm", &guests::bad("core-module")),
        file(&site, "trap.wasm", &guests::bad("trapping-start")),
        file(&site, "import.wasm", &guests::bad("unsatisfied-import")),
    ];
    let nothing = site.config();
    for path in &broken {
        let ran = site.deploy(path, "lab", &[]).code(1);
        assert!(ran.err.contains("lab: it cannot be served: "), "{ran:?}");
    }
    assert_eq!(site.config(), nothing);
    assert_eq!(site.list(), json!({ "apps": [] }));
    // And neither does it where something is deployed.
    site.deploy_version(&lab(), "1").ok();
    let (config, worker) = (site.config(), site.server.worker("lab"));
    for path in &broken {
        site.deploy_version(path, "2").code(1);
    }
    let bad = site.deploy(&lab(), "lab", &["--memory", "lots"]).code(1);
    assert!(
        bad.err.contains("UNIT_WASM_MEMORY: bad value \"lots\""),
        "{bad:?}"
    );
    assert_eq!((site.config(), site.server.worker("lab")), (config, worker));
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    // None of them is kept.
    let kept = fs::read_dir(site.store.join("components")).unwrap().count();
    assert_eq!(kept, 1);
    site.server.finish();
}

fn an_application_that_does_not_answer_is_taken_back(host: &Host) {
    let site = Site::start(host);
    let nothing = site.config();
    let failing = ["--route", "/*", "--probe", "/trap", "--probe-timeout", "5s"];
    let ran = site.deploy(&lab(), "lab", &failing).code(1);
    assert!(ran.err.contains("GET /trap at "), "{ran:?}");
    assert!(ran.err.contains("status 500"), "{ran:?}");
    assert_eq!(site.config(), nothing);
    assert_eq!(site.list(), json!({ "apps": [] }));

    site.deploy_version(&lab(), "1").ok();
    let config = site.config();
    let second = [&failing[..], &["--env", "VERSION=2", "--route", "/x"]].concat();
    site.deploy(&lab3(), "lab", &second).code(1);
    assert_eq!(site.config(), config);
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    assert_eq!(
        site.list()["apps"][0]["history"].as_array().unwrap().len(),
        1
    );
    // Unless nobody asks.
    let third = ["--route", "/*", "--no-probe", "--env", "VERSION=3"];
    site.deploy(&lab3(), "lab", &third).ok();
    assert_eq!(site.get("/env").ok().text(), "VERSION=3\n");
    site.server.finish();
}

fn what_unit_refuses_is_told_and_taken_back(host: &Host) {
    let site = Site::start(host);
    site.deploy_version(&lab(), "1").ok();
    let config = site.config();
    let base = file(&site, "base.json", br#"{ "no_such_member": 1 }"#);
    let base = base.to_str().unwrap();
    let ran = site.deploy(&lab3(), "lab", &["--base", base]).code(1);
    assert!(
        ran.err
            .contains("Unit refuses PUT /config/applications/lab: "),
        "{ran:?}"
    );
    assert!(ran.err.contains("no_such_member"), "{ran:?}");
    assert_eq!(site.config(), config);
    // A listener that somebody else has.
    let listener = site.addr.to_string();
    let taken = json!({ "pass": "applications/lab" });
    let path = format!("/config/listeners/{listener}");
    assert!(site.server.control.put(&path, &taken).unwrap().success());
    let other = site
        .deploy(&lab(), "other", &["--listener", &listener])
        .code(1);
    assert!(other.err.contains("choose another --listener"), "{other:?}");
    // Named routes, among which none can be chosen.
    let named = json!({ "main": [] });
    assert!(
        site.server
            .control
            .put("/config/routes", &named)
            .unwrap()
            .success()
    );
    let other = site.deploy(&lab(), "other", &[]).code(1);
    assert!(other.err.contains("deploy with --no-route"), "{other:?}");
    let config = site.config();
    // What cannot be asked is not deployed; what need not be is.
    let unasked = ["--no-route", "--probe", "/x"];
    let unasked = site.deploy(&lab(), "other", &unasked).code(1);
    assert!(unasked.err.contains("--no-probe"), "{unasked:?}");
    assert_eq!(site.config(), config);
    let told = site.deploy(&lab(), "other", &["--no-route"]).ok().err;
    assert!(told.contains("was not asked"), "{told}");
    assert!(site.config()["applications"]["other"].is_object());
    // Where there is no Unit.
    let store = site.store.to_str().unwrap();
    let none = site.server.dir().join("none.sock");
    let none = none.to_str().unwrap();
    let away = cli::run(["remove", "lab", "--control", none, "--store", store]).code(2);
    assert!(
        away.err.contains(&format!("cannot connect to unix:{none}")),
        "{away:?}"
    );
    site.server.finish();
}

fn back_to_what_was_there(host: &Host) {
    let site = Site::start(host);
    assert!(
        site.run(&["rollback", "lab"])
            .code(2)
            .err
            .contains("there is no store")
    );
    site.deploy_version(&lab(), "1").ok();
    let first = site.config();
    let ran = site.run(&["rollback", "lab", "--probe", "/env"]).code(1);
    assert!(
        ran.err.contains("nothing is remembered from before"),
        "{ran:?}"
    );
    site.deploy_version(&lab3(), "2").ok();
    let third = ["--route", "/env", "--env", "VERSION=3", "--processes", "2"];
    site.deploy(&lab(), "lab", &third).ok();
    assert_eq!(site.get("/echo").status(), 404);

    let back = ["rollback", "lab", "--probe", "/env"];
    let told = site.run(&back).ok().out;
    assert!(told.contains("deployment 4 of "), "{told}");
    assert!(told.contains("brings back deployment 2"), "{told}");
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    site.run(&back).ok();
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    assert_eq!(site.config(), first);
    let ran = site.run(&back).code(1);
    assert!(ran.err.contains("nothing is remembered"), "{ran:?}");
    let to = sha256(&lab3());
    site.run(&[&back[..], &["--to", &to[..8]]].concat()).ok();
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    for (to, problem) in [
        ("ffffffff", "no deployment of"),
        ("ff", "at least 8 digits"),
    ] {
        let ran = site.run(&[&back[..], &["--to", to]].concat()).code(1);
        assert!(ran.err.contains(problem), "{ran:?}");
    }
    assert!(
        site.run(&["rollback", "none"])
            .code(1)
            .err
            .contains("is not deployed")
    );
    let history = site.list()["apps"][0]["history"].clone();
    let numbers: Vec<&Value> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["number"])
        .collect();
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1]);
    assert_eq!(history[0]["restores"], 2);
    site.server.finish();
}

fn an_application_is_removed(host: &Host) {
    let site = Site::start(host);
    let nothing = site.config();
    assert_eq!(
        site.run(&["remove", "lab"]).code,
        2,
        "there is no store yet"
    );
    site.deploy_version(&lab(), "1").ok();
    assert!(
        site.run(&["remove", "other"])
            .code(1)
            .err
            .contains("is not deployed")
    );
    // Not while somebody else passes to it.
    let extra = free_addr(next_ip()).to_string();
    let path = format!("/config/listeners/{extra}");
    let pass = json!({ "pass": "applications/lab" });
    assert!(site.server.control.put(&path, &pass).unwrap().success());
    let ran = site.run(&["remove", "lab"]).code(1);
    assert!(
        ran.err.contains(&format!("listeners/{extra}/pass")),
        "{ran:?}"
    );
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    assert!(site.server.control.delete(&path).unwrap().success());
    assert_eq!(site.run(&["remove", "lab"]).ok().out, "lab: removed\n");
    assert_eq!(site.config(), nothing);
    assert_eq!(site.list(), json!({ "apps": [] }));
    eventually("its process is gone", Duration::from_secs(20), || {
        site.server.workers("lab").is_empty()
    });
    site.server.finish();
}

fn two_applications_do_not_disturb_each_other(host: &Host) {
    let site = Site::start(host);
    let deploy = |name: &str, version: &str| {
        let route = format!("/{name}/*");
        let version = format!("VERSION={version}");
        let path = format!("/{name}/");
        let more = ["--route", &route, "--env", &version, "--probe", &path];
        site.deploy(&lab(), name, &more).ok();
    };
    // At the same time, neither loses what the other one does.
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            scope.spawn(move || deploy(name, "1"));
        }
    });
    let config = site.config();
    assert_eq!(config["routes"].as_array().unwrap().len(), 3);
    assert_eq!(site.list()["apps"].as_array().unwrap().len(), 2);
    let one = site.server.worker("one");
    let load = Load::start(vec![Client::fresh(site.addr)], |client, _| {
        match client.exchange(&Request::get("/one/x")) {
            // The guest says so, not Unit.
            Ok(response) if response.text() == "no such route\n" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for version in ["2", "3"] {
        deploy("two", version);
        load.wait_for_more(3);
    }
    site.run(&["rollback", "two"]).ok();
    site.run(&["remove", "two"]).ok();
    load.wait_for_more(3);
    load.stop().assert_clean();
    assert_eq!(site.server.worker("one"), one);
    assert!(site.config()["applications"].get("two").is_none());
    site.server.finish();
}

/// The address of what passes everything on to a server. `pass` is called with what a
/// client has sent, and the answer waits for it; if it says no, the connection breaks
/// instead. It ends with the process.
fn proxy(
    connect: impl Fn() -> OwnedFd + Send + 'static,
    pass: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((next_ip(), 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let pass = Arc::new(pass);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (server, pass) = (File::from(connect()), Arc::clone(&pass));
            // Whether answers may pass.
            let gate = Arc::new(Mutex::new(true));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let shut = Arc::clone(&gate);
            std::thread::spawn(move || {
                forward(from, to, |to, part| {
                    let mut open = shut.lock().unwrap();
                    to.write_all(part).is_ok() && {
                        *open &= pass(part);
                        true
                    }
                });
            });
            std::thread::spawn(move || {
                forward(server, client, |to, part| {
                    *gate.lock().unwrap() && to.write_all(part).is_ok()
                });
            });
        }
    });
    addr
}

fn forward<R: Read + AsRawFd, W: AsRawFd>(
    mut from: R,
    mut to: W,
    mut pass: impl FnMut(&mut W, &[u8]) -> bool,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer)
        && pass(&mut to, &buffer[..n])
    {}
    for fd in [from.as_raw_fd(), to.as_raw_fd()] {
        // SAFETY: a bare system call on a descriptor that is open as long as its owner.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
}

fn routes_that_others_change_meanwhile_stay(host: &Host) {
    let site = Site::start(host);
    let (socket, control) = (site.control(), site.server.control.clone());
    let changes = AtomicU64::new(0);
    // Unit has been asked for a new version, which takes it some time.
    let change = move |part: &[u8]| {
        if part.starts_with(b"PUT /config/applications") {
            let path = format!("/new{}", changes.fetch_add(1, Ordering::SeqCst));
            let step = json!({ "match": { "uri": path }, "action": { "return": 204 } });
            let mut routes = control.get("/config/routes").unwrap().json;
            routes.as_array_mut().unwrap().insert(0, step);
            let reply = control.put("/config/routes", &routes).unwrap();
            assert!(reply.success(), "{reply:?}");
        }
        true
    };
    let connect = move || UnixStream::connect(&socket).unwrap().into();
    let control = format!("http://{}", proxy(connect, change));
    let deploy = |more: &[&str], probe: &str| {
        let (lab, lock) = (lab(), site.dir.path().join("lock"));
        let mut all = vec!["deploy", lab.to_str().unwrap(), "--name", "lab"];
        all.extend([
            "--control",
            &control,
            "--store",
            site.store.to_str().unwrap(),
        ]);
        all.extend(["--lock", lock.to_str().unwrap()]);
        all.extend(["--set", "UNIT_WASM_CACHE=off", "--probe", probe]);
        all.extend(more);
        cli::run(all)
    };
    let paths = || -> Vec<String> {
        let routes = site.config()["routes"].take();
        let uri = |step: &Value| step["match"]["uri"].as_str().unwrap().to_owned();
        routes.as_array().unwrap().iter().map(uri).collect()
    };
    deploy(&["--route", "/*", "--env", "VERSION=1"], "/env").ok();
    assert_eq!(paths(), ["/new0", "/other", "/*"]);
    deploy(&["--route", "/env", "--env", "VERSION=2"], "/env").ok();
    assert_eq!(paths(), ["/new1", "/new0", "/other", "/env"]);
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    // And when it is taken back.
    let trap = [
        "--route",
        "/trap",
        "--env",
        "VERSION=3",
        "--probe-timeout",
        "5s",
    ];
    deploy(&trap, "/trap").code(1);
    let now = paths();
    assert_eq!(now[now.len() - 4..], ["/new1", "/new0", "/other", "/env"]);
    assert!(now.len() > 4, "somebody has changed it: {now:?}");
    assert_eq!(site.get("/new2").status(), 204);
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    site.server.finish();
}

fn everything_is_brought_up_again(host: &Host) {
    let site = Site::start(host);
    site.deploy_version(&lab(), "1").ok();
    site.deploy(&guests::hello(), "hello", &[]).ok();
    let full = site.config();
    site.configure();
    assert_eq!(site.get("/env").status(), 404);
    let store = site.store.to_str().unwrap();
    let all = ["deploy", "--all", store];
    let told = site.run(&all).ok().out;
    assert!(
        told.contains("hello: deployment 1 of") && told.contains("lab: deployment 1"),
        "{told}"
    );
    let now = site.config();
    assert_eq!(now["applications"], full["applications"]);
    // The narrower route first, whatever the order.
    assert_eq!(now["routes"], full["routes"]);
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    site.get("/hello/").ok();
    let await_worker = |app| site.server.await_worker(app);
    let workers = (await_worker("lab"), await_worker("hello"));
    let told = site.run(&all).ok().out;
    assert_eq!(told, "hello: as it is to be\nlab: as it is to be\n");
    let same = (site.server.worker("lab"), site.server.worker("hello"));
    assert_eq!(same, workers);
    // What is damaged is not brought up, and keeps nobody else from it.
    site.configure();
    let path = site
        .store
        .join(format!("components/{}.wasm", sha256(&lab())));
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"something else").unwrap();
    let ran = site.run(&all).code(1);
    assert!(
        ran.err.contains("lab: the component ") && ran.err.contains("damaged"),
        "{ran:?}"
    );
    site.get("/hello/").ok();
    let none = site.store.join("none");
    let ran = site
        .run(&["deploy", "--all", none.to_str().unwrap()])
        .code(2);
    assert!(ran.err.contains("there is no store"), "{ran:?}");
    site.server.finish();
}

fn a_listener_is_made(host: &Host) {
    let site = Site::start(host);
    let empty = json!({});
    assert!(
        site.server
            .control
            .put("/config", &empty)
            .unwrap()
            .success()
    );
    let addr = free_addr(next_ip());
    let listener = addr.to_string();
    let wanted = [
        "--listener",
        &listener,
        "--host",
        "lab.example.com",
        "--route",
        "/*",
    ];
    let failing = [&wanted[..], &["--probe", "/trap", "--probe-timeout", "5s"]].concat();
    let ran = site.deploy(&lab(), "lab", &failing).code(1);
    assert!(ran.err.contains("status 500"), "{ran:?}");
    let config = site.config();
    assert!(config["listeners"].get(&listener).is_none(), "{config}");
    assert!(config["applications"].get("lab").is_none(), "{config}");

    site.deploy(&lab(), "lab", &wanted).ok();
    let config = site.config();
    assert_eq!(config["listeners"][&listener], json!({ "pass": "routes" }));
    let condition = json!({ "uri": "/*", "host": "lab.example.com" });
    assert_eq!(config["routes"][0]["match"], condition);
    let ask = |host: &str| {
        let request = Request::get("/").header("host", host);
        http::fetch(addr, &request).unwrap()
    };
    assert_eq!(ask("lab.example.com").ok().text(), "lab\n");
    assert_eq!(ask("other.example.com").status(), 404);
    site.server.finish();
}

fn a_store_in_a_bucket(host: &Host) {
    let s3 = S3Server::start();
    let site = Site::start(host);
    let secret = site.dir.path().join("secrets");
    secrets::write_private(&secret, &format!("door = {KEY}:{SECRET}\n"));
    let url = format!(
        "s3://{BUCKET}/modules?endpoint=http://{}&credentials=door",
        s3.address
    );
    let local = site.dir.path().join("local");
    let place = [
        "--secrets",
        secret.to_str().unwrap(),
        "--components",
        local.to_str().unwrap(),
    ];
    let deploy = |version: &str| {
        let version = format!("VERSION={version}");
        let more = [
            "--store", &url, "--route", "/*", "--probe", "/env", "--env", &version,
        ];
        site.deploy(&lab(), "lab", &[&more[..], &place].concat())
    };
    deploy("1").ok();
    // Components have a folder for this store alone.
    let mut folders = fs::read_dir(&local).unwrap();
    let own = folders.next().unwrap().unwrap().path();
    assert!(folders.next().is_none());
    // What was left by one that was killed.
    let left = own.join("tmp/left");
    let old = SystemTime::now() - Duration::from_secs(7200);
    File::create(&left).unwrap().set_modified(old).unwrap();
    deploy("2").ok();
    assert!(!left.exists());
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    let component = site.config()["applications"]["lab"]["component"].clone();
    let here = own
        .canonicalize()
        .unwrap()
        .join(format!("components/{}.wasm", sha256(&lab())));
    assert_eq!(component, here.to_str().unwrap());
    let keys: Vec<String> = s3.objects.lock().unwrap().keys().cloned().collect();
    assert!(
        keys.contains(&"modules/apps/lab.json".to_owned()),
        "{keys:?}"
    );

    // On another machine, where nothing is yet.
    site.configure();
    fs::remove_dir_all(&local).unwrap();
    let all = ["deploy", "--all", &url, "--probe", "/env"];
    site.run(&[&all[..], &place].concat()).ok();
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    let back = ["rollback", "lab", "--probe", "/env", "--store", &url];
    site.run(&[&back[..], &place].concat()).ok();
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");

    // A component that comes from there.
    let bytes = fs::read(guests::hello()).unwrap();
    s3.objects
        .lock()
        .unwrap()
        .insert("in/hello.wasm".to_owned(), bytes.into());
    let from = format!(
        "s3://{BUCKET}/in/hello.wasm?endpoint=http://{}&credentials=door",
        s3.address
    );
    let secret = ["--secrets", secret.to_str().unwrap()];
    site.deploy(Path::new(&from), "hello", &secret).ok();
    site.get("/hello/").ok();

    // Without the store, nothing changes, and nothing secret is told.
    let config = site.config();
    drop(s3);
    let ran = deploy("3").code(2);
    assert!(!ran.err.contains(SECRET), "{ran:?}");
    assert_eq!(site.config(), config);
    site.server.finish();
}

/// Makes all components under a folder so old that they may be collected.
fn make_old(folder: &Path) {
    let old = SystemTime::now() - Duration::from_secs(7200);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            make_old(&path);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
        {
            File::open(path).unwrap().set_modified(old).unwrap();
        }
    }
}

fn two_stores_in_one_folder(host: &Host) {
    let s3 = S3Server::start();
    let site = Site::start(host);
    let secret = site.dir.path().join("secrets");
    secrets::write_private(&secret, &format!("door = {KEY}:{SECRET}\n"));
    let url = format!(
        "s3://{BUCKET}/modules?endpoint=http://{}&credentials=door",
        s3.address
    );
    // As both are by default.
    let bucket = [
        "--store",
        &url,
        "--secrets",
        secret.to_str().unwrap(),
        "--components",
        site.store.to_str().unwrap(),
    ];
    site.deploy(&lab(), "lab", &bucket).ok();
    let lab = site.config()["applications"]["lab"]["component"].clone();
    let lab = Path::new(lab.as_str().unwrap());
    make_old(&site.store);
    site.deploy(&guests::hello(), "hello", &[]).ok();
    assert!(lab.exists());
    make_old(&site.store);
    site.run(&["remove", "hello"]).ok();
    assert!(lab.exists());
    // A name that the other store has deployed is somebody else's.
    let ran = site.deploy(&guests::hello(), "lab", &[]).code(1);
    assert!(ran.err.contains("--take-over"), "{ran:?}");
    site.run(&[&["rollback", "lab"], &bucket[..]].concat())
        .code(1);
    site.run(&[&["remove", "lab"], &bucket[..]].concat()).ok();
    site.server.finish();
}

fn a_record_is_written_and_the_answer_is_lost(host: &Host) {
    let s3 = S3Server::start();
    let site = Site::start(host);
    let secret = site.dir.path().join("secrets");
    secrets::write_private(&secret, &format!("door = {KEY}:{SECRET}\n"));
    let local = site.dir.path().join("local");
    let deploy = |at: SocketAddr, version: &str| {
        let url = format!("s3://{BUCKET}/modules?endpoint=http://{at}&credentials=door");
        let version = format!("VERSION={version}");
        let more = [
            "--route",
            "/*",
            "--probe",
            "/env",
            "--env",
            &version,
            "--store",
            &url,
            "--secrets",
            secret.to_str().unwrap(),
            "--components",
            local.to_str().unwrap(),
        ];
        site.deploy(&lab(), "lab", &more)
    };
    deploy(s3.address, "1").ok();
    let (address, lost) = (s3.address, Arc::new(AtomicBool::new(false)));
    let was_lost = Arc::clone(&lost);
    let connect = move || TcpStream::connect(address).unwrap().into();
    let proxy = proxy(connect, move |part| {
        let record = format!("PUT /{BUCKET}/modules/apps/lab.json");
        !part.starts_with(record.as_bytes()) || lost.swap(true, Ordering::SeqCst)
    });
    deploy(proxy, "2").ok();
    assert!(was_lost.load(Ordering::SeqCst));
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    // It is there once.
    let told = deploy(s3.address, "2").ok().out;
    assert!(
        told.contains("deployment 2 of") && told.contains("already"),
        "{told}"
    );
    site.server.finish();
}
