//! Objects in a bucket: of files, or in an S3 store, for the same component.

use std::fs;
use std::sync::atomic::Ordering;

use harness::guests::Download;
use harness::http::encode;
use harness::launch::cache;
use harness::peers::raw::deserted;
use harness::peers::s3::{BUCKET, KEY, S3Server, SECRET};
use harness::{Host, Request, Response, Server, guests};
use serde_json::{Value, json};

use super::{EXAMPLE, ask, assert_by_host, assert_error, change, json_of, pass_all_to, start};
use crate::access::write_file;
use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["scenarios::routes", All:
        objects_are_kept_in_files,
        all_objects_are_listed,
        objects_can_be_read_only,
        objects_in_an_s3_store,
    ]
}

#[track_caller]
fn put(server: &Server, key: &str, bytes: impl Into<Vec<u8>>) -> Response {
    let target = format!("/objects/{key}");
    server.send(&Request::with_body("PUT", target, bytes))
}

#[track_caller]
fn assert_stored(response: &Response, key: &str, bytes: usize) {
    assert_eq!(response.status(), 201, "{}", response.text());
    assert_eq!(json_of(response), json!({"key": key, "bytes": bytes}));
}

#[track_caller]
fn get(server: &Server, key: &str) -> Vec<u8> {
    ask(server, "GET", &format!("/objects/{key}")).ok().body
}

#[track_caller]
fn keys(server: &Server) -> Value {
    json_of(&ask(server, "GET", "/objects").ok())["keys"].clone()
}

fn objects_are_kept_in_files(host: &Host) {
    let server = start(host, deserted());
    assert_error(&ask(&server, "GET", "/objects/note"), 404);
    assert_stored(&put(&server, "note", "one"), "note", 3);
    assert_stored(&put(&server, "note", "two!"), "note", 4);
    assert_eq!(get(&server, "note"), b"two!");
    assert_stored(&put(&server, "empty", ""), "empty", 0);
    assert_eq!(get(&server, "empty"), b"");
    let head = ask(&server, "HEAD", "/objects/note").ok();
    assert_eq!(head.head.first("content-length").as_deref(), Some("4"));
    let kind = head.head.first("content-type");
    assert_eq!(kind.as_deref(), Some("application/octet-stream"));
    assert_eq!(ask(&server, "HEAD", "/objects/none").status(), 404);

    // Any text is a key, and bytes are bytes.
    let bytes: Vec<u8> = (0..=255).collect();
    assert_stored(&put(&server, "a%20b/%c3%bc%22", &*bytes), "a b/ü\"", 256);
    assert_eq!(get(&server, "a%20b/%c3%bc%22"), bytes);
    assert_eq!(keys(&server), json!(["a b/ü\"", "empty", "note"]));
    for key in ["", "%ff"] {
        assert_error(&ask(&server, "GET", &format!("/objects/{key}")), 400);
        assert_error(&put(&server, key, "x"), 400);
    }

    // They are files, and files are objects.
    let dir = server.data().join("objects");
    assert_eq!(fs::read(dir.join("note")).expect("a file"), b"two!");
    write_file(&dir.join("from-elsewhere"), "x");
    assert_eq!(get(&server, "from-elsewhere"), b"x");

    let most = Download::default().bytes(1 << 20);
    assert_stored(&put(&server, "most", &*most), "most", 1 << 20);
    assert!(get(&server, "most") == most, "another object");
    assert_error(&put(&server, "more", vec![0; (1 << 20) + 1]), 413);
    assert_error(&ask(&server, "GET", "/objects/more"), 404);
    server.finish();
}

