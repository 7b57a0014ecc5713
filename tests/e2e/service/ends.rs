//! How guests end, rightly and wrongly, beside healthy neighbours.

use std::thread;
use std::time::{Duration, Instant};

use harness::http::Error;
use harness::load::Load;
use harness::{Host, Request, Server};

use super::{app, ask, start};
use crate::failures::assert_generic;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-ends", All:
        an_error_in_place_of_a_response,
        guests_that_fail_before_their_response,
        guests_that_fail_within_their_body,
        bodies_that_are_never_ended,
        bodies_of_another_length_than_promised,
        an_end_that_comes_late,
        an_end_that_is_an_error,
        trailers_are_dropped,
        a_trap_after_the_response,
        limits_within_the_body,
        fuel,
    ]
}

/// What a client gets that does not get all of a good response.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Refused(u16),
    Broken,
}

/// Asks for something that fails, and returns how it ended for the client, and
/// what the log says of it, after reason and status.
#[track_caller]
fn fails(server: &Server, target: &str, id: &str, reason: &str) -> (End, String) {
    let request = Request::get(target).header("x-request-id", id);
    let end = match server.fetch(&request) {
        Ok(response) => {
            assert_generic(&response);
            End::Refused(response.status())
        }
        Err(Error::Truncated { .. } | Error::Closed) => End::Broken,
        Err(other) => panic!("{target}: {other}"),
    };
    let failure = server.log.expect_failure(id);
    assert_eq!(failure.reason, reason, "{target}: {failure:?}");
    let told = match end {
        End::Refused(status) => status.to_string(),
        End::Broken => "truncated".to_owned(),
    };
    assert_eq!(failure.status, told, "{target}: {failure:?}");
    (end, failure.detail)
}

/// Runs `misbehave` while neighbours are at work, whose answers have to be right.
fn beside_neighbours(server: Server, misbehave: impl FnOnce(&Server)) {
    let neighbours = Load::neighbours(server.addr());
    misbehave(&server);
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    server.finish();
}

fn an_error_in_place_of_a_response(host: &Host) {
    beside_neighbours(start(host, &[]), |server| {
        for (number, (target, text)) in [
            ("/error", "InternalError(None)"),
            ("/error?text=because", "InternalError(Some(\"because\"))"),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("error-{number}");
            let (end, detail) = fails(server, target, &id, "invalid-response");
            assert_eq!(end, End::Refused(500));
            assert!(detail.contains(text), "{detail}");
        }
    });
}

fn guests_that_fail_before_their_response(host: &Host) {
    // Far apart: what spins gets but a part of the time beside others.
    let settings = [
        ("UNIT_WASM_MEMORY", "64MiB"),
        ("UNIT_WASM_TIMEOUT", "15s"),
        ("UNIT_WASM_CPU_TIME", "500ms"),
    ];
    beside_neighbours(start(host, &settings), |server| {
        for (number, (target, status, reason, part)) in [
            ("/trap", 500, "trap", "unreachable"),
            ("/panic", 500, "trap", "unreachable"),
            ("/exit?code=0", 500, "trap", "exited with status 0"),
            ("/deep", 500, "trap", "(UNIT_WASM_STACK)"),
            ("/alloc?mb=100", 500, "memory", "(UNIT_WASM_MEMORY)"),
            ("/alloc-forever", 500, "memory", "(UNIT_WASM_MEMORY)"),
            ("/handles-forever", 500, "trap", "limit 1000 (fixed)"),
            ("/stall", 504, "timeout", "(UNIT_WASM_TIMEOUT)"),
            ("/spin", 504, "cpu-time", "(UNIT_WASM_CPU_TIME)"),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("before-{number}");
            let (end, detail) = fails(server, target, &id, reason);
            assert_eq!(end, End::Refused(status), "{target}");
            assert!(detail.contains(part), "{target}: {detail}");
        }
    });
}

/// After much of the body, when its beginning has gone out, and after little, when
/// that may still be held.
fn guests_that_fail_within_their_body(host: &Host) {
    beside_neighbours(start(host, &[]), |server| {
        for (how, reason) in [
            ("trap", "trap"),
            ("panic", "trap"),
            ("exit", "trap"),
            ("drop", "invalid-response"),
        ] {
            let target = format!("/half?how={how}&bytes=1000000");
            let (end, _) = fails(server, &target, &format!("late-{how}"), reason);
            assert_eq!(end, End::Broken, "{how}");
            let target = format!("/half?how={how}&bytes=100");
            fails(server, &target, &format!("early-{how}"), reason);
        }
    });
}

