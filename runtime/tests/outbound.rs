//! Guests that send HTTP requests: what only shows with a real guest. How requests
//! are judged and sent is tested where it is written.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

#[path = "../src/host/test_peers.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peers;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use nxt_wasm_runtime::{
    Grants, GuestLog, HttpGrant, Limits, OutputStreamKind, Reason, RequestBody, RequestContext,
    Runtime, Severity, World, artifact,
};
use peers::{Peer, answer, until};

/// Descriptors and CPU time are the whole process's: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl GuestLog for Notices {
    fn line(&self, request: &str, _: OutputStreamKind, text: &str) {
        // Shown if the test fails.
        println!("{request}: {text}");
    }
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

struct Guest {
    runtime: Runtime,
    notices: Arc<Notices>,
}

impl Guest {
    /// The guest `caps-http`, which does what its request path says.
    fn new(limits: Limits, http: Option<HttpGrant>) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("../tests/guests/caps-http/caps-http.wasm");
        let component = std::fs::read(path).unwrap();
        let grants = Grants {
            http,
            ..Grants::default()
        };
        // Outside of the test's own tokio runtime, as describing needs one.
        let compile = || {
            let bytes = artifact::compile(&component, World::Proxy, &limits).unwrap();
            // SAFETY: just compiled, under the same limits.
            let description =
                unsafe { artifact::describe(&bytes, World::Proxy, &limits, &grants) }.unwrap();
            (bytes, description)
        };
        let (bytes, description) = std::thread::scope(|s| s.spawn(compile).join()).unwrap();
        let fd = rustix::fs::memfd_create("artifact", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(&bytes).unwrap();
        // SAFETY: as above, and nobody else has the file.
        let runtime = unsafe { Runtime::load(&file, &description, limits, grants) }.unwrap();
        Self {
            runtime,
            notices: Arc::default(),
        }
    }

    fn for_peer(peer: &Peer) -> Self {
        Self::new(Limits::default(), Some(granting(peer)))
    }

    async fn ask(&self, path: &str) -> Result<String, nxt_wasm_runtime::Failure> {
        let request = Request::builder()
            .uri(format!("http://localhost{path}"))
            .body(RequestBody::empty())
            .unwrap();
        let context = RequestContext::new("r1", Arc::clone(&self.notices) as _);
        let response = self.runtime.handle(request, context).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

fn granting(peer: &Peer) -> HttpGrant {
    HttpGrant {
        rules: vec![format!("http://{}", peer.addr).parse().unwrap()],
        ..HttpGrant::default()
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[tokio::test]
async fn a_guest_gets_what_it_asks_for() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |request| async move {
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = answer(format!("{method} {}", body.len()));
        *answer.status_mut() = http::StatusCode::IM_A_TEAPOT;
        answer
    })
    .await;
    let guest = Guest::for_peer(&peer);
    let path = format!("/fetch?url=http://{}/x&method=POST&send=300000", peer.addr);
    let text = guest.ask(&path).await.unwrap();
    assert!(text.starts_with("status=418\n"), "{text}");
    assert!(text.contains("body=POST 300000\n"), "{text}");
    assert!(!text.contains("error"), "{text}");
}

#[tokio::test]
async fn a_guests_trailers_get_to_the_server() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let sum = collected.trailers().and_then(|fields| fields.get("x-sum"));
        let sum = sum.map(|value| value.to_str().unwrap().to_owned());
        answer(format!("{sum:?} {}", collected.to_bytes().len()))
    })
    .await;
    let guest = Guest::for_peer(&peer);
    let path = format!(
        "/fetch?url=http://{}/&method=POST&send=10&header=trailer:x-sum&trailer=x-sum:ten",
        peer.addr
    );
    let text = guest.ask(&path).await.unwrap();
    assert!(text.contains("body=Some(\"ten\") 10\n"), "{text}");
}

#[tokio::test]
async fn what_is_not_granted_is_denied() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("hello") }).await;
    let path = format!("/fetch?url=http://{}/", peer.addr);
    let guest = Guest::new(Limits::default(), None);
    let denied = "error: response ErrorCode::HttpRequestDenied\n";
    assert_eq!(guest.ask(&path).await.unwrap(), denied);
    let entry = format!("http://{}", peer.addr);
    let told = format!(
        "outbound {entry} refused: UNIT_WASM_ALLOW_HTTP is not set, and would need {entry}"
    );
    assert_eq!(*guest.notices.0.lock().unwrap(), [told]);
    let guest = Guest::for_peer(&peer);
    let other = guest.ask("/fetch?url=http://elsewhere.test/").await;
    assert_eq!(other.unwrap(), denied);
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn ten_thousand_requests_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |request| async {
        answer(request.into_body().collect().await.unwrap().to_bytes())
    })
    .await;
    let http = HttpGrant {
        keep_alive: Duration::from_secs(5),
        ..granting(&peer)
    };
    let guest = Guest::new(Limits::default(), Some(http));
    assert!(guest.ask("/").await.is_ok());
    let before = descriptors();
    let path = format!(
        "/fetch-many?url=http://{}/&method=POST&send=10&n=100&parallel=8",
        peer.addr
    );
    for _ in 0..25 {
        let four = futures::future::join_all((0..4).map(|_| guest.ask(&path))).await;
        for text in four {
            assert_eq!(text.unwrap(), "200=100\n");
        }
    }
    assert!(peer.accepted() <= 64, "{} connections", peer.accepted());
    peer.until_open(0).await;
    until(|| descriptors() <= before).await;
}