/// More of them than a page has.
fn all_objects_are_listed(host: &Host) {
    let server = start(host, deserted());
    let name = |number: u32| format!("object-{number:04}");
    for number in 0..2500 {
        write_file(&server.data().join("objects").join(name(number)), "x");
    }
    let mut listed = Vec::new();
    let mut target = "/objects".to_owned();
    let mut pages = 0;
    loop {
        let page = json_of(&ask(&server, "GET", &target).ok());
        let keys = page["keys"].as_array().expect("keys").iter();
        listed.extend(keys.map(|key| key.as_str().expect("a key").to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => target = format!("/objects?from={}", encode(next)),
            None => break,
        }
        assert!(pages < 10, "there is no end");
    }
    listed.sort();
    assert!(pages > 1, "all of them are a page");
    assert_eq!(listed, (0..2500).map(name).collect::<Vec<_>>());
    server.finish();
}

/// By the routes, or by the bucket.
fn objects_can_be_read_only(host: &Host) {
    let mut server = start(host, deserted());
    assert_stored(&put(&server, "note", "one"), "note", 3);
    change(&server, "routes/3/match/method", &json!(["GET", "HEAD"]));
    assert_by_host(&put(&server, "note", "two"), 405);
    assert_eq!(get(&server, "note"), b"one");
    change(&server, "routes/3/match/method", &json!(["GET", "PUT"]));
    assert_stored(&put(&server, "note", "two"), "note", 3);

    server.expect_new_workers();
    let dir = server.data().join("objects");
    let bucket = json!(format!("objects=fs:{}?readonly", dir.display()));
    let path = "applications/objects/environment/UNIT_WASM_KEYVALUE";
    change(&server, path, &bucket);
    assert_error(&put(&server, "note", "three"), 403);
    assert_eq!(get(&server, "note"), b"two");
    assert_eq!(keys(&server), json!(["note"]));
    server.finish();
}

/// The other configuration of the application, with a store of the test's.
fn in_s3(server: &Server, store: &S3Server) -> Value {
    let path = guests::root().join(EXAMPLE).join("objects-s3.json");
    let mut text = fs::read_to_string(path).expect("objects-s3.json");
    let credentials = server.dir().join("secrets");
    secrets::write_private(&credentials, &format!("s3-key = {KEY}:{SECRET}\n"));
    let component = guests::root().join(EXAMPLE).join("objects/objects.wasm");
    for (from, to) in [
        ("/srv/wasm/objects.wasm", component.to_str().expect("UTF-8")),
        ("/etc/unit/secrets", credentials.to_str().expect("UTF-8")),
        ("127.0.0.1:9000", &store.address.to_string()),
        ("s3://media/", &format!("s3://{BUCKET}/")),
    ] {
        assert!(text.contains(from), "no {from} in it");
        text = text.replace(from, to);
    }
    let mut app: Value = serde_json::from_str(&text).expect("JSON");
    app["environment"]["UNIT_WASM_CACHE"] = json!(cache());
    app
}

fn objects_in_an_s3_store(host: &Host) {
    let store = S3Server::start();
    let mut server = start(host, deserted());
    assert_stored(&put(&server, "in-files", "one"), "in-files", 3);

    server.expect_new_workers();
    change(&server, "applications/objects", &in_s3(&server, &store));
    assert_error(&ask(&server, "GET", "/objects/in-files"), 404);
    assert_eq!(keys(&server), json!([]));
    assert_stored(&put(&server, "a/b", "two"), "a/b", 3);
    let other = |name: &str| {
        let mut objects = store.objects.lock().expect("objects");
        objects.insert(name.to_owned(), "three".into());
    };
    other("site/c");
    other("elsewhere/d");
    assert_eq!(get(&server, "a/b"), b"two");
    assert_eq!(get(&server, "c"), b"three");
    // A key cannot leave the prefix, even if no route looks at it before.
    pass_all_to(&server, "applications/objects");
    assert_eq!(get(&server, "a/b"), b"two");
    for key in ["../elsewhere/d", "..%2felsewhere%2fd", "/elsewhere/d"] {
        assert_error(&ask(&server, "GET", &format!("/objects/{key}")), 404);
    }
    pass_all_to(&server, "routes");
    assert_eq!(keys(&server), json!(["a/b", "c"]));
    let mut names: Vec<String> = {
        let objects = store.objects.lock().expect("objects");
        objects.keys().cloned().collect()
    };
    names.retain(|name| name.starts_with("site/"));
    assert_eq!(names, ["site/a%2Fb", "site/c"]);

    store.faults.failing.store(1000, Ordering::SeqCst);
    assert_error(&put(&server, "a/b", "four"), 503);
    store.faults.failing.store(0, Ordering::SeqCst);
    assert_eq!(get(&server, "a/b"), b"two");
    // Connections to it are kept for a while, so it ends before the server.
    drop(store);
    assert_error(&ask(&server, "GET", "/objects/c"), 503);
    server
        .log
        .expect(&["[error]", "wasm \"objects\"", "keyvalue bucket `objects`"]);
    assert_eq!(
        ask(&server, "GET", "/files/hello.txt").ok().text(),
        "hello\n"
    );
    server.finish();
}
