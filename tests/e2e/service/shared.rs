//! Instances that serve several requests at the same time, if that is wanted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use harness::http::{self, Error};
use harness::load::{self, Client, Load};
use harness::{App, Conn, Host, Request, Server, eventually};

use super::reuse::{CONCURRENT, REUSE, instance, metrics, read, start3, warm};
use super::{ask, ask_as};
use crate::observe::await_in_flight;
use crate::{Case, cases};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    cases!["service-shared", All:
        shared_by_no_more_than_told,
        shared_no_longer_than_told,
        output_of_those_that_share,
        bodies_of_those_that_share,
        nobody_waits_for_one_that_computes,
        a_trap_ends_those_that_share,
        errors_of_one_are_not_those_of_others,
        a_timeout_is_that_of_one_request,
        a_client_that_leaves_disturbs_nobody,
        a_process_that_ends_answers_those_that_share,
    ]
}

/// `n` requests at the same time.
fn at_once(server: &Server, n: usize, target: &str) -> Vec<Result<http::Response, Error>> {
    let addr = server.addr();
    thread::scope(|scope| {
        let fetch = || http::fetch(addr, &Request::get(target));
        let clients: Vec<_> = (0..n).map(|_| scope.spawn(fetch)).collect();
        let answers = clients.into_iter().map(|client| client.join());
        answers.map(|answer| answer.expect("a client")).collect()
    })
}

fn shared_by_no_more_than_told(host: &Host) {
    for (most, settings) in [
        (4, &[(REUSE, "100"), (CONCURRENT, "4")][..]),
        (1, &[(REUSE, "100")]),
        (1, &[(REUSE, "100"), (CONCURRENT, "1")]),
    ] {
        let server = start3(host, settings);
        let answers = at_once(&server, 16, "/concurrent?ms=1000");
        let peaks: Vec<u64> = answers
            .into_iter()
            .map(|answer| answer.expect("an answer").ok().text())
            .map(|text| text.trim().parse().expect("a number"))
            .collect();
        let peak = peaks.iter().max().copied();
        assert!(peak <= Some(most), "{peaks:?}, {most} allowed");
        assert_eq!(peak > Some(1), most > 1, "{peaks:?}, {most} allowed");
        server.finish();
    }
}

fn shared_no_longer_than_told(host: &Host) {
    let server = warm(host, App::lab3(), &[(REUSE, "10"), (CONCURRENT, "4")]);
    let seen = Mutex::new(BTreeMap::<String, u64>::new());
    let clients = (0..8).map(|_| Client::keeping(server.addr())).collect();
    let ask = Request::get("/instance-state?ms=5");
    let tally = load::run(clients, 50, |client, _| {
        let state = read(&load::checked(client, &ask)?.text())?;
        let mut seen = seen.lock().expect("counts");
        *seen.entry(state.id.clone()).or_default() += 1;
        match state.count <= 10 && state.peak <= 4 {
            true => Ok(()),
            false => Err(format!("{state:?}")),
        }
    });
    tally.assert_clean();
    let seen = seen.into_inner().expect("counts");
    assert_eq!(seen.values().sum::<u64>(), 400);
    assert!(seen.values().all(|count| *count <= 10), "{seen:?}");
    assert!(seen.values().any(|count| *count > 1), "none was used again");
    server.finish();
}

/// Which of those that share an instance has printed is not known to the host: a
/// line names all of them, and the one that has is among them.
fn output_of_those_that_share(host: &Host) {
    let server = warm(host, App::lab3(), &[(REUSE, "1000"), (CONCURRENT, "4")]);
    let of = |line: &str| {
        let (_, rest) = line.split_once(" request=own-")?;
        let (ids, rest) = rest.split_once(' ')?;
        let (_, text) = rest.split_once(": of-")?;
        let ids: Vec<String> = format!("own-{ids}").split('+').map(str::to_owned).collect();
        Some((ids, text.to_owned()))
    };
    thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..10 {
                    let id = format!("own-{client}-{number}");
                    let target = format!("/print3?out=of-{id}&err=of-{id}");
                    assert_eq!(ask_as(server, &id, target), "ok\n");
                }
            });
        }
    });
    let lines = || -> Vec<_> { server.log.text().lines().filter_map(of).collect() };
    eventually("all lines", PATIENCE, || lines().len() == 160);
    for (ids, text) in lines() {
        assert!(ids.contains(&text), "{text}, printed by {ids:?}");
        assert!(ids.len() <= 4, "{ids:?}");
    }
    server.finish();
}

