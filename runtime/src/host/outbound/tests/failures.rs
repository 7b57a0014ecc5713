//! Servers that are slow, die, or talk nonsense.

use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use wasmtime_wasi_http::RequestOptions;

use super::*;
use crate::host::test_peers::{Ca, answer};

/// A server that answers each request with `bytes`, and goes on as `after` says.
async fn saying<R>(bytes: &'static [u8], after: fn(TcpStream) -> R) -> Peer
where
    R: Future<Output = ()> + Send + 'static,
{
    Peer::raw("127.0.0.1:0", move |mut stream, _| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(bytes).await;
        after(stream).await;
    })
    .await
}

async fn hang(stream: TcpStream) {
    let _open = stream;
    std::future::pending::<()>().await;
}

async fn close(stream: TcpStream) {
    drop(stream);
}

async fn error_of(peer: &Peer) -> String {
    let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        grant.first_byte_timeout = Duration::from_millis(300);
        grant.between_bytes_timeout = Duration::from_millis(300);
    });
    let error = bench.error(&format!("http://{}/", peer.addr)).await;
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
    peer.until_open(0).await;
    error
}

#[tokio::test]
async fn servers_that_die() {
    for (bytes, error) in [
        (&b""[..], "ConnectionTerminated"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "ConnectionTerminated"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
            "HttpResponseIncomplete",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
            "HttpResponseIncomplete",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
            "HttpResponseIncomplete",
        ),
    ] {
        let peer = saying(bytes, close).await;
        assert_eq!(
            error_of(&peer).await,
            error,
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
}

#[tokio::test]
async fn servers_that_talk_nonsense() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.9\r\n\r\n"[..],
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let peer = saying(bytes, close).await;
        let error = error_of(&peer).await;
        assert_eq!(
            error,
            "HttpProtocolError",
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
}

#[tokio::test]
async fn servers_that_fall_silent() {
    for (bytes, error) in [
        (&b""[..], "HttpResponseTimeout"),
        (b"HTTP/1.1 200 OK\r\n", "HttpResponseTimeout"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
            "ConnectionReadTimeout",
        ),
    ] {
        // The connection is closed by our side: the server waits for that.
        let peer = saying(bytes, |mut stream| async move {
            let _ = stream.read_u8().await;
        })
        .await;
        assert_eq!(error_of(&peer).await, error);
    }
}

#[tokio::test]
async fn heads_that_are_too_large() {
    let fields = Peer::http("127.0.0.1:0", None, |request| async move {
        let (count, size) = match request.uri().path() {
            "/many" => (300, 1),
            "/large" => (1, 100_000),
            _ => (200, 100),
        };
        let mut answer = answer("");
        for i in 0..count {
            let name: http::HeaderName = format!("x-{i}").parse().unwrap();
            let value = "x".repeat(size).parse().unwrap();
            answer.headers_mut().insert(name, value);
        }
        answer
    })
    .await;
    let bench = Bench::for_peer(&fields);
    let url = |path| format!("http://{}/{path}", fields.addr);
    assert_eq!(bench.text(&url("fine")).await.unwrap(), "");
    for path in ["many", "large"] {
        let error = bench.error(&url(path)).await;
        assert_eq!(error, "HttpResponseHeaderSectionSize(None)", "{path}");
    }
}

#[tokio::test]
async fn heads_that_are_too_large_in_http2() {
    let ca = Ca::new();
    let tls = ca.server(&["localhost"], &["h2"]);
    let peer = Peer::http("127.0.0.1:0", Some(tls), |request| async move {
        let mut answer = answer("ok");
        if request.uri().path() == "/large" {
            for i in 0..10 {
                let name: http::HeaderName = format!("x-{i}").parse().unwrap();
                let value = "x".repeat(10_000).parse().unwrap();
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    })
    .await;
    let bench = Bench::with(&["localhost:*"], |grant, _| {
        grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
    });
    let url = |path| format!("https://localhost:{}/{path}", peer.port());
    let error = bench.error(&url("large")).await;
    assert_eq!(error, "HttpProtocolError");
    assert_eq!(bench.text(&url("small")).await.unwrap(), "ok");
}

#[tokio::test]
async fn nobody_there() {
    let peer = Peer::raw("127.0.0.1:0", |stream, _| hang(stream)).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let bench = Bench::with(&["http://127.0.0.1:*"], |grant, _| {
        grant.connect_timeout = Duration::from_millis(300);
    });
    let refused = bench.error(&format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(refused, "ConnectionRefused");
    drop(peer);
}

/// A server of which nobody accepts connections, and whose queue is full.
#[tokio::test]
async fn nobody_answers() {
    let listener = rustix_listener();
    let at = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // Until one of them has to wait.
    loop {
        let connect = TcpStream::connect(at);
        match tokio::time::timeout(Duration::from_millis(200), connect).await {
            Ok(connected) => waiting.push(connected.unwrap()),
            Err(_) => break,
        }
    }
    let bench = Bench::with(&["http://127.0.0.1:*"], |grant, _| {
        grant.connect_timeout = Duration::from_millis(300);
    });
    let error = bench.error(&format!("http://{at}/")).await;
    assert_eq!(error, "ConnectionTimeout");
}

fn rustix_listener() -> std::net::TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(1).unwrap().into_std().unwrap()
}

#[tokio::test]
async fn guests_can_lower_timeouts_but_not_raise_them() {
    let peer = saying(b"", |mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let options = |first_byte| RequestOptions {
        connect_timeout: None,
        first_byte_timeout: Some(first_byte),
        between_bytes_timeout: None,
    };
    let url = format!("http://{}/", peer.addr);
    for (granted, wanted) in [(60_000, 100), (100, 60_000)] {
        let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
            grant.first_byte_timeout = Duration::from_millis(granted);
        });
        let wanted = options(Duration::from_millis(wanted));
        let life = bench.store.life();
        let sent = bench
            .outbound
            .send(&bench.asking, life, get(&url), Some(wanted));
        let error = tokio::time::timeout(Duration::from_secs(20), sent).await;
        assert_eq!(name(&error.unwrap().unwrap_err()), "HttpResponseTimeout");
    }
}

#[tokio::test]
async fn nor_the_one_for_silence_in_a_body() {
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab";
    let peer = saying(begun, |mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let url = format!("http://{}/", peer.addr);
    for (granted, wanted) in [(60_000, 100), (100, 60_000)] {
        let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
            grant.between_bytes_timeout = Duration::from_millis(granted);
        });
        let wanted = RequestOptions {
            connect_timeout: None,
            first_byte_timeout: None,
            between_bytes_timeout: Some(Duration::from_millis(wanted)),
        };
        let life = bench.store.life();
        let sent = bench
            .outbound
            .send(&bench.asking, life, get(&url), Some(wanted));
        let body = sent.await.unwrap().into_body().collect();
        let error = tokio::time::timeout(Duration::from_secs(20), body).await;
        assert_eq!(name(&error.unwrap().unwrap_err()), "ConnectionReadTimeout");
    }
}

#[tokio::test]
async fn a_slow_server_that_goes_on_is_waited_for() {
    let peer = Peer::raw("127.0.0.1:0", |mut stream, _| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";
        stream.write_all(head).await.unwrap();
        for byte in b"12345678" {
            sleep(Duration::from_millis(150)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
    })
    .await;
    let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        grant.between_bytes_timeout = Duration::from_millis(800);
    });
    let text = bench.text(&format!("http://{}/", peer.addr)).await;
    assert_eq!(text.unwrap(), "12345678");
}

#[tokio::test]
async fn a_guest_that_reads_late_is_not_blamed_for_it() {
    let peer = Peer::raw("127.0.0.1:0", |mut stream, _| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab";
        stream.write_all(head).await.unwrap();
        sleep(Duration::from_millis(600)).await;
        stream.write_all(b"cd").await.unwrap();
    })
    .await;
    let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        grant.between_bytes_timeout = Duration::from_millis(400);
    });
    let url = format!("http://{}/", peer.addr);
    let mut body = bench.get(&url).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "ab");
    sleep(Duration::from_millis(450)).await;
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "cd");
}

