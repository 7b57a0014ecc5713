//! `nxt-wasm deployd`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use harness::launch::{cache, free_addr, next_ip};
use harness::load::{self, Client, Load, checked};
use harness::{Conn, Host, Request, Response, Server, cli, guests, http, wait_for};
use serde_json::{Value, json};

use crate::deploy::{Site, file};
use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["deployd", Cli:
        deploys_what_is_sent,
        who_has_no_token_does_nothing,
        what_is_too_large_or_damaged_is_refused,
        what_reaches_for_more_is_refused,
        back_and_away,
        one_deployment_of_an_application_at_a_time,
        brings_up_what_its_store_has,
        what_others_have_made_is_not_replaced,
        everything_comes_back_after_restarts,
        one_bad_record_hides_no_other,
        another_program_in_its_place,
        ends_when_it_is_told_to,
        what_nobody_waits_for_is_done_in_its_turn,
        listens_on_a_socket,
        the_socket_of_its_successor_stays,
    ]
}

const TOKEN: &str = "correct-horse-battery-staple";

/// How long it may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon, which ends with the test.
struct Daemon {
    child: Child,
    addr: SocketAddr,
}

impl Daemon {
    fn start(site: &Site, more: &[&str]) -> Self {
        let mut daemon = Self::spawn(site, &site.control(), more);
        daemon.await_start();
        daemon
    }

    fn spawn(site: &Site, control: &str, more: &[&str]) -> Self {
        let addr = free_addr(next_ip());
        let child = command(site, control, &addr.to_string()).args(more).spawn();
        let child = child.unwrap();
        Self { child, addr }
    }

    /// It accepts connections before it has brought everything up, and answers then.
    fn await_start(&mut self) {
        let up = wait_for(PATIENCE, || {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended");
            let asked = http::fetch(self.addr, &Request::get("/apps"));
            asked.is_ok().then_some(())
        });
        assert!(up.is_some(), "it has not started");
    }

    fn send(&self, request: Request) -> (u16, Value) {
        let request = request.header("authorization", format!("Bearer {TOKEN}"));
        answer(&http::fetch(self.addr, &request).unwrap())
    }

    fn deploy(&self, name: &str, query: &str, component: &[u8]) -> (u16, Value) {
        self.send(deployment(name, query, component))
    }

    /// The lab guest as application `lab`.
    fn deploy_version(&self, version: &str) -> Value {
        let query = format!("route=/*&probe=/env&env.VERSION={version}");
        let (status, json) = self.deploy("lab", &query, &lab());
        assert_eq!(status, 200, "{json}");
        json
    }

    fn apps(&self) -> Value {
        let (status, json) = self.send(Request::get("/apps"));
        assert_eq!(status, 200, "{json}");
        json["apps"].clone()
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a bare system call, with the process id of a child that has not
        // been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let ended = wait_for(PATIENCE, || self.child.try_wait().unwrap());
        ended.expect("it ends when it is told to")
    }
}

/// Waits until a component is being received: its application has its place then.
#[track_caller]
fn await_upload(site: &Site) {
    let store = site.store.join("tmp");
    let begun = wait_for(PATIENCE, || fs::read_dir(&store).unwrap().next().map(drop));
    assert!(begun.is_some(), "nothing has been received");
}

/// A command that starts one.
fn command(site: &Site, control: &str, listen: &str) -> Command {
    let tokens = site.dir.path().join("tokens");
    secrets::write_private(&tokens, &format!("# CI\n{TOKEN}\n"));
    let mut command = Command::new(cli::program().unwrap());
    command.args(["deployd", "--listen", listen]);
    command.arg("--token-file").arg(tokens);
    command.args(["--control", control]);
    command.arg("--store").arg(&site.store);
    command.args(["--allow-set", "UNIT_WASM_CACHE", "--probe-timeout", "5s"]);
    let log = fs::File::create(log(site)).unwrap();
    command.stdin(Stdio::null()).stderr(log);
    command
}

/// What it writes to stderr.
fn log(site: &Site) -> PathBuf {
    site.dir.path().join("deployd.log")
}

