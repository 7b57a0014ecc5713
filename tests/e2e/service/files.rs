//! Files by the streams of WASI 0.3.

use std::fs;

use harness::{Host, Request, Server};
use serde_json::json;

use super::reuse::REUSE;
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
        the_quota_bounds_what_a_file_is_resized_to,
        a_gap_before_what_is_written_counts,
        new_entries_count,
        directories_and_links,
        links_lead_nowhere_out,
        a_link_makes_nothing_writable,
        a_read_only_directory_keeps_sizes_and_entries,
        many_streams_are_bounded,
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

/// The guest with a quota of `bytes`.
fn with_quota(host: &Host, mode: &str, bytes: u64) -> Server {
    let bytes = bytes.to_string();
    with_directory(host, mode, &[("UNIT_WASM_WRITE_QUOTA", &bytes)])
}

/// The content of a file that began as `inside\n`.
fn content(server: &Server) -> Vec<u8> {
    fs::read(server.data().join("in/file.txt")).expect("a file")
}

fn the_quota_bounds_what_a_file_is_resized_to(host: &Host) {
    let server = with_quota(host, "rw", QUOTA);
    let resize = |id: &str, n: u64| {
        let target = format!("/resize?path=/data/file.txt&n={n}");
        ask_as(&server, id, target)
    };
    let before = content(&server);
    let length = before.len() as u64;
    for (id, n) in [
        ("just-over", length + QUOTA + 1),
        ("far-over", 1 << 40),
        ("last", u64::MAX),
    ] {
        assert_eq!(resize(id, n), error("Quota"), "{id}");
        assert_eq!(content(&server), before, "{id}");
        server
            .log
            .expect(&["[warn]", &format!("request={id} "), "UNIT_WASM_WRITE_QUOTA"]);
    }
    // To shrink costs nothing, nor does to stay.
    assert_eq!(resize("fits", length + QUOTA), "ok\n");
    assert_eq!(size(&server, "file.txt"), length + QUOTA);
    assert_eq!(resize("same", length + QUOTA), "ok\n");
    assert_eq!(resize("shrink", 2), "ok\n");
    assert_eq!(content(&server), b"in");
    server.finish();
}

fn a_gap_before_what_is_written_counts(host: &Host) {
    let server = with_quota(host, "rw", QUOTA);
    let write = |name: &str, offset: u64, n: u64| {
        let target = format!("/write?path=/data/{name}&offset={offset}&n={n}");
        ask(&server, target)
    };
    let before = content(&server);
    let length = before.len() as u64;
    // The file is opened by the flag that creates it, which counts an entry.
    let fits = length + QUOTA - ENTRY - 1;
    for offset in [fits + 2, 10 * QUOTA, u64::MAX] {
        assert_eq!(write("file.txt", offset, 1), error("Quota"), "{offset}");
        assert_eq!(content(&server), before, "{offset}");
    }
    // The gap alone would do.
    assert_eq!(write("file.txt", fits, 2), error("Quota"));
    assert_eq!(content(&server), before);
    assert_eq!(write("file.txt", fits, 1), "ok\n");
    assert_eq!(size(&server, "file.txt"), fits + 1);
    assert!(content(&server).starts_with(&before));
    // Within a file there is none.
    fs::write(server.data().join("in/file.txt"), vec![b'-'; 500_000]).expect("written");
    assert_eq!(write("file.txt", 499_990, 20), "ok\n");
    assert_eq!(size(&server, "file.txt"), 500_010);
    server.finish();
}

fn new_entries_count(host: &Host) {
    let server = with_quota(host, "rw", 2 * ENTRY);
    for (what, to) in [
        ("directory", ""),
        ("symlink", "file.txt"),
        ("link", "/data/file.txt"),
    ] {
        let path = |number: u8| format!("/data/{what}-{number}");
        let paths = [path(1), path(1), path(2), path(3)].join(",");
        let target = format!("/make?what={what}&path={paths}&to={to}");
        // What is there already was not made, and does not count.
        let made = ask_as(&server, what, target);
        assert_eq!(made, "ok\nExist\nok\nQuota\n", "{what}");
        server.log.expect(&[
            "[warn]",
            &format!("request={what} "),
            "UNIT_WASM_WRITE_QUOTA",
        ]);
    }
    let expected = "directory-1\ndirectory-2\nfile.txt\nlink-1\nlink-2\nsymlink-1\nsymlink-2\n";
    assert_eq!(ask(&server, "/list?path=/data"), expected);
    server.finish();
}

fn directories_and_links(host: &Host) {
    let server = with_directory(host, "rw", &[]);
    let inside = server.data().join("in");
    let make = |what: &str, path: &str, to: &str| {
        let target = format!("/make?what={what}&path=/data/{path}&to={to}");
        ask(&server, target)
    };
    assert_eq!(make("directory", "sub", ""), "ok\n");
    assert!(inside.join("sub").is_dir());
    assert_eq!(make("directory", "none/sub", ""), "NoEntry\n");
    assert_eq!(make("symlink", "sub/soft", "../file.txt"), "ok\n");
    let text = fs::read_link(inside.join("sub/soft")).expect("a link");
    assert_eq!(text.to_str(), Some("../file.txt"));
    assert_eq!(make("link", "sub/hard", "/data/file.txt"), "ok\n");
    assert_eq!(make("link", "sub/other", "/data/none"), "NoEntry\n");
    for path in ["sub/soft", "sub/hard"] {
        let text = ask(&server, format!("/read?path=/data/{path}"));
        assert_eq!(text, "inside\n", "{path}");
    }
    // It is the same file.
    assert_eq!(ask(&server, "/write?path=/data/sub/hard&n=3"), "ok\n");
    assert_eq!(content(&server), b"xxx");
    server.finish();
}

