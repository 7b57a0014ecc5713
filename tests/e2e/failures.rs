//! Guests that fail. Each failure ends one request as the table says; the
//! worker stays, and the neighbours' answers are untouched.

use std::thread;

use harness::host::Wasi;
use harness::http::Error;
use harness::load::{self, Client, Load};
use harness::{App, Host, Request, Response, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["failures", Both:
        panic,
        trap,
        abort,
        exit,
        exit_with_success,
        stack_overflow,
        answers_with_nothing,
        informational_status,
        impossible_status,
        trap_within_the_body,
        panic_within_the_body,
        exit_within_the_body,
        body_dropped_unfinished,
        body_shorter_than_declared,
        body_longer_than_declared,
        trap_after_the_response,
        storm_of_failures,
    ];
    // A guest of WASI 0.3 returns its response, so it cannot.
    all.extend(cases!["failures", All: answers_twice]);
    all
}

/// How often each failure is caused.
const TIMES: usize = 5;

/// Nothing of the inside may show in what a client is told.
#[track_caller]
pub fn assert_generic(response: &Response) {
    let text = response.text().to_lowercase();
    assert!(text.len() < 200, "a long error body: {text}");
    for inside in [
        "wasm",
        "trap",
        "panic",
        "guest",
        "lab",
        "src",
        ".rs",
        "error while",
        "0x",
        "\\",
    ] {
        assert!(
            !text.contains(inside),
            "{inside:?} in an error body: {text:?}"
        );
    }
    let fields = &response.head.headers;
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value).to_lowercase();
        let name = String::from_utf8_lossy(name).into_owned();
        assert!(!value.contains("wasm"), "{name}: {value}");
    }
}

/// Causes a failure a few times while neighbours are at work.
pub fn before_headers(host: &Host, app: App, target: &str, status: u16, reason: &str) {
    let server = Server::start(host, app);
    let neighbours = Load::neighbours(server.addr());
    for number in 0..TIMES {
        fails(
            &server,
            &format!("failure-{number}"),
            target,
            status,
            reason,
        );
        neighbours.wait_for_more(2);
    }
    neighbours.stop().assert_clean();
    server.finish();
}

/// One such failure.
pub fn fails(server: &Server, id: &str, target: &str, status: u16, reason: &str) {
    let response = server.send(&Request::get(target).header("x-request-id", id));
    assert_eq!(response.status(), status, "{}", response.text());
    assert_generic(&response);
    let failure = server.log.expect_failure(id);
    assert_eq!(failure.app, "lab", "{failure:?}");
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert_eq!(failure.status, status.to_string(), "{failure:?}");
    assert!(!failure.detail.trim().is_empty(), "no detail: {failure:?}");
}

fn panic(host: &Host) {
    before_headers(host, App::lab(), "/panic", 500, "trap");
}

fn trap(host: &Host) {
    before_headers(host, App::lab(), "/trap", 500, "trap");
}

fn abort(host: &Host) {
    before_headers(host, App::lab(), "/abort", 500, "trap");
}

fn exit(host: &Host) {
    before_headers(host, App::lab(), "/exit?code=3", 500, "trap");
}

fn exit_with_success(host: &Host) {
    before_headers(host, App::lab(), "/exit?code=0", 500, "trap");
}

fn stack_overflow(host: &Host) {
    before_headers(host, App::lab(), "/recurse", 500, "trap");
}

/// A guest of WASI 0.2 can return without a response; one of 0.3 returns an error
/// in place of it.
fn nothing(host: &Host) -> (&'static str, &'static str) {
    match host.wasi {
        Wasi::V02 => ("/silent", "no-response"),
        Wasi::V03 => ("/error", "invalid-response"),
    }
}

fn answers_with_nothing(host: &Host) {
    let (target, reason) = nothing(host);
    before_headers(host, App::lab(), target, 500, reason);
}

fn informational_status(host: &Host) {
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for code in [100, 101, 102, 103, 199] {
        let id = format!("status-{code}");
        let request = Request::get(format!("/status?code={code}&body=x"));
        let response = server.send(&request.header("x-request-id", &id));
        assert_eq!(response.status(), 500, "for {code}");
        assert_generic(&response);
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "invalid-response", "{failure:?}");
    }
    neighbours.wait_for_more(2);
    neighbours.stop().assert_clean();
    server.finish();
}

/// The first answer may or may not have left when the second is attempted;
/// what may not happen is that the second arrives, or a mixture.
fn answers_twice(host: &Host) {
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for number in 0..TIMES {
        let id = format!("twice-{number}");
        let request = Request::get("/twice").header("x-request-id", &id);
        match server.fetch(&request) {
            Ok(response) if response.status() == 200 => assert_eq!(response.text(), "first\n"),
            Ok(response) => assert_eq!(response.status(), 500),
            Err(Error::Truncated { .. }) => (),
            Err(other) => panic!("{other}"),
        }
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "trap", "{failure:?}");
        neighbours.wait_for_more(2);
    }
    neighbours.stop().assert_clean();
    server.finish();
}

/// A status that is none is refused when the guest sets it, or when it
/// answers.
fn impossible_status(host: &Host) {
    let server = Server::start(host, App::lab());
    for code in [0, 1, 99, 1000, 65535] {
        let response = server.get(format!("/status?code={code}&body=x"));
        match response.status() {
            200 => assert!(response.text().starts_with("refused: "), "{code}"),
            status => assert_eq!(status, 500, "{code}"),
        }
    }
    server.finish();
}

