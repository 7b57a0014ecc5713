//! Guests of WASI 0.3, and instances that serve more than one request.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

#[path = "../lab/mod.rs"]
mod lab;
mod shared;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use lab::{Lab, impatient, quick};
use nxt_wasm_runtime::{Limits, Reason, RequestBody, Reuse, World};

fn service(limits: Limits) -> Lab {
    Lab::of(World::Service, limits)
}

fn reused(requests: u32, concurrent: u32) -> Limits {
    Limits {
        reuse: Reuse {
            requests,
            concurrent,
        },
        ..quick()
    }
}

/// The answer, and whatever the guest does after it.
async fn whole(lab: &Lab, path: &str) -> String {
    let mut body = lab.ask(path).await.unwrap().into_body();
    let bytes = (&mut body).collect().await.unwrap().to_bytes();
    body.finish().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn bodies_stream_through_and_are_passed_on() {
    let lab = service(Limits::default());
    let data: Bytes = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    for path in ["/echo", "/splice", "/echo?length=1", "/splice?length=1"] {
        let request = RequestBody::Bytes(data.clone());
        let mut body = lab.send(path, request).await.unwrap().into_body();
        let back = (&mut body).collect().await.unwrap().to_bytes();
        assert!(back == data, "{path}: {} bytes", back.len());
        body.finish().await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn failures_have_their_reasons() {
    let lab = service(quick());
    let impatient = service(impatient());
    for (path, reason, detail) in [
        ("/panic", Reason::Trap, "unreachable"),
        ("/trap", Reason::Trap, "unreachable"),
        ("/deep", Reason::Trap, "stack"),
        ("/exit?code=3", Reason::Trap, "exit"),
        ("/error?text=no", Reason::InvalidResponse, "InternalError"),
        ("/spin", Reason::CpuTime, "UNIT_WASM_CPU_TIME"),
        ("/spin-after-head", Reason::CpuTime, "UNIT_WASM_CPU_TIME"),
        ("/fill", Reason::CpuTime, "UNIT_WASM_CPU_TIME"),
        ("/stall", Reason::Timeout, "UNIT_WASM_TIMEOUT"),
        ("/alloc-forever", Reason::Memory, "UNIT_WASM_MEMORY"),
        ("/half?bytes=5&how=trap", Reason::Trap, "unreachable"),
        ("/half?bytes=400000&how=exit", Reason::Trap, "exit"),
        ("/half?bytes=5&how=drop", Reason::InvalidResponse, "body"),
        ("/no-trailers?error=1", Reason::InvalidResponse, "body"),
        ("/short?n=10&length=20", Reason::InvalidResponse, "body"),
        ("/short?n=30&length=20", Reason::InvalidResponse, "body"),
    ] {
        let waits = reason == Reason::Timeout;
        let lab = if waits { &impatient } else { &lab };
        let failure = lab.failure(path).await;
        assert_eq!(failure.reason, reason, "{path}: {failure}");
        assert!(failure.detail.contains(detail), "{path}: {failure}");
    }
    assert_eq!(lab.text("/").await, "lab\n");
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_goes_on_after_its_response_and_finds_its_stream_closed() {
    let lab = service(quick());
    let after = whole(&lab, "/after?ms=20&say=more");
    assert_eq!(after.await, "after\n");
    assert_eq!(whole(&lab, "/sent?n=3").await, "xxx");
    let mut body = lab.ask("/gone?ms=1").await.unwrap().into_body();
    poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert!(body.abandon());
    body.finish().await.unwrap();
    let lines = lab.lines.0.lock().unwrap().clone();
    assert_eq!(
        lines[..2],
        ["r1 stderr: after: more", "r1 stderr: sent: ok"]
    );
    assert!(lines[2].starts_with("r1 stderr: gone: "), "{lines:?}");

    let mut body = lab.ask("/after-spin").await.unwrap().into_body();
    (&mut body).collect().await.unwrap();
    let failure = body.finish().await.unwrap_err();
    assert_eq!(failure.reason, Reason::CpuTime, "{failure}");
}

#[tokio::test(flavor = "current_thread")]
async fn trailers_are_dropped_with_a_word() {
    let lab = service(quick());
    assert_eq!(whole(&lab, "/trailers").await, "trailers\n");
    let lines = lab.lines.0.lock().unwrap().clone();
    assert_eq!(
        lines,
        ["r1 Debug: trailers of the response are dropped: Unit cannot send any"]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_response_that_is_not_sent_holds_no_guest() {
    let lab = service(quick());
    // As to HEAD: nobody reads the body, whatever is wrong with it.
    for path in ["/short?n=5&length=20", "/no-trailers?error=1", "/sent?n=3"] {
        let mut body = lab.ask(path).await.unwrap().into_body();
        body.finish().await.unwrap();
    }
    let lines = lab.lines.0.lock().unwrap().clone();
    assert_eq!(lines, ["r1 stderr: sent: ok"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_response_that_is_broken_off_takes_its_instance_with_it() {
    let lab = service(reused(100, 1));
    assert_eq!(whole(&lab, "/counter").await, "1\n");
    let mut body = lab.ask("/gone?ms=1").await.unwrap().into_body();
    poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    body.abandon();
    body.finish().await.unwrap();
    assert_eq!(whole(&lab, "/counter").await, "1\n");
}

/// The guest has done all it had to do: what becomes of its response is not its
/// fault, and nothing of it is left behind.
#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_has_ended_serves_on_whatever_becomes_of_its_response() {
    for world in [World::Proxy, World::Service] {
        let lab = Lab::of(world, reused(100, 1));
        assert_eq!(whole(&lab, "/counter").await, "1\n", "{world}");
        let mut body = lab
            .ask("/download?bytes=1000000")
            .await
            .unwrap()
            .into_body();
        while !body.guest_has_ended() {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(piece) => drop(piece.unwrap()),
                // On a busy machine it can be late.
                None => drop(body.finish().await.unwrap()),
            }
        }
        // The client has not taken the rest.
        body.abandon();
        drop(body);
        assert_eq!(whole(&lab, "/counter").await, "2\n", "{world}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn time_limits_do_not_depend_on_what_the_guest_does() {
    let lab = service(Limits {
        cpu_time: Duration::from_secs(600),
        timeout: Duration::from_secs(3),
        ..Limits::default()
    });
    // The latter would take ten minutes.
    for path in ["/spin", "/sleep-sync?ms=600000"] {
        let failure = lab.failure(path).await;
        assert_eq!(failure.reason, Reason::Timeout, "{path}: {failure}");
        let mut body = lab.ask("/after-spin").await.unwrap().into_body();
        (&mut body).collect().await.unwrap();
        let failure = body.finish().await.unwrap_err();
        assert_eq!(failure.reason, Reason::Timeout, "{failure}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn instances_are_fresh_unless_reuse_is_set() {
    for world in [World::Proxy, World::Service] {
        let fresh = Lab::of(world, quick());
        let kept = Lab::of(world, reused(3, 1));
        let mut counts = Vec::new();
        for _ in 0..7 {
            assert_eq!(whole(&fresh, "/counter").await, "1\n");
            counts.push(whole(&kept, "/counter").await);
        }
        let expected = ["1\n", "2\n", "3\n", "1\n", "2\n", "3\n", "1\n"];
        assert_eq!(counts, expected, "{world}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_request_that_fails_takes_its_instance_with_it() {
    for world in [World::Proxy, World::Service] {
        let lab = Lab::of(
            world,
            Limits {
                // `/hang` takes as long.
                timeout: Duration::from_secs(10),
                ..reused(100, 1)
            },
        );
        for path in [
            "/trap",
            "/spin",
            "/hang",
            "/midbody?bytes=5&how=drop",
            "/midbody?bytes=400000&how=trap",
            "/short?sent=10&declared=20",
            "/short?sent=30&declared=20",
        ] {
            assert_eq!(whole(&lab, "/counter").await, "1\n", "{world} {path}");
            assert_eq!(whole(&lab, "/counter").await, "2\n", "{world} {path}");
            lab.failure(path).await;
        }
        // A client that has gone.
        assert_eq!(whole(&lab, "/counter").await, "1\n", "{world}");
        drop(lab.ask("/download?bytes=10000000").await.unwrap());
        assert_eq!(whole(&lab, "/counter").await, "1\n", "{world}");
    }
}

/// Fuel of one request.
async fn fuel(lab: &Lab, path: &str) -> u64 {
    let mut body = lab.ask(path).await.unwrap().into_body();
    (&mut body).collect().await.unwrap();
    body.finish().await.unwrap().fuel.unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn counting_begins_anew_with_each_request() {
    for world in [World::Proxy, World::Service] {
        let print = format!("/stdout?text={}", "x".repeat(100));
        let with_fuel = |fuel| Limits {
            fuel: Some(fuel),
            output: 300,
            ..reused(1000, 1)
        };
        let needed = fuel(&Lab::of(world, with_fuel(1 << 40)), &print).await;
        let lab = Lab::of(world, with_fuel(needed * 3));
        for number in 1..=40 {
            assert!(fuel(&lab, &print).await <= needed * 3);
            let expected = format!("{number}\n");
            assert_eq!(whole(&lab, "/counter").await, expected, "{world}");
        }
        let lines = lab.lines.0.lock().unwrap().clone();
        assert_eq!(lines.len(), 40, "{world}: {lines:?}");

        // In all more than one of them may use.
        let lab = Lab::of(world, reused(1000, 1));
        for _ in 0..10 {
            whole(&lab, "/compute?ms=30").await;
        }
    }
}
