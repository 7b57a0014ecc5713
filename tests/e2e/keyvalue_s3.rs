//! `wasi:keyvalue` in an S3 store, of which the application's user knows the
//! keys and the guest nothing.

use std::sync::atomic::Ordering;

use harness::peers::s3::{BUCKET, KEY, S3Server, SECRET};
use harness::{Host, Request, Server};
use serde_json::json;

use crate::keyvalue::{app, ask, assert_counts, assert_counts_again, get, set};
use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["keyvalue-s3", All:
        values_are_objects_under_the_prefix,
        counts_right_among_processes,
        passing_failures_are_not_seen,
        a_store_that_fails_is_told_to_the_operator_alone,
        wrong_credentials,
    ]
}

/// The guest with a bucket in `store`. The pair of keys comes from the file of
/// secrets, where `door` has the right one.
fn start(host: &Host, store: &S3Server, credentials: &str, processes: u32) -> Server {
    Server::start_with(host, |server| {
        let path = server.dir().join("secrets");
        let text = format!("door = {KEY}:{SECRET}\nwrong = {KEY}:{SECRET}x\n");
        secrets::write_private(&path, &text);
        let url = format!(
            "s3://{BUCKET}/some/where?endpoint=http://{}&region=us-east-1&credentials={credentials}",
            store.address
        );
        app(&url)
            .env("UNIT_WASM_SECRETS", path.to_str().unwrap())
            .env("UNIT_WASM_KEYVALUE_TIMEOUT", "30s")
            .processes(json!(processes))
            .into()
    })
}

/// All objects but the one on which conditional writes are tried out.
fn names(store: &S3Server) -> Vec<String> {
    let objects = store.objects.lock().unwrap();
    let names = objects
        .keys()
        .filter(|name| !name.ends_with("/.unit-wasm-probe"));
    names.cloned().collect()
}

/// Ends the store first: connections to it are kept for half a minute, and this
/// is no leak.
fn finish(server: Server, store: S3Server) {
    drop(store);
    server.finish();
}

fn values_are_objects_under_the_prefix(host: &Host) {
    let store = S3Server::start();
    let mut server = start(host, &store, "door", 1);
    set(&server, "", "one", "1");
    server.settle();
    set(&server, "", "two", "2");
    assert_eq!(names(&store), ["some/where/one", "some/where/two"]);
    assert_eq!(get(&server, "", "one").as_deref(), Some("1"));
    assert_eq!(get(&server, "", "three"), None);
    // What others put there is there.
    let put = |name: &str, value: &'static str| {
        let mut objects = store.objects.lock().unwrap();
        objects.insert(name.to_owned(), value.into());
    };
    put("some/where/three", "3");
    put("elsewhere", "4");
    assert_eq!(get(&server, "", "three").as_deref(), Some("3"));
    assert_eq!(ask(&server, "/kv/list-all"), "1 pages\none\nthree\ntwo");
    assert_eq!(get(&server, "", "../../elsewhere"), None);
    let swap = Request::post("/kv/cas?key=one", "new");
    assert_eq!(server.send(&swap).ok().text(), "1 swapped\n");
    let swap = Request::post("/kv/cas?key=one&between=other", "newer");
    assert_eq!(server.send(&swap).ok().text(), "new failed\n");
    assert_eq!(ask(&server, "/kv/delete-many?key=one&key=two"), "deleted\n");
    assert_eq!(names(&store), ["elsewhere", "some/where/three"]);
    finish(server, store);
}

fn counts_right_among_processes(host: &Host) {
    let store = S3Server::start();
    let mut server = start(host, &store, "door", 2);
    assert_counts(&server, 10);
    server.settle();
    assert_counts_again(&server, 10);
    finish(server, store);
}

fn passing_failures_are_not_seen(host: &Host) {
    let store = S3Server::start();
    let mut server = start(host, &store, "door", 1);
    set(&server, "", "k", "v");
    server.settle();
    store.faults.failing.store(1, Ordering::SeqCst);
    assert_eq!(get(&server, "", "k").as_deref(), Some("v"));
    store.faults.conflicts.store(1, Ordering::SeqCst);
    assert_eq!(ask(&server, "/kv/increment?key=n"), "1\n");
    finish(server, store);
}

fn a_store_that_fails_is_told_to_the_operator_alone(host: &Host) {
    let store = S3Server::start();
    let mut server = start(host, &store, "door", 1);
    set(&server, "", "k", "v");
    server.settle();
    store.faults.failing.store(1000, Ordering::SeqCst);
    let text = ask(&server, "/kv/get?key=k");
    assert!(text.starts_with("error: other:"), "{text}");
    for part in ["127.", "s3", "SlowDown", BUCKET] {
        assert!(!text.contains(part), "told the guest: {text}");
    }
    server
        .log
        .expect(&["[error]", "keyvalue bucket `default`", "SlowDown"]);
    drop(store);
    let text = ask(&server, "/kv/get?key=k");
    assert!(text.starts_with("error: other:"), "{text}");
    server.finish();
}

fn wrong_credentials(host: &Host) {
    let store = S3Server::start();
    let server = start(host, &store, "wrong", 1);
    let text = ask(&server, "/kv/set?key=k&size=1");
    assert!(text.starts_with("error: other:"), "{text}");
    assert!(names(&store).is_empty());
    let line = server.log.expect(&["[error]", "keyvalue bucket `default`"]);
    assert!(line.contains("403") || line.contains("Signature"), "{line}");
    assert!(!server.log.text().contains(SECRET), "a secret in the log");
    finish(server, store);
}
