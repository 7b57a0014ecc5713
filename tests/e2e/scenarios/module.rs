//! The example under both shapes of configuration: as type `wasm-wasi-component`,
//! and as type `wasm`, which takes a module that was built for it.

use harness::config::Config;
use harness::host::ModuleType;
use harness::load::body_of;
use harness::{Host, Request, Server, guests};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["scenarios::module", All: as_a_component, not_as_the_other_type];
    all.extend(cases!["scenarios::module_wasm", WasmType:
        as_type_wasm,
        handlers_are_ignored,
        not_as_the_other_type,
    ]);
    all
}

const COMPONENT: &str = "example/unit-module/config-component.json";
const WASM: &str = "example/unit-module/config-wasm.json";

/// The file with the committed component, and further parts replaced.
fn config(path: &str, replace: &[(&str, &str)]) -> Config {
    let hello = guests::hello();
    let mut all = vec![("/srv/wasm/hello.wasm", hello.to_str().unwrap())];
    all.extend_from_slice(replace);
    Config::of_file(path, &all)
}

fn as_a_component(host: &Host) {
    serves_hello(Server::start(host, config(COMPONENT, &[])));
}

fn as_type_wasm(host: &Host) {
    serves_hello(Server::start(host, config(WASM, &[])));
}

/// Unit demands their names, and nobody looks for them in the component.
fn handlers_are_ignored(host: &Host) {
    let names = [("<unused>", "there-is-no-such-function")];
    serves_hello(Server::start(host, config(WASM, &names)));
}

fn serves_hello(server: Server) {
    assert_eq!(server.workers("hello").len(), 2);
    let request = Request::post("/hello?a=b", "xyzabcd").header("host", "localhost:8080");
    let text = server.send(&request).ok().text();
    let head = " * Welcome to the component model in Rust! *\n\n[Request Info]\n\
                REQUEST_PATH = /hello?a=b\nMETHOD = POST\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\nhost = localhost:8080\n"), "{text}");
    assert!(text.ends_with("\n[Request Data]\nxyzabcd\n"), "{text}");

    // A body larger than the memory that the file grants.
    let body = body_of(1, 6_000_000);
    let answer = server.send(&Request::post("/", body.clone())).ok().body;
    assert!(
        answer.ends_with(&[&body[..], b"\n"].concat()),
        "another body"
    );
    server.finish();
}

/// A module is of one type. Unit has no other here, and says so.
fn not_as_the_other_type(host: &Host) {
    let (own, other) = match host.module_type {
        ModuleType::Component => (COMPONENT, WASM),
        ModuleType::Wasm => (WASM, COMPONENT),
    };
    let mut server = Server::start(host, config(own, &[]));
    let reply = server.put(&config(other, &[]));
    assert!(!reply.success(), "{reply:?}");
    server.get("/").ok();
    server.finish();
}
