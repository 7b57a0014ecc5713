//! What guests are told of their clients.

use std::time::Duration;

use harness::http::Error;
use harness::load::Load;
use harness::{Host, Request};

use super::{ask_as, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-client", All:
        a_guest_learns_that_its_response_was_sent,
        a_guest_learns_that_nobody_wants_its_body,
        a_guest_learns_that_its_response_is_broken_off,
        clients_that_leave_cost_one_request_each,
    ]
}

fn a_guest_learns_that_its_response_was_sent(host: &Host) {
    let server = start(host, &[]);
    for size in [0, 10, 3_000_000] {
        let id = format!("sent-{size}");
        let body = ask_as(&server, &id, format!("/sent?n={size}"));
        assert_eq!(body.len(), size);
        server
            .log
            .expect(&[&format!("request={id} stderr: sent: ok")]);
    }
    server.finish();
}

/// As with HEAD, for which there is no body to be sent.
fn a_guest_learns_that_nobody_wants_its_body(host: &Host) {
    let server = start(host, &[("UNIT_WASM_TIMEOUT", "30s")]);
    let request = Request::head("/gone?ms=0").header("x-request-id", "head");
    assert_eq!(server.send(&request).status(), 200);
    server
        .log
        .expect(&["request=head stderr: gone: stream closed after "]);
    assert_eq!(server.log.failures(), []);
    server.finish();
}

/// Unit does not say that a client has gone; what is set for such a case ends the
/// response, and the guest learns of that and tidies up.
fn a_guest_learns_that_its_response_is_broken_off(host: &Host) {
    let server = start(host, &[("UNIT_WASM_RESPONSE_TIMEOUT", "10s")]);
    let neighbours = Load::neighbours(server.addr());
    let mut conn = server.connect();
    let request = Request::get("/gone?ms=20").header("x-request-id", "left");
    assert_eq!(conn.start(&request).unwrap().status, 200);
    assert!(conn.read_some().unwrap().is_some());
    drop(conn);

    // A client that is there gets a response that is seen to be broken.
    let request = Request::get("/gone?ms=20").header("x-request-id", "stays");
    let end = server.fetch(&request);
    assert!(
        matches!(end, Err(Error::Truncated { .. } | Error::Closed)),
        "{end:?}"
    );
    server.log.expect_failure("stays");

    let failure = server.log.expect_failure("left");
    assert_eq!(failure.reason, "timeout", "{failure:?}");
    assert_eq!(failure.status, "truncated", "{failure:?}");
    let why = "the response is not over after 10s (UNIT_WASM_RESPONSE_TIMEOUT)";
    assert_eq!(failure.detail, why);
    let closed = "request=left stderr: gone: stream closed after ";
    server.log.expect(&[closed]);
    neighbours.stop().assert_clean();
    server.finish();
}

/// A guest goes on for a client that has gone, until a limit ends it.
fn clients_that_leave_cost_one_request_each(host: &Host) {
    const CLIENTS: usize = 20;
    let server = start(host, &[("UNIT_WASM_CPU_TIME", "1s")]);
    let neighbours = Load::neighbours(server.addr());
    for number in 0..CLIENTS {
        let mut conn = server.connect();
        let request = Request::get("/gone?ms=0").header("x-request-id", format!("gone-{number}"));
        assert_eq!(conn.start(&request).unwrap().status, 200);
        assert!(conn.read_some().unwrap().is_some());
    }
    let closed = |number: usize| format!("request=gone-{number} stderr: gone: stream closed");
    let ended = || {
        let failures = server.log.failures();
        (0..CLIENTS)
            .filter(|number| {
                let stopped = |id: &str| id == format!("gone-{number}");
                let told = server.log.text().contains(&closed(*number));
                told || failures.iter().any(|failure| stopped(&failure.id))
            })
            .count()
    };
    harness::eventually("all guests end", Duration::from_secs(120), || {
        ended() == CLIENTS
    });
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    server.finish();
}