fn bodies_of_those_that_share(host: &Host) {
    let server = warm(host, App::lab3(), &[(REUSE, "1000"), (CONCURRENT, "8")]);
    // So that there is somebody to share with at any time.
    let sleep = Request::get("/sleep?ms=30");
    let clients = (0..4).map(|_| Client::keeping(server.addr())).collect();
    let sleepers = Load::start(clients, move |client, _| {
        load::checked(client, &sleep).map(drop)
    });
    let clients = (0..8).map(|_| Client::keeping(server.addr())).collect();
    let peak = AtomicU64::new(0);
    let look = Request::get("/instance-state");
    let tally = load::run(clients, 20, |client, number| {
        if number % 5 == 0 {
            let state = read(&load::checked(client, &look)?.text())?;
            peak.fetch_max(state.peak, Ordering::Relaxed);
        }
        load::echo(client, number)
    });
    tally.assert_clean();
    assert_eq!(tally.done, 160);
    sleepers.stop().assert_clean();
    assert!(peak.into_inner() > 1, "they have not shared any");
    server.finish();
}

/// Requests that stay for a while, one after the other. Connections are independent, so
/// each waits for those before it to be with the guest.
struct Sleepers<'a> {
    server: &'a Server,
    metrics: SocketAddr,
    conns: Vec<Conn>,
}

impl<'a> Sleepers<'a> {
    fn of(server: &'a Server, metrics: SocketAddr) -> Self {
        Self {
            server,
            metrics,
            conns: Vec::new(),
        }
    }

    fn begin(&mut self, target: &str, id: &str) {
        // What was there beside them has ended.
        await_in_flight(self.metrics, self.conns.len());
        let mut conn = self.server.connect();
        let request = Request::get(target).header("x-request-id", id);
        conn.send(&request.bytes()).unwrap();
        self.conns.push(conn);
        await_in_flight(self.metrics, self.conns.len());
    }
}

/// Without a warm-up, and where its metrics are.
fn start(host: &Host, settings: &[(&str, &str)]) -> (Server, SocketAddr) {
    let server = start3(host, settings);
    let metrics = metrics(&server);
    (server, metrics)
}

/// Two at a time: the one that traps shares its instance with the third sleeper.
fn a_trap_ends_those_that_share(host: &Host) {
    let (server, metrics) = start(host, &[(REUSE, "1000"), (CONCURRENT, "2")]);
    let mut sleepers = Sleepers::of(&server, metrics);
    for number in 0..3 {
        sleepers.begin("/instance-state?ms=15000", &format!("sleeper-{number}"));
    }
    let trap = Request::get("/trap").header("x-request-id", "trap");
    assert_eq!(server.send(&trap).status(), 500);
    assert_eq!(server.log.expect_failure("trap").reason, "trap");
    // The next one does not meet what is left of it.
    assert_eq!(ask(&server, "/"), "lab\n");

    let mut healthy = Vec::new();
    let mut ended = Vec::new();
    for (number, conn) in sleepers.conns.iter_mut().enumerate() {
        match conn.read_response(false) {
            Ok(response) if response.status() == 200 => {
                healthy.push(read(&response.text()).expect("its state"));
            }
            Ok(response) => {
                assert_eq!(response.status(), 500);
                ended.push(number);
            }
            Err(Error::Closed | Error::Truncated { .. }) => ended.push(number),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(ended.len(), 1, "of three sleepers: {ended:?}");
    assert_eq!(healthy.len(), 2);
    assert_eq!(healthy[0].id, healthy[1].id, "{healthy:?}");
    server.log.expect_failure(&format!("sleeper-{}", ended[0]));
    assert_eq!(server.log.failures().len(), 2);
    assert_eq!(instance(&server).peak, 1);
    drop(sleepers);
    server.finish();
}

fn a_client_that_leaves_disturbs_nobody(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        (CONCURRENT, "4"),
        ("UNIT_WASM_CONCURRENCY", "32"),
    ];
    let server = warm(host, App::lab3(), &settings);
    let clients = (0..6).map(|_| Client::keeping(server.addr())).collect();
    let neighbours = Load::start(clients, load::echo);
    neighbours.wait_for_more(10);
    for _ in 0..10 {
        let mut conn = Conn::open_narrow(server.addr());
        let head = conn.start(&Request::get("/bytes?n=8000000")).unwrap();
        assert_eq!(head.status, 200);
        assert!(conn.read_some().unwrap().is_some());
    }
    neighbours.wait_for_more(20);
    neighbours.stop().assert_clean();
    // What nobody reads has been written all the same, or let go.
    let answers = at_once(&server, 8, "/concurrent?ms=500");
    for answer in answers {
        let peak: u64 = answer
            .expect("an answer")
            .ok()
            .text()
            .trim()
            .parse()
            .unwrap();
        assert!(peak <= 4, "{peak}");
    }
    assert_eq!(server.log.failures(), []);
    server.finish();
}

fn nobody_waits_for_one_that_computes(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        (CONCURRENT, "4"),
        ("UNIT_WASM_CPU_TIME", "6s"),
    ];
    let (server, metrics) = start(host, &settings);
    let mut busy = Sleepers::of(&server, metrics);
    busy.begin("/spin", "busy");
    for _ in 0..3 {
        assert_eq!(ask(&server, "/"), "lab\n");
    }
    assert_eq!(busy.conns[0].read_response(false).unwrap().status(), 504);
    let failed: Vec<String> = server.log.failures().into_iter().map(|f| f.id).collect();
    assert_eq!(failed, ["busy"]);
    drop(busy);
    server.finish();
}

