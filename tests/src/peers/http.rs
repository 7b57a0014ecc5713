//! An HTTP server: HTTP/1.1 and HTTP/2, in the clear or with TLS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::routes;
use crate::launch::next_ip;

/// A server in a thread of its own; `routes` says what it answers.
pub struct HttpPeer {
    addr: SocketAddr,
    scheme: &'static str,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a peer has seen.
#[derive(Debug, Default)]
pub struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    failed_handshakes: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    requests: Mutex<BTreeMap<String, usize>>,
}

impl HttpPeer {
    /// A server without TLS at a loopback address of its own.
    pub fn plain() -> Self {
        Self::plain_at(next_ip().into())
    }

    /// A server without TLS at `ip`.
    pub fn plain_at(ip: IpAddr) -> Self {
        Self::start(ip, None)
    }

    /// A server with TLS, as `config` has it.
    pub fn tls(config: Arc<ServerConfig>) -> Self {
        Self::tls_at(next_ip().into(), config)
    }

    /// A server with TLS at `ip`.
    pub fn tls_at(ip: IpAddr, config: Arc<ServerConfig>) -> Self {
        Self::start(ip, Some(config.into()))
    }

    fn start(ip: IpAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind((ip, 0)).expect("an address for a peer");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let counts = Arc::<Counts>::default();
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, tls, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            addr,
            scheme,
            counts,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The URL of `target` by the server's address.
    pub fn url(&self, target: &str) -> String {
        format!("{}://{}{target}", self.scheme, self.addr)
    }

    /// The URL of `target` by a name.
    pub fn url_as(&self, name: &str, target: &str) -> String {
        format!("{}://{name}:{}{target}", self.scheme, self.port())
    }

    /// The entry of `UNIT_WASM_ALLOW_HTTP` for exactly this server.
    pub fn entry(&self) -> String {
        format!("{}://{}", self.scheme, self.addr)
    }

    /// The same for a name of this server. What the name leads to takes another.
    pub fn entry_as(&self, name: &str) -> String {
        format!("{}://{name}:{}", self.scheme, self.port())
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// How many TLS handshakes have failed.
    pub fn failed_handshakes(&self) -> usize {
        self.counts.failed_handshakes.load(Ordering::SeqCst)
    }

    /// How many requests there have been.
    pub fn requests(&self) -> usize {
        self.counts.requests.lock().expect("counts").values().sum()
    }

    /// How many requests there have been for a path.
    pub fn requests_for(&self, path: &str) -> usize {
        let requests = self.counts.requests.lock().expect("counts");
        requests.get(path).copied().unwrap_or(0)
    }

    /// How many requests it has had in flight at the same time, at most.
    pub fn most_in_flight(&self) -> usize {
        self.counts.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a peer has panicked");
        }
    }
}

async fn accept(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, counts: Arc<Counts>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("socket option");
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let counts = Arc::clone(&counts);
        let tls = tls.clone();
        tokio::spawn(async move {
            let open = Gauge::up(&counts, |counts| &counts.open);
            match tls {
                None => serve(stream, &counts).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &counts).await,
                    Err(_) => {
                        counts.failed_handshakes.fetch_add(1, Ordering::SeqCst);
                    }
                },
            }
            drop(open);
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, counts: &Arc<Counts>) {
    let service = service_fn(|request: Request<Incoming>| {
        let counts = Arc::clone(counts);
        async move {
            let in_flight = Gauge::up(&counts, |counts| &counts.in_flight);
            let now = counts.in_flight.load(Ordering::SeqCst);
            counts.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let path = request.uri().path().to_owned();
            *counts
                .requests
                .lock()
                .expect("counts")
                .entry(path)
                .or_default() += 1;
            let response = routes::answer(request).await;
            drop(in_flight);
            response
        }
    });
    // A client that goes away, or is to see a server that does.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The name of a version, as answers have it.
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "unknown",
    }
}

/// Counts something up for as long as it lives.
struct Gauge {
    counts: Arc<Counts>,
    of: fn(&Counts) -> &AtomicUsize,
}

impl Gauge {
    fn up(counts: &Arc<Counts>, of: fn(&Counts) -> &AtomicUsize) -> Self {
        of(counts).fetch_add(1, Ordering::SeqCst);
        Self {
            counts: Arc::clone(counts),
            of,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.counts).fetch_sub(1, Ordering::SeqCst);
    }
}
