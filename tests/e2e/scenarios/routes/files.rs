//! Files of one directory, which nobody can leave or write to.

use std::fs;

use harness::guests::Download;
use harness::peers::raw::deserted;
use harness::{Host, Request, Server};
use serde_json::json;

use super::{
    HIDDEN, ask, assert_by_host, assert_error, change, is_json, json_of, pass_all_to, start,
};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["scenarios::routes", All:
        files_are_sent,
        nothing_outside_of_the_directory,
        nothing_can_be_written,
    ]
}

fn files_are_sent(host: &Host) {
    let server = start(host, deserted());
    let large = Download::default().bytes(5_000_000);
    fs::write(server.data().join("files/large.png"), &large).expect("a file");
    for (target, bytes, kind) in [
        ("hello.txt", &b"hello\n"[..], "text/plain; charset=utf-8"),
        ("hello.txt?x=../y", b"hello\n", "text/plain; charset=utf-8"),
        ("%68ello.txt", b"hello\n", "text/plain; charset=utf-8"),
        ("empty.json", b"", "application/json"),
        ("large.png", &large, "image/png"),
        (
            "sub/a%20page.html",
            b"<p>page\n",
            "text/html; charset=utf-8",
        ),
        ("inside", b"<p>page\n", "application/octet-stream"),
    ] {
        let target = format!("/files/{target}");
        for method in ["GET", "HEAD"] {
            let response = ask(&server, method, &target).ok();
            let field = |name: &str| response.head.first(name).unwrap_or_default();
            assert_eq!(field("content-type"), kind, "{method} {target}");
            let length = bytes.len().to_string();
            assert_eq!(field("content-length"), length, "{method} {target}");
            let expected = if method == "GET" { bytes } else { b"" };
            assert!(response.body == expected, "{method} {target}: another body");
        }
    }
    for missing in [
        "none.txt",
        "sub",
        "hello.txt/x",
        "hello.TXT",
        "%2568ello.txt",
    ] {
        assert_error(&ask(&server, "GET", &format!("/files/{missing}")), 404);
        assert_eq!(
            ask(&server, "HEAD", &format!("/files/{missing}")).status(),
            404
        );
    }
    // A new file is there at once, one that is gone is not.
    fs::rename(
        server.data().join("files/hello.txt"),
        server.data().join("files/new.txt"),
    )
    .expect("a new name");
    assert_error(&ask(&server, "GET", "/files/hello.txt"), 404);
    assert_eq!(ask(&server, "GET", "/files/new.txt").ok().text(), "hello\n");
    server.finish();
}

/// Ways out of the directory.
const ESCAPES: [&str; 16] = [
    "/files/../secret.txt",
    "/files/%2e%2e/secret.txt",
    "/files/%2E./secret.txt",
    "/files/sub/../../secret.txt",
    "/files/..%2fsecret.txt",
    "/files/sub%2f..%2f..%2fsecret.txt",
    "/files/%252e%252e/secret.txt",
    "/files//etc/passwd",
    "/files/%2fetc/passwd",
    "/files/outside",
    "/files/absolute",
    "/files/upwards/secret.txt",
    "/files/upwards/www/index.html",
    "/files/hello.txt%00.html",
    "/files/.hidden",
    "/files/%2ehidden",
];

#[track_caller]
fn assert_nothing_leaks(server: &Server, target: &str) -> (u16, bool) {
    let response = ask(server, "GET", target);
    let text = response.text();
    for part in [HIDDEN.trim(), "root:", "<h1>Home"] {
        assert!(!text.contains(part), "{target}: {text}");
    }
    (response.status(), is_json(&response))
}

fn nothing_outside_of_the_directory(host: &Host) {
    let server = start(host, deserted());
    for target in ESCAPES {
        let (status, by_app) = assert_nothing_leaks(&server, target);
        // By what it means, a path can be one for the fallback, which tells of it.
        assert!(status >= 400 || by_app, "{target}: {status}");
    }
    for target in [
        "/files/outside",
        "/files/absolute",
        "/files/upwards/secret.txt",
    ] {
        assert_error(&ask(&server, "GET", target), 403);
    }
    // Nor if there were no routes before it.
    pass_all_to(&server, "applications/files");
    for target in ESCAPES {
        let (status, _) = assert_nothing_leaks(&server, target);
        assert!([400, 403, 404].contains(&status), "{target}: {status}");
    }
    assert_eq!(
        ask(&server, "GET", "/files/hello.txt").ok().text(),
        "hello\n"
    );
    server.finish();
}

/// Not by the routes, and if they allowed it, not by what the directory is granted
/// for. Its rights in the file system would allow it.
fn nothing_can_be_written(host: &Host) {
    let mut server = start(host, deserted());
    let files = server.data().join("files");
    let put = |server: &Server, name: &str, text: &str| {
        let target = format!("/files/{name}");
        server.send(&Request::with_body("PUT", target, text))
    };
    let hello = || fs::read_to_string(files.join("hello.txt")).expect("a file");
    let names = ["hello.txt", "new.txt", "sub/new.txt", "outside"];
    for name in names {
        assert_by_host(&put(&server, name, "changed\n"), 405);
    }

    let methods = json!(["GET", "HEAD", "PUT"]);
    change(&server, "routes/2/match/method", &methods);
    for name in names {
        assert_error(&put(&server, name, "changed\n"), 403);
    }
    assert_eq!(hello(), "hello\n");
    assert!(!files.join("new.txt").exists());
    assert!(!files.join("sub/new.txt").exists());
    server.log.expect(&["wasm \"files\"", "\"new.txt\": "]);

    // The component could.
    server.expect_new_workers();
    let mode = "applications/files/access/filesystem/0/mode";
    change(&server, mode, &json!("rw"));
    for name in ["hello.txt", "new.txt"] {
        let response = put(&server, name, "changed\n");
        assert_eq!(response.status(), 201, "{}", response.text());
        assert_eq!(json_of(&response), json!({"status": "stored"}));
        let target = format!("/files/{name}");
        assert_eq!(ask(&server, "GET", &target).ok().text(), "changed\n");
    }
    assert_eq!(hello(), "changed\n");
    // And still not elsewhere.
    assert_error(&put(&server, "outside", "changed\n"), 403);
    let secret = fs::read_to_string(server.data().join("secret.txt"));
    assert_eq!(secret.expect("a file"), HIDDEN);
    server.finish();
}
