//! `wasi:keyvalue`: what was written is there, for every request and process
//! that shares the store, and for nobody else.

use std::fs;
use std::thread;
use std::time::Duration;

use harness::peers::process::DatabasePeer;
use harness::proc::Process;
use harness::{App, Host, Request, Server, eventually};
use serde_json::json;

use crate::access::make_directory;
use crate::startup::assert_refused;
use crate::{Case, cases, secrets};

/// How long processes may take to serve or to end.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    let mut all = cases!["keyvalue", All:
        not_without_a_grant,
        values_outlive_requests_and_handles,
        keys_of_every_kind,
        buckets_are_apart,
        memory_is_bounded,
        readonly_buckets,
        limits_of_a_request,
        batches,
        swaps,
        files_are_shared_by_processes_and_outlive_them,
        files_count_right_among_processes,
        the_older_draft,
        bad_stores_refuse_the_start,
    ];
    all.extend(cases!["keyvalue", Redis:
        redis_counts_right_among_processes,
        redis_that_was_away_is_found_again,
        redis_with_a_password,
    ]);
    all
}

pub fn app(stores: &str) -> App {
    App::caps("keyvalue").env("UNIT_WASM_KEYVALUE", stores)
}

#[track_caller]
pub fn ask(server: &Server, target: impl AsRef<str>) -> String {
    server.get(target.as_ref()).ok().text()
}

#[track_caller]
pub fn set(server: &Server, bucket: &str, key: &str, value: &str) {
    let target = format!("/kv/set?bucket={bucket}&key={key}");
    assert_eq!(
        server.send(&Request::post(target, value)).ok().text(),
        "set\n"
    );
}

#[track_caller]
pub fn get(server: &Server, bucket: &str, key: &str) -> Option<String> {
    let response = server.get(format!("/kv/get?bucket={bucket}&key={key}"));
    match response.status() {
        404 => None,
        _ => Some(response.ok().text()),
    }
}

fn not_without_a_grant(host: &Host) {
    let parts = ["imports `wasi:keyvalue/", "that takes UNIT_WASM_KEYVALUE"];
    assert_refused(host, &App::caps("keyvalue"), &parts);
}

fn values_outlive_requests_and_handles(host: &Host) {
    let server = Server::start(host, app("memory:"));
    assert_eq!(get(&server, "", "a"), None);
    assert_eq!(ask(&server, "/kv/exists?key=a"), "false\n");
    set(&server, "", "a", "one");
    // Without a name, the bucket is `default`.
    assert_eq!(get(&server, "default", "a").as_deref(), Some("one"));
    set(&server, "default", "a", "two");
    assert_eq!(get(&server, "", "a").as_deref(), Some("two"));
    assert_eq!(ask(&server, "/kv/exists?key=a"), "true\n");
    assert_eq!(ask(&server, "/kv/delete?key=a"), "deleted\n");
    assert_eq!(ask(&server, "/kv/delete?key=a"), "deleted\n");
    assert_eq!(get(&server, "", "a"), None);
    assert_eq!(ask(&server, "/kv/increment?key=n&delta=5"), "5\n");
    assert_eq!(ask(&server, "/kv/increment?key=n&delta=-7"), "-2\n");
    assert_eq!(get(&server, "", "n").as_deref(), Some("-2"));
    set(&server, "", "n", "no number");
    assert!(ask(&server, "/kv/increment?key=n").starts_with("error: other:"));
    assert_eq!(get(&server, "", "n").as_deref(), Some("no number"));
    server.finish();
}

/// In a directory, where names mean something.
fn keys_of_every_kind(host: &Host) {
    let server = Server::start_with(host, |server| {
        make_directory(&server.data().join("kv"));
        app(&format!("fs:{}", server.data().join("kv").display())).into()
    });
    let long = "k".repeat(1024);
    let keys = [
        "plain",
        "Plain",
        ".",
        "..",
        "../../escaped",
        "/etc/passwd",
        "a/b",
        "a%2fb",
        "con",
        "ü",
        "a b",
        "a\\b",
        "-",
        "~",
        "%",
        "*",
        long.as_str(),
    ];
    let quoted = |key: &str| -> String { key.bytes().map(|b| format!("%{b:02x}")).collect() };
    for key in keys {
        set(&server, "", &quoted(key), &format!("value of {key}"));
    }
    for key in keys {
        let value = get(&server, "", &quoted(key));
        assert_eq!(value, Some(format!("value of {key}")), "{key}");
    }
    let mut expected = keys.map(str::to_owned);
    expected.sort();
    let listed = ask(&server, "/kv/list-all");
    let listed: Vec<&str> = listed.lines().skip(1).collect();
    assert_eq!(listed, expected);
    let too_long = "k".repeat(1025);
    let text = ask(&server, format!("/kv/exists?key={too_long}"));
    assert!(text.starts_with("error: other:"), "{text}");
    let beside: Vec<_> = fs::read_dir(server.data()).unwrap().flatten().collect();
    assert!(!server.data().join("escaped").exists(), "{beside:?}");
    server.finish();
}

