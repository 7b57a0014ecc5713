//! Files, and servers that speak `https`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nxt_wasm_store::{FetchError, FetchOptions, Location, fetch};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server that answers the path of a request with bytes, head and all, and
/// closes the connection, or holds it after what begins with `HOLD`.
struct Server {
    address: SocketAddr,
    authorities: Vec<u8>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&str, SocketAddr) -> Vec<u8> + Send + 'static) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((tcp, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                held.extend(serve(tcp, &config, |path| answer(path, address)));
            }
        });
        Self {
            address,
            authorities: cert.pem().into_bytes(),
            stop,
            thread: Some(thread),
        }
    }

    fn fetch(&self, path: &str, most: u64) -> Result<Vec<u8>, FetchError> {
        let options = FetchOptions {
            credentials: None,
            authorities: Some(&self.authorities),
            max_bytes: most,
            timeout: Duration::from_secs(60),
            allow_plain_http: false,
        };
        self.fetch_with(path, &options)
    }

    fn fetch_with(&self, path: &str, options: &FetchOptions<'_>) -> Result<Vec<u8>, FetchError> {
        let location: Location = format!("https://{}{path}", self.address).parse().unwrap();
        let mut received = Vec::new();
        fetch(&location, options, &mut received).map(|length| {
            assert_eq!(length, received.len() as u64);
            received
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// The connection, if it is to be held.
fn serve(
    tcp: TcpStream,
    config: &Arc<ServerConfig>,
    answer: impl Fn(&str) -> Vec<u8>,
) -> Option<Tls> {
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut tls = StreamOwned::new(connection, tcp);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        // A client that does not trust us says nothing.
        if tls.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let answer = answer(head.split(' ').nth(1).unwrap());
    let hold = answer.strip_prefix(b"HOLD");
    let _ = tls.write_all(hold.unwrap_or(&answer));
    let _ = tls.flush();
    if hold.is_some() {
        return Some(tls);
    }
    tls.conn.send_close_notify();
    let _ = tls.flush();
    None
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[test]
fn a_component_is_fetched_over_https() {
    let server = Server::start(|path, _| match path {
        "/a.wasm?token=hunter2" => ok("component"),
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            .to_vec(),
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    assert_eq!(
        server.fetch("/a.wasm?token=hunter2", 9).unwrap(),
        b"component"
    );
    assert_eq!(server.fetch("/chunked", 11).unwrap(), b"hello world");
    let error = server.fetch("/b.wasm?token=hunter2", 9).unwrap_err();
    assert!(matches!(error, FetchError::Missing(_)), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn it_is_bounded_in_size() {
    let server = Server::start(|path, _| match path {
        "/told" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec(),
        _ => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n".to_vec()
        }
    });
    for path in ["/told", "/untold"] {
        let error = server.fetch(path, 3).unwrap_err();
        assert!(
            matches!(error, FetchError::TooLarge { most: 3, .. }),
            "{error}"
        );
    }
    assert_eq!(server.fetch("/untold", 4).unwrap(), b"abcd");
}

#[test]
fn it_is_bounded_in_time() {
    let server = Server::start(|path, _| match path {
        "/head" => b"HOLDHTTP/1.1 200 OK\r\n".to_vec(),
        _ => b"HOLDHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc".to_vec(),
    });
    let options = FetchOptions {
        credentials: None,
        authorities: Some(&server.authorities),
        max_bytes: 100,
        timeout: Duration::from_millis(300),
        allow_plain_http: false,
    };
    for path in ["/head", "/body"] {
        let begin = Instant::now();
        let error = server.fetch_with(path, &options).unwrap_err();
        assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn three_redirects_are_followed_and_only_to_https() {
    let server = Server::start(|path, address| match path {
        "/1" => redirect("/2"),
        "/2" => redirect(&format!("https://{address}/3")),
        "/3" => redirect("/end"),
        "/0" => redirect("1"),
        "/end" => ok("component"),
        "/plain" => redirect(&format!("http://{address}/end")),
        "/file" => redirect("file:///etc/passwd"),
        "/user" => redirect(&format!("https://me:hunter2@{address}/end")),
        _ => b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    assert_eq!(server.fetch("/1", 9).unwrap(), b"component");
    for (path, problem) in [
        ("/0", "more than 3"),
        ("/plain", "http: is not taken"),
        ("/file", "no scheme \"file:\""),
        ("/user", "no user and no password"),
        ("/nowhere", "no URL"),
    ] {
        let error = server.fetch(path, 9).unwrap_err();
        assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(problem) && !text.contains("hunter2"),
            "{path}: {text}"
        );
    }
}

#[test]
fn what_is_incomplete_or_no_answer_is_an_error() {
    let server = Server::start(|path, _| match path {
        "/short" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec(),
        "/gzip" => {
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".to_vec()
        }
        "/500" => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"SSH-2.0-OpenSSH\r\n".to_vec(),
    });
    for path in ["/short", "/gzip", "/ssh"] {
        let error = server.fetch(path, 100).unwrap_err();
        assert!(
            matches!(error, FetchError::Failed { .. }),
            "{path}: {error}"
        );
    }
    let error = server.fetch("/500", 100).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the server answers 500 Internal Server Error"),
        "{error}"
    );
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused() {
    let server = Server::start(|_, _| ok("component"));
    let other = Server::start(|_, _| ok("component"));
    let options = FetchOptions {
        credentials: None,
        authorities: Some(&other.authorities),
        max_bytes: 100,
        timeout: Duration::from_secs(60),
        allow_plain_http: false,
    };
    let error = server.fetch_with("/", &options).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let none = FetchOptions {
        authorities: Some(b"nothing"),
        ..options
    };
    let error = server.fetch_with("/", &none).unwrap_err();
    assert!(matches!(error, FetchError::Trust { .. }), "{error}");
}

#[test]
fn files_are_bounded_too_and_have_to_be_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.wasm");
    std::fs::write(&path, b"component").unwrap();
    let ask = |path: &str, max_bytes: u64| {
        let options = FetchOptions {
            credentials: None,
            authorities: None,
            max_bytes,
            timeout: Duration::from_secs(60),
            allow_plain_http: false,
        };
        let mut received = Vec::new();
        let location: Location = path.parse().unwrap();
        fetch(&location, &options, &mut received).map(|_| received)
    };
    let text = path.to_str().unwrap();
    assert_eq!(ask(text, 9).unwrap(), b"component");
    assert_eq!(ask(&format!("fs:{text}"), 9).unwrap(), b"component");
    assert!(matches!(ask(text, 8), Err(FetchError::TooLarge { .. })));
    assert!(matches!(ask("/none/such", 8), Err(FetchError::Missing(_))));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for special in [pipe.to_str().unwrap(), dir.path().to_str().unwrap()] {
        let error = ask(special, 8).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