#[tokio::test]
async fn guests_that_wait_take_no_time() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |_| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        answer("late")
    })
    .await;
    let guest = Guest::for_peer(&peer);
    let path = format!("/fetch?url=http://{}/", peer.addr);
    assert!(guest.ask("/").await.is_ok());
    let before = cpu_time();
    let all = futures::future::join_all((0..10).map(|_| guest.ask(&path))).await;
    let used = cpu_time() - before;
    assert!(
        all.iter()
            .all(|text| text.as_ref().unwrap().contains("late"))
    );
    assert!(used < Duration::from_millis(1000), "{used:?}");
}

#[tokio::test]
async fn a_guest_that_is_ended_ends_what_it_was_sending() {
    let _alone = ALONE.lock().await;
    let whole = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(AtomicUsize::new(0));
    let counters = (Arc::clone(&whole), Arc::clone(&broken));
    let peer = Peer::http("127.0.0.1:0", None, move |request| {
        let (whole, broken) = counters.clone();
        async move {
            let mut body = request.into_body();
            // Slower than the guest is given time.
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    broken.fetch_add(1, Ordering::SeqCst);
                    return answer("broken");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            whole.fetch_add(1, Ordering::SeqCst);
            answer("whole")
        }
    })
    .await;
    let limits = Limits {
        timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let guest = Guest::new(limits, Some(granting(&peer)));
    let path = format!(
        "/fetch?url=http://{}/&method=POST&send=100000000",
        peer.addr
    );
    let failure = guest.ask(&path).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Timeout);
    until(|| broken.load(Ordering::SeqCst) == 1).await;
    peer.until_open(0).await;
    assert_eq!(whole.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_without_an_end_is_no_request() {
    let _alone = ALONE.lock().await;
    let whole = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&whole);
    let peer = Peer::http("127.0.0.1:0", None, move |request| {
        let whole = Arc::clone(&counter);
        async move {
            let seen = request.into_body().collect().await;
            whole.fetch_add(usize::from(seen.is_ok()), Ordering::SeqCst);
            answer("seen")
        }
    })
    .await;
    let guest = Guest::for_peer(&peer);
    let path = format!("/fetch?url=http://{}/&method=POST&leave=body", peer.addr);
    let text = guest.ask(&path).await.unwrap();
    assert_eq!(text, "error: response ErrorCode::HttpProtocolError\n");
    peer.until_open(0).await;
    assert_eq!(whole.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_guests_let_go_of_is_ended() {
    let _alone = ALONE.lock().await;
    let peer = Peer::http("127.0.0.1:0", None, |_| async {
        answer(vec![b'x'; 16 << 20])
    })
    .await;
    let guest = Guest::for_peer(&peer);
    for how in ["future", "response", "body&bytes=100000"] {
        let path = format!("/fetch-drop?url=http://{}/&how={how}", peer.addr);
        let text = guest.ask(&path).await.unwrap();
        assert!(text.starts_with("dropped the "), "{how}: {text}");
        peer.until_open(0).await;
    }
}

#[tokio::test]
async fn servers_that_die_are_errors_for_guests() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let _alone = ALONE.lock().await;
    let peer = Peer::raw("127.0.0.1:0", |mut stream, number| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let bytes: &[u8] = match number {
            0 => b"HTTP/1.1 200 OK\r\ncontent-len",
            1 => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
            _ => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        };
        stream.write_all(bytes).await.unwrap();
    })
    .await;
    let guest = Guest::for_peer(&peer);
    for expected in [
        "error: response ErrorCode::ConnectionTerminated\n",
        "error: body ErrorCode::HttpResponseIncomplete\n",
        "error: body ErrorCode::HttpResponseIncomplete\n",
    ] {
        let path = format!("/fetch?url=http://{}/", peer.addr);
        let text = guest.ask(&path).await.unwrap();
        assert!(text.ends_with(expected), "{text}");
    }
}
