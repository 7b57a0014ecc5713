//! What stores, instances and each limit cost by themselves. `store` and `instantiate`
//! are what this crate does for a request. Most limits cannot be off there, so
//! `wasmtime store` and `wasmtime instantiate` have Wasmtime alone, with an equal pool
//! and one limit after the other. `handle` has whole requests.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a benchmark may fail loudly"
)]

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod guest;

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use guest::{Guest, HELLO, steps};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    StoreLimits, StoreLimitsBuilder, UpdateDeadline,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// The limits that are on.
#[derive(Clone, Copy, Default)]
struct On {
    /// Sums up memories and tables.
    memory: bool,
    /// Bounds host calls and handles.
    host: bool,
    /// Compiled in, and a callback at each tick.
    epochs: bool,
    /// Compiled in, and counted.
    fuel: bool,
}

const STEPS: [(&str, On); 6] = [
    ("none", NONE),
    (
        "memory",
        On {
            memory: true,
            ..NONE
        },
    ),
    ("host calls", On { host: true, ..NONE }),
    (
        "epochs",
        On {
            epochs: true,
            ..NONE
        },
    ),
    ("fuel", On { fuel: true, ..NONE }),
    (
        "all",
        On {
            memory: true,
            host: true,
            epochs: true,
            fuel: true,
        },
    ),
];

const NONE: On = On {
    memory: false,
    host: false,
    epochs: false,
    fuel: false,
};

struct Host {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: NoHooks,
    limits: StoreLimits,
}

impl Host {
    fn new() -> Self {
        Self {
            wasi: WasiCtx::builder().build(),
            http: WasiHttpCtx::new(),
            table: ResourceTable::new(),
            hooks: NoHooks,
            limits: StoreLimitsBuilder::new().memory_size(256 << 20).build(),
        }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

struct NoHooks;

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for NoHooks {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

fn engine(on: On) -> Engine {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(8)
        .total_stacks(8)
        .total_core_instances(u32::MAX)
        .total_memories(64)
        .total_tables(64)
        .total_gc_heaps(8)
        .max_memory_size(256 << 20)
        .linear_memory_keep_resident(4 << 20)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .epoch_interruption(on.epochs)
        .consume_fuel(on.fuel)
        .collector(Collector::Null)
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).expect("an engine")
}

fn store(engine: &Engine, on: On) -> Store<Host> {
    let mut store = Store::new(engine, Host::new());
    if on.memory {
        store.limiter(|host| &mut host.limits);
    }
    if on.host {
        store.set_hostcall_fuel(16 << 20);
        store.set_max_component_handles(1000);
    }
    if on.epochs {
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        store.set_epoch_deadline(1);
    }
    if on.fuel {
        store.set_fuel(100_000_000).expect("fuel is on");
    }
    store
}

fn bare_stores(c: &mut Criterion) {
    let mut group = c.benchmark_group("wasmtime store");
    for (name, on) in STEPS {
        let engine = engine(on);
        group.bench_function(name, |b| b.iter(|| store(black_box(&engine), on)));
    }
    group.finish();
}

fn hello(engine: &Engine) -> ProxyPre<Host> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../example/hello/hello.wasm");
    let component = Component::from_file(engine, path).expect("the example compiles");
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("links");
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).expect("links");
    let pre = linker.instantiate_pre(&component).expect("links");
    ProxyPre::new(pre).expect("has the handler")
}

/// Making an instance, and giving it back; the store is not counted in.
fn bare_instances(c: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an event loop");
    let mut group = c.benchmark_group("wasmtime instantiate");
    for (name, on) in STEPS {
        let engine = engine(on);
        let pre = hello(&engine);
        group.bench_function(name, |b| {
            b.iter_batched(
                || store(&engine, on),
                |mut store| {
                    let made = tokio.block_on(pre.instantiate_async(&mut store));
                    black_box(made.expect("an instance"));
                    // With the store, the instance goes back to the pool.
                    drop(store);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn stores(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    for (name, limits, grants) in steps() {
        let Guest {
            runtime, context, ..
        } = Guest::load(HELLO, limits, grants);
        group.bench_function(name, |b| {
            b.iter(|| runtime.empty_store(black_box(&context)).expect("a store"));
        });
    }
    group.finish();
}

fn instances(c: &mut Criterion) {
    let mut group = c.benchmark_group("instantiate");
    for (name, limits, grants) in steps() {
        let Guest {
            runtime,
            context,
            tokio,
        } = Guest::load(HELLO, limits, grants);
        group.bench_function(name, |b| {
            b.iter_batched(
                || runtime.empty_store(&context).expect("a store"),
                |mut store| {
                    let made = tokio.block_on(runtime.fill_store(&mut store));
                    made.expect("an instance");
                    drop(store);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = stores, instances, bare_stores, bare_instances
}
criterion_main!(benches);