/// Causes a failure within the body: late, when the headers have gone out, and
/// early, when the module may have gathered all there is and not sent any.
fn within_body(host: &Host, how: &str, reason: &str) {
    const LATE: usize = 1_000_000;
    const EARLY: usize = 1_000;
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for number in 0..TIMES {
        for size in [LATE, EARLY] {
            let id = format!("midbody-{size}-{number}");
            let target = format!("/midbody?bytes={size}&how={how}");
            let result = server.fetch(&Request::get(target).header("x-request-id", &id));
            let failure = server.log.expect_failure(&id);
            assert_eq!(failure.reason, reason, "{failure:?}");
            let status = failure.status.as_str();
            match result {
                Ok(response) if size == EARLY => {
                    assert_eq!((response.status(), status), (500, "500"));
                    assert_generic(&response);
                }
                // Unit may close before it has sent any of what it was given.
                Err(Error::Closed) => assert_eq!(status, "truncated"),
                Err(Error::Truncated { got }) => {
                    assert!(got <= size, "{got}");
                    assert_eq!(status, "truncated");
                }
                other => panic!("not truncated: {:?}", other.map(|it| it.body.len())),
            }
        }
        neighbours.wait_for_more(2);
    }
    neighbours.stop().assert_clean();
    server.finish();
}

fn trap_within_the_body(host: &Host) {
    within_body(host, "trap", "trap");
}

fn panic_within_the_body(host: &Host) {
    within_body(host, "panic", "trap");
}

fn exit_within_the_body(host: &Host) {
    within_body(host, "exit", "trap");
}

fn body_dropped_unfinished(host: &Host) {
    within_body(host, "drop", "invalid-response");
}

fn body_shorter_than_declared(host: &Host) {
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for (declared, sent) in [(10, 0), (10, 9), (5_000, 1_000), (300_000, 200_000)] {
        let id = format!("short-{declared}-{sent}");
        let target = format!("/short?declared={declared}&sent={sent}");
        match server.fetch(&Request::get(target).header("x-request-id", &id)) {
            Err(Error::Truncated { got }) => assert!(got <= sent, "{got} of {sent}"),
            Err(Error::Closed) => (),
            Ok(response) => assert_eq!(response.status(), 500, "{declared} declared, {sent} sent"),
            Err(other) => panic!("{other}"),
        }
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "invalid-response", "{failure:?}");
    }
    neighbours.stop().assert_clean();
    server.finish();
}

fn body_longer_than_declared(host: &Host) {
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for (declared, sent) in [(0, 10), (9, 10), (1_000, 5_000), (200_000, 300_000)] {
        let id = format!("long-{declared}-{sent}");
        let target = format!("/short?declared={declared}&sent={sent}");
        let mut conn = server.connect();
        match conn.exchange(&Request::get(target).header("x-request-id", &id)) {
            Err(Error::Truncated { got }) => assert!(got <= declared, "{got} of {declared}"),
            Err(Error::Closed) => (),
            Ok(response) if response.status() == 500 => (),
            Ok(response) => {
                // All that was declared may have gone out before the excess
                // was seen; then nothing may follow it.
                assert_eq!(response.body.len(), declared);
                conn.expect_close().unwrap();
            }
            Err(other) => panic!("{other}"),
        }
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "invalid-response", "{failure:?}");
    }
    neighbours.stop().assert_clean();
    server.finish();
}

fn trap_after_the_response(host: &Host) {
    let server = Server::start(host, App::lab());
    let neighbours = Load::neighbours(server.addr());
    for number in 0..TIMES {
        let id = format!("after-{number}");
        let request = Request::get("/after?how=trap").header("x-request-id", &id);
        server.send(&request).ok();
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "trap", "{failure:?}");
    }
    neighbours.stop().assert_clean();
    server.finish();
}

/// All kinds at once, from several clients.
fn storm_of_failures(host: &Host) {
    let (silent, _) = nothing(host);
    let targets = [
        "/panic",
        "/trap",
        "/abort",
        "/exit?code=1",
        "/recurse",
        silent,
        "/status?code=101",
        "/midbody?bytes=50000&how=trap",
        "/midbody?bytes=50000&how=drop",
        "/short?declared=5000&sent=100",
    ];
    let server = Server::start(host, App::lab());
    let addr = server.addr();
    let clients = (0..4).map(|_| Client::keeping(addr)).collect();
    let neighbours = Load::start(clients, load::mixed);
    thread::scope(|scope| {
        for first in 0..6 {
            scope.spawn(move || {
                for number in 0..20 {
                    let target = targets[(first + number) % targets.len()];
                    match harness::http::fetch(addr, &Request::get(target)) {
                        Ok(response) => assert_eq!(response.status(), 500, "{target}"),
                        Err(Error::Truncated { .. } | Error::Closed) => (),
                        Err(other) => panic!("{target}: {other}"),
                    }
                }
            });
        }
    });
    neighbours.wait_for_more(10);
    neighbours.stop().assert_clean();
    assert_eq!(
        server.log.failures().len(),
        120,
        "one line for each failure"
    );
    server.finish();
}