fn links_lead_nowhere_out(host: &Host) {
    let server = with_directory(host, "rw", &[]);
    let data = server.data();
    let secret = data.join("secret.txt");
    std::os::unix::fs::symlink("..", data.join("in/up")).expect("a link");
    let absolute = secret.to_str().expect("a path");
    let make = |what: &str, path: &str, to: &str| {
        let target = format!("/make?what={what}&path=/data/{path}&to={to}");
        ask(&server, target)
    };
    for to in ["../secret.txt", "up/secret.txt", "./../secret.txt"] {
        let made = make("link", "hard", &format!("/data/{to}"));
        assert_eq!(made, "NotPermitted\n", "{to}");
        assert!(!data.join("in/hard").exists(), "{to}");
    }
    for what in ["directory", "symlink", "link"] {
        for path in ["../made", "up/made", "up/../../made"] {
            let made = make(what, path, "/data/file.txt");
            assert_eq!(made, "NotPermitted\n", "{what} {path}");
        }
    }
    assert!(!data.join("made").exists());
    for to in [absolute, "/data/file.txt"] {
        assert_eq!(make("symlink", "soft", to), "NotPermitted\n", "{to}");
        assert!(!data.join("in/soft").exists(), "{to}");
    }
    // A relative text can be anything, but no guest gets out by it.
    for to in ["../secret.txt", "up/secret.txt", "../in/file.txt"] {
        assert_eq!(make("symlink", "soft", to), "ok\n", "{to}");
        for route in ["read", "write", "append", "resize"] {
            let text = ask(&server, format!("/{route}?path=/data/soft&n=1"));
            assert!(text.starts_with("{\"error\":"), "{route} {to}: {text}");
        }
        fs::remove_file(data.join("in/soft")).expect("a link");
    }
    assert_eq!(fs::read_to_string(secret).expect("a file"), "secret\n");
    assert_eq!(content(&server), b"inside\n");
    server.finish();
}

fn a_read_only_directory_keeps_sizes_and_entries(host: &Host) {
    // Nothing is made, so that it does not matter that there is room for one.
    let server = with_quota(host, "ro", ENTRY);
    for n in [0, 3, 1000] {
        for read in [0, 1] {
            let target = format!("/resize?path=/data/file.txt&n={n}&read={read}");
            assert_eq!(ask(&server, target), error("NotPermitted"), "{n} {read}");
            assert_eq!(content(&server), b"inside\n", "{n} {read}");
        }
    }
    for (what, to) in [
        ("directory", ""),
        ("symlink", "file.txt"),
        ("link", "/data/file.txt"),
    ] {
        let target = format!("/make?what={what}&path=/data/a,/data/b&to={to}");
        let made = ask(&server, target);
        assert_eq!(made, "NotPermitted\nNotPermitted\n", "{what}");
    }
    assert_eq!(ask(&server, "/list?path=/data"), "file.txt\n");
    server.finish();
}

fn a_link_makes_nothing_writable(host: &Host) {
    let server = Server::start_with(host, |server| {
        let (inside, kept) = (server.data().join("in"), server.data().join("kept"));
        make_directory(&inside);
        make_directory(&kept);
        write_file(&inside.join("file.txt"), "inside\n");
        write_file(&kept.join("file.txt"), "kept\n");
        let list = json!([
            { "host": inside, "guest": "/data", "mode": "rw" },
            { "host": kept, "guest": "/kept", "mode": "ro" },
        ]);
        app(&[]).filesystem(list).into()
    });
    for (path, to) in [
        ("/data/hard", "/kept/file.txt"),
        ("/kept/hard", "/data/file.txt"),
        ("/kept/hard", "/kept/file.txt"),
    ] {
        let made = ask(&server, format!("/make?what=link&path={path}&to={to}"));
        assert_eq!(made, "NotPermitted\n", "{path} {to}");
    }
    assert_eq!(ask(&server, "/list?path=/data"), "file.txt\n");
    assert_eq!(ask(&server, "/list?path=/kept"), "file.txt\n");
    server.finish();
}

/// Streams of files that a request can have open.
const STREAMS: u64 = 256;

fn many_streams_are_bounded(host: &Host) {
    let server = with_directory(host, "rw", &[(REUSE, "100"), ("UNIT_WASM_THREADS", "1")]);
    assert_eq!(ask(&server, "/counter"), "1\n");
    for (how, path, code) in [
        ("read", "/data/file.txt", "InsufficientMemory"),
        ("list", "/data", "InsufficientMemory"),
        ("write", "/data/file.txt", "Quota"),
        ("append", "/data/file.txt", "Quota"),
    ] {
        let open = |n: u64| format!("/streams?how={how}&path={path}&n={n}");
        let fits = format!("{STREAMS} ok\n");
        let refused = format!("{STREAMS} {code}\n");
        assert_eq!(ask(&server, open(STREAMS)), fits, "{how}");
        // One instance serves all of these, so it has to have its streams back.
        for (id, n) in [("one", STREAMS + 1), ("ten", STREAMS + 10)] {
            let id = format!("{how}-{id}");
            assert_eq!(ask_as(&server, &id, open(n)), refused, "{id}");
            let request = format!("request={id} ");
            server.log.expect(&[
                "[warn]",
                &request,
                "a stream of a file refused: 256 are open",
            ]);
        }
        assert_eq!(ask(&server, open(STREAMS)), fits, "{how}");
    }
    assert_eq!(ask(&server, "/read?path=/data/file.txt"), "inside\n");
    assert_eq!(ask(&server, "/counter"), "2\n");
    server.finish();
}
