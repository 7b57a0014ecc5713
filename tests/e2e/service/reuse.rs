//! Instances that serve more than one request in turn, if that is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use harness::config::Config;
use harness::http::encode;
use harness::load::{self, Client};
use harness::peers::HttpPeer;
use harness::{App, Conn, Host, Request, Server, eventually};
use serde_json::{Value, json};

use super::{ask, ask_as};
use crate::access::make_directory;
use crate::observe::await_in_flight;
use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["service-reuse", Both:
        off_by_default,
        as_many_requests_as_told,
        nobody_shares_unless_told,
        a_failure_retires_the_instance,
        output_belongs_to_its_request,
        fuel_starts_anew,
        cpu_time_and_output_start_anew,
        what_files_may_grow_by_starts_anew,
        bad_values_are_refused,
        under_load,
    ];
    all.extend(cases!["service-reuse", All:
        outbound_requests_are_counted_anew,
        the_instance_changes_when_it_has_served_enough,
        work_after_the_response_belongs_to_its_request,
        sharing_takes_a_guest_of_0_3,
    ]);
    all
}

/// How long lines may take to be in the log.
const PATIENCE: Duration = Duration::from_secs(60);

pub const REUSE: &str = "UNIT_WASM_REUSE";
pub const CONCURRENT: &str = "UNIT_WASM_REUSE_CONCURRENT";

pub fn with(app: App, settings: &[(&str, &str)]) -> App {
    settings
        .iter()
        .fold(app, |app, (name, value)| app.env(name, value))
}

/// Without a warm-up: no instance has served anything yet. What the first requests
/// open is open from then on, so descriptors are compared in other tests.
pub fn fresh(host: &Host, app: App) -> Server {
    let mut server = Server::bare(host);
    server.apply(&Config::of([told(
        &server,
        app.env("UNIT_WASM_THREADS", "1"),
    )]));
    server
}

/// With metrics, at the address of [`metrics`].
fn told(server: &Server, app: App) -> App {
    app.env("UNIT_WASM_METRICS", &metrics(server).to_string())
}

/// Where the metrics of a [`fresh`] server are: a port that no test takes.
pub fn metrics(server: &Server) -> SocketAddr {
    (server.ip(), 9000).into()
}

/// Where it does not matter what instances have served, with a warm-up.
pub fn warm(host: &Host, app: App, settings: &[(&str, &str)]) -> Server {
    Server::start(host, with(app, settings).env("UNIT_WASM_THREADS", "1"))
}

/// The lab guest that the host is to be tested with.
fn start(host: &Host, settings: &[(&str, &str)]) -> Server {
    fresh(host, with(App::lab(), settings))
}

/// The one of WASI 0.3.
pub fn start3(host: &Host, settings: &[(&str, &str)]) -> Server {
    fresh(host, with(App::lab3(), settings))
}

/// Waits until the guests have done with all requests: whoever has its answer may be
/// ahead of the guest, whose instance is not to be had again before it is at rest.
#[track_caller]
fn at_rest(server: &Server) {
    await_in_flight(metrics(server), 0);
}

/// How many requests of this route the instance has served, with this one.
#[track_caller]
fn counter(server: &Server) -> u64 {
    counter_beside(server, 0)
}

/// The same while others are in flight.
#[track_caller]
fn counter_beside(server: &Server, others: usize) -> u64 {
    await_in_flight(metrics(server), others);
    let text = ask(server, "/counter");
    text.trim().parse().expect("a number")
}

fn off_by_default(host: &Host) {
    for settings in [&[][..], &[(REUSE, "1")]] {
        let server = start(host, settings);
        for _ in 0..10 {
            assert_eq!(counter(&server), 1);
        }
        let clients = (0..8).map(|_| Client::keeping(server.addr())).collect();
        let ask = Request::get("/counter");
        let tally = load::run(clients, 25, |client, _| {
            match load::checked(client, &ask)?.text().as_str() {
                "1\n" => Ok(()),
                other => Err(format!("an instance was used again: {other}")),
            }
        });
        tally.assert_clean();
        assert_eq!(tally.done, 200);
        server.finish();
    }
}

