//! Whole requests through the runtime, without Unit: `cargo bench -p
//! nxt-wasm-runtime --bench handle`. `limits` has the parts one by one.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a benchmark may fail loudly"
)]

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod guest;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use guest::{Guest, HELLO, steps};
use nxt_wasm_runtime::{Grants, Limits};

fn hello(c: &mut Criterion) {
    let mut group = c.benchmark_group("hello");
    for (name, limits, grants) in steps() {
        let guest = Guest::load(HELLO, limits, grants);
        let nothing = Bytes::new();
        assert!(guest.ask("/hello", &nothing) > 100);
        group.bench_function(name, |b| {
            b.iter(|| guest.ask(black_box("/hello"), &nothing));
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let guest = Guest::load(
        "tests/guests/lab/lab.wasm",
        Limits::default(),
        Grants::default(),
    );
    let mut group = c.benchmark_group("bodies");
    let nothing = Bytes::new();
    let large = Bytes::from(vec![b'x'; 10 << 10]);
    for (name, target, body, size) in [
        ("text", "/", &nothing, 4),
        ("echo 10 KB", "/echo?length=1", &large, 10 << 10),
        (
            "download 1 MB",
            "/download?bytes=1048576",
            &nothing,
            1 << 20,
        ),
        ("100 events", "/sse?events=100", &nothing, 990),
    ] {
        assert_eq!(guest.ask(target, body), size, "{name}");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |b| b.iter(|| guest.ask(black_box(target), body)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = hello, bodies
}
criterion_main!(benches);
