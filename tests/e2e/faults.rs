//! Faults of the host that real Unit cannot be made to show.

use std::thread;
use std::time::Duration;

use harness::http::{self, Error};
use harness::load::{self, Client, checked};
use harness::{App, Host, Request, Server, eventually};
use serde_json::{Value, json};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["faults", Standin:
        short_writes,
        exhausted_shared_memory,
        failing_calls_end_one_request,
        calls_that_fail_now_and_then,
        quit_at_any_request,
        kill_at_any_request,
        a_call_that_never_returns,
    ]
}

fn set(server: &Server, faults: &Value) {
    let reply = server.control.put("/faults/lab", faults).unwrap();
    assert!(reply.success(), "{faults}: {reply:?}");
}

fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::keeping(server.addr())).collect()
}

/// Nothing is wrong with a short write, it only has to be followed up.
fn short_writes(host: &Host) {
    let server = Server::start(host, App::lab());
    for most in [1, 7, 1000, 1025, 16_384] {
        set(&server, &json!({ "write_nb_max": most }));
        let target = format!("/download?bytes={}", most * 500);
        for length in [0, 1] {
            let response = server.get(format!("{target}&length={length}")).ok();
            let mut expected = harness::guests::Download::default();
            expected.check(&response.body).unwrap();
            assert_eq!(expected.seen(), most * 500);
        }
    }
    set(&server, &json!({}));
    server.finish();
}

/// A window of a few chunks, or none at all, until it is widened again.
fn exhausted_shared_memory(host: &Host) {
    let server = Server::start(host, App::lab());
    for limit in [16 << 10, 64 << 10, 1 << 20] {
        set(&server, &json!({ "shm_limit": limit }));
        let tally = load::run(clients(&server, 6), 20, load::mixed);
        tally.assert_clean();
    }
    set(&server, &json!({ "shm_limit": 0 }));
    let addr = server.addr();
    let waiting = thread::spawn(move || http::fetch(addr, &Request::get("/download?bytes=300000")));
    // Small answers need no shared memory.
    assert_eq!(server.get("/").ok().text(), "lab\n");
    set(&server, &json!({}));
    let response = waiting.join().unwrap().expect("an answer after all");
    assert_eq!(response.ok().body.len(), 300_000);
    // Now the process believes that there is plenty, and a large head finds
    // out: libunit would have it wait, and the event loop with it.
    set(&server, &json!({ "shm_limit": 0 }));
    let large = Request::get("/bigheaders?count=10&size=300");
    let waiting = thread::spawn(move || http::fetch(addr, &large));
    let mut neighbour = Client::keeping(addr).patience(Duration::from_secs(15));
    for _ in 0..20 {
        checked(&mut neighbour, &Request::get("/")).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!waiting.is_finished(), "a head without shared memory");
    set(&server, &json!({}));
    let response = waiting.join().unwrap().expect("an answer after all").ok();
    assert_eq!(response.head.all("x-big-9")[0].len(), 300);
    drop(neighbour);
    server.finish();
}

const CALLS: [&str; 6] = [
    "response_init",
    "add_field",
    "add_content",
    "response_send",
    "write_nb",
    "request_read",
];

const TARGETS: [&str; 4] = [
    "/",
    "/download?bytes=200000",
    "/bigheaders?count=10&size=300",
    "/sse?events=3&interval=10",
];

/// An answer that is right, refused, or visibly broken; never a wrong one.
fn right_or_broken(client: &mut Client, request: &Request) -> Result<(), String> {
    match client.exchange(request) {
        Ok(response) if matches!(response.status(), 200 | 500 | 503) => Ok(()),
        Ok(response) => Err(format!("status {}", response.status())),
        Err(Error::Truncated { .. } | Error::Closed) => Ok(()),
        Err(other) => Err(other.to_string()),
    }
}

