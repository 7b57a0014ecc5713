//! The end of a process with requests in flight.

use std::thread;
use std::time::{Duration, Instant};

use harness::config::Config;
use harness::http::{self, Error, Response};
use harness::load::{Client, Load};
use harness::{App, Conn, Host, Request, Server, eventually};
use serde_json::json;

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["drain", Both:
        restart_answers_what_is_in_flight,
        removal_answers_what_is_in_flight,
        request_limit_answers_what_is_in_flight,
        restart_gives_up_on_a_stuck_request,
        exit_is_not_held_up_by_a_hanging_request,
        exit_is_not_held_up_by_a_spinning_request,
        exit_is_not_held_up_by_a_response,
        exit_under_load,
        exit_when_nothing_was_ever_asked,
    ]
}

/// A response of five events, of which the first has arrived.
fn stream_in_flight(server: &Server) -> Conn {
    let mut conn = server.connect();
    let request = Request::get("/sse?events=5&interval=300");
    assert_eq!(conn.start(&request).unwrap().status, 200);
    let first = conn.read_some().unwrap().unwrap();
    assert_eq!(first, b"data: 0\n\n");
    conn
}

/// Starts a slow request and a streaming one, ends the process by `end`, and
/// asserts that both are answered in full.
fn both_answered(server: &mut Server, end: impl FnOnce(&mut Server)) {
    let old = server.await_worker("lab");
    let mut slow = server.connect();
    slow.send(&Request::get("/sleep?ms=1500").bytes()).unwrap();
    let mut stream = stream_in_flight(server);
    // Whatever thread of the router has the slow one, it has sent it by now.
    thread::sleep(Duration::from_millis(300));
    end(server);
    let rest = stream.read_body().expect("the rest of the stream");
    let expected: String = (1..5).map(|i| format!("data: {i}\n\n")).collect();
    assert_eq!(String::from_utf8(rest).unwrap(), expected);
    let answer = slow.read_response(false);
    let answer = answer.expect("an answer to the slow request");
    assert_eq!(answer.ok().text(), "slept\n");
    // FreeUnit keeps an application that was removed as long as there is a
    // connection from its time, idle or not. Unit does not.
    drop((stream, slow));
    eventually("the old process exits", Duration::from_secs(30), || {
        !old.alive()
    });
}

fn restart_answers_what_is_in_flight(host: &Host) {
    for threads in ["1", "2"] {
        let app = App::lab().env("UNIT_WASM_THREADS", threads);
        let mut server = Server::start(host, app);
        server.expect_new_workers();
        for _ in 0..3 {
            both_answered(&mut server, |server| {
                assert!(server.restart("lab").success());
            });
        }
        server.finish();
    }
}

fn removal_answers_what_is_in_flight(host: &Host) {
    let mut server = Server::start(host, App::lab());
    server.expect_new_workers();
    both_answered(&mut server, |server| {
        server.apply(&Config::of([App::lab().env("VERSION", "2")]));
    });
    let config = server.json(&App::lab().into());
    both_answered(&mut server, |server| {
        let empty = json!({ "listeners": {}, "applications": {} });
        assert!(server.control.put("/config", &empty).unwrap().success());
    });
    assert!(server.control.put("/config", &config).unwrap().success());
    server.finish();
}

fn request_limit_answers_what_is_in_flight(host: &Host) {
    let app = App::lab().member("limits", json!({ "requests": 3 }));
    let mut server = Server::bare(host);
    server.apply(&app.into());
    server.expect_new_workers();
    let addr = server.addr();
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    let answer = http::fetch(addr, &Request::get("/sleep?ms=400"));
                    assert_eq!(answer.unwrap().ok().text(), "slept\n");
                });
            }
        });
    }
    server.finish();
}

