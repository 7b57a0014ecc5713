//! The lab guests, and what to ask them.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use nxt_wasm_runtime::{
    Cost, Failure, Grants, GuestBody, GuestLog, Limits, OutputStreamKind, RequestBody,
    RequestContext, Runtime, Severity, World, artifact,
};

/// The lab guest of a world.
pub fn guest(world: World) -> Vec<u8> {
    let path = match world {
        World::Proxy => "../tests/guests/lab/lab.wasm",
        World::Service => "../tests/guests/lab3/lab3.wasm",
    };
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Compiles and loads the lab guest.
fn load(world: World, limits: Limits, grants: Grants) -> Runtime {
    // Outside of the test's own tokio runtime, as describing needs one.
    let compile = || {
        let bytes = artifact::compile(&guest(world), world, &limits).unwrap();
        // SAFETY: just compiled, under the same limits.
        let description = unsafe { artifact::describe(&bytes, world, &limits, &grants) }.unwrap();
        (bytes, description)
    };
    let (bytes, description) = std::thread::scope(|s| s.spawn(compile).join()).unwrap();
    let fd = rustix::fs::memfd_create("artifact", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(&bytes).unwrap();
    // SAFETY: as above, and nobody else has the file.
    unsafe { Runtime::load(&file, &description, limits, grants) }.unwrap()
}

#[derive(Default)]
pub struct Lines(pub Mutex<Vec<String>>);

impl GuestLog for Lines {
    fn line(&self, request: &str, stream: OutputStreamKind, text: &str) {
        let line = format!("{request} {}: {text}", stream.as_str());
        self.0.lock().unwrap().push(line);
    }

    fn message(&self, request: &str, severity: Severity, text: &str) {
        let line = format!("{request} {severity:?} message: {text}");
        self.0.lock().unwrap().push(line);
    }

    fn notice(&self, request: &str, severity: Severity, text: &str) {
        let line = format!("{request} {severity:?}: {text}");
        self.0.lock().unwrap().push(line);
    }
}

pub struct Lab {
    runtime: Runtime,
    pub lines: Arc<Lines>,
}

impl Lab {
    pub fn of(world: World, limits: Limits) -> Self {
        Self::with(world, limits, Grants::default())
    }

    pub fn with(world: World, limits: Limits, grants: Grants) -> Self {
        Self {
            runtime: load(world, limits, grants),
            lines: Arc::default(),
        }
    }

    pub async fn ask(&self, path: &str) -> Result<http::Response<GuestBody>, Failure> {
        self.send(path, RequestBody::empty()).await
    }

    pub async fn send(
        &self,
        path: &str,
        body: RequestBody,
    ) -> Result<http::Response<GuestBody>, Failure> {
        self.send_for(Arc::default(), path, body).await
    }

    /// The same, and what it costs is noted in `cost`.
    pub async fn send_for(
        &self,
        cost: Arc<Cost>,
        path: &str,
        body: RequestBody,
    ) -> Result<http::Response<GuestBody>, Failure> {
        let request = Request::builder()
            .uri(format!("http://localhost{path}"))
            .body(body)
            .unwrap();
        let context = RequestContext {
            cost,
            ..RequestContext::new("r1", Arc::clone(&self.lines) as _)
        };
        self.runtime.handle(request, context).await
    }

    pub async fn text(&self, path: &str) -> String {
        let response = self.ask(path).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    pub async fn failure(&self, path: &str) -> Failure {
        match self.ask(path).await {
            Err(failure) => failure,
            Ok(response) => response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .expect_err("the guest should have failed"),
        }
    }
}

pub fn quick() -> Limits {
    Limits {
        cpu_time: Duration::from_millis(100),
        // On a busy machine CPU time takes long.
        timeout: Duration::from_secs(30),
        memory: 64 << 20,
        ..Limits::default()
    }
}

/// For guests that do not use their time.
pub fn impatient() -> Limits {
    Limits {
        timeout: Duration::from_secs(1),
        ..quick()
    }
}
