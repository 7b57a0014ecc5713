//! A component served by the runtime, for benchmarks.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use nxt_wasm_runtime::{
    Access, Grants, GuestLog, Limits, OutputStreamKind, Preopen, RequestBody, RequestContext,
    Runtime, Severity, World, artifact,
};

struct Silent;

impl GuestLog for Silent {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, _: &str) {}
}

pub struct Guest {
    pub runtime: Runtime,
    pub context: RequestContext,
    pub tokio: tokio::runtime::Runtime,
}

impl Guest {
    pub fn load(component: &str, limits: Limits, grants: Grants) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(component);
        let bytes = std::fs::read(path).expect("the component");
        let compiled = artifact::compile(&bytes, World::Proxy, &limits).expect("compiles");
        // SAFETY: just compiled, under the same limits.
        let description = unsafe { artifact::describe(&compiled, World::Proxy, &limits, &grants) }
            .expect("can be served");
        let fd = rustix::fs::memfd_create("artifact", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(fd.expect("a memory file"));
        file.write_all(&compiled).expect("room in memory");
        // SAFETY: as above, and nobody else has the file.
        let runtime = unsafe { Runtime::load(&file, &description, limits, grants) };
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
    pub fn ask(&self, target: &str, body: &Bytes) -> usize {
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

/// The component that is asked for little.
pub const HELLO: &str = "example/hello/hello.wasm";

/// Limits under a name.
pub type Named = (&'static str, Limits, Grants);

/// What costs may depend on: the limits and grants that can be had or not, one by one.
pub fn steps() -> Vec<Named> {
    let fuel = Some(100_000_000);
    let plain = Limits::default;
    let directories = (0..8).map(|number| Preopen {
        host: "/".into(),
        guest: format!("/{number}"),
        access: Access::ReadOnly,
    });
    let directories = Grants {
        directories: directories.collect(),
        ..Grants::default()
    };
    let limits = [
        ("default limits", plain()),
        ("fuel", Limits { fuel, ..plain() }),
        (
            "memory tight",
            Limits {
                memory: 16 << 20,
                ..plain()
            },
        ),
        (
            "stack tight",
            Limits {
                stack: 256 << 10,
                ..plain()
            },
        ),
        (
            "output tight",
            Limits {
                output: 16 << 10,
                ..plain()
            },
        ),
        (
            "times tight",
            Limits {
                cpu_time: Duration::from_millis(100),
                timeout: Duration::from_secs(5),
                ..plain()
            },
        ),
        ("every limit tight", tight()),
    ];
    let limits = limits.into_iter();
    limits
        .map(|(name, limits)| (name, limits, Grants::default()))
        .chain([("8 directories", plain(), directories)])
        .collect()
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