/// Waits until it has written something.
fn expect(log: &Path, part: &str) {
    let text = || fs::read_to_string(log).unwrap_or_default();
    let found = wait_for(PATIENCE, || text().contains(part).then_some(()));
    assert!(found.is_some(), "no {part:?} in {:?}", text());
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn deployment(name: &str, query: &str, component: &[u8]) -> Request {
    let cache = harness::http::encode(cache().to_str().unwrap());
    let target = format!("/deploy/{name}?set.UNIT_WASM_CACHE={cache}&{query}");
    Request::post(target, component)
}

fn answer(response: &Response) -> (u16, Value) {
    let json = serde_json::from_slice(&response.body);
    let json = json.unwrap_or_else(|e| panic!("{e}: {}", response.text()));
    (response.status(), json)
}

fn lab() -> Vec<u8> {
    fs::read(guests::root().join("tests/guests/lab/lab.wasm")).unwrap()
}

fn deploys_what_is_sent(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.apps(), json!([]));
    let bytes = lab();
    let query = format!(
        "route=/*&probe=/env&env.A%20B=c%26d&processes=2&memory=64MiB&sha256={}",
        load::sha256(&bytes)
    );
    let (status, json) = daemon.deploy("lab", &query, &bytes);
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["number"], 1);
    assert_eq!(json["digest"], load::sha256(&bytes));
    assert_eq!(json["answered"]["status"], 200);
    assert_eq!(site.get("/env").ok().text(), "A B=c&d\n");
    let app = site.config()["applications"]["lab"].clone();
    assert_eq!(app["processes"], 2);
    assert_eq!(app["environment"]["UNIT_WASM_MEMORY"], "64MiB");
    // Chunked, and with the settings that are there.
    let hello = fs::read(guests::hello()).unwrap();
    let request = Request::post_chunked("/deploy/lab?keep&env.E=f", hello);
    assert_eq!(daemon.send(request).0, 200);
    let kept = site.config()["applications"]["lab"].clone();
    assert_eq!(kept["processes"], 2);
    assert_eq!(kept["environment"]["A B"], "c&d");
    assert_eq!(kept["environment"]["E"], "f");
    let apps = daemon.apps();
    assert_eq!(apps[0]["name"], "lab");
    assert_eq!(apps[0]["state"], "running");
    assert_eq!(apps[0]["history"][1]["number"], 1);
    // Names of variables are told, values may be secrets.
    assert_eq!(apps[0]["current"]["environment"], json!(["A B", "E"]));
    assert!(!apps.to_string().contains("c&d"), "{apps}");
    // And the commands see the same.
    assert_eq!(site.list()["apps"][0]["current"]["number"], 2);
    assert!(daemon.terminate().success());
    site.server.finish();
}

fn who_has_no_token_does_nothing(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    let nothing = site.config();
    let bytes = lab();
    for request in [
        deployment("lab", "route=/*", &bytes),
        Request::get("/apps"),
        Request::new("DELETE", "/apps/lab"),
        Request::post("/apps/lab/rollback", ""),
        Request::post("/restore", ""),
        Request::get("/nowhere"),
    ] {
        for token in ["", "Bearer", "Bearer correct-horse-battery", "Basic eDp5"] {
            let request = match token {
                "" => request.clone(),
                token => request.clone().header("authorization", token),
            };
            let response = http::fetch(daemon.addr, &request.close()).unwrap();
            assert_eq!(
                response.head.first("www-authenticate").as_deref(),
                Some("Bearer")
            );
            assert_eq!(answer(&response).0, 401);
        }
    }
    assert_eq!(site.config(), nothing);
    assert_eq!(daemon.apps(), json!([]));
    // The file of tokens has to be private, and other machines have to be wanted.
    let tokens = site.dir.path().join("open");
    fs::write(&tokens, TOKEN).unwrap();
    let store = site.store.to_str().unwrap();
    let refused = |arguments: [&str; 4], problem: &str| {
        let all = [&["deployd", "--store", store][..], &arguments].concat();
        let ran = cli::run(all).code(2);
        assert!(ran.err.contains(problem), "{ran:?}");
    };
    let open = tokens.to_str().unwrap();
    refused(
        ["--listen", "127.0.0.1:1", "--token-file", open],
        "chmod 600",
    );
    refused(
        ["--listen", "0.0.0.0:1", "--token-file", open],
        "--allow-remote",
    );
    site.server.finish();
}

