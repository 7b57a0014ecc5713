//! Limits: what goes over them is stopped in time, and alone.

use std::thread;
use std::time::{Duration, Instant};

use harness::http::Error;
use harness::load::{Load, body_of};
use harness::{App, Conn, Host, Request, Server};

use crate::failures::{assert_generic, before_headers, fails};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["limits", Both:
        hanging_guest,
        spinning_guest,
        guest_that_fills_memory_over_and_over,
        fuel,
        memory_taken_bit_by_bit,
        memory_taken_at_once,
        waiting_is_not_cpu_time,
        uploading_is_not_the_guests_time,
        silence_within_a_response,
        a_client_that_takes_nothing,
        spinning_after_the_response,
        stops_come_in_time,
    ]
}

/// As with [`before_headers`], but at the same time: a short limit would end
/// neighbours too when the machine stalls.
fn hanging_guest(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_TIMEOUT", "10s"));
    let neighbours = Load::neighbours(server.addr());
    thread::scope(|scope| {
        for number in 0..5 {
            let (server, id) = (&server, format!("failure-{number}"));
            scope.spawn(move || fails(server, &id, "/hang", 504, "timeout"));
        }
    });
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    server.finish();
}

fn spinning_guest(host: &Host) {
    let app = App::lab().env("UNIT_WASM_CPU_TIME", "1s");
    before_headers(host, app, "/spin", 504, "cpu-time");
}

fn guest_that_fills_memory_over_and_over(host: &Host) {
    let app = App::lab().env("UNIT_WASM_CPU_TIME", "1s");
    before_headers(host, app, "/fill", 504, "cpu-time");
}

fn fuel(host: &Host) {
    let app = App::lab().env("UNIT_WASM_FUEL", "300000000");
    before_headers(host, app, "/spin", 504, "fuel");
}

fn memory_taken_bit_by_bit(host: &Host) {
    let app = App::lab().env("UNIT_WASM_MEMORY", "64MiB");
    before_headers(host, app, "/alloc-forever", 500, "memory");
}

fn memory_taken_at_once(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_MEMORY", "64MiB"));
    let neighbours = Load::neighbours(server.addr());
    assert_eq!(server.get("/alloc?mib=32").ok().text(), "ok\n");
    let request = Request::get("/alloc?mib=65").header("x-request-id", "large");
    let response = server.send(&request);
    assert_eq!(response.status(), 500);
    assert_generic(&response);
    let failure = server.log.expect_failure("large");
    assert_eq!(failure.reason, "memory", "{failure:?}");
    assert_eq!(server.get("/alloc?mib=32").ok().text(), "ok\n");
    neighbours.stop().assert_clean();
    server.finish();
}

fn waiting_is_not_cpu_time(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_CPU_TIME", "1s"));
    assert_eq!(server.get("/sleep?ms=3000").ok().text(), "slept\n");
    server.finish();
}

fn uploading_is_not_the_guests_time(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_TIMEOUT", "5s"));
    let body = body_of(1, 100_000);
    let request = Request::post("/echo", body.clone());
    let mut conn = server.connect();
    conn.send(&request.head_bytes()).unwrap();
    for piece in body.chunks(20_000) {
        thread::sleep(Duration::from_millis(1200));
        conn.send(piece).unwrap();
    }
    assert!(conn.read_response(false).unwrap().ok().body == body);
    drop(conn);
    server.finish();
}

fn silence_within_a_response(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_IDLE_TIMEOUT", "10s"));
    let mut conn = server.connect();
    let silent = Request::get("/sse?events=2&interval=120000");
    let begin = Instant::now();
    conn.send(&silent.header("x-request-id", "silent").bytes())
        .unwrap();
    // Meanwhile, one that takes longer than that, and is never silent for long.
    let lively = server.get("/sse?events=13&interval=1000").ok().text();
    assert_eq!(lively.matches("data: ").count(), 13);
    let result = conn.read_response(false);
    assert!(matches!(result, Err(Error::Truncated { .. })), "{result:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    let failure = server.log.expect_failure("silent");
    assert_eq!(failure.reason, "timeout", "{failure:?}");
    assert_eq!(failure.status, "truncated", "{failure:?}");
    server.finish();
}

fn a_client_that_takes_nothing(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_IDLE_TIMEOUT", "10s"));
    let neighbours = Load::neighbours(server.addr());
    // More than fits into all that lies between the guest and this client.
    let mut conn = Conn::open_narrow(server.addr());
    let request = Request::get("/download?bytes=400000000").header("x-request-id", "stuck");
    assert_eq!(conn.start(&request).unwrap().status, 200);
    let failure = server.log.expect_failure("stuck");
    assert_eq!(failure.reason, "timeout", "{failure:?}");
    assert_eq!(failure.status, "truncated", "{failure:?}");
    let why = "the client has taken nothing for 10s (UNIT_WASM_IDLE_TIMEOUT)";
    assert_eq!(failure.detail, why);
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    drop(conn);
    server.finish();
}

fn spinning_after_the_response(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_CPU_TIME", "2s"));
    let neighbours = Load::neighbours(server.addr());
    let request = Request::get("/after?how=spin").header("x-request-id", "after");
    server.send(&request).ok();
    let failure = server.log.expect_failure("after");
    assert_eq!(failure.reason, "cpu-time", "{failure:?}");
    neighbours.stop().assert_clean();
    server.finish();
}

/// No earlier than the limit, and not much later even on a busy machine.
fn stops_come_in_time(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_TIMEOUT", "5s")
        .env("UNIT_WASM_CPU_TIME", "500ms");
    let server = Server::start(host, app);
    for (target, at_least) in [("/hang", 4950), ("/spin", 450), ("/fill", 450)] {
        let begin = Instant::now();
        let id = target.trim_start_matches('/');
        let request = Request::get(target).header("x-request-id", id);
        assert_eq!(server.send(&request).status(), 504, "{target}");
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(at_least),
            "{target} after {took:?}"
        );
        assert!(took < Duration::from_secs(30), "{target} after {took:?}");
        let reason = server.log.expect_failure(id).reason;
        let expected = if target == "/hang" {
            "timeout"
        } else {
            "cpu-time"
        };
        assert_eq!(reason, expected, "{target}");
    }
    server.finish();
}
