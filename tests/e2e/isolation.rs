//! What a guest is not given.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use harness::host::Wasi;
use harness::{App, Host, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["isolation", Both:
        the_environment_is_what_is_configured,
        no_environment_by_default,
        no_standard_input_and_no_arguments,
        no_sockets,
        no_outgoing_requests,
        no_directories_by_default,
        a_process_that_others_cannot_look_into,
    ]
}

fn the_environment_is_what_is_configured(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_MEMORY", "64MiB")
        .env("UNIT_WASM_TIMEOUT", "30s")
        .env("GREETING", "gr\u{fc}\u{df} dich = \"du\"")
        .env("EMPTY", "")
        .env("UNIT_WASMTIME", "not a setting")
        .env("A", "1");
    let server = Server::start(host, app);
    let expected =
        "A=1\nEMPTY=\nGREETING=gr\u{fc}\u{df} dich = \"du\"\nUNIT_WASMTIME=not a setting\n";
    assert_eq!(server.get("/env").ok().text(), expected);
    server.finish();
}

fn no_environment_by_default(host: &Host) {
    let server = Server::start(host, App::lab());
    assert_eq!(server.get("/env").ok().text(), "");
    server.finish();
}

fn no_standard_input_and_no_arguments(host: &Host) {
    let server = Server::start(host, App::lab());
    assert_eq!(server.get("/stdin").ok().text().trim(), "0");
    assert_eq!(server.get("/args").ok().text().trim(), "0");
    server.finish();
}

/// A listener that would notice a guest's connection.
fn bait() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

#[track_caller]
fn nobody_came(listener: &TcpListener) {
    let came = listener.accept();
    let waiting = std::io::ErrorKind::WouldBlock;
    assert!(
        matches!(&came, Err(error) if error.kind() == waiting),
        "{came:?}"
    );
}

fn no_sockets(host: &Host) {
    let server = Server::start(host, App::lab());
    let (listener, addr) = bait();
    match host.wasi {
        Wasi::V02 => {
            let text = server.get(format!("/connect?addr={addr}")).ok().text();
            assert!(text.starts_with("error: "), "{text}");
        }
        Wasi::V03 => {
            for route in ["tcp", "udp"] {
                let text = server.get(format!("/{route}?addr={addr}")).ok().text();
                assert_eq!(text, "{\"error\":\"AccessDenied\"}\n", "{route}");
            }
        }
    }
    nobody_came(&listener);
    server.finish();
}

fn no_outgoing_requests(host: &Host) {
    let server = Server::start(host, App::lab());
    let (listener, addr) = bait();
    let text = server.get(format!("/fetch?url=http://{addr}/")).ok().text();
    match host.wasi {
        Wasi::V02 => assert!(text.starts_with("error: "), "{text}"),
        Wasi::V03 => assert_eq!(text, "{\"error\":\"HttpRequestDenied\"}\n"),
    }
    nobody_came(&listener);
    server.finish();
}

fn no_directories_by_default(host: &Host) {
    let server = Server::start(host, App::lab());
    for path in [
        "/",
        "/etc/passwd",
        ".",
        "etc/passwd",
        "/proc/self/environ",
        "/dev/null",
    ] {
        for op in ["read", "list", "stat"] {
            let text = server.get(format!("/file?op={op}&path={path}")).ok().text();
            assert!(text.starts_with("error: "), "{op} {path}: {text}");
        }
    }
    server.finish();
}

/// Whether the kernel can tell which pages a process has written (6.7 and later).
fn has_pagemap_scan() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 7)
}

/// unitd makes an application process somebody else's, which closes its files in
/// /proc to others of the same user, and to itself. One of them it needs.
fn a_process_that_others_cannot_look_into(host: &Host) {
    let server = Server::start(host, App::lab());
    let worker = server.worker("lab");
    if has_pagemap_scan() {
        let open = worker.descriptors();
        let found = open.iter().any(|fd| fd.ends_with("/pagemap"));
        assert!(
            found,
            "Wasmtime cannot see what guests have written: {open:?}"
        );
    }
    let owner = |path: &str| fs::metadata(path).expect("a process").uid();
    let main = owner(&format!("/proc/{}", server.main().pid));
    // As root unitd gives its rights away.
    if host.is_unit() && main == 0 {
        let status = fs::read_to_string(format!("/proc/{}/status", worker.pid)).unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let uid = uid.and_then(|line| line.split_whitespace().next()).unwrap();
        assert_ne!(uid, "0", "the process has its rights");
        let status = format!("/proc/{}/status", worker.pid);
        assert_eq!(owner(&status), 0, "it is dumpable");
    }
    server.finish();
}