fn buckets_are_apart(host: &Host) {
    let server = Server::start(host, app("one=memory: two=memory:"));
    set(&server, "one", "k", "1");
    set(&server, "two", "k", "2");
    assert_eq!(get(&server, "one", "k").as_deref(), Some("1"));
    assert_eq!(get(&server, "two", "k").as_deref(), Some("2"));
    for name in ["", "default", "three", "one/", "../one"] {
        let text = ask(&server, format!("/kv/open?bucket={name}"));
        assert_eq!(text, "error: no-such-store\n", "{name}");
    }
    server
        .log
        .expect(&["[warn]", "bucket `three`", "UNIT_WASM_KEYVALUE"]);
    server.finish();
}

fn memory_is_bounded(host: &Host) {
    let app = app("memory:").env("UNIT_WASM_KEYVALUE_MEMORY", "1MiB");
    let server = Server::start(host, app);
    set(&server, "", "first", "kept");
    let text = ask(&server, "/kv/fill?key=f&n=100&size=65536");
    let done: u32 = text.split(' ').next().unwrap().parse().unwrap();
    assert!((8..16).contains(&done) && text.contains("error:"), "{text}");
    assert_eq!(get(&server, "", "first").as_deref(), Some("kept"));
    // What is deleted makes room.
    assert_eq!(ask(&server, "/kv/delete?key=f0"), "deleted\n");
    assert_eq!(ask(&server, "/kv/set?key=again&size=60000"), "set\n");
    server.log.expect(&["UNIT_WASM_KEYVALUE_MEMORY"]);
    server.finish();
}

fn readonly_buckets(host: &Host) {
    let server = Server::start_with(host, |server| {
        let dir = server.data().join("kv");
        make_directory(&dir);
        let url = format!("fs:{}", dir.display());
        app(&format!("rw={url} ro={url}?readonly")).into()
    });
    set(&server, "rw", "k", "v");
    assert_eq!(get(&server, "ro", "k").as_deref(), Some("v"));
    for target in [
        "/kv/set?bucket=ro&key=k&size=1",
        "/kv/delete?bucket=ro&key=k",
        "/kv/increment?bucket=ro&key=n",
        "/kv/delete-many?bucket=ro&key=k",
        "/kv/cas?bucket=ro&key=k",
    ] {
        assert_eq!(ask(&server, target), "error: access-denied\n", "{target}");
    }
    assert_eq!(get(&server, "rw", "k").as_deref(), Some("v"));
    server.finish();
}

fn limits_of_a_request(host: &Host) {
    let app = app("memory:?max-value=2KiB")
        .env("UNIT_WASM_KEYVALUE_OPERATIONS", "20")
        .env("UNIT_WASM_KEYVALUE_BYTES_WRITTEN", "8KiB")
        .env("UNIT_WASM_KEYVALUE_BYTES_READ", "3KiB");
    let server = Server::start(host, app);
    let refused = |target: &str, setting: &str| {
        let text = ask(&server, target);
        assert!(text.contains("error: other:"), "{target}: {text}");
        assert!(!text.contains("UNIT_WASM"), "told the guest: {text}");
        server.log.expect(&["[warn]", setting]);
    };
    refused("/kv/set?key=k&size=2049", "max-value=2048");
    assert_eq!(ask(&server, "/kv/set?key=k&size=2048"), "set\n");
    refused(
        "/kv/fill?key=f&n=100&size=1000",
        "UNIT_WASM_KEYVALUE_BYTES_WRITTEN",
    );
    refused("/kv/race?key=n&n=21", "UNIT_WASM_KEYVALUE_OPERATIONS");
    assert_eq!(ask(&server, "/kv/race?key=m&n=20"), "20\n");
    refused(
        "/kv/get-many?key=k&key=f0&key=f1",
        "UNIT_WASM_KEYVALUE_BYTES_READ",
    );
    // The next request has its own.
    assert_eq!(get(&server, "", "k").unwrap().len(), 2048);
    server.finish();
}

