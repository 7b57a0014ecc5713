//! The runtime as its users see it, without Unit: a component in, responses
//! and failures out. The lab guest does what its request path says.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod lab;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use lab::{Lab, impatient, quick};
use nxt_wasm_runtime::{Grants, Limits, Reason, RequestBody, World, artifact};

fn proxy(limits: Limits) -> Lab {
    Lab::of(World::Proxy, limits)
}

#[tokio::test(flavor = "current_thread")]
async fn every_request_has_an_instance_of_its_own() {
    let lab = proxy(quick());
    for _ in 0..3 {
        assert_eq!(lab.text("/counter").await, "1\n");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn bodies_stream_through() {
    let lab = proxy(Limits::default());
    let data: Bytes = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let response = lab
        .send("/echo", RequestBody::Bytes(data.clone()))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let back = (&mut body).collect().await.unwrap().to_bytes();
    assert_eq!(back, data);
    let usage = body.finish().await.unwrap();
    assert!(usage.memory > 0 && usage.memory < 16 << 20, "{usage:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn failures_have_their_reasons() {
    let lab = proxy(quick());
    let impatient = proxy(impatient());
    for (path, reason, detail) in [
        ("/panic", Reason::Trap, "unreachable"),
        ("/trap", Reason::Trap, "unreachable"),
        ("/recurse", Reason::Trap, "stack"),
        ("/exit?code=3", Reason::Trap, "exit"),
        ("/silent", Reason::NoResponse, "without setting a response"),
        ("/spin", Reason::CpuTime, "UNIT_WASM_CPU_TIME"),
        ("/fill", Reason::CpuTime, "UNIT_WASM_CPU_TIME"),
        ("/hang", Reason::Timeout, "UNIT_WASM_TIMEOUT"),
        ("/alloc-forever", Reason::Memory, "UNIT_WASM_MEMORY"),
        ("/midbody?bytes=5&how=trap", Reason::Trap, "unreachable"),
        ("/midbody?bytes=400000&how=exit", Reason::Trap, "exit"),
        ("/midbody?bytes=5&how=drop", Reason::InvalidResponse, "body"),
    ] {
        let waits = reason == Reason::Timeout;
        let lab = if waits { &impatient } else { &lab };
        let failure = lab.failure(path).await;
        assert_eq!(failure.reason, reason, "{path}: {failure}");
        assert!(failure.detail.contains(detail), "{path}: {failure}");
    }
    // And none of them has hurt the next.
    assert_eq!(lab.text("/").await, "lab\n");
}

#[tokio::test(flavor = "current_thread")]
async fn fuel_is_exact() {
    let limits = Limits {
        fuel: Some(100_000_000),
        ..quick()
    };
    let lab = proxy(limits.clone());
    let mut used = Vec::new();
    for _ in 0..3 {
        let mut body = lab.ask("/sha256").await.unwrap().into_body();
        (&mut body).collect().await.unwrap();
        used.push(body.finish().await.unwrap().fuel.unwrap());
    }
    assert!(
        used.iter()
            .all(|&n| n > 0 && Some(n) == used.first().copied()),
        "{used:?}"
    );

    let exact = used[0];
    let enough = proxy(Limits {
        fuel: Some(exact),
        ..limits.clone()
    });
    enough.text("/sha256").await;
    let short = proxy(Limits {
        fuel: Some(exact / 2),
        ..limits
    });
    let failure = short.failure("/sha256").await;
    assert_eq!(failure.reason, Reason::Fuel, "{failure}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_spinning_guest_lets_others_run() {
    let lab = proxy(Limits {
        cpu_time: Duration::from_secs(2),
        timeout: Duration::from_secs(60),
        ..quick()
    });
    let spinning = lab.failure("/spin");
    let others = async {
        let mut answered = 0;
        while answered < 50 {
            assert_eq!(lab.text("/").await, "lab\n");
            answered += 1;
            tokio::task::yield_now().await;
        }
        answered
    };
    tokio::pin!(spinning, others);
    // The fifty answers are there while the other is still spinning.
    tokio::select! {
        failure = &mut spinning => panic!("ended first: {failure}"),
        answered = &mut others => assert_eq!(answered, 50),
    }
    assert_eq!(spinning.await.reason, Reason::CpuTime);
}

#[tokio::test(flavor = "current_thread")]
async fn waiting_does_not_cost_cpu_time() {
    let lab = proxy(Limits {
        cpu_time: Duration::from_millis(200),
        ..quick()
    });
    let mut body = lab.ask("/sleep?ms=500").await.unwrap().into_body();
    (&mut body).collect().await.unwrap();
    let usage = body.finish().await.unwrap();
    assert!(usage.cpu_time < Duration::from_millis(200), "{usage:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn no_slot_left_is_overload_and_slots_come_back() {
    let lab = proxy(Limits {
        concurrency: 2,
        ..quick()
    });
    {
        let first = lab.ask("/sse?events=1000&interval=1000").await.unwrap();
        let second = lab.ask("/sse?events=1000&interval=1000").await.unwrap();
        let failure = lab.failure("/").await;
        assert_eq!(failure.reason, Reason::Overload, "{failure}");
        drop((first, second));
    }
    assert_eq!(lab.text("/").await, "lab\n");
}

#[tokio::test(flavor = "current_thread")]
async fn output_goes_to_the_log_and_nothing_else_is_granted() {
    let lab = proxy(quick());
    lab.text("/stdout?text=hello%1b%5b31m&count=2").await;
    let lines = lab.lines.0.lock().unwrap().clone();
    assert_eq!(
        lines,
        ["r1 stdout: hello\\x1b[31m", "r1 stdout: hello\\x1b[31m"]
    );
    assert_eq!(lab.text("/env").await, "");
    for path in [
        "/connect?addr=127.0.0.1:1",
        "/fetch?url=http://127.0.0.1:1/",
    ] {
        let text = lab.text(path).await;
        assert!(text.starts_with("error"), "{path}: {text}");
    }
}

#[test]
fn components_that_cannot_be_served() {
    let limits = Limits::default();
    let compiled =
        |wat: &str| artifact::compile(&wat::parse_str(wat).unwrap(), World::Proxy, &limits);
    let described = |wat: &str| {
        let bytes = compiled(wat).unwrap();
        // SAFETY: just compiled, under the same limits.
        unsafe { artifact::describe(&bytes, World::Proxy, &limits, &Grants::default()) }
            .unwrap_err()
    };
    let core = compiled("(module)").unwrap_err();
    assert!(
        core.to_string().contains("core WebAssembly module"),
        "{core}"
    );
    let empty = described("(component)");
    assert!(
        empty.to_string().contains("wasi:http/incoming-handler"),
        "{empty}"
    );
    let import = described(
        r#"(component
            (import "wasi:blobstore/blobstore@0.2.0-draft" (instance (export "open" (func))))
            (instance $handler)
            (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"#,
    );
    let text = import.to_string();
    assert!(
        text.contains("wasi:blobstore/blobstore@0.2.0-draft"),
        "{text}"
    );
    let small = Limits {
        memory: 256 << 10,
        ..limits.clone()
    };
    let bytes = artifact::compile(&lab::guest(World::Proxy), World::Proxy, &small).unwrap();
    // SAFETY: just compiled, under the same limits.
    let big = unsafe { artifact::describe(&bytes, World::Proxy, &small, &Grants::default()) }
        .unwrap_err();
    assert!(big.to_string().contains("UNIT_WASM_MEMORY"), "{big}");
}