/// The guest has returned, and nothing will end them.
/// What a guest has passed on may come long after it has ended, so this is only told
/// from silence.
fn bodies_that_are_never_ended(host: &Host) {
    let server = start(host, &[("UNIT_WASM_IDLE_TIMEOUT", "10s")]);
    let never_ends = |server: &Server, number: usize, target: &str| {
        let id = format!("never-{number}");
        let (end, detail) = fails(server, target, &id, "timeout");
        assert_eq!(end, End::Broken, "{target}");
        assert!(
            detail.contains("UNIT_WASM_IDLE_TIMEOUT"),
            "{target}: {detail}"
        );
    };
    let targets = [
        "/leak-body?bytes=100",
        "/leak-body?bytes=1000000",
        "/no-trailers",
    ];
    beside_neighbours(server, |server| {
        thread::scope(|scope| {
            for (number, target) in targets.into_iter().enumerate() {
                scope.spawn(move || never_ends(server, number, target));
            }
        });
    });
}

fn bodies_of_another_length_than_promised(host: &Host) {
    beside_neighbours(start(host, &[]), |server| {
        for (sent, promised) in [(10, 100), (200_000, 300_000), (100, 10)] {
            let id = format!("sent-{sent}");
            let target = format!("/short?n={sent}&length={promised}");
            fails(server, &target, &id, "invalid-response");
        }
    });
}

/// That all of the body is there is not known before its end is.
fn an_end_that_comes_late(host: &Host) {
    let settings = [("UNIT_WASM_IDLE_TIMEOUT", "10s")];
    beside_neighbours(start(host, &settings), |server| {
        let begin = Instant::now();
        assert_eq!(ask(server, "/no-trailers?ms=400"), "no trailers\n");
        assert!(begin.elapsed() >= Duration::from_millis(390));
        let (end, detail) = fails(server, "/no-trailers?ms=60000", "late", "timeout");
        assert_eq!(end, End::Broken);
        assert!(detail.contains("UNIT_WASM_IDLE_TIMEOUT"), "{detail}");
    });
}

fn an_end_that_is_an_error(host: &Host) {
    beside_neighbours(start(host, &[]), |server| {
        let target = "/no-trailers?error=1";
        let (_, detail) = fails(server, target, "error", "invalid-response");
        assert!(detail.contains("no trailers"), "{detail}");
        let target = "/no-trailers?error=1&ms=300";
        let (end, _) = fails(server, target, "late", "invalid-response");
        assert_eq!(end, End::Broken);
    });
}

/// Unit has no place for them. The response is complete without.
fn trailers_are_dropped(host: &Host) {
    let server = start(host, &[]);
    let mut conn = server.connect();
    for _ in 0..3 {
        // The client is strict about what follows the last chunk.
        let response = conn.exchange(&Request::get("/trailers")).unwrap().ok();
        assert_eq!(response.text(), "trailers\n");
        assert_eq!(response.head.first("trailer"), None);
    }
    assert_eq!(server.log.failures(), []);
    drop(conn);
    server.finish();
}

fn a_trap_after_the_response(host: &Host) {
    beside_neighbours(start(host, &[]), |server| {
        let request = Request::get("/after-trap").header("x-request-id", "trap");
        assert_eq!(server.send(&request).ok().text(), "after\n");
        let failure = server.log.expect_failure("trap");
        assert_eq!(failure.reason, "trap", "{failure:?}");
        assert_eq!(failure.status, "complete", "{failure:?}");
    });
}

fn limits_within_the_body(host: &Host) {
    let settings = [
        ("UNIT_WASM_IDLE_TIMEOUT", "10s"),
        ("UNIT_WASM_CPU_TIME", "500ms"),
    ];
    beside_neighbours(start(host, &settings), |server| {
        let (end, detail) = fails(server, "/stall-body", "stall", "timeout");
        assert_eq!(end, End::Broken);
        assert!(detail.contains("UNIT_WASM_IDLE_TIMEOUT"), "{detail}");
        let (_, detail) = fails(server, "/spin-after-head", "spin", "cpu-time");
        assert!(detail.contains("UNIT_WASM_CPU_TIME"), "{detail}");
        let (end, _) = fails(server, "/forever", "forever", "cpu-time");
        assert_eq!(end, End::Broken);
    });
}

fn fuel(host: &Host) {
    let server = Server::start(host, app(&[("UNIT_WASM_FUEL", "300000000")]));
    beside_neighbours(server, |server| {
        for (number, target) in ["/spin", "/spin-after-head", "/forever"]
            .into_iter()
            .enumerate()
        {
            let id = format!("fuel-{number}");
            let (_, detail) = fails(server, target, &id, "fuel");
            assert!(detail.contains("(UNIT_WASM_FUEL)"), "{target}: {detail}");
        }
    });
}