fn what_is_too_large_or_damaged_is_refused(host: &Host) {
    let site = Site::start(host);
    let bytes = lab();
    let most = (bytes.len() + 10).to_string();
    let daemon = Daemon::start(&site, &["--max-size", &most]);
    daemon.deploy_version("1");
    let (config, worker) = (site.config(), site.server.worker("lab"));
    let query = "route=/*&probe=/env&env.VERSION=2";
    let refused = |request: Request, status: u16, problem: &str| {
        let (found, json) = daemon.send(request);
        assert_eq!(found, status, "{json}");
        let text = json["error"].as_str().unwrap();
        assert!(text.contains(problem), "{problem}: {text}");
    };
    let large = [&bytes[..], &[0; 100]].concat();
    refused(deployment("lab", query, &large), 413, "more than");
    let chunked = Request::post_chunked("/deploy/lab", large);
    refused(chunked, 413, "more than");
    let mut damaged = bytes.clone();
    let half = bytes.len() / 2;
    damaged[half..half + 64].fill(0xff);
    refused(deployment("lab", query, &damaged), 422, "cannot be served");
    refused(
        deployment("lab", query, &bytes[..half]),
        422,
        "cannot be served",
    );
    refused(deployment("lab", query, b""), 400, "no component");
    let other = load::sha256(b"other");
    let wrong = format!("{query}&sha256={other}");
    refused(deployment("lab", &wrong, &bytes), 422, &other);
    refused(
        deployment("lab", &format!("{query}&memory=lots"), &bytes),
        422,
        "UNIT_WASM_MEMORY",
    );
    refused(
        deployment(".lab", query, &bytes),
        400,
        "a name of an application",
    );
    refused(
        deployment("lab%2Fx", query, &bytes),
        400,
        "a name of an application",
    );
    refused(
        deployment("lab/x/y", query, &bytes),
        404,
        "nothing of that name",
    );
    refused(Request::get("/deploy/lab"), 405, "method");
    // One that breaks off.
    let head = format!(
        "POST /deploy/lab HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        bytes.len()
    );
    let mut conn = Conn::open(daemon.addr);
    conn.send(head.as_bytes()).unwrap();
    conn.send(&bytes[..half]).unwrap();
    await_upload(&site);
    drop(conn);
    assert_eq!((site.config(), site.server.worker("lab")), (config, worker));
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    let left = || fs::read_dir(site.store.join("tmp")).unwrap().count();
    let gone = wait_for(PATIENCE, || (left() == 0).then_some(()));
    assert!(gone.is_some(), "uploads are left behind");
    assert_eq!(
        fs::read_dir(site.store.join("components")).unwrap().count(),
        1
    );
    // One that is good, but for its answer. The one before may have its place a moment
    // longer than its file.
    let free = wait_for(PATIENCE, || {
        let trap = deployment("lab", "route=/*&probe=/trap", &bytes);
        Some(daemon.send(trap)).filter(|(status, _)| *status != 409)
    });
    let (status, json) = free.expect("its place");
    assert_eq!(status, 502, "{json}");
    assert!(json["error"].as_str().unwrap().contains("was taken back"));
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    // And a good one is taken after all that.
    daemon.deploy_version("2");
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    site.server.finish();
}

fn what_reaches_for_more_is_refused(host: &Host) {
    let site = Site::start(host);
    let base = file(
        &site,
        "base.json",
        br#"{ "environment": { "A": "b" }, "processes": 2 }"#,
    );
    let more = [
        "--base",
        base.to_str().unwrap(),
        "--allow-set",
        "UNIT_WASM_ALLOW_HTTP",
    ];
    let daemon = Daemon::start(&site, &more);
    for (query, problem) in [
        (
            "set.UNIT_WASM_SECRETS=/etc/shadow",
            "deployd --allow-set UNIT_WASM_SECRETS",
        ),
        ("set.UNIT_WASM_AUDIT_LOG=/etc/passwd", "deployd --allow-set"),
        ("listener=*:80", "no parameter"),
        ("env.UNIT_WASM_FUEL=1", "--set"),
        ("set.UNIT_WASM_SHA256=0", "deployd --allow-set"),
        ("processes=0", "processes"),
    ] {
        let (status, json) = daemon.deploy("lab", query, &lab());
        assert_eq!(status, 400, "{query}: {json}");
        assert!(json["error"].as_str().unwrap().contains(problem), "{json}");
    }
    let query = "route=/*&probe=/env&set.UNIT_WASM_ALLOW_HTTP=http://127.0.0.1:1";
    let (status, json) = daemon.deploy("lab", query, &lab());
    assert_eq!(status, 200, "{json}");
    assert_eq!(site.get("/env").ok().text(), "A=b\n");
    assert_eq!(site.config()["applications"]["lab"]["processes"], 2);
    site.server.finish();
}

