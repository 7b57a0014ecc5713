//! What guests do after their response.

use std::time::{Duration, Instant};

use harness::{Host, Request, Server, eventually};

use super::{ask, ask_as, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-after", All:
        work_goes_on_after_the_response,
        it_counts_until_it_has_ended,
        spinning_is_ended,
        sleeping_too_long_is_ended,
        a_process_that_ends_lets_it_finish,
        a_process_that_ends_does_not_wait_for_ever,
    ]
}

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

fn work_goes_on_after_the_response(host: &Host) {
    const LATER: Duration = Duration::from_secs(8);
    let server = start(host, &[]);
    let target = format!("/after?ms={}&say=done", LATER.as_millis());
    let begin = Instant::now();
    assert_eq!(ask_as(&server, "after", target), "after\n");
    let took = begin.elapsed();
    assert!(took < LATER, "the client had to wait: {took:?}");
    let line = "request=after stderr: after: done";
    server.log.expect(&[line]);
    assert!(begin.elapsed() >= LATER, "it has not slept");
    assert_eq!(server.log.failures(), []);
    server.finish();
}

/// The next request has to wait for it.
fn it_counts_until_it_has_ended(host: &Host) {
    const LATER: Duration = Duration::from_millis(1500);
    let server = start(host, &[("UNIT_WASM_CONCURRENCY", "1")]);
    let target = format!("/after?ms={}&say=done", LATER.as_millis());
    let begin = Instant::now();
    assert_eq!(ask(&server, target), "after\n");
    assert_eq!(ask(&server, "/"), "lab\n");
    let took = begin.elapsed();
    assert!(took >= LATER, "two at a time: {took:?}");
    server.finish();
}

/// Asserts that the client has its answer, and that the guest is ended for
/// `reason`, of which the log says `part`.
#[track_caller]
fn ended_after(server: &Server, target: &str, reason: &str, part: &str) {
    assert_eq!(ask_as(server, "ended", target), "after\n");
    let failure = server.log.expect_failure("ended");
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert_eq!(failure.status, "complete", "{failure:?}");
    assert!(failure.detail.contains(part), "{failure:?}");
}

fn spinning_is_ended(host: &Host) {
    let server = start(host, &[("UNIT_WASM_CPU_TIME", "1s")]);
    ended_after(&server, "/after-spin", "cpu-time", "UNIT_WASM_CPU_TIME");
    server.finish();
}

fn sleeping_too_long_is_ended(host: &Host) {
    let server = start(host, &[("UNIT_WASM_TIMEOUT", "5s")]);
    let target = "/after?ms=60000&say=never";
    ended_after(&server, target, "timeout", "UNIT_WASM_TIMEOUT");
    server.finish();
}

fn a_process_that_ends_lets_it_finish(host: &Host) {
    let mut server = start(host, &[("UNIT_WASM_DRAIN_TIMEOUT", "2m")]);
    server.expect_new_workers();
    let old = server.worker("lab");
    let target = "/after?ms=1500&say=done";
    assert_eq!(ask_as(&server, "drained", target), "after\n");
    assert!(server.restart("lab").success());
    server.log.expect(&["request=drained stderr: after: done"]);
    eventually("the old process exits", PATIENCE, || !old.alive());
    assert_eq!(server.log.failures(), []);
    server.finish();
}

fn a_process_that_ends_does_not_wait_for_ever(host: &Host) {
    let settings = [
        ("UNIT_WASM_DRAIN_TIMEOUT", "1s"),
        ("UNIT_WASM_TIMEOUT", "2m"),
    ];
    let mut server = start(host, &settings);
    server.expect_new_workers();
    let old = server.worker("lab");
    let request = Request::get("/after?ms=100000&say=never").header("x-request-id", "stuck");
    assert_eq!(server.send(&request).ok().text(), "after\n");
    assert!(server.restart("lab").success());
    eventually("the old process exits", PATIENCE, || !old.alive());
    let failure = server.log.expect_failure("stuck");
    assert_eq!(failure.reason, "drain", "{failure:?}");
    assert_eq!(failure.status, "complete", "{failure:?}");
    server.finish();
}
