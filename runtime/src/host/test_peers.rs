//! Servers on loopback that tests talk to, in the test's own event loop.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

pub type Answer = http::Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// A response with this body.
pub fn answer(body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    http::Response::new(body.boxed_unsync())
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A server, and what it has seen.
pub struct Peer {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
}

impl Peer {
    /// An HTTP server at `at`. With TLS it speaks what was negotiated, without
    /// it HTTP/1.
    pub async fn http<F, R>(at: &str, tls: Option<Arc<ServerConfig>>, service: F) -> Self
    where
        F: Fn(http::Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let tls = tls.map(TlsAcceptor::from);
        Self::raw(at, move |stream, _| {
            let (tls, service) = (tls.clone(), service.clone());
            async move {
                match tls {
                    None => serve(stream, false, service).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(stream, h2, service).await;
                        }
                    }
                }
            }
        })
        .await
    }

    /// A server that does `script` with each connection, which has a number.
    pub async fn raw<F, R>(at: &str, script: F) -> Self
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::<Counts>::default();
        let seen = Arc::clone(&counts);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = seen.accepted.fetch_add(1, Ordering::SeqCst);
                seen.open.fetch_add(1, Ordering::SeqCst);
                let (seen, work) = (Arc::clone(&seen), script(stream, number));
                tokio::spawn(async move {
                    work.await;
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, counts }
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Waits until that many are open.
    pub async fn until_open(&self, count: usize) {
        until(|| self.open() == count).await;
    }
}

/// Waits until `true`.
pub async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let most = std::time::Duration::from_secs(20);
    tokio::time::timeout(most, wait).await.expect("it never is");
}

async fn serve<T, F, R>(stream: T, h2: bool, service: F)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(http::Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // Clients that go away are part of the tests.
    let _ = if h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
    };
}

/// A certificate authority of the test's own.
pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Certificates name their authority by this.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test {}", NUMBER.fetch_add(1, Ordering::SeqCst));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// A server with a certificate for `names`, which offers `protocols`.
    pub fn server(&self, names: &[&str], protocols: &[&str]) -> Arc<ServerConfig> {
        self.server_until(names, protocols, 2100)
    }

    /// The same, until that year.
    pub fn server_until(&self, names: &[&str], protocols: &[&str], year: i32) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        Arc::new(config)
    }
}

pub const A: u16 = 1;
pub const AAAA: u16 = 28;

/// What a name server has to say.
pub enum Dns {
    /// Those of the kind that was asked for.
    Addresses(Vec<IpAddr>),
    /// The same, but for questions by TCP only.
    TooLong(Vec<IpAddr>),
    /// A response code.
    Code(u8),
    Silence,
}

/// Addresses to answer with.
pub fn addresses(texts: &[&str]) -> Dns {
    Dns::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
}

/// A name server on UDP and TCP.
pub struct NameServer {
    pub addr: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

impl NameServer {
    /// Starts one. `script` gets the name, the kind of address and how often
    /// that was asked for before.
    pub async fn start(script: impl Fn(&str, u16, usize) -> Dns + Send + 'static) -> Self {
        let (socket, tcp) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, tcp);
            }
        };
        let addr = socket.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<(String, u16)>>>::default();
        let seen = Arc::clone(&asked);
        let answer = move |packet: &[u8], by_tcp: bool| {
            let (name, kind, end) = question(packet);
            let before = count(&seen.lock().unwrap(), &name, kind);
            seen.lock().unwrap().push((name.clone(), kind));
            respond(&packet[..end], kind, script(&name, kind, before), by_tcp)
        };
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                tokio::select! {
                    received = socket.recv_from(&mut packet) => {
                        let (length, client) = received.unwrap();
                        if let Some(response) = answer(&packet[..length], false) {
                            socket.send_to(&response, client).await.unwrap();
                        }
                    }
                    // One question of each connection.
                    accepted = tcp.accept() => {
                        let (mut stream, _) = accepted.unwrap();
                        let length = usize::from(stream.read_u16().await.unwrap());
                        stream.read_exact(&mut packet[..length]).await.unwrap();
                        if let Some(response) = answer(&packet[..length], true) {
                            stream.write_u16(response.len() as u16).await.unwrap();
                            stream.write_all(&response).await.unwrap();
                        }
                    }
                }
            }
        });
        Self { addr, asked }
    }

    /// How often it was asked for a kind of addresses of `name`.
    pub fn asked(&self, name: &str, kind: u16) -> usize {
        count(&self.asked.lock().unwrap(), name, kind)
    }

    /// How often it was asked for anything.
    pub fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn count(asked: &[(String, u16)], name: &str, kind: u16) -> usize {
    let same = asked.iter().filter(|(n, k)| n == name && *k == kind);
    same.count()
}

/// Name and kind of a question, and where it ends.
fn question(packet: &[u8]) -> (String, u16, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8(packet[at + 1..end].to_ascii_lowercase()).unwrap());
        at = end;
    }
    let kind = u16::from_be_bytes([packet[at + 1], packet[at + 2]]);
    (labels.join("."), kind, at + 5)
}

fn respond(question: &[u8], kind: u16, answer: Dns, by_tcp: bool) -> Option<Vec<u8>> {
    let mut flags = 0x81;
    let (code, addresses) = match answer {
        Dns::Silence => return None,
        Dns::Code(code) => (code, Vec::new()),
        Dns::Addresses(all) => (0, all),
        Dns::TooLong(all) if by_tcp => (0, all),
        Dns::TooLong(_) => {
            // It is cut off.
            flags |= 0x02;
            (0, Vec::new())
        }
    };
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
            (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut response = question[..2].to_vec();
    response.extend([flags, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    response.extend(&question[12..]);
    for data in records {
        // The name above, class IN, not to be kept.
        response.extend([0xc0, 12]);
        response.extend(kind.to_be_bytes());
        response.extend([0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
        response.extend(data);
    }
    Some(response)
}