fn restart_gives_up_on_a_stuck_request(host: &Host) {
    let app = App::lab().env("UNIT_WASM_DRAIN_TIMEOUT", "1s");
    let mut server = Server::start(host, app);
    server.expect_new_workers();
    let old = server.worker("lab");
    let mut stream = stream_in_flight(&server);
    let mut stuck = server.connect();
    let request = Request::get("/hang").header("x-request-id", "stuck");
    stuck.send(&request.bytes()).unwrap();
    let mut endless = server.connect();
    let request = Request::get("/sse?events=1000&interval=100");
    endless
        .start(&request.header("x-request-id", "endless"))
        .unwrap();
    assert!(endless.read_some().unwrap().is_some());
    // Whatever thread of the router has the stuck one, it has sent it by now.
    thread::sleep(Duration::from_millis(500));
    let begin = Instant::now();
    assert!(server.restart("lab").success());
    let response = stuck.read_response(false).unwrap();
    assert_eq!(response.status(), 503);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(20), "given up after {took:?}");
    server
        .log
        .expect(&["still in flight 1s after quit (UNIT_WASM_DRAIN_TIMEOUT)"]);
    let failure = server.log.expect_failure("stuck");
    assert_eq!(failure.reason, "drain", "{failure:?}");
    let rest = endless.read_body();
    assert!(matches!(rest, Err(Error::Truncated { .. })), "{rest:?}");
    let failure = server.log.expect_failure("endless");
    assert_eq!(failure.reason, "drain", "{failure:?}");
    assert_eq!(failure.status, "truncated", "{failure:?}");
    // Whichever way it ended, it is over.
    let _ = stream.read_body();
    eventually("the old process exits", Duration::from_secs(20), || {
        !old.alive()
    });
    assert_eq!(server.get("/").ok().text(), "lab\n");
    drop((stream, stuck, endless));
    server.finish();
}

/// unitd's router can crash when it stops with connections at work. A C
/// program on libunit that answers 200 and no more sees it as well: 2 of 40
/// stops of Unit 1.35, 1 of 40 of FreeUnit 1.36. The process with that pid,
/// and no other, may end so.
fn router_may_crash(server: &mut Server) {
    let router = server.router().pid;
    server.expect_log(&format!("process {router} exited on signal 11"));
}

/// SIGTERM with the given requests in flight.
fn exit_with(host: &Host, targets: &[&str]) {
    let app = App::lab()
        .env("UNIT_WASM_DRAIN_TIMEOUT", "2s")
        .env("UNIT_WASM_CPU_TIME", "2m");
    let mut server = Server::start(host, app);
    let mut conns = Vec::new();
    for target in targets {
        let mut conn = server.connect();
        conn.send(&Request::get(target).bytes()).unwrap();
        conns.push(conn);
    }
    // Once a later request is answered, the earlier ones have been taken.
    for _ in 0..3 {
        assert_eq!(server.get("/").ok().text(), "lab\n");
    }
    server.stop_within(Duration::from_secs(20));
    router_may_crash(&mut server);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    server
        .log
        .expect(&["still in flight 2s after quit (UNIT_WASM_DRAIN_TIMEOUT)"]);
    server.finish_stopped();
}

fn exit_is_not_held_up_by_a_hanging_request(host: &Host) {
    exit_with(host, &["/hang", "/hang", "/sleep?ms=60000"]);
}

fn exit_is_not_held_up_by_a_spinning_request(host: &Host) {
    exit_with(host, &["/spin", "/fill"]);
}

fn exit_is_not_held_up_by_a_response(host: &Host) {
    exit_with(host, &["/sse?events=100000&interval=10", "/forever"]);
}

fn exit_under_load(host: &Host) {
    let mut server = Server::start(host, App::lab());
    let addr = server.addr();
    let clients = (0..4).map(|_| Client::fresh(addr)).collect();
    // What is asked after the end is refused, which is not a fault.
    let load = Load::start(clients, |client, _| {
        match client.exchange(&Request::get("/download?bytes=100000")) {
            Ok(response) if matches!(response.status(), 200 | 503) => Ok(()),
            // The router has let go of its shared memory. Ours is plain text.
            Ok(response) if response.status() == 500 && is_routers_own(&response) => Ok(()),
            Ok(response) => Err(format!("status {}: {}", response.status(), response.text())),
            Err(Error::Timeout) => Err("a hang".to_owned()),
            Err(_) => Ok(()),
        }
    });
    load.wait_for_more(50);
    router_may_crash(&mut server);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    load.stop().assert_clean();
    server.finish_stopped();
}

/// Whether Unit's router has answered by itself, with a page of its own.
fn is_routers_own(response: &Response) -> bool {
    response.text().starts_with("<!DOCTYPE html>")
}

fn exit_when_nothing_was_ever_asked(host: &Host) {
    let mut server = Server::bare(host);
    server.apply(&App::lab().into());
    let status = server.terminate();
    assert!(status.success(), "{status}");
    server.finish_stopped();
}
