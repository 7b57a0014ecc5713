//! Whole requests through the runtime, without Unit: `cargo bench -p
//! nxt-wasm-runtime --bench handle`. `limits` has the parts one by one.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a benchmark may fail loudly"
)]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http_body_util::BodyExt;
use nxt_wasm_runtime::{
    Grants, GuestLog, Limits, OutputStreamKind, RequestBody, RequestContext, Runtime, Severity,
    World, artifact,
};

struct Silent;

impl GuestLog for Silent {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, _: &str) {}
}

struct Guest {
    runtime: Runtime,
    context: RequestContext,
    tokio: tokio::runtime::Runtime,
}

impl Guest {
    fn load(component: &str, limits: Limits) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(component);
        let bytes = std::fs::read(path).expect("the component");
        let compiled = artifact::compile(&bytes, World::Proxy, &limits).expect("compiles");
        // SAFETY: just compiled, under the same limits.
        let description =
            unsafe { artifact::describe(&compiled, World::Proxy, &limits, &Grants::default()) }
                .expect("can be served");
        let fd = rustix::fs::memfd_create("artifact", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(fd.expect("a memory file"));
        file.write_all(&compiled).expect("room in memory");
        // SAFETY: as above, and nobody else has the file.
        let runtime = unsafe { Runtime::load(&file, &description, limits, Grants::default()) };
        Self {
            runtime: runtime.expect("loads"),
            context: RequestContext::new("bench", Arc::new(Silent)),
            tokio: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("an event loop"),
        }
    }

    /// One request, to the end of its guest; gives the size of the answer.
    fn ask(&self, target: &str, body: &Bytes) -> usize {
        let request = Request::builder()
            .uri(format!("http://localhost{target}"))
            .header("host", "localhost")
            .header("content-length", body.len())
            .body(RequestBody::Bytes(body.clone()))
            .expect("a request");
        self.tokio.block_on(async {
            let response = self.runtime.handle(request, self.context.clone()).await;
            let response = response.unwrap_or_else(|failure| panicked(&failure.detail));
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            let mut size = 0;
            while let Some(frame) = body.frame().await {
                let frame = frame.unwrap_or_else(|failure| panicked(&failure.detail));
                size += frame.data_ref().map_or(0, Bytes::len);
            }
            let ended = body.finish().await;
            ended.unwrap_or_else(|failure| panicked(&failure.detail));
            size
        })
    }
}

#[expect(clippy::panic, reason = "a benchmark may fail loudly")]
fn panicked(why: &str) -> ! {
    panic!("{why}")
}

/// Every limit at a value that the example keeps to.
fn tight() -> Limits {
    Limits {
        memory: 16 << 20,
        fuel: Some(100_000_000),
        cpu_time: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        stack: 256 << 10,
        output: 16 << 10,
        ..Limits::default()
    }
}

fn hello(c: &mut Criterion) {
    let fuel = Limits {
        fuel: Some(100_000_000),
        ..Limits::default()
    };
    let mut group = c.benchmark_group("hello");
    for (name, limits) in [
        ("default limits", Limits::default()),
        ("with fuel", fuel),
        ("every limit tight", tight()),
    ] {
        let guest = Guest::load("example/hello/hello.wasm", limits);
        let nothing = Bytes::new();
        assert!(guest.ask("/hello", &nothing) > 100);
        group.bench_function(name, |b| {
            b.iter(|| guest.ask(black_box("/hello"), &nothing));
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let guest = Guest::load("tests/guests/lab/lab.wasm", Limits::default());
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