fn batches(host: &Host) {
    let server = Server::start(host, app("memory:"));
    let many = Request::post("/kv/set-many", "a=1\nb=2\nc=3\n");
    assert_eq!(server.send(&many).ok().text(), "set\n");
    let text = ask(&server, "/kv/get-many?key=c&key=none&key=a&key=c");
    assert_eq!(text, "c=3\nnone none\na=1\nc=3\n");
    assert_eq!(
        ask(&server, "/kv/delete-many?key=a&key=none&key=c"),
        "deleted\n"
    );
    assert_eq!(ask(&server, "/kv/list-all"), "1 pages\nb");
    server.finish();
}

fn swaps(host: &Host) {
    let server = Server::start(host, app("memory:"));
    let swap = |rest: &str, value: &str| {
        let target = format!("/kv/cas?key=k{rest}");
        server.send(&Request::post(target, value)).ok().text()
    };
    assert_eq!(swap("", "one"), "none swapped\n");
    assert_eq!(swap("", "two"), "one swapped\n");
    assert_eq!(swap("&between=other", "three"), "two failed\n");
    assert_eq!(get(&server, "", "k").as_deref(), Some("other"));
    assert_eq!(swap("&between=again&retry=1", "four"), "other retried\n");
    assert_eq!(get(&server, "", "k").as_deref(), Some("four"));
    // Even the same value, written anew, is a change, or none that matters.
    assert_eq!(swap("", ""), "four swapped\n");
    assert_eq!(get(&server, "", "k").as_deref(), Some(""));
    server.finish();
}

fn with_files(host: &Host, processes: u32) -> Server {
    Server::start_with(host, |server| {
        let dir = server.data().join("kv");
        make_directory(&dir);
        let app = app(&format!("fs:{}", dir.display()));
        app.processes(json!(processes)).into()
    })
}

fn files_are_shared_by_processes_and_outlive_them(host: &Host) {
    let mut server = with_files(host, 2);
    for n in 0..40 {
        set(&server, "", &format!("key{n}"), &format!("{n}"));
    }
    for n in 0..40 {
        let value = get(&server, "", &format!("key{n}"));
        assert_eq!(value, Some(n.to_string()));
    }
    server.expect_new_workers();
    let old = server.workers("keyvalue");
    assert!(server.restart("keyvalue").success());
    eventually("the old processes are gone", PATIENCE, || {
        old.iter().all(|process| !process.alive())
    });
    assert_eq!(get(&server, "", "key39").as_deref(), Some("39"));
    let listed = ask(&server, "/kv/list-all");
    assert_eq!(listed.lines().count(), 41, "{listed}");
    server.settle();
    server.finish();
}

/// Eight clients at two processes count one key in two ways.
pub fn assert_counts(server: &Server, n: u32) {
    count(server, n);
    assert_counted(server, 4 * n);
}

/// Once more, after [`assert_counts`].
pub fn assert_counts_again(server: &Server, n: u32) {
    count(server, n);
    assert_counted(server, 8 * n);
}

fn count(server: &Server, n: u32) {
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                let (route, key) = match client % 2 {
                    0 => ("race", "incremented"),
                    _ => ("cas-race", "swapped"),
                };
                let text = ask(server, format!("/kv/{route}?key={key}&n={n}"));
                assert!(!text.contains("error"), "{text}");
            });
        }
    });
}

fn assert_counted(server: &Server, n: u32) {
    for key in ["incremented", "swapped"] {
        assert_eq!(get(server, "", key), Some(n.to_string()), "{key}");
    }
}

fn files_count_right_among_processes(host: &Host) {
    let mut server = with_files(host, 2);
    assert_counts(&server, 40);
    server.settle();
    assert_counts_again(&server, 40);
    server.finish();
}