#[tokio::test]
async fn an_http2_connection_that_went_silent_is_given_up() {
    let ca = Ca::new();
    let tls = ca.server(&["localhost"], &["h2"]);
    let peer = Peer::http("127.0.0.1:0", Some(tls), |request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        answer("ok")
    })
    .await;
    let bench = Bench::with(&["localhost:*"], |grant, _| {
        grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
        grant.first_byte_timeout = Duration::from_millis(300);
    });
    let url = |path| format!("https://localhost:{}/{path}", peer.port());
    assert_eq!(bench.text(&url("")).await.unwrap(), "ok");
    assert_eq!(bench.error(&url("never")).await, "HttpResponseTimeout");
    assert_eq!(bench.text(&url("")).await.unwrap(), "ok");
    assert_eq!(peer.accepted(), 2);
    peer.until_open(1).await;
}

#[tokio::test]
async fn servers_that_break_off_in_either_version() {
    let ca = Ca::new();
    for protocol in ["http/1.1", "h2"] {
        let tls = ca.server(&["localhost"], &[protocol]);
        let peer = Peer::http("127.0.0.1:0", Some(tls), |_| async {
            let failure = async {
                // When the rest has been sent.
                sleep(Duration::from_millis(100)).await;
                Err(std::io::Error::other("the server gives up"))
            };
            let pieces = futures::stream::iter([Ok(Frame::data(Bytes::from("half")))]);
            let pieces = pieces.chain(futures::stream::once(failure));
            http::Response::new(StreamBody::new(pieces).boxed_unsync())
        })
        .await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
        });
        let url = format!("https://localhost:{}/", peer.port());
        for _ in 0..3 {
            assert_eq!(
                bench.error(&url).await,
                "HttpResponseIncomplete",
                "{protocol}"
            );
        }
    }
}

