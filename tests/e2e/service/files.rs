//! Files by the streams of WASI 0.3.

use std::fs;

use harness::{Host, Request, Server};
use serde_json::json;

use super::{app, ask, ask_as, error, start};
use crate::access::{make_directory, write_file};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-files", All:
        no_directories_by_default,
        reading_writing_and_listing,
        a_file_passed_on_as_the_response,
        a_read_only_directory_takes_nothing,
        there_is_no_way_out,
        the_quota_bounds_what_is_written,
        the_quota_is_for_each_request,
    ]
}

/// The guest with a directory `/data`, in which there is `file.txt`.
fn with_directory(host: &Host, mode: &str, settings: &[(&str, &str)]) -> Server {
    Server::start_with(host, |server| {
        let inside = server.data().join("in");
        make_directory(&inside);
        write_file(&inside.join("file.txt"), "inside\n");
        write_file(&server.data().join("secret.txt"), "secret\n");
        let list = json!([{ "host": inside, "guest": "/data", "mode": mode }]);
        app(settings).filesystem(list).into()
    })
}

fn size(server: &Server, name: &str) -> u64 {
    let path = server.data().join("in").join(name);
    fs::metadata(path).expect("a file").len()
}

fn no_directories_by_default(host: &Host) {
    let server = start(host, &[]);
    for target in [
        "/read?path=/etc/passwd",
        "/list?path=/",
        "/write?path=/x&n=1",
    ] {
        let text = ask(&server, target);
        assert!(text.contains("no folder is granted"), "{target}: {text}");
    }
    server.finish();
}

fn reading_writing_and_listing(host: &Host) {
    let server = with_directory(host, "rw", &[]);
    assert_eq!(ask(&server, "/read?path=/data/file.txt"), "inside\n");
    assert_eq!(ask(&server, "/write?path=/data/new&n=1000000"), "ok\n");
    assert_eq!(size(&server, "new"), 1_000_000);
    assert_eq!(ask(&server, "/append?path=/data/new&n=500000"), "ok\n");
    assert_eq!(size(&server, "new"), 1_500_000);
    let body = server.get("/read?path=/data/new").ok().body;
    assert!(body == vec![b'x'; 1_500_000], "{} bytes", body.len());
    assert_eq!(ask(&server, "/write?path=/data/new&n=3"), "ok\n");
    assert_eq!(ask(&server, "/read?path=/data/new"), "xxx");
    assert_eq!(ask(&server, "/list?path=/data"), "file.txt\nnew\n");
    let missing = ask(&server, "/read?path=/data/missing");
    assert_eq!(missing, error("NoEntry"));
    server.finish();
}

fn a_file_passed_on_as_the_response(host: &Host) {
    let server = with_directory(host, "ro", &[]);
    let bytes = harness::load::body_of(1, 5_000_000);
    let path = server.data().join("in/large");
    fs::write(&path, &bytes).expect("written");
    let response = server.get("/read?path=/data/large&splice=1").ok();
    assert!(response.body == bytes, "{} bytes", response.body.len());
    server.finish();
}

fn a_read_only_directory_takes_nothing(host: &Host) {
    let server = with_directory(host, "ro", &[]);
    for target in [
        "/write?path=/data/new&n=1",
        "/append?path=/data/new&n=1",
        "/write?path=/data/file.txt&n=1",
        "/append?path=/data/file.txt&n=1",
    ] {
        let text = ask(&server, target);
        assert!(text.starts_with("{\"error\":"), "{target}: {text}");
    }
    assert_eq!(ask(&server, "/list?path=/data"), "file.txt\n");
    assert_eq!(ask(&server, "/read?path=/data/file.txt"), "inside\n");
    server.finish();
}

fn there_is_no_way_out(host: &Host) {
    let server = with_directory(host, "rw", &[]);
    let link = server.data().join("in/link");
    std::os::unix::fs::symlink("../secret.txt", link).expect("a link");
    for path in [
        "/data/../secret.txt",
        "/data/link",
        "/data/./../../secret.txt",
        "/data//etc/passwd",
    ] {
        for route in ["read", "write", "append"] {
            let text = ask(&server, format!("/{route}?path={path}&n=1"));
            assert!(text.starts_with("{\"error\":"), "{route} {path}: {text}");
        }
    }
    let secret = fs::read_to_string(server.data().join("secret.txt"));
    assert_eq!(secret.expect("a file"), "secret\n");
    server.finish();
}

const QUOTA: u64 = 100_000;

/// What a new file counts.
const ENTRY: u64 = 4096;

fn the_quota_bounds_what_is_written(host: &Host) {
    let server = with_directory(host, "rw", &[("UNIT_WASM_WRITE_QUOTA", "100000")]);
    for route in ["write", "append"] {
        let fits = QUOTA - ENTRY;
        let target = format!("/{route}?path=/data/{route}&n={fits}");
        assert_eq!(ask(&server, target), "ok\n", "{route}");
        assert_eq!(size(&server, route), fits, "{route}");
        for n in [fits + 1, 10 * QUOTA] {
            let name = format!("{route}-{n}");
            let target = format!("/{route}?path=/data/{name}&n={n}");
            assert_eq!(ask_as(&server, &name, target), error("Quota"), "{name}");
            let size = size(&server, &name);
            assert!(size <= fits, "{name}: {size}");
            server.log.expect(&[
                "[warn]",
                &format!("request={name} "),
                "UNIT_WASM_WRITE_QUOTA",
            ]);
        }
    }
    server.finish();
}

fn the_quota_is_for_each_request(host: &Host) {
    let server = with_directory(host, "rw", &[("UNIT_WASM_WRITE_QUOTA", "100000")]);
    let addr = server.addr();
    std::thread::scope(|scope| {
        for number in 0..5 {
            scope.spawn(move || {
                let target = format!("/write?path=/data/file-{number}&n=90000");
                let answer = harness::http::fetch(addr, &Request::get(target));
                assert_eq!(answer.expect("an answer").ok().text(), "ok\n");
            });
        }
    });
    for number in 0..5 {
        assert_eq!(size(&server, &format!("file-{number}")), 90_000);
    }
    server.finish();
}
