//! Attempts to leave the directories that a guest was given.

use std::fs;
use std::os::unix::fs::symlink;

use harness::{Host, Server};
use serde_json::json;

use crate::access::{file, make_directory, with_directory};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["escape", All:
        out_of_a_string_directory,
        out_of_an_object_directory,
        by_links_of_the_guest,
    ]
}

#[track_caller]
fn assert_refused(server: &Server, op: &str, path: &str, rest: &str) {
    let text = file(server, op, path, rest);
    assert!(text.starts_with("error: "), "{op} {path}: {text}");
    assert!(!text.contains("secret"), "{op} {path}: {text}");
}

/// Links that the host's owner has left in the directory, and paths.
fn attempt_all(server: &Server, at: &str) {
    let data = server.data();
    let inside = data.join("in");
    make_directory(&inside.join("sub"));
    symlink(data.join("secret.txt"), inside.join("absolute")).unwrap();
    symlink("../secret.txt", inside.join("relative")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/", inside.join("root")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    for path in [
        "../secret.txt",
        "sub/../../secret.txt",
        "./../secret.txt",
        "..//secret.txt",
        "../../../../../../../../etc/passwd",
        "absolute",
        "relative",
        "up/secret.txt",
        "root/etc/passwd",
        "loop",
        "file.txt/../../secret.txt",
    ] {
        let path = format!("{at}/{path}");
        for (op, rest) in [
            ("read", ""),
            ("write", "&data=x"),
            ("append", "&data=x"),
            ("list", ""),
        ] {
            assert_refused(server, op, &path, rest);
        }
    }
    for path in [
        "..",
        "../..",
        "sub/../..",
        "up",
        "root",
        "up/..",
        "root/etc",
    ] {
        assert_refused(server, "list", &format!("{at}/{path}"), "");
    }
    for path in ["../escaped.txt", "up/escaped.txt", "sub/../../escaped.txt"] {
        assert_refused(server, "write", &format!("{at}/{path}"), "&data=x");
    }
    assert_refused(server, "remove", &format!("{at}/../secret.txt"), "");
    assert_refused(server, "remove", &format!("{at}/up/secret.txt"), "");
    let secret = data.join("secret.txt");
    for path in [secret.to_str().unwrap(), "/etc/passwd", "etc/passwd", "/"] {
        assert_refused(server, "read", path, "");
    }
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret\n");
    assert!(!data.join("escaped.txt").exists());
    // And what was granted still is.
    assert_eq!(
        file(server, "read", &format!("{at}/file.txt"), ""),
        "inside\n"
    );
}

fn out_of_a_string_directory(host: &Host) {
    let server = with_directory(host, |inside| json!([inside]));
    let at = server.data().join("in");
    attempt_all(&server, at.to_str().unwrap());
    server.finish();
}

fn out_of_an_object_directory(host: &Host) {
    let server = with_directory(
        host,
        |inside| json!([{ "host": inside, "guest": "/data", "mode": "rw" }]),
    );
    attempt_all(&server, "/data");
    server.finish();
}

/// Whether the link is refused or made, nothing is reached through it.
fn by_links_of_the_guest(host: &Host) {
    let server = with_directory(
        host,
        |inside| json!([{ "host": inside, "guest": "/data", "mode": "rw" }]),
    );
    let data = server.data();
    let secret = data.join("secret.txt");
    let secret_path = secret.to_str().unwrap();
    let targets = [
        secret_path,
        "../secret.txt",
        "/data/../secret.txt",
        "/etc/passwd",
    ];
    for (number, to) in targets.into_iter().enumerate() {
        let link = format!("/data/made-{number}");
        let made = file(&server, "symlink", &link, &format!("&to={to}"));
        assert!(made == "ok\n" || made.starts_with("error: "), "{made}");
        for (op, rest) in [("read", ""), ("write", "&data=x"), ("append", "&data=x")] {
            // A dangling or refused link may be overwritten by a plain file
            // of that name, which stays inside; the secret may not change.
            let text = file(&server, op, &link, rest);
            assert!(
                !text.contains("secret") && !text.contains("root:"),
                "{op} {to}: {text}"
            );
        }
    }
    let up = file(&server, "symlink", "/data/made-up", "&to=..");
    assert!(up == "ok\n" || up.starts_with("error: "), "{up}");
    assert_refused(&server, "read", "/data/made-up/secret.txt", "");
    assert_refused(&server, "write", "/data/made-up/escaped.txt", "&data=x");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
    assert!(!data.join("escaped.txt").exists());
    server.finish();
}
