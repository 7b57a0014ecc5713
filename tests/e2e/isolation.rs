//! What a guest is not given.

use std::net::TcpListener;

use harness::{App, Host, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["isolation", All:
        the_environment_is_what_is_configured,
        no_environment_by_default,
        no_standard_input_and_no_arguments,
        no_sockets,
        no_outgoing_requests,
        no_directories_by_default,
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
    let text = server.get(format!("/connect?addr={addr}")).ok().text();
    assert!(text.starts_with("error: "), "{text}");
    nobody_came(&listener);
    server.finish();
}

fn no_outgoing_requests(host: &Host) {
    let server = Server::start(host, App::lab());
    let (listener, addr) = bait();
    let text = server.get(format!("/fetch?url=http://{addr}/")).ok().text();
    assert!(text.starts_with("error: "), "{text}");
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