fn the_older_draft(host: &Host) {
    let app = App::caps("keyvalue-draft").env("UNIT_WASM_KEYVALUE", "memory:");
    let server = Server::start(host, app);
    assert_eq!(ask(&server, "/kv/set?key=a&value=one"), "set\n");
    assert_eq!(ask(&server, "/kv/get?key=a"), "one");
    assert_eq!(ask(&server, "/kv/increment?key=n&delta=3"), "3\n");
    assert_eq!(ask(&server, "/kv/increment?key=n&delta=4"), "7\n");
    assert_eq!(ask(&server, "/kv/set-many?key=x&key=y&value=v"), "set\n");
    assert_eq!(
        ask(&server, "/kv/get-many?key=x&key=none&key=y"),
        "x=v\nnone\ny=v\n"
    );
    assert_eq!(ask(&server, "/kv/list-all"), "1 pages\na\nn\nx\ny");
    assert_eq!(ask(&server, "/kv/delete-many?key=x&key=y"), "deleted\n");
    assert_eq!(ask(&server, "/kv/exists?key=x"), "false\n");
    server.finish();
}

fn bad_stores_refuse_the_start(host: &Host) {
    for (stores, part) in [
        ("fs:/nonexistent/kv", "/nonexistent/kv"),
        ("reddis://127.0.0.1", "redis:"),
        ("redis://guest:hunter2@127.0.0.1/x", "redis://...@127.0.0.1"),
        ("redis://127.0.0.1?credentials=login", "UNIT_WASM_SECRETS"),
    ] {
        assert_refused(host, &app(stores), &["KEYVALUE", part]);
    }
}

fn with_redis(host: &Host, redis: &DatabasePeer, processes: u32) -> Server {
    let url = format!("redis://{}/0?prefix=test:", redis.addr());
    let app = app(&url).env("UNIT_WASM_KEYVALUE_TIMEOUT", "30s");
    Server::start(host, app.processes(json!(processes)))
}

fn redis_counts_right_among_processes(host: &Host) {
    let redis = DatabasePeer::redis(None);
    let mut server = with_redis(host, &redis, 2);
    let open = |worker: &Process| worker.descriptors().len();
    let workers = server.workers("keyvalue").into_iter();
    let fresh: Vec<(Process, usize)> = workers.map(|worker| (worker, open(&worker))).collect();
    set(&server, "", "k", "v");
    assert_eq!(get(&server, "", "k").as_deref(), Some("v"));
    // Each process keeps its connection, once it has one.
    let mut rounds = 0;
    eventually("each process has served", PATIENCE, || {
        count(&server, 40);
        rounds += 1;
        fresh.iter().all(|(worker, n)| open(worker) > *n)
    });
    assert_counted(&server, 4 * 40 * rounds);
    server.settle();
    count(&server, 40);
    assert_counted(&server, 4 * 40 * (rounds + 1));
    server.finish();
}

fn redis_that_was_away_is_found_again(host: &Host) {
    let mut redis = DatabasePeer::redis(None);
    let mut server = with_redis(host, &redis, 1);
    set(&server, "", "k", "v");
    server.settle();
    redis.kill();
    let text = ask(&server, "/kv/get?key=k");
    assert!(text.starts_with("error: other:"), "{text}");
    assert!(!text.contains("127."), "told the guest where: {text}");
    server.log.expect(&["[error]", "keyvalue bucket `default`"]);
    redis.restart_redis();
    set(&server, "", "k", "again");
    assert_eq!(get(&server, "", "k").as_deref(), Some("again"));
    server.finish();
}

fn redis_with_a_password(host: &Host) {
    let redis = DatabasePeer::redis(Some("open-sesame-4711"));
    let mut server = Server::start_with(host, |server| {
        let path = server.dir().join("secrets");
        secrets::write_private(
            &path,
            "login = open-sesame-4711\nother = wrong-sesame-4711\n",
        );
        let url = |secret: &str| format!("redis://{}?credentials={secret}", redis.addr());
        let stores = format!("good={} bad={}", url("login"), url("other"));
        let path = path.to_str().unwrap();
        app(&stores).env("UNIT_WASM_SECRETS", path).into()
    });
    set(&server, "good", "k", "v");
    server.settle();
    assert_eq!(get(&server, "good", "k").as_deref(), Some("v"));
    let text = ask(&server, "/kv/get?bucket=bad&key=k");
    assert!(text.starts_with("error: other:"), "{text}");
    server.log.expect(&["[error]", "keyvalue bucket `bad`"]);
    assert!(
        !server.log.text().contains("sesame"),
        "a password in the log"
    );
    server.finish();
}