/// The guest goes on after these, so only the next requests have another instance.
fn errors_of_one_are_not_those_of_others(host: &Host) {
    let (server, metrics) = start(host, &[(REUSE, "1000"), (CONCURRENT, "4")]);
    for (number, target) in [
        "/error",
        "/status?code=101",
        "/half?how=drop&bytes=500000",
        "/short?n=10&length=100",
        "/no-trailers?error=1",
    ]
    .into_iter()
    .enumerate()
    {
        let mut sleeper = Sleepers::of(&server, metrics);
        sleeper.begin("/instance-state?ms=8000", "sleeper");
        let id = format!("error-{number}");
        let _ = server.fetch(&Request::get(target).header("x-request-id", &id));
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "invalid-response", "{target}: {failure:?}");
        let next = instance(&server);
        let answer = sleeper.conns[0].read_response(false);
        let answer = answer.expect("an answer").ok();
        let state = read(&answer.text()).expect("its state");
        assert!(state.peak > 1, "{target}: they have not shared any");
        assert_ne!(next.id, state.id, "{target}");
    }
    assert_eq!(server.log.failures().len(), 5);
    server.finish();
}

fn a_timeout_is_that_of_one_request(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        (CONCURRENT, "4"),
        ("UNIT_WASM_TIMEOUT", "12s"),
        // The instance has as long to come to rest.
        ("UNIT_WASM_DRAIN_TIMEOUT", "50s"),
    ];
    let (mut server, metrics) = start(host, &settings);
    let mut both = Sleepers::of(&server, metrics);
    both.begin("/stall", "stalled");
    thread::sleep(Duration::from_secs(6));
    // This one is answered after the other one was given up.
    both.begin("/instance-state?ms=7000", "sleeper");
    let mut answers = both.conns.iter_mut().map(|conn| conn.read_response(false));
    assert_eq!(answers.next().unwrap().unwrap().status(), 504);
    let answer = answers.next().unwrap().expect("an answer").ok();
    let state = read(&answer.text()).expect("its state");
    assert_eq!(state.peak, 2, "they have not shared any");
    assert_ne!(instance(&server).id, state.id);
    drop(both);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    // Of all that was in flight, nothing else has failed.
    server.log.expect(&["failures of this process: timeout=1"]);
    let failed: Vec<String> = server.log.failures().into_iter().map(|f| f.id).collect();
    assert_eq!(failed, ["stalled"]);
    server.finish_stopped();
}

fn a_process_that_ends_answers_those_that_share(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        (CONCURRENT, "4"),
        ("UNIT_WASM_DRAIN_TIMEOUT", "2m"),
    ];
    let (server, metrics) = start(host, &settings);
    let old = server.worker("lab");
    let mut sleepers = Sleepers::of(&server, metrics);
    for number in 0..3 {
        sleepers.begin("/concurrent?ms=15000", &format!("{number}"));
    }
    assert_eq!(ask(&server, "/after?ms=15000&say=done"), "after\n");
    assert!(server.restart("lab").success());
    for sleeper in &mut sleepers.conns {
        let answer = sleeper.read_response(false).expect("an answer").ok();
        assert_eq!(answer.text(), "4\n");
    }
    server.log.expect(&["stderr: after: done"]);
    drop(sleepers);
    eventually("the old process exits", PATIENCE, || !old.alive());
    assert_eq!(server.log.failures(), []);
    server.finish();
}
