//! Limits as numbers: the smallest and the largest, the same number again for
//! the same request, and all of them together.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::config::Config;
use harness::load::{self, Client, body_of};
use harness::{App, Host, Request, Server, eventually, guests};

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["budgets", Both:
        smallest_memory,
        largest_memory,
        memory_that_is_not_enough_to_start,
        fuel_is_the_same_for_the_same_request,
        fuel_for_an_ordinary_request,
        all_limits_at_once,
        bad_limits_are_refused_with_the_form,
        repeated_failures_are_counted_not_logged,
    ]
}

fn small() -> App {
    let path = guests::root().join("tests/guests/small/small.wasm");
    App::new("small", &path)
}

/// Four pages and something for the tables.
fn smallest_memory(host: &Host) {
    let server = Server::start(host, small().env("UNIT_WASM_MEMORY", "268KiB"));
    for _ in 0..20 {
        assert_eq!(server.get("/").ok().text(), "small\n");
    }
    server.finish();
    assert_refused(
        host,
        &small().named("bad").env("UNIT_WASM_MEMORY", "64KiB"),
        &["bytes of memory", "65536 bytes", "UNIT_WASM_MEMORY"],
    );
}

fn largest_memory(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_MEMORY", "4GiB"));
    assert_eq!(server.get("/alloc?mib=300").ok().text(), "ok\n");
    server.finish();
}

/// It has a memory of 1 GiB from the beginning.
fn memory_that_is_not_enough_to_start(host: &Host) {
    let (_dir, path) = big_memory();
    let app = App::new("bad", &path);
    for limit in ["256MiB", "1023MiB"] {
        let app = app.clone().env("UNIT_WASM_MEMORY", limit);
        assert_refused(host, &app, &["needs 1073741824 bytes", "UNIT_WASM_MEMORY"]);
    }
    let mut server = Server::bare(host);
    let app = app.env("UNIT_WASM_MEMORY", "1GiB");
    server.apply(&Config::of([app.env("UNIT_WASM_CONCURRENCY", "4")]));
    // It starts, and never answers.
    assert_eq!(server.get("/").status(), 500);
    server.finish();
}

fn big_memory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    harness::launch::open_to_all(dir.path());
    let path = dir.path().join("big-memory.wasm");
    fs::write(&path, guests::bad("big-memory")).expect("written");
    (dir, path)
}

fn fuel_of(server: &Server, request: &Request, id: &str) -> u64 {
    server
        .send(&request.clone().header("x-request-id", id))
        .ok();
    let line = server.log.expect(&[&format!(" request={id} fuel=")]);
    let rest = line
        .split(" fuel=")
        .nth(1)
        .and_then(|r| r.split(' ').next());
    rest.and_then(|fuel| fuel.parse().ok()).expect("a number")
}

fn fuel_is_the_same_for_the_same_request(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_FUEL", "100000000"));
    // The ids have one length: the guest copies them with the other fields.
    for request in [
        Request::get("/"),
        Request::get("/request"),
        Request::post("/sha256", body_of(1, 10_000)),
    ] {
        let first = fuel_of(&server, &request, "fuel-00");
        assert!(first > 100, "{first}");
        for number in 1..20 {
            let again = fuel_of(&server, &request, &format!("fuel-{number:02}"));
            assert_eq!(again, first, "{request:?}");
        }
        // The ids come again with the next request.
        fs::File::options()
            .write(true)
            .truncate(true)
            .open(server.dir().join("log"))
            .expect("the log");
    }
    server.finish();
}

fn fuel_for_an_ordinary_request(host: &Host) {
    let app = App::hello().env("UNIT_WASM_FUEL", "100000000");
    let server = Server::start(host, app);
    let request = Request::post("/hello?a=b", b"xyzabcd".to_vec());
    let response = server.send(&request).ok().text();
    assert!(response.contains("xyzabcd"), "{response}");
    server.finish();
}