fn as_many_requests_as_told(host: &Host) {
    let server = start(host, &[(REUSE, "5")]);
    let seen: Vec<u64> = (0..12).map(|_| counter(&server)).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]);
    server.finish();
}

/// Each of those that are in flight has one of its own.
fn nobody_shares_unless_told(host: &Host) {
    let server = start(host, &[(REUSE, "1000")]);
    let mut sleepers: Vec<Conn> = (0..4).map(|_| server.connect()).collect();
    for conn in &mut sleepers {
        conn.start(&Request::get("/sse?events=2&interval=8000"))
            .unwrap();
        // It is at it.
        conn.read_some().unwrap();
    }
    for expected in 1..=5 {
        assert_eq!(counter_beside(&server, sleepers.len()), expected);
    }
    for conn in &mut sleepers {
        assert_eq!(conn.read_body().unwrap(), b"data: 1\n\n");
    }
    drop(sleepers);
    server.finish();
}

/// What is left in an instance by a request that failed must not be met by others.
fn a_failure_retires_the_instance(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        ("UNIT_WASM_CPU_TIME", "500ms"),
        ("UNIT_WASM_TIMEOUT", "15s"),
        ("UNIT_WASM_IDLE_TIMEOUT", "10s"),
        ("UNIT_WASM_MEMORY", "64MiB"),
    ];
    let server = start(host, &settings);
    for (number, (target, reason)) in [
        ("/trap", "trap"),
        ("/panic", "trap"),
        ("/exit?code=0", "trap"),
        ("/recurse", "trap"),
        ("/alloc?mib=100", "memory"),
        ("/spin", "cpu-time"),
        ("/hang", "timeout"),
        ("/status?code=101", "invalid-response"),
        ("/midbody?bytes=500000&how=trap", "trap"),
        ("/midbody?bytes=500000&how=drop", "invalid-response"),
        ("/short?declared=5000&sent=100", "invalid-response"),
        ("/short?declared=100&sent=5000", "invalid-response"),
        ("/sse?events=2&interval=60000", "timeout"),
        ("/after?how=trap", "trap"),
        ("/after?how=spin", "cpu-time"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(counter(&server), 1, "before {target}");
        assert_eq!(counter(&server), 2, "before {target}");
        let id = format!("failure-{number}");
        // How it ends for the client is tested elsewhere.
        let _ = server.fetch(&Request::get(target).header("x-request-id", &id));
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, reason, "{target}: {failure:?}");
    }
    assert_eq!(counter(&server), 1);
    server.finish();
}

fn output_belongs_to_its_request(host: &Host) {
    let server = start(host, &[(REUSE, "1000")]);
    for number in 0..10 {
        for stream in ["stdout", "stderr"] {
            let id = format!("{stream}-{number}");
            let target = format!("/{stream}?text=of-{id}&count=2");
            assert_eq!(ask_as(&server, &id, target), "ok\n");
            let wanted = format!(" request={id} {stream}: of-{id}");
            let found = || server.log.matching(|line| line.ends_with(&wanted));
            eventually("both lines", PATIENCE, || found().len() == 2);
        }
    }
    let lines = server.log.matching(|line| line.contains(": of-"));
    assert_eq!(lines.len(), 40, "{lines:?}");
    assert_eq!(counter(&server), 1);
    assert_eq!(counter(&server), 2, "not used again");
    server.finish();
}

/// The fuel that a request has used.
#[track_caller]
fn fuel(server: &Server, id: &str, target: &str) -> u64 {
    at_rest(server);
    ask_as(server, id, target);
    let line = server.log.expect(&[&format!(" request={id} fuel=")]);
    let (_, rest) = line.split_once(" fuel=").expect("just found");
    let number = rest.split(' ').next().expect("a word");
    number.parse().expect("a number")
}