fn back_and_away(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    let nothing = site.config();
    daemon.deploy_version("1");
    daemon.deploy_version("2");
    let back = |query: &str| daemon.send(Request::post(format!("/apps/lab/rollback?{query}"), ""));
    let (status, json) = back("probe=/env");
    assert_eq!(status, 200, "{json}");
    assert_eq!((&json["number"], &json["restores"]), (&json!(3), &json!(1)));
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    assert_eq!(back("probe=/env").0, 409);
    let digest = load::sha256(&lab());
    let (status, json) = back(&format!("probe=/env&to={}", &digest[..10]));
    assert_eq!(status, 200, "{json}");
    assert_eq!(back("x=y").0, 400);
    let (status, json) = daemon.send(Request::get("/apps/lab"));
    assert_eq!((status, &json["state"]), (200, &json!("running")));
    assert_eq!(daemon.send(Request::get("/apps/other")).0, 404);
    let remove = |name: &str| daemon.send(Request::new("DELETE", format!("/apps/{name}")));
    assert_eq!(remove("other").0, 404);
    assert_eq!(remove("lab").0, 200);
    assert_eq!(remove("lab").0, 404);
    assert_eq!(site.config(), nothing);
    assert_eq!(daemon.apps(), json!([]));
    site.server.finish();
}

