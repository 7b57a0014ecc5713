//! Many requests at once.

use std::thread;
use std::time::{Duration, Instant};

use harness::http::{Error, PATIENCE};
use harness::load::{self, Client, body_of};
use harness::{App, Host, Request, Server};
use serde_json::json;

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["concurrency", Both:
        two_hundred_bodies_are_never_mixed,
        two_hundred_sleepers_at_once,
        mixed_load,
        mixed_load_on_two_threads,
        mixed_load_on_two_processes,
        mixed_load_on_two_processes_of_two_threads,
        the_cap_queues_and_loses_nothing,
        every_request_has_a_fresh_instance,
        small_requests_of_many_clients,
        a_batch_does_not_wait_for_its_slowest,
        others_get_their_turn_beside_many_small_pieces,
    ]
}

fn two_hundred_bodies_are_never_mixed(host: &Host) {
    let server = Server::start(host, App::lab());
    let addr = server.addr();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..200_u64)
            .map(|number| {
                scope.spawn(move || {
                    let mut conn = harness::Conn::open(addr);
                    let size = 1_000 + usize::try_from(number).unwrap() * 500;
                    let body = body_of(number, size);
                    let request = Request::post("/echo", body.clone());
                    let response = conn.exchange(&request).unwrap();
                    assert_eq!(response.status(), 200, "{}", response.text());
                    assert!(response.body == body, "request {number} got another body");
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
    });
    server.finish();
}

/// They wait, so they have to be held at the same time.
fn two_hundred_sleepers_at_once(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_CONCURRENCY", "256"));
    let addr = server.addr();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(move || {
                let mut conn = harness::Conn::open(addr);
                let response = conn.exchange(&Request::get("/sleep?ms=1000"));
                assert_eq!(response.unwrap().ok().text(), "slept\n");
            });
        }
    });
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "one after another: {took:?}"
    );
    server.finish();
}

fn mixed_load_of(host: &Host, app: App, processes: usize) {
    let server = Server::start(host, app);
    assert_eq!(server.workers("lab").len(), processes);
    let addr = server.addr();
    let mut clients: Vec<Client> = (0..10).map(|_| Client::keeping(addr)).collect();
    clients.extend((0..6).map(|_| Client::fresh(addr)));
    let tally = load::run(clients, 40, load::mixed);
    tally.assert_clean();
    assert_eq!(tally.done, 640);
    server.finish();
}

fn mixed_load(host: &Host) {
    mixed_load_of(host, App::lab(), 1);
}

fn mixed_load_on_two_threads(host: &Host) {
    mixed_load_of(host, App::lab().env("UNIT_WASM_THREADS", "2"), 1);
}

fn mixed_load_on_two_processes(host: &Host) {
    mixed_load_of(host, App::lab().processes(json!(2)), 2);
}

fn mixed_load_on_two_processes_of_two_threads(host: &Host) {
    let app = App::lab().env("UNIT_WASM_THREADS", "2");
    mixed_load_of(host, app.processes(json!(2)), 2);
}

fn the_cap_queues_and_loses_nothing(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_CONCURRENCY", "2"));
    let addr = server.addr();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || {
                let mut conn = harness::Conn::open(addr);
                let response = conn.exchange(&Request::get("/sleep?ms=300"));
                assert_eq!(response.unwrap().ok().text(), "slept\n");
            });
        }
    });
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(890),
        "more than two at once: {took:?}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    let tally = load::run(
        (0..12).map(|_| Client::keeping(addr)).collect(),
        20,
        load::mixed,
    );
    tally.assert_clean();
    server.finish();
}

fn every_request_has_a_fresh_instance(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for _ in 0..50 {
        let response = conn.exchange(&Request::get("/counter")).unwrap();
        assert_eq!(response.ok().text(), "1\n");
    }
    drop(conn);
    server.finish();
}

/// Requests that are over so quickly that they come and go in batches.
fn quick_ones(server: &Server) {
    const EACH: u64 = 25;
    let addr = server.addr();
    let clients: Vec<Client> = (0..16).map(|_| Client::keeping(addr)).collect();
    // The numbers of `mixed` that ask for an answer of a few bytes.
    let tally = load::run(clients, EACH, |client, number| {
        load::mixed(client, number * 6 + 4 + number % 2)
    });
    tally.assert_clean();
    assert_eq!(tally.done, 16 * EACH);
}

fn small_requests_of_many_clients(host: &Host) {
    for threads in ["1", "2"] {
        let server = Server::start(host, App::lab().env("UNIT_WASM_THREADS", threads));
        for _ in 0..4 {
            quick_ones(&server);
        }
        server.finish();
    }
}

fn a_batch_does_not_wait_for_its_slowest(host: &Host) {
    let app = App::lab().env("UNIT_WASM_CPU_TIME", "2s");
    let server = Server::start(host, app);
    for slow in [0, 3, 7] {
        quick_ones(&server);
        let mut conns: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for (number, conn) in conns.iter_mut().enumerate() {
            let target = if number == slow { "/spin" } else { "/counter" };
            conn.send(&Request::get(target).bytes()).unwrap();
        }
        let mut spinning = conns.remove(slow);
        for conn in &mut conns {
            let response = conn.read_response(false).unwrap();
            assert_eq!(response.ok().text(), "1\n");
        }
        spinning.set_patience(Duration::from_millis(50));
        let answer = spinning.read_response(false);
        assert!(matches!(answer, Err(Error::Timeout)), "{answer:?}");
        spinning.set_patience(PATIENCE);
        assert_eq!(spinning.read_response(false).unwrap().status(), 504);
    }
    server.finish();
}

/// A guest whose pieces come without a pause never waits, and produces for seconds.
fn others_get_their_turn_beside_many_small_pieces(host: &Host) {
    const EVENTS: usize = 120_000;
    let app = App::lab().env("UNIT_WASM_CPU_TIME", "10m");
    let server = Server::start(host, app);
    let addr = server.addr();
    let target = format!("/sse?events={EVENTS}");
    let pieces = thread::spawn(move || {
        let mut conn = harness::Conn::open(addr);
        conn.set_patience(Duration::from_secs(120));
        conn.exchange(&Request::get(target)).unwrap().ok()
    });
    let mut conn = server.connect();
    let mut answers = 0;
    while !pieces.is_finished() {
        let response = conn.exchange(&Request::get("/counter")).unwrap();
        assert_eq!(response.ok().text(), "1\n");
        answers += 1;
    }
    drop(conn);
    let expected: String = (0..EVENTS).map(|i| format!("data: {i}\n\n")).collect();
    assert!(pieces.join().unwrap().text() == expected);
    assert!(answers >= 40, "{answers} answers beside it");
    server.finish();
}
