//! Directories that a guest is given.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{App, Host, Server};
use serde_json::{Value, json};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["access", Both:
        directory_as_a_string_is_read_write,
        directory_as_an_object_is_read_only,
        directory_as_an_object_read_write,
        several_directories,
        an_empty_access_object,
        a_directory_is_opened_once,
    ]
}

/// A file that the application may change whoever it runs as.
pub fn write_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
}

/// A directory that the application may change whoever it runs as.
pub fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
}

/// Starts the lab guest with what `filesystem` makes of the data directory.
pub fn with_directory(host: &Host, filesystem: impl Fn(&str) -> Value) -> Server {
    let mut server = Server::bare(host);
    let data = server.data();
    make_directory(&data.join("in"));
    write_file(&data.join("in/file.txt"), "inside\n");
    write_file(&data.join("secret.txt"), "secret\n");
    let inside = data.join("in");
    let value = filesystem(inside.to_str().unwrap());
    server.apply(&App::lab().filesystem(value).into());
    server.get("/").ok();
    server.settle();
    server
}

/// What the lab guest says to a file operation.
pub fn file(server: &Server, op: &str, path: &str, rest: &str) -> String {
    let target = format!("/file?op={op}&path={path}{rest}");
    server.get(target).ok().text()
}

/// Every operation within a directory that the guest sees as `at`.
fn assert_read_write(server: &Server, at: &str) {
    assert_eq!(
        file(server, "read", &format!("{at}/file.txt"), ""),
        "inside\n"
    );
    assert!(file(server, "list", at, "").contains("file.txt"));
    let new = format!("{at}/new.txt");
    assert_eq!(file(server, "write", &new, "&data=one"), "ok\n");
    assert_eq!(file(server, "append", &new, "&data=two"), "ok\n");
    assert_eq!(file(server, "read", &new, ""), "onetwo");
    let on_disk = server.data().join("in/new.txt");
    assert_eq!(fs::read_to_string(&on_disk).unwrap(), "onetwo");
    assert!(!file(server, "stat", &new, "").starts_with("error: "));
    assert_eq!(file(server, "remove", &new, ""), "ok\n");
    assert!(!on_disk.exists());
    assert!(file(server, "read", &new, "").starts_with("error: "));
}

fn directory_as_a_string_is_read_write(host: &Host) {
    let server = with_directory(host, |inside| json!([inside]));
    let at = server.data().join("in");
    assert_read_write(&server, at.to_str().unwrap());
    server.finish();
}

fn assert_read_only(server: &Server, at: &str) {
    let path = format!("{at}/file.txt");
    assert_eq!(file(server, "read", &path, ""), "inside\n");
    assert!(file(server, "list", at, "").contains("file.txt"));
    for (op, path, rest) in [
        ("write", path.as_str(), "&data=x"),
        ("append", path.as_str(), "&data=x"),
        ("remove", path.as_str(), ""),
        ("write", &format!("{at}/new.txt"), "&data=x"),
        ("append", &format!("{at}/new.txt"), "&data=x"),
        ("symlink", &format!("{at}/link"), "&to=file.txt"),
    ] {
        let text = file(server, op, path, rest);
        assert!(text.starts_with("error: "), "{op} {path}: {text}");
    }
    let inside = server.data().join("in");
    let text = fs::read_to_string(inside.join("file.txt")).unwrap();
    assert_eq!(text, "inside\n");
    assert_eq!(
        fs::read_dir(inside).unwrap().count(),
        1,
        "something was created"
    );
}

fn directory_as_an_object_is_read_only(host: &Host) {
    for mode in [json!(null), json!("ro")] {
        let server = with_directory(host, |inside| {
            let mut object = json!({ "host": inside, "guest": "/data" });
            if !mode.is_null() {
                object["mode"] = mode.clone();
            }
            json!([object])
        });
        assert_read_only(&server, "/data");
        let by_host_path = server.data().join("in/file.txt");
        let text = file(&server, "read", by_host_path.to_str().unwrap(), "");
        assert!(
            text.starts_with("error: "),
            "under its path on the host: {text}"
        );
        server.finish();
    }
}

fn directory_as_an_object_read_write(host: &Host) {
    let server = with_directory(
        host,
        |inside| json!([{ "host": inside, "guest": "/data", "mode": "rw" }]),
    );
    assert_read_write(&server, "/data");
    server.finish();
}

fn several_directories(host: &Host) {
    let mut server = Server::bare(host);
    let data = server.data();
    for name in ["one", "two", "three"] {
        make_directory(&data.join(name));
        write_file(&data.join(name).join("name"), name);
    }
    let three = data.join("three");
    let filesystem = json!([
        { "host": data.join("one"), "guest": "/one" },
        { "host": data.join("two"), "guest": "/deep/er/two", "mode": "rw" },
        three,
    ]);
    server.apply(&App::lab().filesystem(filesystem).into());
    assert_eq!(file(&server, "read", "/one/name", ""), "one");
    assert_eq!(file(&server, "read", "/deep/er/two/name", ""), "two");
    let path = three.join("name");
    assert_eq!(file(&server, "read", path.to_str().unwrap(), ""), "three");
    assert!(file(&server, "write", "/one/x", "&data=x").starts_with("error: "));
    assert_eq!(file(&server, "write", "/deep/er/two/x", "&data=x"), "ok\n");
    server.settle();
    server.finish();
}

/// Unit's own module crashes on `"access": {}`.
fn an_empty_access_object(host: &Host) {
    for access in [json!({}), json!({ "filesystem": [] })] {
        let server = Server::start(host, App::lab().member("access", access));
        assert!(file(&server, "list", "/", "").starts_with("error: "));
        server.finish();
    }
}

/// Requests use what was opened when the process started, whatever becomes of its name.
fn a_directory_is_opened_once(host: &Host) {
    let server = with_directory(
        host,
        |inside| json!([{ "host": inside, "guest": "/data", "mode": "rw" }]),
    );
    let (before, after) = (server.data().join("in"), server.data().join("moved"));
    fs::rename(&before, &after).unwrap();
    assert_eq!(file(&server, "read", "/data/file.txt", ""), "inside\n");
    assert_eq!(file(&server, "write", "/data/new.txt", "&data=x"), "ok\n");
    assert_eq!(fs::read_to_string(after.join("new.txt")).unwrap(), "x");
    // Each request reads the list from its beginning.
    for _ in 0..2 {
        let list = file(&server, "list", "/data", "");
        assert!(
            list.contains("file.txt") && list.contains("new.txt"),
            "{list}"
        );
    }
    fs::rename(&after, &before).unwrap();
    server.finish();
}
