//! Servers that fail, guests that let go, clients that leave.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use harness::http::{self, encode};
use harness::peers::raw::{deserted, read_head};
use harness::peers::{HttpPeer, RawPeer};
use harness::{Host, Request, Server, eventually};
use serde_json::json;

use super::{ALLOW, app, assert_error, fetch, fetch_many, line, start, start_with, target};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["outbound-faults", All:
        nobody_listens,
        a_server_that_dies,
        answers_that_are_no_http,
        answers_that_are_too_much,
        a_guest_that_lets_go,
        a_request_body_without_an_end,
        a_guest_that_is_stopped,
        a_client_that_leaves,
        a_slow_client_slows_the_server_down,
        hanging_calls_do_not_hold_up_others,
        a_broken_response_breaks_the_guests_own,
    ]
}

fn start_for_all(host: &Host) -> Server {
    start(host, &[(ALLOW, "127.0.0.0/8:*")])
}

fn nobody_listens(host: &Host) {
    let server = start_for_all(host);
    let report = fetch(&server, &format!("http://{}/", deserted()), "");
    assert_error(&report, "ConnectionRefused");
    let report = fetch(&server, &format!("https://{}/", deserted()), "");
    assert_error(&report, "ConnectionRefused");
    server.finish();
}

fn a_server_that_dies(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_for_all(host);
    let report = fetch(&server, &peer.url("/die?when=head"), "");
    assert_error(&report, "ConnectionTerminated");
    let report = fetch(&server, &peer.url("/die?when=body&n=5000"), "");
    assert_eq!(line(&report, "length"), "5000");
    assert_error(&report, "HttpResponseIncomplete");
    // In chunks, without the last one; and with half a head.
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let peer = RawPeer::answering_once(chunks);
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "length"), "5");
    assert_error(&report, "HttpResponseIncomplete");
    let peer = RawPeer::answering_once("HTTP/1.1 200 OK\r\nContent-Le");
    assert_error(&fetch(&server, &peer.url("/"), ""), "ConnectionTerminated");
    // Without a length, the end of the connection is the end of the body.
    let peer = RawPeer::answering_once("HTTP/1.1 200 OK\r\n\r\nall of it");
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "body"), "all of it");
    // A reset instead of an end.
    let peer = RawPeer::start(|stream, _| {
        read_head(stream)?;
        reset(stream)
    });
    assert_error(&fetch(&server, &peer.url("/"), ""), "ConnectionTerminated");
    server.finish();
}

/// Makes the end of a connection one that the other side sees as a failure.
fn reset(stream: &std::net::TcpStream) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the value is of the size given.
    let rc = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn answers_that_are_no_http(host: &Host) {
    let server = start_for_all(host);
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let peer = RawPeer::answering_once(answer);
        let report = fetch(&server, &peer.url("/"), "");
        let error = report.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("{answer:?} passed for: {report}"));
        assert!(error.contains("ErrorCode::"), "{answer:?}: {error}");
    }
    // What is informational comes before the response, and is none.
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes";
    let peer = RawPeer::answering_once(early);
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    assert_eq!(line(&report, "body"), "yes");
    server.finish();
}

fn answers_that_are_too_much(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_for_all(host);
    let report = fetch(&server, &peer.url("/headers?n=100&size=100"), "");
    assert_eq!(line(&report, "status"), "200");
    for target in [
        "/headers?n=1&size=1000000",
        "/headers?n=50&size=10000",
        "/headers?n=5000&size=1",
    ] {
        let report = fetch(&server, &peer.url(target), "");
        assert!(
            report.starts_with("error: response ErrorCode::"),
            "{target}: {report}"
        );
    }
    // A head without end ends too.
    let endless = RawPeer::start(|stream, _| {
        read_head(stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"x-more: and more\r\n")?;
        }
    });
    let report = fetch(&server, &endless.url("/"), "");
    assert!(
        report.starts_with("error: response ErrorCode::"),
        "{report}"
    );
    server.finish();
}

fn a_guest_that_lets_go(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let slow = encode(&peer.url("/slow?ms=60000"));
    let body = encode(&peer.url("/pieces?n=100&size=1000&ms=1000"));
    for _ in 0..5 {
        let text = server
            .get(format!("/fetch-drop?how=future&url={slow}"))
            .ok()
            .text();
        assert_eq!(text, "dropped the future\n");
        let text = server
            .get(format!("/fetch-drop?how=response&url={body}"))
            .ok()
            .text();
        assert_eq!(text, "dropped the response\n");
        let text = server
            .get(format!("/fetch-drop?how=body&bytes=500&url={body}"))
            .ok()
            .text();
        assert_eq!(text, "dropped the body\n");
    }
    // Long before the server would have come to an end.
    eventually(
        "the connections are closed",
        Duration::from_secs(20),
        || peer.open() == 0,
    );
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    server.finish();
}