fn failing_calls_end_one_request(host: &Host) {
    let server = Server::start(host, App::lab());
    for call in CALLS {
        for nth in [1, 2, 5] {
            for target in TARGETS {
                let faults = json!({ "fail": { call: { "nth": nth } } });
                set(&server, &faults);
                let mut client = Client::fresh(server.addr());
                let get = right_or_broken(&mut client, &Request::get(target));
                get.unwrap_or_else(|why| panic!("{call} {nth} {target}: {why}"));
                let body = vec![b'b'; 50_000];
                let post = right_or_broken(&mut client, &Request::post("/echo", body));
                post.unwrap_or_else(|why| panic!("{call} {nth} /echo: {why}"));
                set(&server, &json!({}));
                checked(&mut client, &Request::get("/")).unwrap();
            }
        }
    }
    server.finish();
}

fn calls_that_fail_now_and_then(host: &Host) {
    let server = Server::start(host, App::lab());
    for call in CALLS {
        set(&server, &json!({ "fail": { call: { "every": 5 } } }));
        let tally = load::run(clients(&server, 4), 30, |client, number| {
            let target = TARGETS[usize::try_from(number).unwrap_or(0) % TARGETS.len()];
            right_or_broken(client, &Request::get(target))
        });
        tally.assert_clean();
    }
    set(&server, &json!({}));
    load::run(clients(&server, 4), 20, load::mixed).assert_clean();
    server.finish();
}

fn quit_at_any_request(host: &Host) {
    let mut server = Server::start(host, App::lab());
    server.expect_new_workers();
    for after in [1, 2, 3, 7] {
        set(&server, &json!({ "quit_after": after }));
        let tally = load::run(clients(&server, 4), 20, |client, number| match number % 3 {
            0 => checked(client, &Request::get("/sleep?ms=20")).map(drop),
            _ => load::mixed(client, number),
        });
        tally.assert_clean();
    }
    set(&server, &json!({}));
    server.finish();
}

fn kill_at_any_request(host: &Host) {
    let mut server = Server::start(host, App::lab());
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    for after in [1, 3, 7] {
        set(&server, &json!({ "kill_after": after }));
        let tally = load::run(clients(&server, 3), 15, |client, number| {
            let target = TARGETS[usize::try_from(number).unwrap_or(0) % TARGETS.len()];
            right_or_broken(client, &Request::get(target))
        });
        tally.assert_clean();
    }
    set(&server, &json!({}));
    eventually(
        "a process that is not killed",
        Duration::from_secs(60),
        || {
            let answer = server.fetch(&Request::get("/"));
            answer.is_ok_and(|response| response.status() == 200)
        },
    );
    server.finish();
}

/// The loop stands still, and every request of the process with it. Nothing
/// less than its end helps, and it says why.
fn a_call_that_never_returns(host: &Host) {
    for (call, target) in [
        ("response_init", "/"),
        ("write_nb", "/download?bytes=300000"),
    ] {
        let mut server = Server::start(host, App::lab().env("UNIT_WASM_WATCHDOG", "2s"));
        server.expect_new_workers();
        server.expect_log("a host call has not returned");
        server.expect_log("exited with code 1");
        let stuck = server.worker("lab");
        set(&server, &json!({ "block": { call: 3600 } }));
        let addr = server.addr();
        let request = Request::get(target).header("x-request-id", "stuck");
        let victim = thread::spawn(move || http::fetch(addr, &request));
        let line = server.log.expect(&["a host call has not returned for"]);
        assert!(line.contains("[alert]"), "{line}");
        for part in ["UNIT_WASM_WATCHDOG", "state=S", "request=stuck", "thread="] {
            assert!(line.contains(part), "no {part}: {line}");
        }
        set(&server, &json!({}));
        match victim.join().expect("a client") {
            Ok(response) => assert_eq!(response.status(), 503, "{call}"),
            Err(Error::Truncated { .. } | Error::Closed) => (),
            Err(other) => panic!("{call}: {other}"),
        }
        eventually("the end of the process", Duration::from_secs(20), || {
            !stuck.alive()
        });
        eventually("another process", Duration::from_secs(60), || {
            let answer = server.fetch(&Request::get("/"));
            answer.is_ok_and(|response| response.status() == 200)
        });
        assert_ne!(server.worker("lab"), stuck);
        load::run(clients(&server, 3), 10, load::mixed).assert_clean();
        server.finish();
    }
}