/// Without a length, a body ends with the connection: by a message of TLS, which
/// nobody but the server can send.
#[tokio::test]
async fn a_body_until_the_end_of_the_connection() {
    let ca = Ca::new();
    for (properly, expected) in [
        (true, Ok("all of it")),
        (false, Err("HttpResponseIncomplete")),
    ] {
        let tls = tokio_rustls::TlsAcceptor::from(ca.server(&["localhost"], &["http/1.1"]));
        let peer = Peer::raw("127.0.0.1:0", move |stream, _| {
            let tls = tls.clone();
            async move {
                let mut stream = tls.accept(stream).await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let bytes = b"HTTP/1.1 200 OK\r\n\r\nall of it";
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
                if properly {
                    stream.shutdown().await.unwrap();
                }
            }
        })
        .await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
        });
        let text = bench
            .text(&format!("https://localhost:{}/", peer.port()))
            .await;
        let text = text.map_err(|error| name(&error));
        assert_eq!(text.as_deref().map_err(String::as_str), expected);
    }
}

#[tokio::test]
async fn an_http2_server_that_dies() {
    let ca = Ca::new();
    for body in [false, true] {
        let tls = tokio_rustls::TlsAcceptor::from(ca.server(&["localhost"], &["h2"]));
        let peer = Peer::raw("127.0.0.1:0", move |stream, _| {
            let tls = tls.clone();
            async move {
                let stream = tls.accept(stream).await.unwrap();
                let service = hyper::service::service_fn(move |_| async move {
                    if !body {
                        std::future::pending::<()>().await;
                    }
                    let first = futures::stream::iter([Ok(Frame::data(Bytes::from("half")))]);
                    let rest = futures::stream::pending::<Result<_, std::io::Error>>();
                    let body = StreamBody::new(first.chain(rest));
                    Ok::<_, std::io::Error>(http::Response::new(body))
                });
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                // And then the socket is closed.
                let _ = tokio::time::timeout(Duration::from_millis(300), serve).await;
            }
        })
        .await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
        });
        let expected = match body {
            false => "ConnectionTerminated",
            true => "HttpResponseIncomplete",
        };
        let url = format!("https://localhost:{}/", peer.port());
        for _ in 0..2 {
            assert_eq!(bench.error(&url).await, expected);
        }
        peer.until_open(0).await;
    }
}