fn one_deployment_of_an_application_at_a_time(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    daemon.deploy_version("1");
    let bytes = lab();
    // Half of one is on its way.
    let head = format!(
        "POST /deploy/lab?route=/*&no-probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    let mut conn = Conn::open(daemon.addr);
    conn.send(head.as_bytes()).unwrap();
    conn.send(&bytes[..1000]).unwrap();
    await_upload(&site);
    let query = "route=/*&probe=/env&env.VERSION=1";
    let (status, json) = daemon.deploy("lab", query, &bytes);
    assert_eq!(status, 409, "two at a time: {json}");
    // Other applications are not held up.
    let (status, json) = daemon.send(Request::new("DELETE", "/apps/none-such"));
    assert_eq!(status, 404, "{json}");
    let other = daemon.deploy("other", "", &bytes);
    assert_eq!(other.0, 200, "{other:?}");
    drop(conn);
    // It was given up, and another one may come.
    let free = wait_for(PATIENCE, || {
        let query = "route=/*&probe=/env&env.VERSION=2";
        (daemon.deploy("lab", query, &bytes).0 == 200).then_some(())
    });
    assert!(free.is_some(), "still taken");
    assert_eq!(site.get("/env").ok().text(), "VERSION=2\n");
    site.server.finish();
}

fn everything_comes_back_after_restarts(host: &Host) {
    let site = Site::start(host);
    let listener = free_addr(next_ip());
    let text = listener.to_string();
    let more = ["--listener", text.as_str()];
    // A name that another Unit can get.
    let link = site.dir.path().join("current.sock");
    let control = link.to_str().unwrap();
    // Unit is not there yet.
    let mut daemon = Daemon::spawn(&site, control, &more);
    expect(&log(&site), "listens on");
    symlink(site.control(), &link).unwrap();
    daemon.await_start();
    daemon.deploy_version("1");
    let hello = fs::read(guests::hello()).unwrap();
    assert_eq!(daemon.deploy("hello", "", &hello).0, 200);
    let before = site.config();
    let workers = site.server.workers("lab");
    let get = |path: &str| http::fetch(listener, &Request::get(path)).unwrap();
    assert_eq!(get("/env").ok().text(), "VERSION=1\n");

    // The daemon alone: nothing changes, and nothing stops.
    let load = Load::start(vec![Client::fresh(listener)], |client, _| {
        checked(client, &Request::get("/env")).map(drop)
    });
    assert!(daemon.terminate().success());
    let mut daemon = Daemon::spawn(&site, control, &more);
    daemon.await_start();
    load.wait_for_more(5);
    load.stop().assert_clean();
    assert_eq!(site.config(), before);
    assert_eq!(site.server.workers("lab"), workers);
    let state = || daemon.apps()[1]["state"].clone();
    assert_eq!(state(), "running");

    // Unit with everything that it knew, while the daemon is there.
    let Site { server, dir, .. } = site;
    server.finish();
    assert_eq!(state(), "unknown");
    let restore = || daemon.send(Request::post("/restore", ""));
    let (status, json) = restore();
    assert_eq!(status, 503, "{json}");
    let mut other = Server::bare(host);
    other.expect_new_workers();
    fs::remove_file(&link).unwrap();
    symlink(other.dir().join("control.sock"), &link).unwrap();
    assert_eq!(state(), "absent");
    let (status, json) = restore();
    assert_eq!(status, 200, "{json}");
    assert_eq!(get("/env").ok().text(), "VERSION=1\n");
    assert_eq!(get("/hello/").status(), 200);
    assert_eq!(state(), "running");
    assert!(daemon.terminate().success());
    other.finish();
    drop(dir);
}

fn brings_up_what_its_store_has(host: &Host) {
    let site = Site::start(host);
    let component = guests::root().join("tests/guests/lab/lab.wasm");
    // Asked by its first route, it fails: it is asked as when it was deployed.
    let lab = ["--route", "/trap", "--route", "/env", "--probe", "/env"];
    let lab = [&lab[..], &["--env", "VERSION=1"]].concat();
    site.deploy(&component, "lab", &lab).ok();
    let trap = [
        "--host",
        "trap.example.com",
        "--route",
        "/trap",
        "--no-probe",
    ];
    site.deploy(&component, "trap", &trap).ok();
    site.deploy(&guests::hello(), "hello", &[]).ok();
    let all = site.config()["applications"].clone();
    // Unit has lost what it had, and is not there yet.
    site.configure();
    let link = site.dir.path().join("current.sock");
    let mut daemon = Daemon::spawn(&site, link.to_str().unwrap(), &[]);
    expect(&log(&site), "listens on");
    assert_eq!(site.config()["applications"], json!({}));
    symlink(site.control(), &link).unwrap();
    daemon.await_start();
    assert_eq!(site.config()["applications"], all);
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    site.get("/hello/").ok();
    for name in ["hello", "lab", "trap"] {
        expect(&log(&site), &format!("{name}: brought up "));
    }
    assert_eq!(daemon.apps()[2]["state"], "running");
    assert!(daemon.terminate().success());
    // It waits no longer than it is told to.
    let none = site.dir.path().join("none.sock");
    let mut daemon = Daemon::spawn(&site, none.to_str().unwrap(), &["--wait", "300ms"]);
    let ended = wait_for(PATIENCE, || daemon.child.try_wait().unwrap());
    assert_eq!(ended.expect("it ends").code(), Some(1));
    expect(&log(&site), "cannot connect to");
    site.server.finish();
}

fn what_others_have_made_is_not_replaced(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    let component = guests::root().join("tests/guests/lab/lab.wasm");
    let by_hand = json!({
        "type": "wasm-wasi-component",
        "component": component,
        "environment": { "UNIT_WASM_CACHE": cache(), "VERSION": "0" },
    });
    let put = site
        .server
        .control
        .put("/config/applications/lab", &by_hand);
    assert!(put.unwrap().success());
    let (status, json) = daemon.deploy("lab", "route=/*&probe=/env", &lab());
    assert_eq!(status, 409, "{json}");
    let text = json["error"].as_str().unwrap();
    assert!(text.contains("--take-over"), "{text}");
    assert_eq!(site.config()["applications"]["lab"], by_hand);
    assert_eq!(daemon.apps(), json!([]));
    site.server.finish();
}

fn one_bad_record_hides_no_other(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    daemon.deploy_version("1");
    fs::write(site.store.join("apps/bad.json"), "{").unwrap();
    let apps = daemon.apps();
    assert_eq!(
        (&apps[0]["name"], &apps[1]["name"]),
        (&json!("bad"), &json!("lab"))
    );
    assert!(apps[0]["error"].is_string(), "{apps}");
    assert_eq!(apps[1]["state"], "running");
    let (status, json) = daemon.send(Request::post("/restore", ""));
    assert_eq!(
        (status, &json["error"]),
        (502, &json!("not brought up: bad"))
    );
    assert_eq!(json["apps"]["lab"]["number"], 1);
    // What cannot be collected for that is no failure of something else.
    let remove = || daemon.send(Request::new("DELETE", "/apps/lab"));
    let (status, json) = remove();
    assert_eq!(status, 200, "{json}");
    assert!(
        json["notes"][0].as_str().unwrap().contains("\"bad\""),
        "{json}"
    );
    assert_eq!(remove().0, 404);
    site.server.finish();
}

/// Copies a program by a process of its own: a child that another test forks would
/// inherit the file, open for writing, and as long as it has that, nobody can start
/// the program.
fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "{copied}");
}

