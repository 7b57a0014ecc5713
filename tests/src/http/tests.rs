//! The client has to tell complete from broken; it is tested on canned bytes.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use super::{Conn, Error, Request, Response, fetch};

/// A server that reads one request head and answers with fixed bytes.
fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(bytes).unwrap();
    });
    addr
}

fn got(bytes: &'static [u8]) -> Result<Response, Error> {
    fetch(answering(bytes), &Request::get("/"))
}

#[test]
fn complete_bodies() {
    let by_length = got(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!(by_length.body, b"abc");
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n";
    assert_eq!(got(chunked).unwrap().body, b"abc");
    let until_close = got(b"HTTP/1.0 200 OK\r\nX: \xff\r\n\r\nabc").unwrap();
    assert_eq!(until_close.body, b"abc");
    assert_eq!(until_close.head.all("x"), [b"\xff"]);
}

#[test]
fn broken_bodies() {
    let short = got(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    assert!(
        matches!(short, Err(Error::Truncated { got: 3 })),
        "{short:?}"
    );
    let no_end = got(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert!(
        matches!(no_end, Err(Error::Truncated { got: 3 })),
        "{no_end:?}"
    );
    let no_last_line = got(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    assert!(
        matches!(no_last_line, Err(Error::Truncated { got: 0 })),
        "{no_last_line:?}"
    );
    let nothing = got(b"");
    assert!(matches!(nothing, Err(Error::Closed)), "{nothing:?}");
    let half_head = got(b"HTTP/1.1 200 OK\r\nContent");
    assert!(
        matches!(half_head, Err(Error::Truncated { got: 0 })),
        "{half_head:?}"
    );
}

#[test]
fn contradicting_framing() {
    let twice = got(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc");
    assert!(matches!(twice, Err(Error::Malformed(_))), "{twice:?}");
    let both =
        got(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(matches!(both, Err(Error::Malformed(_))), "{both:?}");
}

#[test]
fn a_response_to_head_has_no_body() {
    let addr = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let mut conn = Conn::open(addr);
    assert_eq!(conn.exchange(&Request::head("/")).unwrap().body, b"");
    assert!(conn.expect_close().is_err(), "the stray body went unseen");
}

#[test]
fn chunked_requests_carry_the_whole_body() {
    let body: Vec<u8> = (0..50_000_u32).map(|i| i as u8).collect();
    let bytes = Request::post_chunked("/", body.clone()).bytes();
    let head = super::find(&bytes, b"\r\n\r\n").unwrap() + 4;
    let mut rest = &bytes[head..];
    let mut decoded = Vec::new();
    loop {
        let at = super::find(rest, b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        decoded.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    assert!(rest.is_empty());
    assert_eq!(decoded, body);
}
