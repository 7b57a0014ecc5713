//! How many requests a process holds at once, and what becomes of those that
//! there is no room for.

use std::thread;
use std::time::{Duration, Instant};

use harness::http::{self, Error};
use harness::load::{self, Client};
use harness::{App, Conn, Host, Request, Server};

use crate::observe::{await_in_flight, measured};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["capacity", Both:
        requests_that_wait_too_long_are_refused,
        waiting_requests_get_their_turn,
        a_thousand_sleepers_in_one_process,
        neighbours_of_spinning_guests_are_answered,
    ]
}

fn requests_that_wait_too_long_are_refused(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_CONCURRENCY", "2")
        .env("UNIT_WASM_QUEUE_TIMEOUT", "3s");
    let (app, metrics) = measured(app);
    let server = Server::start(host, app);
    let mut sleepers: Vec<Conn> = (0..2).map(|_| server.connect()).collect();
    for conn in &mut sleepers {
        conn.send(&Request::get("/sleep?ms=12000").bytes()).unwrap();
    }
    // Both have their slots before anything else is sent.
    await_in_flight(metrics, 2);
    let addr = server.addr();
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let id = format!("refused-{number}");
                let request = Request::get("/").header("x-request-id", &id);
                let begin = Instant::now();
                let response = http::fetch(addr, &request).expect("an answer");
                assert_eq!(response.status(), 503, "after {:?}", begin.elapsed());
                assert!(
                    response.head.first("retry-after").is_some(),
                    "no Retry-After"
                );
                assert_eq!(response.text(), "503 Service Unavailable\n");
            });
        }
    });
    for number in 0..4 {
        let failure = server.log.expect_failure(&format!("refused-{number}"));
        assert_eq!(failure.reason, "overload", "{failure:?}");
        assert_eq!(failure.status, "503", "{failure:?}");
        assert!(
            failure.detail.contains("UNIT_WASM_QUEUE_TIMEOUT"),
            "{failure:?}"
        );
    }
    for mut conn in sleepers {
        let response = conn.read_response(false).expect("the sleeper's answer");
        assert_eq!(response.ok().text(), "slept\n");
    }
    let clients = (0..2).map(|_| Client::keeping(addr)).collect();
    load::run(clients, 10, load::mixed).assert_clean();
    server.finish();
}

/// Slots become free all the time, so nobody is refused.
fn waiting_requests_get_their_turn(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_CONCURRENCY", "2")
        .env("UNIT_WASM_QUEUE_TIMEOUT", "3s");
    let server = Server::start(host, app);
    let clients = (0..20).map(|_| Client::keeping(server.addr())).collect();
    let sleep = Request::get("/sleep?ms=100");
    let tally = load::run(clients, 5, |client, _| {
        load::checked(client, &sleep).map(drop)
    });
    tally.assert_clean();
    assert_eq!(tally.done, 100);
    server.finish();
}

/// The last one is taken before the first one is answered, or it would take
/// twice as long.
fn a_thousand_sleepers_in_one_process(host: &Host) {
    const SLEEPERS: usize = 1000;
    const SLEEP: Duration = Duration::from_secs(15);
    let app = App::lab().env("UNIT_WASM_CONCURRENCY", "1000");
    let server = Server::start(host, app);
    let worker = server.worker("lab");
    let before = worker.memory().anonymous;
    let target = format!("/sleep?ms={}", SLEEP.as_millis());
    let begin = Instant::now();
    let mut conns: Vec<Conn> = Vec::new();
    for _ in 0..SLEEPERS {
        let mut conn = server.connect();
        conn.send(&Request::get(&target).bytes()).unwrap();
        conns.push(conn);
    }
    // Another one would be refused a slot, and has to wait; all are held now.
    thread::sleep((SLEEP / 2).saturating_sub(begin.elapsed()));
    let held = worker.memory().anonymous.saturating_sub(before);
    for (number, conn) in conns.iter_mut().enumerate() {
        conn.set_patience(SLEEP * 3);
        match conn.read_response(false) {
            Ok(response) => assert_eq!(response.ok().text(), "slept\n"),
            Err(Error::Timeout) => panic!("sleeper {number} is not answered"),
            Err(other) => panic!("sleeper {number}: {other}"),
        }
    }
    let took = begin.elapsed();
    eprintln!(
        "{}: {SLEEPERS} guests asleep in one process, {} KiB of memory each; all answered in {took:.1?}",
        host.kind.name(),
        (held >> 10) / SLEEPERS as u64,
    );
    assert!(took >= SLEEP, "nobody slept: {took:?}");
    assert!(took < SLEEP * 2, "not all at once: {took:?}");
    drop(conns);
    server.finish();
}

/// Two guests spin all the time. Nothing is said about how long the others
/// take, only that they are answered; the times are printed.
fn neighbours_of_spinning_guests_are_answered(host: &Host) {
    const ASKED: usize = 200;
    let app = App::lab().env("UNIT_WASM_CPU_TIME", "2s");
    let server = Server::start(host, app);
    let addr = server.addr();
    let asking = std::sync::atomic::AtomicBool::new(true);
    let mut times: Vec<Duration> = Vec::new();
    thread::scope(|scope| {
        let spin = || {
            while asking.load(std::sync::atomic::Ordering::Relaxed) {
                let response = http::fetch(addr, &Request::get("/spin")).expect("an answer");
                assert_eq!(response.status(), 504);
            }
        };
        scope.spawn(spin);
        scope.spawn(spin);
        // They spin by now.
        thread::sleep(Duration::from_millis(300));
        let mut client = Client::keeping(addr).patience(Duration::from_secs(90));
        for number in 0..ASKED {
            let begin = Instant::now();
            let outcome = load::mixed(&mut client, number as u64 * 6 + 1 + number as u64 % 5);
            times.push(begin.elapsed());
            if outcome.is_err() {
                asking.store(false, std::sync::atomic::Ordering::Relaxed);
            }
            assert_eq!(outcome, Ok(()));
        }
        asking.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    times.sort();
    eprintln!(
        "{}: beside two spinning guests, p50 {:.1?}, p99 {:.1?} of {ASKED} requests",
        host.kind.name(),
        times[ASKED / 2],
        times[ASKED * 99 / 100],
    );
    server.finish();
}