fn another_program_in_its_place(host: &Host) {
    let site = Site::start(host);
    let program = site.dir.path().join("nxt-wasm");
    copy_program(&cli::program().unwrap(), &program);
    let addr = free_addr(next_ip());
    let given = command(&site, &site.control(), &addr.to_string());
    let child = Command::new(&program).args(given.get_args()).spawn();
    let child = child.unwrap();
    let mut daemon = Daemon { child, addr };
    daemon.await_start();
    let other = file(&site, "other", b"#!/bin/sh\nexit 1\n");
    fs::rename(other, &program).unwrap();
    daemon.deploy_version("1");
    assert_eq!(site.get("/env").ok().text(), "VERSION=1\n");
    site.server.finish();
}

/// A connection on which a component is sent.
fn send_alone(to: &Daemon, name: &str, component: &[u8]) -> Conn {
    let head = format!(
        "POST /deploy/{name}?no-probe HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        component.len()
    );
    let mut conn = Conn::open(to.addr);
    conn.send(head.as_bytes()).unwrap();
    conn.send(component).unwrap();
    conn
}

fn what_nobody_waits_for_is_done_in_its_turn(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    let lock = || {
        let lock = fs::File::open(format!("{}.deploy-lock", site.control())).unwrap();
        lock.lock().unwrap();
        lock
    };
    // The file of a component, once it has been checked.
    let kept = |bytes: &[u8]| {
        let path = format!("components/{}.wasm", load::sha256(bytes));
        Some(fs::metadata(site.store.join(path)).ok()?.ino())
    };
    let lab3 = fs::read(guests::root().join("tests/guests/lab3/lab3.wasm")).unwrap();
    let hello = fs::read(guests::hello()).unwrap();
    let held = lock();
    for (name, component) in [("one", &lab()), ("two", &lab3)] {
        let conn = send_alone(&daemon, name, component);
        let begun = wait_for(PATIENCE, || kept(component));
        assert!(begun.is_some(), "{name} is not checked");
        drop(conn);
    }
    // They have the two places, though nobody waits for them.
    let mut third = send_alone(&daemon, "three", &hello);
    let is_third = |file: fs::DirEntry| file.metadata().unwrap().len() == hello.len() as u64;
    let received = wait_for(PATIENCE, || {
        let mut files = fs::read_dir(site.store.join("tmp")).unwrap();
        files.any(|file| is_third(file.unwrap())).then_some(())
    });
    assert!(received.is_some(), "it is not received");
    let begun = wait_for(Duration::from_secs(5), || kept(&hello));
    assert!(begun.is_none(), "three at once");
    drop(held);
    third.set_patience(PATIENCE * 2);
    let response = third.read_response(false).unwrap();
    assert_eq!(answer(&response).0, 200, "{}", response.text());
    let states = || daemon.apps().as_array().unwrap().len();
    assert!(wait_for(PATIENCE, || (states() == 3).then_some(())).is_some());

    // Nor does the daemon end before it is done.
    let held = lock();
    let before = kept(&lab());
    let conn = send_alone(&daemon, "four", &lab());
    let begun = wait_for(PATIENCE, || (kept(&lab()) != before).then_some(()));
    assert!(begun.is_some(), "it is not checked");
    drop(conn);
    let log = log(&site);
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || daemon.terminate());
        expect(&log, "deployd: ends");
        let early = wait_for(Duration::from_secs(3), || ended.is_finished().then_some(()));
        assert!(early.is_none(), "it has not waited");
        drop(held);
        assert!(ended.join().unwrap().success());
    });
    let list = site.list();
    assert_eq!(list["apps"][0]["name"], "four", "{list}");
    assert!(site.config()["applications"]["four"].is_object());
    site.server.finish();
}