fn fuel_starts_anew(host: &Host) {
    let server = start(host, &[(REUSE, "1000"), ("UNIT_WASM_FUEL", "1000000000")]);
    assert_eq!(counter(&server), 1);
    let first = fuel(&server, "fuel-0", "/download?bytes=1000000");
    for number in 1..10 {
        let id = format!("fuel-{number}");
        let again = fuel(&server, &id, "/download?bytes=1000000");
        // Not the same, as the guest's memory is another, but not that of two.
        assert!(again < first + first / 2, "{again} after {first}");
        assert!(again > first / 2, "{again} after {first}");
    }
    assert_eq!(counter(&server), 2, "not used again");
    server.finish();
}

/// Each would be stopped soon if it had to do with what others have left.
fn cpu_time_and_output_start_anew(host: &Host) {
    let settings = [
        (REUSE, "1000"),
        ("UNIT_WASM_CPU_TIME", "1s"),
        ("UNIT_WASM_OUTPUT", "8KiB"),
    ];
    let server = start(host, &settings);
    assert_eq!(counter(&server), 1);
    for number in 0..5 {
        at_rest(&server);
        assert_eq!(ask(&server, "/compute?ms=400"), "worked\n", "{number}");
    }
    for number in 0..5 {
        at_rest(&server);
        let id = format!("print-{number}");
        let target = "/stdout?text=printed&count=20";
        assert_eq!(ask_as(&server, &id, target), "ok\n");
        let begin = format!(" request={id} stdout: printed");
        eventually("all lines", PATIENCE, || {
            server.log.matching(|line| line.ends_with(&begin)).len() == 20
        });
    }
    assert_eq!(counter(&server), 2, "not used again");
    assert_eq!(server.log.failures(), []);
    server.finish();
}

fn what_files_may_grow_by_starts_anew(host: &Host) {
    let server = Server::start_with(host, |server| {
        let inside = server.data().join("in");
        make_directory(&inside);
        let list = json!([{ "host": inside, "guest": "/data", "mode": "rw" }]);
        let settings = [(REUSE, "1000"), ("UNIT_WASM_WRITE_QUOTA", "9000")];
        let app = with(App::lab(), &settings).filesystem(list);
        told(server, app).into()
    });
    // Two of them are over the quota.
    let data = "x".repeat(3000);
    for number in 0..6 {
        let target = format!("/file?op=write&path=/data/{number}&data={data}");
        assert_eq!(ask(&server, target), "ok\n", "{number}");
        let target = format!("/file?op=read&path=/data/{number}");
        assert_eq!(ask(&server, target), data, "{number}");
    }
    let target = format!("/file?op=write&path=/data/over&data={}", "x".repeat(6000));
    assert!(ask(&server, target).starts_with("error: "));
    assert!(counter(&server) < counter(&server), "not used again");
    server.finish();
}

fn bad_values_are_refused(host: &Host) {
    for (name, value) in [
        (REUSE, "0"),
        (REUSE, "1000001"),
        (REUSE, "-1"),
        (REUSE, "many"),
        (CONCURRENT, "0"),
        (CONCURRENT, "many"),
    ] {
        let settings = [(REUSE, "10"), (name, value)];
        let app = with(App::lab().named("bad"), &settings);
        assert_refused(host, &app, &[name, value]);
    }
    // To share one instance it has to be one that is used again.
    for settings in [&[(CONCURRENT, "2")][..], &[(REUSE, "1"), (CONCURRENT, "2")]] {
        let app = with(App::lab().named("bad"), settings);
        assert_refused(host, &app, &[CONCURRENT]);
    }
}

/// Whether requests are answered rightly, whatever instance they meet.
fn under_load(host: &Host) {
    let server = warm(host, App::lab(), &[(REUSE, "7")]);
    let clients = (0..6).map(|_| Client::keeping(server.addr())).collect();
    let tally = load::run(clients, 60, |client, number| match number % 6 {
        // It counts requests, of which an instance has had some by now.
        5 => {
            let text = load::checked(client, &Request::get("/counter"))?.text();
            let count: u64 = text.trim().parse().map_err(|_| text.clone())?;
            match (1..=7).contains(&count) {
                true => Ok(()),
                false => Err(format!("{count} requests in one instance")),
            }
        }
        _ => load::mixed(client, number),
    });
    tally.assert_clean();
    server.finish();
}

