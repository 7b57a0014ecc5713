//! Application processes that come and go.

use std::thread;
use std::time::Duration;

use harness::config::Config;
use harness::http::{self, Error};
use harness::load::{self, Client, Load};
use harness::proc::Process;
use harness::{App, Host, Request, Server, eventually};
use serde_json::json;

use crate::observe::{await_in_flight, measured};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["processes", Both:
        a_killed_worker_comes_back,
        a_worker_killed_under_load_comes_back,
        a_limit_of_requests,
        a_limit_of_requests_under_load,
        an_idle_worker_goes_and_comes_back,
        processes_grow_on_demand,
        applications_are_apart,
    ]
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the application is served by another process, and well.
fn assert_back(server: &Server, old: Process) {
    eventually("an answer after the kill", PATIENCE, || {
        let answer = server.fetch(&Request::get("/"));
        answer.is_ok_and(|response| response.status() == 200)
    });
    assert!(!old.alive(), "the killed process lives");
    assert_ne!(server.worker("lab"), old);
}

fn a_killed_worker_comes_back(host: &Host) {
    let (app, metrics) = measured(App::lab());
    let mut server = Server::start(host, app);
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    for _ in 0..3 {
        let old = server.worker("lab");
        let mut silent = server.connect();
        silent
            .send(&Request::get("/sleep?ms=55000").bytes())
            .unwrap();
        let mut conn = server.connect();
        conn.start(&Request::get("/sse?events=300&interval=200"))
            .unwrap();
        conn.read_some().unwrap();
        // The process has the other as well; so has the router been told, a moment later.
        await_in_flight(metrics, 2);
        thread::sleep(Duration::from_millis(500));
        old.signal(libc::SIGKILL);
        let rest = conn.read_body();
        assert!(matches!(rest, Err(Error::Truncated { .. })), "{rest:?}");
        assert_eq!(silent.read_response(false).unwrap().status(), 503);
        assert_back(&server, old);
    }
    server.finish();
}

/// Kills workers while there is load: what they had may break, and nothing
/// else.
///
/// On Unit, a request that a process has taken from the queue and not yet
/// acknowledged when it is killed (`nxt_unit_process_req_headers`) is nobody's:
/// the router answers the acknowledged ones with 503 and leaves the others in
/// the queue. About one in 300 kills meets that moment here.
fn a_worker_killed_under_load_comes_back(host: &Host) {
    const KILLS: usize = 3;
    let mut server = Server::start(host, App::lab());
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    let addr = server.addr();
    let patience = Duration::from_secs(25);
    let clients = (0..4).map(|_| Client::fresh(addr).patience(patience));
    let load = Load::start(clients.collect(), |client, number| {
        match load::echo(client, number) {
            Err(why) if is_broken(&why) => Ok(()),
            other => other,
        }
    });
    for _ in 0..KILLS {
        load.wait_for_more(10);
        let old = server.worker("lab");
        old.signal(libc::SIGKILL);
        assert_back(&server, old);
    }
    load.wait_for_more(10);
    let mut tally = load.stop();
    let lost = tally.forgive("timed out");
    let most = if host.is_unit() { KILLS } else { 0 };
    assert!(lost <= most, "{lost} requests lost in {KILLS} kills");
    tally.assert_clean();
    server.expect_lost(lost);
    server.finish();
}

/// What a client sees of a request whose process was killed. The router does not read
/// the rest of a body before it closes, so that may be a reset; and of a response
/// that it finds after it has let go of the process's shared memory, it makes an
/// error 500 of its own.
fn is_broken(why: &str) -> bool {
    const WAYS: [&str; 6] = [
        "status 503",
        "status 500: <!DOCTYPE html>",
        "truncated",
        "closed",
        "Connection reset",
        "Broken pipe",
    ];
    WAYS.iter().any(|way| why.starts_with(way))
}

fn a_limit_of_requests(host: &Host) {
    let app = App::lab().member("limits", json!({ "requests": 5 }));
    let mut server = Server::bare(host);
    server.apply(&app.into());
    server.expect_new_workers();
    let mut seen: Vec<Process> = Vec::new();
    for number in 0..40 {
        let response = server.get("/");
        assert_eq!(response.status(), 200, "request {number}");
        seen.extend(server.workers("lab"));
    }
    seen.sort();
    seen.dedup();
    assert!(
        seen.len() >= 6,
        "only {} processes for 40 requests",
        seen.len()
    );
    // The last one may just have ended.
    server.get("/").ok();
    server.settle();
    server.finish();
}

fn a_limit_of_requests_under_load(host: &Host) {
    for threads in ["1", "2"] {
        let app = App::lab()
            .env("UNIT_WASM_THREADS", threads)
            .member("limits", json!({ "requests": 20 }));
        let mut server = Server::bare(host);
        server.apply(&app.into());
        server.expect_new_workers();
        let addr = server.addr();
        let clients = (0..6).map(|_| Client::keeping(addr)).collect();
        let tally = load::run(clients, 40, load::mixed);
        tally.assert_clean();
        assert_eq!(tally.done, 240);
        server.get("/").ok();
        server.settle();
        server.finish();
    }
}

fn an_idle_worker_goes_and_comes_back(host: &Host) {
    let processes = json!({ "max": 2, "spare": 0, "idle_timeout": 1 });
    let mut server = Server::bare(host);
    server.apply(&App::lab().processes(processes).into());
    server.expect_new_workers();
    for _ in 0..3 {
        assert_eq!(server.get("/").ok().text(), "lab\n");
        // It may have gone already, if that took long.
        let old = server.workers("lab");
        eventually("the idle process exits", PATIENCE, || {
            let gone = old.iter().all(|process| !process.alive());
            gone && server.workers("lab").is_empty()
        });
    }
    // A request that outlasts the idle timeout is not idle.
    assert_eq!(server.get("/sleep?ms=2500").ok().text(), "slept\n");
    server.finish();
}

fn processes_grow_on_demand(host: &Host) {
    let processes = json!({ "max": 3, "spare": 1, "idle_timeout": 60 });
    let mut server = Server::start(host, App::lab().processes(processes));
    server.expect_new_workers();
    let addr = server.addr();
    let sleep = Request::get("/sleep?ms=1500");
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| http::fetch(addr, &sleep).unwrap().ok());
        }
        eventually("another process under load", PATIENCE, || {
            server.workers("lab").len() > 1
        });
    });
    assert!(server.workers("lab").len() <= 3);
    server.finish();
}

fn applications_are_apart(host: &Host) {
    let apps = ["alpha", "beta"].map(|name| App::lab().named(name).env("NAME", name));
    let mut server = Server::start(host, Config::of(apps));
    let (alpha, beta) = (server.worker("alpha"), server.worker("beta"));
    assert_ne!(alpha, beta);
    for name in ["alpha", "beta"] {
        let response = http::fetch(server.addr_of(name), &Request::get("/env"));
        assert_eq!(response.unwrap().ok().text(), format!("NAME={name}\n"));
    }
    server.expect_log("exited on signal 9");
    server.expect_new_workers();
    let neighbours = Load::neighbours(server.addr_of("beta"));
    alpha.signal(libc::SIGKILL);
    eventually("alpha is back", PATIENCE, || {
        let answer = http::fetch(server.addr_of("alpha"), &Request::get("/"));
        answer.is_ok_and(|response| response.status() == 200)
    });
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    assert_eq!(server.worker("beta"), beta);
    server.finish();
}