fn all_limits_at_once(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_MEMORY", "40MiB")
        .env("UNIT_WASM_FUEL", "2000000000")
        .env("UNIT_WASM_CPU_TIME", "300ms")
        .env("UNIT_WASM_TIMEOUT", "12s")
        .env("UNIT_WASM_IDLE_TIMEOUT", "10s")
        .env("UNIT_WASM_STACK", "256KiB")
        .env("UNIT_WASM_OUTPUT", "1KiB")
        .env("UNIT_WASM_CONCURRENCY", "12")
        .env("UNIT_WASM_THREADS", "2")
        .env("UNIT_WASM_DRAIN_TIMEOUT", "5s")
        .env("UNIT_WASM_QUEUE_TIMEOUT", "20s")
        .env("UNIT_WASM_WATCHDOG", "30s");
    let server = Server::start(host, app);
    let addr = server.addr();
    let clients = || (0..6).map(|_| Client::keeping(addr)).collect();
    load::run(clients(), 20, load::mixed).assert_clean();
    for (number, (target, status, reasons)) in [
        ("/alloc-forever", 500, &["memory"][..]),
        ("/recurse", 500, &["trap"]),
        // Which of the two is used up first depends on the machine.
        ("/spin", 504, &["cpu-time", "fuel"]),
        ("/fill", 504, &["cpu-time", "fuel"]),
        ("/print-forever", 504, &["cpu-time", "fuel"]),
        ("/hang", 504, &["timeout"]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("all-{number}");
        let request = Request::get(target).header("x-request-id", &id);
        assert_eq!(server.send(&request).status(), status, "{target}");
        let failure = server.log.expect_failure(&id);
        let expected = reasons.contains(&failure.reason.as_str());
        assert!(expected, "{target}: {failure:?}");
    }
    server
        .log
        .expect(&["request=all-4", "output limit reached"]);
    load::run(clients(), 20, load::mixed).assert_clean();
    server.finish();
}

fn bad_limits_are_refused_with_the_form(host: &Host) {
    for (key, value, form) in [
        ("UNIT_WASM_MEMORY", "lots", "64KiB to 4GiB"),
        ("UNIT_WASM_MEMORY", "63KiB", "64KiB to 4GiB"),
        ("UNIT_WASM_MEMORY", "4097MiB", "64KiB to 4GiB"),
        ("UNIT_WASM_FUEL", "0", "at least 1"),
        ("UNIT_WASM_STACK", "1KiB", "64KiB to 64MiB"),
        ("UNIT_WASM_CONCURRENCY", "10001", "1 to 10000"),
        ("UNIT_WASM_QUEUE_TIMEOUT", "0s", "a duration"),
        ("UNIT_WASM_WATCHDOG", "never", "a duration"),
        ("UNIT_WASM_OUTPUT", "-1", "a size"),
    ] {
        let app = App::lab().named("bad").env(key, value);
        assert_refused(host, &app, &[key, value, form]);
    }
}

fn repeated_failures_are_counted_not_logged(host: &Host) {
    const TIMES: usize = 250;
    let server = Server::start(host, App::lab());
    let begin = Instant::now();
    let mut conn = server.connect();
    for _ in 0..TIMES {
        let response = conn.exchange(&Request::get("/trap")).unwrap();
        assert_eq!(response.status(), 500);
    }
    drop(conn);
    let quick = begin.elapsed() < Duration::from_secs(9);
    let told = || {
        let lines = server
            .log
            .matching(|line| line.contains(" more failures like this"));
        let count = |line: &String| {
            let (before, after) = line.split_once(" more failures like this")?;
            assert!(after.contains("were not logged: trap: "), "{line}");
            before.rsplit(' ').next()?.parse::<usize>().ok()
        };
        lines.iter().filter_map(count).sum::<usize>()
    };
    let logged = || server.log.failures().len();
    // A period has ten seconds.
    eventually("all failures told of", Duration::from_secs(25), || {
        logged() + told() == TIMES
    });
    if quick {
        assert_eq!(logged(), 100, "logged in full");
    }
    assert!(logged() >= 100, "{}", logged());
    // Others are not kept out.
    let request = Request::get("/exit?code=7").header("x-request-id", "other");
    server.send(&request);
    server.log.expect_failure("other");
    server.finish();
}
