//! `nxt-wasm deploy` and what belongs to it, with a Unit that is none: it keeps a
//! configuration, and refuses what the test wants.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail loudly"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use common::{Ran, repository, run};
use nxt_wasm_store::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the control socket knows.
#[derive(Default)]
struct State {
    config: Value,
    /// Beginnings of `METHOD PATH`, and how many more such requests are refused.
    refuse: Vec<(&'static str, usize)>,
    /// All changes that were asked for.
    changes: Vec<String>,
    /// What somebody else does when the first change is done that begins like this.
    then: Option<(&'static str, Act)>,
    /// A change of somebody else that is under way: it is done before the next one that
    /// is asked for, and not to be seen until then.
    under_way: Option<Act>,
}

type Act = Box<dyn FnOnce(&mut Value) + Send>;

struct Unit {
    dir: TempDir,
    state: Arc<Mutex<State>>,
}

impl Unit {
    fn start(config: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let state = Arc::new(Mutex::new(State {
            config,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(&stream, &shared);
            }
        });
        Self { dir, state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let (control, store) = (self.path("control.sock"), self.path("store"));
        let mut all = arguments.to_vec();
        all.extend(["--control", control.to_str().unwrap()]);
        all.extend(["--store", store.to_str().unwrap()]);
        run(&all)
    }

    fn deploy(&self, more: &[&str]) -> Ran {
        let hello = repository("example/hello/hello.wasm");
        let mut all = vec![
            "deploy",
            hello.to_str().unwrap(),
            "--name",
            "hello",
            "--no-probe",
        ];
        all.extend(more);
        self.run(&all)
    }

    fn config(&self) -> Value {
        self.state.lock().unwrap().config.clone()
    }

    fn set(&self, config: &Value) {
        self.state.lock().unwrap().config = config.clone();
    }

    fn refuse(&self, refuse: &[(&'static str, usize)]) {
        self.state.lock().unwrap().refuse = refuse.to_vec();
    }

    fn then(&self, first: &'static str, act: impl FnOnce(&mut Value) + Send + 'static) {
        self.state.lock().unwrap().then = Some((first, Box::new(act)));
    }

    /// The same for a directory that takes the place of a file.
    fn then_make(&self, first: &'static str, path: &Path) {
        let path = path.to_owned();
        self.then(first, move |_| {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        });
    }

    fn under_way(&self, act: impl FnOnce(&mut Value) + Send + 'static) {
        self.state.lock().unwrap().under_way = Some(Box::new(act));
    }

    /// The newest deployment in a record.
    fn deployed(&self, name: &str) -> Value {
        let path = self.path(&format!("store/apps/{name}.json"));
        let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        record["history"][0].clone()
    }

    fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().changes)
    }
}

fn serve(mut stream: &UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (status, json) = answer(&mut state.lock().unwrap(), method, path, &body);
    let text = json.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream
        .write_all(format!("{head}{text}").as_bytes())
        .unwrap();
}

fn answer(state: &mut State, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let path = path.replace("%2A", "*").replace("%3A", ":");
    let asked = format!("{method} {path}");
    for (start, left) in &mut state.refuse {
        if asked.starts_with(*start) && *left > 0 {
            *left -= 1;
            return (
                500,
                json!({ "error": "Failed to apply new configuration." }),
            );
        }
    }
    let pointer = path.strip_prefix("/config").unwrap();
    if method == "GET" {
        return (200, state.config.pointer(pointer).unwrap().clone());
    }
    if let Some(act) = state.under_way.take() {
        act(&mut state.config);
    }
    if method == "DELETE" && state.config.pointer(pointer).is_none() {
        return (404, json!({ "error": "Value doesn't exist." }));
    }
    state.changes.push(asked.clone());
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let Some(parent) = state.config.pointer_mut(parent) else {
        return (404, json!({ "error": "Value doesn't exist." }));
    };
    match (method, parent) {
        ("PUT", Value::Object(members)) => {
            members.insert(last.to_owned(), serde_json::from_slice(body).unwrap());
        }
        ("PUT", Value::Array(all)) => {
            let index: usize = last.parse().unwrap();
            all[index] = serde_json::from_slice(body).unwrap();
        }
        ("DELETE", Value::Object(members)) => drop(members.remove(last).unwrap()),
        ("DELETE", Value::Array(all)) => drop(all.remove(last.parse().unwrap())),
        _ => return (405, json!({ "error": "Invalid method." })),
    }
    if let Some((_, act)) = state.then.take_if(|(first, _)| asked.starts_with(*first)) {
        act(&mut state.config);
    }
    (200, json!({ "success": "Reconfiguration done." }))
}

fn before() -> Value {
    json!({
        "listeners": { "*:80": { "pass": "routes" } },
        "routes": [{ "match": { "uri": "/x" }, "action": { "return": 204 } }],
        "applications": { "php": { "type": "php" } },
    })
}

#[test]
fn what_has_changed_is_put_and_no_more() {
    let unit = Unit::start(before());
    let ran = unit.deploy(&["--listener", "*:8080"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let changes = unit.changes();
    let expected = [
        "PUT /config/applications/hello",
        "PUT /config/routes",
        "PUT /config/listeners/*:8080",
    ];
    assert_eq!(changes, expected);
    // Another version of it: itself alone.
    assert_eq!(unit.deploy(&["--env", "A=b"]).code, 0);
    assert_eq!(unit.changes(), ["PUT /config/applications/hello"]);
    assert_eq!(unit.deploy(&["--env", "A=b"]).code, 0);
    assert_eq!(unit.changes(), [""; 0]);
    assert_eq!(unit.run(&["remove", "hello"]).code, 0);
    let expected = [
        "DELETE /config/routes/0",
        "DELETE /config/applications/hello",
    ];
    assert_eq!(unit.changes(), expected);
    let mut now = unit.config();
    now["listeners"].as_object_mut().unwrap().remove("*:8080");
    assert_eq!(now, before());
}

#[test]
fn a_refusal_at_any_step_takes_back_what_was_done() {
    let unit = Unit::start(before());
    let listener = ["--listener", "*:8080"];
    for refused in [
        "PUT /config/app",
        "PUT /config/routes",
        "PUT /config/listeners",
    ] {
        unit.refuse(&[(refused, 1)]);
        let ran = unit.deploy(&listener);
        assert_eq!(ran.code, 1, "{refused}: {ran:?}");
        assert!(ran.err.contains("Unit refuses PUT /config/"), "{ran:?}");
        assert!(ran.err.contains("Its log says why"), "{ran:?}");
        assert_eq!(unit.config(), before(), "{refused}");
    }
    // And what was there comes back.
    assert_eq!(unit.deploy(&listener).code, 0);
    let one = unit.config();
    unit.refuse(&[("PUT /config/routes/0", 1)]);
    assert_eq!(
        unit.deploy(&["--route", "/other/*", "--env", "A=b"]).code,
        1
    );
    assert_eq!(unit.config(), one);
    let history = unit.path("store/apps/hello.json");
    let record: Value = serde_json::from_slice(&std::fs::read(history).unwrap()).unwrap();
    assert_eq!(record["history"].as_array().unwrap().len(), 1);
}

#[test]
fn that_it_cannot_be_taken_back_is_told() {
    let unit = Unit::start(before());
    unit.refuse(&[
        ("PUT /config/routes", 9),
        ("DELETE /config/applications", 9),
    ]);
    let ran = unit.deploy(&[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("could not be brought back"), "{ran:?}");
    assert!(
        ran.err.contains("DELETE /config/applications/hello"),
        "{ran:?}"
    );
}

#[test]
fn what_can_be_taken_back_later_is() {
    let unit = Unit::start(before());
    unit.refuse(&[
        ("PUT /config/routes", 1),
        ("DELETE /config/applications", 2),
    ]);
    let ran = unit.deploy(&[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(!ran.err.contains("brought back"), "{ran:?}");
    assert_eq!(unit.config(), before());
}

#[test]
fn a_record_that_cannot_be_written_takes_it_back() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    let one = unit.config();
    // When Unit has the new version, there is something else in its place.
    let record = unit.path("store/apps/hello.json");
    let text = std::fs::read(&record).unwrap();
    unit.then_make("PUT", &record);
    unit.changes();
    let ran = unit.deploy(&["--env", "A=b"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the record of \"hello\""), "{ran:?}");
    assert_eq!(unit.changes(), ["PUT /config/applications/hello"; 2]);
    assert_eq!(unit.config(), one);
    std::fs::remove_dir(&record).unwrap();
    std::fs::write(&record, text).unwrap();
    assert_eq!(unit.deploy(&["--env", "A=b"]).code, 0);
}

/// A step of somebody else.
fn step(path: &str) -> Value {
    json!({ "match": { "uri": path }, "action": { "return": 410 } })
}

/// Where steps of `routes` lead, in their order.
fn paths(config: &Value) -> Vec<&str> {
    let steps = config["routes"].as_array().unwrap().iter();
    steps
        .map(|step| step["match"]["uri"].as_str().unwrap())
        .collect()
}

fn steps(config: &mut Value) -> &mut Vec<Value> {
    config["routes"].as_array_mut().unwrap()
}

#[test]
fn what_others_change_while_unit_is_at_work_stays() {
    let unit = Unit::start(before());
    let in_front = |config: &mut Value| steps(config).insert(0, step("/new"));
    unit.then("PUT /config/applications", |config| {
        steps(config).push(step("/end"));
        config["listeners"]["*:81"] = json!({ "pass": "routes" });
    });
    let ran = unit.deploy(&["--listener", "*:8080"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let config = unit.config();
    assert_eq!(paths(&config), ["/hello/*", "/x", "/end"]);
    assert_eq!(config["listeners"].as_object().unwrap().len(), 3);

    // Another place for the step that is changed.
    unit.then("PUT /config/applications", in_front);
    let ran = unit.deploy(&["--env", "A=b", "--route", "/b/*"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(paths(&unit.config()), ["/new", "/b/*", "/x", "/end"]);

    // And where it is only taken away.
    unit.then("PUT /config/applications", in_front);
    let ran = unit.deploy(&["--env", "A=c", "--no-route"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(paths(&unit.config()), ["/new", "/new", "/x", "/end"]);
}

#[test]
fn what_unit_is_at_is_waited_for() {
    let unit = Unit::start(before());
    unit.under_way(|config| steps(config).push(step("/end")));
    assert_eq!(unit.deploy(&[]).code, 0);
    assert_eq!(paths(&unit.config()), ["/hello/*", "/x", "/end"]);
    // Nothing but the step is to be changed.
    unit.changes();
    unit.under_way(|config| steps(config).insert(0, step("/new")));
    let ran = unit.deploy(&["--route", "/b/*"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(unit.changes(), ["PUT /config/routes/1"]);
    assert_eq!(paths(&unit.config()), ["/new", "/b/*", "/x", "/end"]);
    unit.under_way(|config| drop(steps(config).remove(0)));
    assert_eq!(unit.run(&["remove", "hello"]).code, 0);
    assert_eq!(paths(&unit.config()), ["/x", "/end"]);
}

#[test]
fn groups_that_others_make_meanwhile_stay() {
    let unit = Unit::start(json!({}));
    unit.then("PUT /config/applications", |config| {
        config["routes"] = json!([step("/end")]);
        config["listeners"] = json!({ "*:81": { "pass": "routes" } });
    });
    assert_eq!(unit.deploy(&["--listener", "*:8080"]).code, 0);
    let config = unit.config();
    assert_eq!(paths(&config), ["/hello/*", "/end"]);
    assert_eq!(config["listeners"].as_object().unwrap().len(), 2);

    let unit = Unit::start(json!({}));
    unit.under_way(|config| config["applications"] = json!({ "php": { "type": "php" } }));
    assert_eq!(unit.deploy(&[]).code, 0);
    let config = unit.config();
    assert_eq!(config["applications"].as_object().unwrap().len(), 2);
}

#[test]
fn what_others_change_stays_when_it_is_taken_back() {
    let unit = Unit::start(before());
    unit.then("PUT /config/applications", |config| {
        steps(config).insert(0, step("/new"));
    });
    unit.refuse(&[("PUT /config/listeners", 1)]);
    assert_eq!(unit.deploy(&["--listener", "*:8080"]).code, 1);
    let mut expected = before();
    steps(&mut expected).insert(0, step("/new"));
    assert_eq!(unit.config(), expected);
    // What was not there at all is gone again.
    let unit = Unit::start(json!({}));
    unit.refuse(&[("PUT /config/listeners", 1)]);
    let refused = ["--no-route", "--listener", "*:8080"];
    assert_eq!(unit.deploy(&refused).code, 1);
    assert_eq!(unit.config(), json!({}));
}

#[test]
fn a_change_of_routes_at_the_same_moment_is_told() {
    let unit = Unit::start(before());
    unit.then("PUT /config/routes", |config| {
        steps(config).push(step("/end"));
    });
    let ran = unit.deploy(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("somebody else has changed"), "{ran:?}");
    assert_eq!(paths(&unit.config()), ["/hello/*", "/x", "/end"]);
    let ran = unit.deploy(&["--route", "/b/*"]);
    assert!(!ran.err.contains("somebody else"), "{ran:?}");
}

#[test]
fn a_step_comes_back_where_it_was() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    unit.state.lock().unwrap().config["routes"]
        .as_array_mut()
        .unwrap()
        .reverse();
    let one = unit.config();
    assert_eq!(paths(&one), ["/x", "/hello/*"]);
    unit.refuse(&[("PUT /config/listeners", 1)]);
    let ran = unit.deploy(&["--no-route", "--listener", "*:8080"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(unit.config(), one);
}

#[test]
fn an_application_without_a_route_is_not_asked() {
    let unit = Unit::start(before());
    let hello = repository("example/hello/hello.wasm");
    let hello = hello.to_str().unwrap();
    let ran = unit.run(&["deploy", hello, "--name", "hello", "--no-route"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("was not asked"), "{ran:?}");
    // It is, where nobody else answers.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = free.local_addr().unwrap().to_string();
    drop(free);
    let own = json!({ "pass": "applications/hello" });
    unit.state.lock().unwrap().config["listeners"][&at] = own;
    let asked = [
        "deploy",
        hello,
        "--name",
        "hello",
        "--no-route",
        "--env",
        "A=b",
        "--probe-timeout",
        "100ms",
    ];
    let ran = unit.run(&asked);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("GET / at {at}")), "{ran:?}");
}

/// Waits for what another process does.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within a minute");
}

#[test]
fn what_is_kept_is_what_is_deployed_at_that_time() {
    use std::os::unix::fs::MetadataExt;
    let unit = Unit::start(before());
    let granted = ["--set", "UNIT_WASM_ALLOW_HTTP=https://a", "--env", "A=1"];
    assert_eq!(unit.deploy(&granted).code, 0);
    let digest = unit.deployed("hello")["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let component = unit.path(&format!("store/components/{digest}.wasm"));
    let inode = || std::fs::metadata(&component).unwrap().ino();
    let before = inode();
    let lock = std::fs::File::open(unit.path("control.sock.deploy-lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| unit.deploy(&["--keep", "--env", "B=2"]));
        // It has been checked, and waits for us, who take the grant away.
        eventually("it is kept", || inode() != before);
        let path = unit.path("store/apps/hello.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: Value = serde_json::from_str(&text).unwrap();
        let settings = &mut record["history"][0]["settings"];
        settings.as_object_mut().unwrap().remove("limits").unwrap();
        settings["environment"]["A"] = json!("3");
        std::fs::write(&path, record.to_string()).unwrap();
        drop(lock);
        let ran = deploy.join().unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
    });
    let settings = unit.deployed("hello")["settings"].clone();
    assert_eq!(settings["environment"], json!({ "A": "3", "B": "2" }));
    assert_eq!(settings.get("limits"), None);
    let app = unit.config()["applications"]["hello"].clone();
    let environment = app["environment"].as_object().unwrap();
    assert!(!environment.contains_key("UNIT_WASM_ALLOW_HTTP"), "{app}");
}

#[test]
fn what_is_removed_is_removed_whatever_others_have_left() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    std::fs::write(unit.path("store/apps/other.json"), "{").unwrap();
    let ran = unit.run(&["remove", "hello"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "hello: removed\n"),
        "{ran:?}"
    );
    assert!(ran.err.contains("the record of \"other\""), "{ran:?}");
    let again = unit.run(&["remove", "hello"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("is not deployed"), "{again:?}");
}

#[test]
fn what_cannot_be_forgotten_is_not_removed() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    let one = unit.config();
    let record = unit.path("store/apps/hello.json");
    let text = std::fs::read(&record).unwrap();
    unit.then_make("DELETE /config/applications", &record);
    let ran = unit.run(&["remove", "hello"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("removing the record"), "{ran:?}");
    assert_eq!(unit.config(), one);
    std::fs::remove_dir(&record).unwrap();
    std::fs::write(&record, text).unwrap();
    assert_eq!(unit.run(&["remove", "hello"]).code, 0);
}

#[test]
fn one_bad_record_hides_no_other() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    std::fs::write(unit.path("store/apps/a.json"), "{").unwrap();
    let store = unit.path("store");
    let list = |more: &[&str]| run(&[&["list", "--store", store.to_str().unwrap()], more].concat());
    let ran = list(&[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("/hello/*"), "{ran:?}");
    assert!(ran.err.contains("the record of \"a\""), "{ran:?}");
    let apps = list(&["--json"]).json()["apps"].clone();
    assert_eq!(apps[0]["name"], "hello");
    assert_eq!(apps[1]["name"], "a");
    assert!(apps[1]["error"].is_string(), "{apps}");
}

#[test]
fn settings_that_no_record_can_keep_are_refused() {
    let unit = Unit::start(before());
    let base = unit.path("base.json");
    let large = json!({ "environment": { "A": "x".repeat(300_000) } });
    std::fs::write(&base, large.to_string()).unwrap();
    let ran = unit.deploy(&["--base", base.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("262144 are possible"), "{ran:?}");
    assert_eq!(unit.config(), before());
}

#[test]
fn what_could_not_be_tried_has_an_exit_code_of_its_own() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    let folder = unit.dir.path().to_str().unwrap();
    let locked = unit.deploy(&["--lock", folder, "--env", "A=b"]);
    assert_eq!(locked.code, 2, "{locked:?}");
    assert!(locked.err.contains("--lock names another"), "{locked:?}");
    let locked = unit.run(&["remove", "hello", "--lock", folder]);
    assert_eq!(locked.code, 2, "{locked:?}");
    let record = unit.path("store/apps/hello.json");
    std::fs::write(record, "{").unwrap();
    let bad = unit.deploy(&["--env", "A=b"]);
    assert_eq!(bad.code, 2, "{bad:?}");
    let store = unit.path("store");
    let none = unit.path("none.sock");
    let (store, none) = (store.to_str().unwrap(), none.to_str().unwrap());
    let hello = repository("example/hello/hello.wasm");
    let hello = hello.to_str().unwrap();
    for command in [&["deploy", hello, "--name", "new"][..], &["deploy"]] {
        let place = match command.len() {
            1 => ["--all", store],
            _ => ["--store", store],
        };
        let ran = run(&[command, &place, &["--control", none]].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("cannot connect to"), "{ran:?}");
    }
}

#[test]
fn folders_that_are_made_can_be_entered_whatever_the_umask() {
    use std::os::unix::fs::MetadataExt;
    let unit = Unit::start(before());
    let store = unit.path("new/folders/store");
    let hello = repository("example/hello/hello.wasm");
    let status = std::process::Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_nxt-wasm"))
        .args(["deploy", hello.to_str().unwrap(), "--name", "hello"])
        .args([
            "--no-probe",
            "--store",
            store.to_str().unwrap(),
            "--control",
        ])
        .arg(unit.path("control.sock"))
        .status();
    assert!(status.unwrap().success());
    for (folder, mode) in [
        ("new", 0o755),
        ("new/folders", 0o755),
        ("new/folders/store", 0o755),
        ("new/folders/store/components", 0o755),
        ("new/folders/store/apps", 0o700),
    ] {
        let found = std::fs::metadata(unit.path(folder)).unwrap().mode();
        assert_eq!(found & 0o777, mode, "{folder}");
    }
}

#[test]
fn others_of_that_name_are_left_alone() {
    let unit = Unit::start(before());
    let hello = repository("example/hello/hello.wasm");
    let ran = unit.run(&[
        "deploy",
        hello.to_str().unwrap(),
        "--name",
        "php",
        "--no-probe",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("of another type"), "{ran:?}");
    assert_eq!(unit.config(), before());
}

#[test]
fn what_others_have_made_of_that_name_has_to_be_taken_over() {
    let mut by_hand = before();
    by_hand["applications"]["hello"] = json!({
        "type": "wasm-wasi-component",
        "component": "/srv/hello.wasm",
        "user": "web",
        "environment": { "SECRET": "hunter2" },
    });
    let own = json!({ "match": { "uri": "/h" }, "action": { "pass": "applications/hello" } });
    steps(&mut by_hand).push(own);
    let unit = Unit::start(by_hand.clone());
    let ran = unit.deploy(&[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("--take-over"), "{ran:?}");
    assert_eq!((unit.changes(), unit.config()), (vec![], by_hand.clone()));
    // It comes back if that fails.
    unit.refuse(&[("PUT /config/routes", 1)]);
    assert_eq!(unit.deploy(&["--take-over"]).code, 1);
    assert_eq!(unit.config(), by_hand);
    let ran = unit.deploy(&["--take-over"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("no rollback brings back"), "{ran:?}");
    let app = unit.config()["applications"]["hello"].clone();
    assert!(app.get("user").is_none(), "{app}");
    assert_eq!(paths(&unit.config()), ["/x", "/hello/*"]);
    // It is ours now, by its record, and without.
    let ran = unit.deploy(&["--env", "A=b"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    // Not if somebody puts another one in its place, whatever the record says.
    let ours = unit.config();
    unit.set(&by_hand);
    for command in ["remove", "rollback", "deploy"] {
        let ran = match command {
            "remove" => unit.run(&["remove", "hello"]),
            "rollback" => unit.run(&["rollback", "hello", "--no-probe"]),
            _ => unit.deploy(&["--env", "A=d"]),
        };
        assert_eq!(ran.code, 1, "{command}: {ran:?}");
        assert!(ran.err.contains("--take-over"), "{command}: {ran:?}");
        assert_eq!(unit.config(), by_hand, "{command}");
    }
    unit.set(&ours);
    std::fs::remove_file(unit.path("store/apps/hello.json")).unwrap();
    let ran = unit.deploy(&["--env", "A=c"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    // Another store has neither.
    let other = unit.path("other");
    let hello = repository("example/hello/hello.wasm");
    let (control, other) = (unit.path("control.sock"), other.to_str().unwrap());
    let arguments = ["deploy", hello.to_str().unwrap(), "--name", "hello"];
    let place = ["--store", other, "--control", control.to_str().unwrap()];
    let ran = run(&[&arguments[..], &place, &["--no-probe"]].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("--take-over"), "{ran:?}");
}

#[test]
fn components_that_unit_uses_are_kept_whatever_the_records_say() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&[]).code, 0);
    let put = |bytes: &[u8]| {
        let path = unit.path(&format!("store/components/{}.wasm", Digest::of(bytes)));
        let file = std::fs::File::create(&path).unwrap();
        let old = SystemTime::now() - Duration::from_secs(7200);
        file.set_modified(old).unwrap();
        path
    };
    let (used, unused) = (put(b"used"), put(b"unused"));
    unit.state.lock().unwrap().config["applications"]["other"] =
        json!({ "type": "wasm-wasi-component", "component": used });
    assert_eq!(unit.deploy(&["--env", "A=b"]).code, 0);
    assert!(used.exists() && !unused.exists());
    unit.state.lock().unwrap().config["applications"]["other"].take();
    assert_eq!(unit.run(&["remove", "hello"]).code, 0);
    assert!(!used.exists());
}

/// A server that answers 200 at one path, and 500 at all others. It ends with the process.
fn only_at(path: &'static str) -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let head: Vec<String> = BufReader::new(&stream)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let asked = head.first().and_then(|line| line.split(' ').nth(1));
            let status = if asked == Some(path) { 200 } else { 500 };
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            (&stream).write_all(head.as_bytes()).unwrap();
        }
    });
    at
}

#[test]
fn what_is_brought_up_is_asked_as_when_it_was_deployed() {
    const OTHER: [&str; 4] = ["--probe", "/hello/other", "--probe-timeout", "300ms"];
    let mut empty = before();
    empty["listeners"] = json!({ only_at("/hello/health"): { "pass": "routes" } });
    let unit = Unit::start(empty.clone());
    let hello = repository("example/hello/hello.wasm");
    let deploy = |name: &str, ask: &[&str]| {
        let arguments = ["deploy", hello.to_str().unwrap(), "--name", name];
        let route = ["--route", "/hello/*"];
        unit.run(&[&arguments[..], &route, ask].concat())
    };
    // At `/hello/`, it does not answer.
    assert_eq!(deploy("route", &["--probe-timeout", "300ms"]).code, 1);
    assert_eq!(deploy("path", &["--probe", "/hello/health"]).code, 0);
    assert_eq!(deploy("nothing", &["--no-probe"]).code, 0);
    let all = unit.config()["applications"].clone();
    let store = unit.path("store");
    let control = unit.path("control.sock");
    let restore = |config: &Value, more: &[&str]| {
        unit.state.lock().unwrap().config = config.clone();
        let all = ["deploy", "--all", store.to_str().unwrap()];
        let place = ["--control", control.to_str().unwrap()];
        run(&[&all, &place[..], more].concat())
    };
    let ran = restore(&empty, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(unit.config()["applications"], all);
    // What does not answer is told, and stays, as there was nothing before.
    let ran = restore(&empty, &OTHER);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("does not answer"), "{ran:?}");
    assert_eq!(unit.config()["applications"], all);
    // Where there is something, that comes back.
    let mut other = empty.clone();
    other["applications"] = all.clone();
    other["applications"]["path"]["processes"] = json!(2);
    let ran = restore(&other, &OTHER);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(unit.config()["applications"]["path"]["processes"], 2);
    // Without a listener, nobody can be asked, and it is there all the same.
    other = before();
    other["listeners"] = json!({});
    let ran = restore(&other, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("was not asked"), "{ran:?}");
    assert_eq!(unit.config()["applications"]["path"], all["path"]);
    // What is kept is how it is asked, too.
    assert_eq!(
        unit.deployed("path")["probe"],
        json!({ "path": "/hello/health" })
    );
    unit.state.lock().unwrap().config = empty.clone();
    assert_eq!(deploy("path", &["--keep", "--env", "A=b"]).code, 0);
    let kept = unit.deployed("path");
    assert_eq!(kept["probe"], json!({ "path": "/hello/health" }));
    assert_eq!(kept["number"], 2);
    // Another way to ask is written down, and nothing else is done.
    unit.changes();
    assert_eq!(deploy("path", &["--keep", "--no-probe"]).code, 0);
    assert_eq!(unit.changes(), [""; 0]);
    assert_eq!(unit.deployed("path")["probe"], "nothing");
}

#[test]
fn what_another_machine_has_removed_is_taken_out_here_too() {
    let (one, two) = (Unit::start(before()), Unit::start(before()));
    assert_eq!(one.deploy(&[]).code, 0);
    let (store, control) = (one.path("store"), two.path("control.sock"));
    let (store, control) = (store.to_str().unwrap(), control.to_str().unwrap());
    let on_two = |command: &[&str]| run(&[command, &["--control", control]].concat());
    let restore = || on_two(&["deploy", "--all", store]);
    let remove = |name: &str| on_two(&["remove", name, "--store", store]);
    let ran = restore();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    // One of that name that others have made, which is not taken away.
    let by_hand = json!({ "type": "wasm-wasi-component", "component": "/srv/a.wasm" });
    two.state.lock().unwrap().config["applications"]["other"] = by_hand;
    let all = two.config();
    assert_eq!(one.run(&["remove", "hello"]).code, 0);
    let ran = restore();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("nxt-wasm remove hello"), "{ran:?}");
    assert!(!ran.err.contains("other"), "{ran:?}");
    assert_eq!(remove("other").code, 1);
    assert_eq!(two.config(), all);
    let ran = remove("hello");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "hello: removed\n"),
        "{ran:?}"
    );
    let mut expected = before();
    expected["applications"]["other"] = all["applications"]["other"].clone();
    assert_eq!(two.config(), expected);
    assert_eq!(remove("hello").code, 1);
}

#[test]
fn a_path_that_others_would_answer_says_nothing() {
    let mut config = before();
    config["listeners"] = json!({ only_at("/health"): { "pass": "routes" } });
    let unit = Unit::start(config.clone());
    let hello = repository("example/hello/hello.wasm");
    let arguments = ["deploy", hello.to_str().unwrap(), "--name", "hello"];
    let probe = ["--probe", "/health"];
    let ran = unit.run(&[&arguments[..], &probe].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("no path of its routes (/hello/*)"),
        "{ran:?}"
    );
    assert_eq!(unit.config(), config);
    // With that among its routes, or one of others, it is.
    let route = ["--route", "/hello/*", "--route", "/health"];
    for route in [&route[..], &["--no-route"]] {
        let ran = unit.run(&[&arguments[..], &probe, route].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("answered with 200"), "{ran:?}");
    }
}

#[test]
fn bad_arguments_are_told_before_anything_is_done() {
    let unit = Unit::start(before());
    let refused = |arguments: &[&str], problem: &str| {
        let ran = unit.deploy(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(problem), "{arguments:?}: {ran:?}");
    };
    refused(&["--env", "A"], "KEY=VALUE");
    refused(&["--env", "UNIT_WASM_FUEL=1"], "--set");
    refused(&["--set", "FUEL=1"], "--env");
    refused(&["--route", "x"], "a path is needed");
    refused(&["--listener", "80"], "an address is needed");
    refused(&["--processes", "0"], "1 to");
    refused(&["--base", "/none/such"], "cannot read /none/such");
    refused(&["--all", "/srv"], "cannot be used with");
    let run_alone = |arguments: &[&str], problem: &str| {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(problem), "{arguments:?}: {ran:?}");
    };
    run_alone(&["deploy"], "--name");
    run_alone(
        &["deploy", "a.wasm", "--name", "a/b"],
        "a name of an application",
    );
    run_alone(&["deploy", "http://h/a.wasm", "--name", "a"], "use https:");
    run_alone(
        &["remove", "a", "--control", "https://h:1"],
        "takes the path of a socket",
    );
    run_alone(&["list", "--store", "/none/such"], "there is no store");
    let secret = "s3://k:hunter2@b/p?region=r";
    let ran = run(&["list", "--store", secret]);
    assert!(ran.code == 2 && !ran.err.contains("hunter2"), "{ran:?}");
    assert_eq!(unit.config(), before());
    assert!(!Path::new(&unit.path("store/apps/hello.json")).exists());
}

#[test]
fn what_is_deployed_is_listed_without_values() {
    let unit = Unit::start(before());
    assert_eq!(unit.deploy(&["--env", "KEY=hunter2"]).code, 0);
    let store = unit.path("store");
    let store = store.to_str().unwrap();
    for arguments in [&["list"][..], &["list", "hello"], &["list", "--json"]] {
        let ran = run(&[arguments, &["--store", store]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("/hello/*"), "{ran:?}");
        assert!(!ran.out.contains("hunter2"), "{ran:?}");
    }
    let ran = run(&["list", "other", "--store", store]);
    assert_eq!(ran.code, 1, "{ran:?}");
}
