//! Requests that are not what they should be.

use harness::http::Error;
use harness::{App, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["malformed", All:
        targets_that_are_not_utf8,
        unusual_targets_and_methods,
        bytes_that_are_no_request,
        a_request_that_never_ends,
    ]
}

/// Answered properly or refused, and the worker is there for the next.
fn either_way(server: &Server, request: &Request, statuses: &[u16]) {
    let response = server.send(request);
    let status = response.status();
    assert!(statuses.contains(&status), "{status} for {request:?}");
    assert_eq!(server.get("/").ok().text(), "lab\n");
}

fn targets_that_are_not_utf8(host: &Host) {
    let server = Server::start(host, App::lab());
    for target in [
        &b"/request?x=\xff\xfe"[..],
        b"/request?x=caf\xe9",
        b"/request?x=\xc3\xa9",
    ] {
        either_way(&server, &Request::get(target), &[200, 400]);
    }
    for target in [&b"/caf\xe9"[..], b"/\xff", b"/%ff%fe", b"/%c3%28"] {
        either_way(&server, &Request::get(target), &[400, 404]);
    }
    server.finish();
}

fn unusual_targets_and_methods(host: &Host) {
    let server = Server::start(host, App::lab());
    let long = format!("/request?x={}", "y".repeat(6000));
    either_way(&server, &Request::get(long), &[200]);
    for target in [
        "//", "/.", "/..", "/%2e%2e/", "/?", "/#", "/a//b", "/%00", "/a|b", "/\"{}",
    ] {
        either_way(&server, &Request::get(target), &[200, 400, 404]);
    }
    let absolute = Request::get("http://elsewhere.example/request");
    either_way(&server, &absolute, &[200, 400, 404]);
    for method in ["PURGE", "M-SEARCH", "get", "X"] {
        let request = Request::new(method, "/request");
        either_way(&server, &request, &[200, 400, 501]);
    }
    for host_field in ["", "a b", "[::1]:80", "x:port", "caf\u{e9}.example", "a@b"] {
        let request = Request::get("/request").header("Host", host_field);
        either_way(&server, &request, &[200, 400]);
    }
    server.finish();
}

/// The host itself answers these; the module must not be harmed by them.
fn bytes_that_are_no_request(host: &Host) {
    let server = Server::start(host, App::lab());
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3x\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n\r\n",
    ] {
        let mut conn = server.connect();
        conn.send(bytes).unwrap();
        conn.set_patience(std::time::Duration::from_millis(500));
        match conn.read_response(false) {
            Ok(response) => assert!(response.status() >= 400, "{bytes:?}: {response:?}"),
            Err(Error::Closed | Error::Truncated { .. } | Error::Timeout) => (),
            Err(other) => panic!("{bytes:?}: {other}"),
        }
        assert_eq!(server.get("/").ok().text(), "lab\n");
    }
    server.finish();
}

fn a_request_that_never_ends(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut half_head = server.connect();
    half_head
        .send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
        .unwrap();
    let mut half_body = server.connect();
    let head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    half_body.send(head).unwrap();
    half_body.send(&[b'x'; 50_000]).unwrap();
    for _ in 0..20 {
        assert_eq!(server.get("/").ok().text(), "lab\n");
    }
    // Gone without a word; whatever they held has to be given back.
    drop(half_head);
    drop(half_body);
    server.finish();
}