fn outbound_requests_are_counted_anew(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [
        (REUSE, "1000"),
        ("UNIT_WASM_ALLOW_HTTP", &*peer.entry()),
        ("UNIT_WASM_HTTP_REQUESTS", "3"),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "2s"),
    ];
    let server = start3(host, &settings);
    let target = format!("/fetch-many?url={}&n=3&together=1", encode(&peer.url("/")));
    for _ in 0..4 {
        let said: Value = serde_json::from_str(&ask(&server, &target)).expect("JSON");
        assert_eq!(said["outcomes"], json!({ "200": 3 }));
    }
    assert_eq!(ask(&server, "/count"), "5\n", "not used again");
    server.finish();
}

/// What `/instance-state` says.
#[derive(Debug)]
pub struct Instance {
    pub id: String,
    /// Requests that it has seen.
    pub count: u64,
    /// Most of them at the same time.
    pub peak: u64,
}

pub fn read(text: &str) -> Result<Instance, String> {
    let said: Value = serde_json::from_str(text).map_err(|_| text.to_owned())?;
    let number = |name: &str| said[name].as_u64().ok_or_else(|| text.to_owned());
    Ok(Instance {
        id: said["instance"].as_str().ok_or(text)?.to_owned(),
        count: number("count")?,
        peak: number("peak")?,
    })
}

#[track_caller]
pub fn instance(server: &Server) -> Instance {
    read(&ask(server, "/instance-state")).expect("the state of an instance")
}

fn the_instance_changes_when_it_has_served_enough(host: &Host) {
    let server = start3(host, &[(REUSE, "5")]);
    let seen: Vec<Instance> = (0..15).map(|_| instance(&server)).collect();
    let mut ids: Vec<&str> = Vec::new();
    for five in seen.chunks(5) {
        let counts: Vec<u64> = five.iter().map(|state| state.count).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5], "{seen:?}");
        assert!(five.iter().all(|state| state.id == five[0].id), "{seen:?}");
        assert!(five.iter().all(|state| state.peak == 1), "{seen:?}");
        assert!(!ids.contains(&five[0].id.as_str()), "{seen:?}");
        ids.push(&five[0].id);
    }
    // Of whatever route.
    let other = start3(host, &[(REUSE, "4")]);
    for target in ["/", "/sleep?ms=20", "/tasks?n=3"] {
        ask(&other, target);
    }
    assert_eq!(ask(&other, "/count"), "4\n");
    assert_eq!(ask(&other, "/count"), "1\n");
    other.finish();
    server.finish();
}

fn work_after_the_response_belongs_to_its_request(host: &Host) {
    let server = start3(host, &[(REUSE, "1000")]);
    for number in 0..4 {
        let id = format!("after-{number}");
        let target = format!("/after?ms=200&say=of-{id}");
        assert_eq!(ask_as(&server, &id, target), "after\n");
        // Meanwhile another one is served.
        assert_eq!(ask_as(&server, "between", "/print?out=between"), "ok\n");
        server
            .log
            .expect(&[&format!(" request={id} stderr: after: of-{id}")]);
    }
    assert_eq!(server.log.failures(), []);
    server.finish();
}

fn sharing_takes_a_guest_of_0_3(host: &Host) {
    let settings = [(REUSE, "10"), (CONCURRENT, "2")];
    // The lab guest of this scope is one of 0.2.
    let app = with(App::lab().named("bad"), &settings);
    assert_refused(host, &app, &[CONCURRENT]);
    let server = start3(host, &settings);
    assert_eq!(ask(&server, "/"), "lab\n");
    server.finish();
    // One at a time is what there is anyway.
    let server = start(host, &[(REUSE, "10"), (CONCURRENT, "1")]);
    assert_eq!(ask(&server, "/"), "lab\n");
    server.finish();
}
