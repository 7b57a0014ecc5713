//! What the log tells of a request.

use std::time::Duration;

use harness::load::Load;
use harness::{App, Host, Request, Server, eventually};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["logging", Both:
        a_failure_is_one_line_with_reason_app_and_id,
        the_id_comes_from_traceparent,
        an_id_that_is_none_is_replaced,
        a_trap_shows_its_cause,
        guest_output_becomes_lines,
        control_characters_are_escaped,
        output_cannot_fake_a_line,
        long_lines_are_cut,
        volume_is_bounded,
    ]
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn a_failure_is_one_line_with_reason_app_and_id(host: &Host) {
    let server = Server::start(host, App::lab().named("shop"));
    let id = "Order-17.b_2";
    server.send(&Request::get("/trap").header("X-Request-Id", id));
    let failure = server.log.expect_failure(id);
    assert_eq!(failure.app, "shop");
    assert_eq!(failure.reason, "trap");
    assert_eq!(failure.status, "500");
    // libunit's own name for the level.
    assert!(failure.line.contains("[error]"), "level: {}", failure.line);
    server.finish();
}

fn the_id_comes_from_traceparent(host: &Host) {
    let server = Server::start(host, App::lab());
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request = Request::get("/trap")
        .header("x-request-id", "second-choice")
        .header("traceparent", &parent);
    assert_eq!(server.send(&request).status(), 500);
    server.log.expect_failure(TRACE);
    server.finish();
}

fn an_id_that_is_none_is_replaced(host: &Host) {
    let server = Server::start(host, App::lab());
    let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
    let too_long = "i".repeat(65);
    let requests = [
        Request::get("/trap"),
        Request::get("/trap").header("x-request-id", ""),
        Request::get("/trap").header("x-request-id", "two words"),
        Request::get("/trap").header("x-request-id", "quote\"d"),
        Request::get("/trap").header("x-request-id", b"caf\xe9"),
        Request::get("/trap").header("x-request-id", &too_long),
        Request::get("/trap").header("traceparent", &zero),
        Request::get("/trap").header("traceparent", format!("00-{TRACE}")),
        Request::get("/trap").header("traceparent", "rubbish"),
    ];
    let mut ids = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        assert_eq!(server.send(request).status(), 500);
        eventually("a line for each failure", Duration::from_secs(60), || {
            server.log.failures().len() > number
        });
        let failure = server.log.failures().pop().unwrap();
        let id = failure.id;
        let is_hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(id.len() == 16 && is_hex, "{id:?} for {request:?}");
        assert!(!ids.contains(&id), "an id twice: {id}");
        ids.push(id);
    }
    server.finish();
}

fn a_trap_shows_its_cause(host: &Host) {
    let server = Server::start(host, App::lab());
    let ask = |target: &str, id: &str| {
        server.send(&Request::get(target).header("x-request-id", id));
        server.log.expect_failure(id)
    };
    let trap = ask("/trap", "cause-trap");
    assert!(trap.detail.contains("unreachable"), "{trap:?}");
    let deep = ask("/recurse", "cause-stack");
    assert!(deep.detail.contains("stack"), "{deep:?}");
    let exit = ask("/exit?code=3", "cause-exit");
    assert!(exit.detail.contains("exit"), "{exit:?}");
    ask("/panic", "cause-panic");
    server
        .log
        .expect(&["request=cause-panic", "stderr:", "panicked at"]);
    server.finish();
}

fn guest_output_becomes_lines(host: &Host) {
    let server = Server::start(host, App::lab());
    for stream in ["stdout", "stderr"] {
        let id = format!("output-{stream}");
        let target = format!("/{stream}?text=hello%20there&count=3");
        server
            .send(&Request::get(target).header("x-request-id", &id))
            .ok();
        let wanted = format!("wasm \"lab\" request={id} {stream}: hello there");
        eventually("three lines", Duration::from_secs(60), || {
            server.log.matching(|line| line.ends_with(&wanted)).len() == 3
        });
        let lines = server.log.matching(|line| line.ends_with(&wanted));
        assert!(
            lines.iter().all(|line| line.contains("[info]")),
            "{lines:?}"
        );
    }
    server.finish();
}

fn control_characters_are_escaped(host: &Host) {
    let server = Server::start(host, App::lab());
    let target = "/stdout?text=red%1b%5b31m%07%08%7f%09end&count=1";
    server
        .send(&Request::get(target).header("x-request-id", "escape"))
        .ok();
    let line = server.log.expect(&["request=escape", "stdout: red"]);
    assert!(line.contains("red\\x1b[31m\\x07\\x08\\x7f"), "{line}");
    let plain = |byte: &u8| matches!(byte, b'\n' | b'\t' | 0x20..=0x7e);
    let bytes = server.log.bytes();
    let stray = bytes.iter().find(|byte| !plain(byte));
    assert_eq!(stray, None, "a control character in the log");
    server.finish();
}

fn output_cannot_fake_a_line(host: &Host) {
    let server = Server::start(host, App::lab());
    let fake = "x%0a%0d2026/01/01%2000:00:00%20%5balert%5d%201%231%20faked";
    let target = format!("/stdout?text={fake}&count=1");
    server
        .send(&Request::get(target).header("x-request-id", "fake"))
        .ok();
    let line = server.log.expect(&["faked"]);
    assert!(
        line.contains("wasm \"lab\" request=fake stdout: "),
        "{line}"
    );
    let mut server = server;
    server.expect_log("request=fake stdout: ");
    server.finish();
}

fn long_lines_are_cut(host: &Host) {
    let server = Server::start(host, App::lab());
    let request = Request::get("/stdout?bytes=100000").header("x-request-id", "long");
    server.send(&request).ok();
    server.log.expect(&["request=long", "...[cut]"]);
    let lines = server.log.matching(|line| line.contains("request=long"));
    let longest = lines.iter().map(String::len).max().unwrap_or(0);
    assert!(longest <= (8 << 10) + 200, "a line of {longest} bytes");
    assert!(
        lines.iter().any(|line| line.contains("...[cut]")),
        "not marked as cut"
    );
    server.finish();
}

fn volume_is_bounded(host: &Host) {
    const BOUND: u64 = 4 << 20;
    let server = Server::start(host, App::lab().env("UNIT_WASM_CPU_TIME", "1s"));
    let neighbours = Load::neighbours(server.addr());
    let before = server.log.size();
    let request = Request::get("/print-forever").header("x-request-id", "flood");
    assert_eq!(server.send(&request).status(), 504);
    let failure = server.log.expect_failure("flood");
    assert_eq!(failure.reason, "cpu-time", "{failure:?}");
    let grown = server.log.size() - before;
    assert!(grown < BOUND, "{grown} bytes of log from one request");
    let notes = server
        .log
        .matching(|line| line.contains("request=flood") && line.contains("output limit reached"));
    assert_eq!(notes.len(), 1, "said once: {notes:?}");
    neighbours.stop().assert_clean();
    server.finish();
}