fn a_request_body_without_an_end(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let report = fetch(&server, &peer.url("/request"), "&method=POST&leave=body");
    assert!(
        report.starts_with("error: ") || report.contains("body broken\n"),
        "it passed for whole: {report}"
    );
    server.finish();
}

fn a_guest_that_is_stopped(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [(ALLOW, &*peer.entry()), ("UNIT_WASM_TIMEOUT", "5s")];
    let server = start(host, &settings);
    let url = peer.url("/slow?ms=60000");
    for _ in 0..2 {
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(server.get(target(&url, "")).status(), 504));
            // With ten of them on the way.
            let target = format!("/fetch-many?url={}&n=10&parallel=10", encode(&url));
            assert_eq!(server.get(target).status(), 504);
        });
    }
    eventually(
        "the connections are closed",
        Duration::from_secs(20),
        || peer.open() == 0,
    );
    server.finish();
}

fn a_client_that_leaves(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let url = encode(&peer.url("/pieces?n=100&size=100000&ms=50"));
    let mut conn = server.connect();
    conn.start(&Request::get(format!("/fetch-stream?url={url}")))
        .unwrap();
    conn.read_some().unwrap();
    drop(conn);
    eventually("the connection is closed", Duration::from_secs(30), || {
        peer.open() == 0
    });
    server.finish();
}

/// What the server has sent and the client has not read fits into buffers.
fn a_slow_client_slows_the_server_down(host: &Host) {
    const ALL: usize = 200 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let peer = RawPeer::start(move |stream, _| {
        read_head(stream)?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {ALL}\r\n\r\n")?;
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..ALL / piece.len() {
            stream.write_all(&piece)?;
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
        Ok(())
    });
    // Unit takes as much as its shared memory holds, 100 MiB unless told otherwise.
    let app = app(&[(ALLOW, "127.0.0.0/8:*")]);
    let server = Server::start(host, app.member("limits", json!({ "shm": 16 << 20 })));
    let url = encode(&peer.url("/"));
    let worker = server.worker("http");
    let before = worker.memory();
    let mut conn = http::Conn::open_narrow(server.addr());
    conn.start(&Request::get(format!("/fetch-stream?url={url}")))
        .unwrap();
    conn.read_some().unwrap();
    // Until it does not move any more.
    let mut last = 0;
    eventually("the server waits", Duration::from_secs(30), || {
        thread::sleep(Duration::from_millis(500));
        let now = sent.load(Ordering::SeqCst);
        std::mem::replace(&mut last, now) == now
    });
    assert!(last < 64 << 20, "{last} bytes that nobody reads");
    let grown = worker.memory().anonymous.saturating_sub(before.anonymous);
    assert!(grown < 32 << 20, "{grown} bytes of memory");
    // And it goes on to the end.
    let mut rest = 0;
    while let Some(piece) = conn.read_some().unwrap() {
        rest += piece.len();
    }
    assert!(rest > ALL - (1 << 20), "{rest}");
    drop(conn);
    server.finish();
}

fn hanging_calls_do_not_hold_up_others(host: &Host) {
    let peer = HttpPeer::plain();
    let silent = RawPeer::silent();
    let server = start_for_all(host);
    let addr = server.addr();
    thread::scope(|scope| {
        let url = target(&silent.url("/"), "&first_byte_ms=3000");
        for _ in 0..30 {
            let url = url.clone();
            scope.spawn(move || {
                let report = http::fetch(addr, &Request::get(url)).unwrap().ok().text();
                assert_error(&report, "HttpResponseTimeout");
            });
        }
        for _ in 0..10 {
            assert_eq!(fetch_many(&server, &peer.url("/"), 20, 2), "200=20\n");
        }
    });
    server.finish();
}

/// A guest that passes on what it gets does not pass half of it for a whole.
fn a_broken_response_breaks_the_guests_own(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let url = encode(&peer.url("/die?when=body&n=5000"));
    let mut conn = server.connect();
    match conn.start(&Request::get(format!("/fetch-stream?url={url}"))) {
        Ok(head) => {
            assert_eq!(head.status, 200);
            let end = conn.read_body();
            assert!(matches!(end, Err(http::Error::Truncated { .. })), "{end:?}");
        }
        // Unit's router drops what it has not written yet of a response that breaks
        // off: that may be all of it.
        Err(http::Error::Closed) if host.is_unit() => {}
        Err(other) => panic!("{other}"),
    }
    drop(conn);
    server.finish();
}