fn ends_when_it_is_told_to(host: &Host) {
    let site = Site::start(host);
    let daemon = Daemon::start(&site, &[]);
    // What is under way is done first.
    let bytes = lab();
    let head = format!(
        "POST /deploy/lab?route=/*&probe=/env HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    let mut conn = Conn::open(daemon.addr);
    conn.send(head.as_bytes()).unwrap();
    conn.send(&bytes[..1000]).unwrap();
    await_upload(&site);
    let (log, addr) = (log(&site), daemon.addr);
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || daemon.terminate());
        expect(&log, "deployd: ends");
        assert!(http::fetch(addr, &Request::get("/apps")).is_err());
        conn.send(&bytes[1000..]).unwrap();
        let response = conn.read_response(false).unwrap();
        assert_eq!(answer(&response).0, 200, "{}", response.text());
        assert!(ended.join().unwrap().success());
    });
    assert_eq!(site.get("/env").status(), 200);
    site.server.finish();
}

fn listens_on_a_socket(host: &Host) {
    let site = Site::start(host);
    let socket = site.dir.path().join("deployd.sock");
    let listen = format!("unix:{}", socket.display());
    let start = || Daemon {
        child: command(&site, &site.control(), &listen).spawn().unwrap(),
        addr: free_addr(next_ip()),
    };
    let ask = || {
        let token = format!("Bearer {TOKEN}");
        let request = Request::get("/apps").header("authorization", token);
        let mut conn = Conn::open_unix(&socket).ok()?;
        Some(conn.exchange(&request).unwrap().status())
    };
    let daemon = start();
    assert_eq!(wait_for(PATIENCE, ask), Some(200));
    // What one leaves behind that is killed, the next one takes over.
    drop(daemon);
    assert!(socket.exists() && ask().is_none());
    let daemon = start();
    assert_eq!(wait_for(PATIENCE, ask), Some(200));
    assert!(daemon.terminate().success());
    assert!(!socket.exists());
    site.server.finish();
}

fn the_socket_of_its_successor_stays(host: &Host) {
    let site = Site::start(host);
    let socket = site.dir.path().join("deployd.sock");
    let listen = format!("unix:{}", socket.display());
    let start = || Daemon {
        child: command(&site, &site.control(), &listen).spawn().unwrap(),
        addr: free_addr(next_ip()),
    };
    let ask = || {
        let token = format!("Bearer {TOKEN}");
        let request = Request::get("/apps").header("authorization", token);
        let mut conn = Conn::open_unix(&socket).ok()?;
        Some(conn.exchange(&request).ok()?.status())
    };
    let first = start();
    assert_eq!(wait_for(PATIENCE, ask), Some(200));
    // One is under way when it is told to end.
    let bytes = lab();
    let head = format!(
        "POST /deploy/lab?no-probe HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        bytes.len()
    );
    let mut conn = Conn::open_unix(&socket).unwrap();
    conn.send(head.as_bytes()).unwrap();
    conn.send(&bytes[..1000]).unwrap();
    await_upload(&site);
    let log = log(&site);
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || first.terminate());
        expect(&log, "deployd: ends");
        assert!(!socket.exists());
        let second = start();
        assert_eq!(wait_for(PATIENCE, ask), Some(200));
        conn.send(&bytes[1000..]).unwrap();
        let response = conn.read_response(false).unwrap();
        assert_eq!(answer(&response).0, 200, "{}", response.text());
        assert!(ended.join().unwrap().success());
        assert_eq!(ask(), Some(200));
        assert!(second.terminate().success());
    });
    assert!(!socket.exists());
    site.server.finish();
}
