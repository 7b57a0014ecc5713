//! Bodies as streams, and many guests at a time.

use std::thread;
use std::time::{Duration, Instant};

use harness::config::Config;
use harness::guests::Download;
use harness::load::{self, Client, SMALL_CHUNKED, body_of};
use harness::{App, Conn, Host, Request, Server};

use super::{ask, start};
use crate::download::{Watch, read_slowly};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-streams", All:
        ten_megabytes_come_back,
        ten_megabytes_come_back_chunked,
        an_upload_passed_on_to_a_slow_reader,
        a_slow_reader_holds_the_guest_back,
        events_arrive_while_the_guest_sleeps,
        two_hundred_sleepers_at_once,
        subtasks_run_at_the_same_time,
        a_guest_that_blocks_blocks_itself_only,
    ]
}

const TEN_MB: usize = 10_000_000;

fn large(host: &Host, bytes: u64) -> Server {
    Server::start(host, Config::of([App::lab3()]).max_body_size(bytes))
}

fn ten_megabytes_come_back(host: &Host) {
    let server = large(host, 16 << 20);
    for (number, route) in ["echo", "splice"].into_iter().enumerate() {
        for length in [0, 1] {
            let body = body_of(number as u64, TEN_MB);
            let target = format!("/{route}?length={length}");
            let response = server.send(&Request::post(target, body.clone())).ok();
            let declared = response.head.first("content-length");
            let expected = (length == 1).then(|| TEN_MB.to_string());
            assert_eq!(declared, expected, "{route}");
            assert!(response.body == body, "{route}: another body came back");
        }
    }
    server.finish();
}

fn ten_megabytes_come_back_chunked(host: &Host) {
    let server = large(host, 16 << 20);
    let size = match host.takes_large_chunked_bodies() {
        true => TEN_MB,
        false => SMALL_CHUNKED,
    };
    for (number, route) in ["/echo", "/splice"].into_iter().enumerate() {
        let body = body_of(number as u64, size);
        let request = Request::post_chunked(route, body.clone());
        let response = server.send_chunked(&request).ok();
        let coding = response.head.first("transfer-encoding");
        assert_eq!(coding.as_deref(), Some("chunked"), "{route}");
        assert!(response.body == body, "{route}: another body came back");
    }
    server.finish();
}

/// The guest has ended when most of the body is still to come.
fn an_upload_passed_on_to_a_slow_reader(host: &Host) {
    const SIZE: usize = 100_000_000;
    const BOUND: u64 = 48 << 20;
    let server = large(host, 128 << 20);
    let worker = server.worker("lab");
    let before = worker.memory().anonymous;
    let check = |seen: usize| {
        let grown = worker.memory().anonymous.saturating_sub(before);
        assert!(grown < BOUND, "{grown} bytes more after {seen}");
    };
    let mut conn = Conn::open_narrow(server.addr());
    let request = Request::post("/splice?length=1", Download::default().bytes(SIZE));
    assert_eq!(conn.start(&request).unwrap().status, 200);
    drop(request);
    let mut expected = Download::default();
    for _ in 0..20 {
        read_slowly(&mut conn, &mut expected, 10);
        check(expected.seen());
        assert_eq!(ask(&server, "/"), "lab\n");
    }
    let mut pieces = 0;
    while let Some(piece) = conn.read_some().unwrap() {
        expected.check(&piece).unwrap();
        pieces += 1;
        if pieces % 500 == 0 {
            check(expected.seen());
        }
    }
    assert_eq!(expected.seen(), SIZE);
    check(SIZE);
    drop(conn);
    server.finish();
}

fn a_slow_reader_holds_the_guest_back(host: &Host) {
    const SIZE: usize = 200_000_000;
    let server = start(host, &[]);
    let watch = Watch::new(&server);
    let mut conn = Conn::open_narrow(server.addr());
    let request = Request::get(format!("/bytes?n={SIZE}"));
    assert_eq!(conn.start(&request).unwrap().status, 200);
    let mut expected = Download::default();
    for _ in 0..20 {
        read_slowly(&mut conn, &mut expected, 10);
        watch.check("while the client is slow");
        assert_eq!(ask(&server, "/"), "lab\n");
    }
    let mut pieces = 0;
    while let Some(piece) = conn.read_some().unwrap() {
        expected.check(&piece).unwrap();
        pieces += 1;
        if pieces % 500 == 0 {
            watch.check("while the client reads on");
        }
    }
    assert_eq!(expected.seen(), SIZE);
    watch.check("at the end");
    drop(conn);
    server.finish();
}

/// Each is there long before the next one is written.
fn events_arrive_while_the_guest_sleeps(host: &Host) {
    const PAUSE: Duration = Duration::from_secs(10);
    let server = start(host, &[]);
    let mut conn = server.connect();
    let target = format!("/sse?events=3&ms={}", PAUSE.as_millis());
    let begin = Instant::now();
    assert_eq!(conn.start(&Request::get(target)).unwrap().status, 200);
    for number in 0..3 {
        let event = conn.read_some().unwrap().expect("an event");
        assert_eq!(event, format!("data: {number}\n\n").into_bytes());
        let at = begin.elapsed();
        assert!(at >= PAUSE * number, "number {number} after {at:?}");
        assert!(at < PAUSE * (number + 1), "number {number} after {at:?}");
    }
    assert_eq!(conn.read_some().unwrap(), None);
    drop(conn);
    server.finish();
}

/// One after another they would take minutes.
fn two_hundred_sleepers_at_once(host: &Host) {
    const SLEEPERS: usize = 200;
    let server = start(host, &[("UNIT_WASM_CONCURRENCY", "256")]);
    let clients = (0..SLEEPERS)
        .map(|_| Client::fresh(server.addr()))
        .collect();
    let sleep = Request::get("/sleep?ms=2000");
    let begin = Instant::now();
    let tally = load::run(clients, 1, |client, _| {
        load::checked(client, &sleep).map(drop)
    });
    let took = begin.elapsed();
    tally.assert_clean();
    assert_eq!(tally.done, SLEEPERS as u64);
    assert!(
        took >= Duration::from_millis(1990),
        "nobody slept: {took:?}"
    );
    assert!(
        took < Duration::from_secs(60),
        "one after another: {took:?}"
    );
    server.finish();
}

fn subtasks_run_at_the_same_time(host: &Host) {
    let server = start(host, &[]);
    let begin = Instant::now();
    assert_eq!(ask(&server, "/tasks?n=100&ms=2000"), "100\n");
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(1990),
        "nobody slept: {took:?}"
    );
    assert!(
        took < Duration::from_secs(60),
        "one after another: {took:?}"
    );
    server.finish();
}

/// A call of WASI 0.2 that blocks stops the whole instance, and no other.
fn a_guest_that_blocks_blocks_itself_only(host: &Host) {
    const BLOCKED: Duration = Duration::from_secs(9);
    let server = start(host, &[("UNIT_WASM_THREADS", "1")]);
    let mut blocked = server.connect();
    let target = format!("/sleep-sync?ms={}", BLOCKED.as_millis());
    let begin = Instant::now();
    blocked.send(&Request::get(target).bytes()).unwrap();
    // It has been taken by then.
    thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        assert_eq!(ask(&server, "/"), "lab\n");
    }
    let took = begin.elapsed();
    assert!(took < BLOCKED, "neighbours had to wait: {took:?}");
    let answer = blocked.read_response(false).expect("an answer");
    assert_eq!(answer.ok().text(), "slept\n");
    assert!(begin.elapsed() >= BLOCKED, "it has not slept");
    drop(blocked);
    server.finish();
}
