//! What the log says of guests that go over a bound: reason, limit and what
//! was seen, in one line, and where the guest was.

use std::fs;
use std::path::PathBuf;

use harness::config::Config;
use harness::host::Wasi;
use harness::log::Failure;
use harness::{App, Host, Request, Server, guests};

use crate::failures::assert_generic;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["bounds", Both:
        every_bound_is_named_with_its_limit,
        component_handles,
        settings_that_were_configured_are_named,
        refused_memory_is_not_blamed_for_everything,
        a_backtrace_has_the_names_of_functions,
    ]
}

#[track_caller]
fn failure(server: &Server, target: &str, id: &str, status: u16) -> Failure {
    let request = Request::get(target).header("x-request-id", id);
    let response = server.send(&request);
    assert_eq!(response.status(), status, "{target}");
    assert_generic(&response);
    server.log.expect_failure(id)
}

/// What the module says of itself comes first; Wasmtime's own words may follow.
#[track_caller]
fn assert_line(failure: &Failure, app: &str, reason: &str, detail: &str) {
    assert_eq!(
        (&*failure.app, &*failure.reason),
        (app, reason),
        "{failure:?}"
    );
    assert!(failure.detail.starts_with(detail), "{failure:?}");
}

/// What stops a guest of either version.
const BOUNDS: [(&str, &str); 2] = [
    (
        "/bigheaders?count=1&size=20000000",
        "over 16777216 bytes passed to the host in one call, limit 16777216 (fixed)",
    ),
    (
        "/recurse",
        "the stack is used up, limit 524288 bytes (UNIT_WASM_STACK)",
    ),
];

const BOUNDS_OF_0_2: [(&str, &str); 3] = [
    (
        "/handles-forever",
        "1001 host resources held, limit 1000 (fixed)",
    ),
    (
        "/random?bytes=1073741824",
        "1073741824 random bytes wanted in one call, limit 16777216 (fixed)",
    ),
    (
        "/bigheaders?count=1024&size=1024",
        "header fields of over 131072 bytes, limit 131072 (fixed)",
    ),
];

const BOUNDS_OF_0_3: [(&str, &str); 1] = [(
    "/handles-forever",
    "1001 component handles held, limit 1000 (fixed)",
)];

fn every_bound_is_named_with_its_limit(host: &Host) {
    let server = Server::start(host, App::lab());
    let own: &[_] = match host.wasi {
        Wasi::V02 => &BOUNDS_OF_0_2,
        Wasi::V03 => &BOUNDS_OF_0_3,
    };
    for (number, (target, detail)) in own.iter().chain(&BOUNDS).enumerate() {
        let id = format!("bound-{number}");
        let failure = failure(&server, target, &id, 500);
        assert_line(&failure, "lab", "trap", detail);
    }
    if host.wasi == Wasi::V03 {
        told_to_the_guest(&server);
    }
    server.finish();
}

/// In WASI 0.3 a guest may be given fewer random bytes than it asks for, and of
/// fields that are too large it is told.
fn told_to_the_guest(server: &Server) {
    let given = server.get("/random?bytes=1073741824").ok().text();
    assert_eq!(given, "16777216\n");
    let fields = |count: u32| {
        let target = format!("/bigheaders?count={count}&size=1024");
        server.get(target).ok().text()
    };
    assert_eq!(fields(100), "bigheaders\n");
    assert_eq!(fields(1024), "refused: SizeExceeded\n");
}

/// A component that the repository has as text, in a file of its own.
fn failing(name: &str) -> (tempfile::TempDir, PathBuf) {
    let text = guests::root().join(format!("tests/guests/failing/{name}.wat"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    harness::launch::open_to_all(dir.path());
    let path = dir.path().join(format!("{name}.wasm"));
    fs::write(&path, wat::parse_file(&text).expect("a component")).expect("written");
    (dir, path)
}

/// A host that serves it. Such guests answer nothing, so there is no warm-up.
fn serving(host: &Host, app: App) -> Server {
    let mut server = Server::bare(host);
    server.apply(&Config::of([app]));
    server.settle();
    server
}

fn component_handles(host: &Host) {
    let (_dir, path) = failing("handles");
    let server = serving(host, App::new("handles", &path));
    let failure = failure(&server, "/", "own", 500);
    let detail = "1001 component handles held, limit 1000 (fixed)";
    assert_line(&failure, "handles", "trap", detail);
    server.finish();
}

fn settings_that_were_configured_are_named(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_MEMORY", "48MiB")
        .env("UNIT_WASM_STACK", "256KiB")
        .env("UNIT_WASM_FUEL", "100000000")
        .env("UNIT_WASM_TIMEOUT", "5s");
    let server = Server::start(host, app);
    for (number, (target, status, reason, parts)) in [
        (
            "/alloc?mib=64",
            500,
            "memory",
            [
                " bytes wanted, limit 50331648 (UNIT_WASM_MEMORY)",
                "unreachable",
            ],
        ),
        (
            "/recurse",
            500,
            "trap",
            ["limit 262144 bytes", "(UNIT_WASM_STACK)"],
        ),
        (
            "/spin",
            504,
            "fuel",
            ["limit 100000000", "(UNIT_WASM_FUEL)"],
        ),
        ("/hang", 504, "timeout", ["after 5s", "(UNIT_WASM_TIMEOUT)"]),
    ]
    .into_iter()
    .enumerate()
    {
        let failure = failure(&server, target, &format!("set-{number}"), status);
        assert_eq!(failure.reason, reason, "{failure:?}");
        for part in parts {
            assert!(failure.detail.contains(part), "{part}: {failure:?}");
        }
    }
    server.finish();
}

fn refused_memory_is_not_blamed_for_everything(host: &Host) {
    let (_dir, path) = failing("refused-then");
    let server = serving(host, App::new("deep", &path));
    let failure = failure(&server, "/", "deep", 500);
    assert_line(&failure, "deep", "trap", "the stack is used up");
    server.finish();
}

fn a_backtrace_has_the_names_of_functions(host: &Host) {
    let (_dir, path) = failing("named");
    let server = serving(host, App::new("kettle", &path));
    let failure = failure(&server, "/", "tea", 500);
    assert_line(&failure, "kettle", "trap", "wasm trap: wasm `unreachable`");
    let frames = ["boil_over", "heat_up", "heat_up", "take_order"];
    let begin = "wasm \"kettle\" request=tea ";
    for (number, name) in frames.into_iter().enumerate() {
        let frame = format!("{number}: ");
        let line = server
            .log
            .expect(&[begin, &frame, &format!("kettle!{name}")]);
        let (_, text) = line.split_once(begin).expect("just found");
        assert!(text.trim_start().starts_with(&frame), "{line}");
    }
    server.finish();
}
