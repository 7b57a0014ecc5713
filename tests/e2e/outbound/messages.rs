//! Requests and responses: heads, bodies, trailers, connections.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use harness::guests::Download;
use harness::http;
use harness::peers::raw::read_head;
use harness::peers::{HttpPeer, RawPeer};
use harness::{Host, Request, Server, eventually};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{ALLOW, app, fetch, fetch_many, line, start, start_with, target};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["outbound", All:
        a_response_arrives_whole,
        a_request_arrives_as_it_was_made,
        bodies_of_any_size,
        a_request_without_a_length,
        a_body_streams_while_it_comes,
        trailers,
        statuses_and_heads,
        fields_of_connections_are_the_hosts,
        ten_thousand_calls_reuse_connections,
        connections_are_shared_by_guests,
        connections_close_when_unused,
        connections_need_not_be_kept,
        a_connection_closed_meanwhile_is_not_used,
        several_loops_and_processes,
    ]
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn a_response_arrives_whole(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    assert_eq!(line(&report, "header content-type"), "text/plain");
    assert_eq!(line(&report, "body"), "peer HTTP/1.1");
    for n in [0, 1, 1_000, 65_536, 1_000_003] {
        let report = fetch(&server, &peer.url(&format!("/bytes?n={n}")), "");
        assert_eq!(line(&report, "length"), n.to_string());
        let expected = hex_digest(&Download::default().bytes(n));
        assert_eq!(line(&report, "sha256"), expected, "{n} bytes");
    }
    server.finish();
}

fn a_request_arrives_as_it_was_made(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let url = peer.url("/request?a=%20b&c=d%2Fe");
    let rest = "&method=PROPFIND&header=x-one:1&header=x-two:a%20b&header=x-one:3";
    let report = fetch(&server, &url, rest);
    assert!(
        report.contains("body=PROPFIND /request?a=%20b&c=d%2Fe HTTP/1.1\n"),
        "{report}"
    );
    for field in ["x-one: 1\nx-one: 3\n", "x-two: a b\n"] {
        assert!(report.contains(field), "{report}");
    }
    assert!(
        report.contains(&format!("host: {}\n", peer.addr())),
        "{report}"
    );
    for field in ["user-agent", "accept", "x-request-id", "forwarded"] {
        assert!(!report.contains(field), "{field} was added: {report}");
    }
    server.finish();
}

fn bodies_of_any_size(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let body = Download::default().bytes(3_000_017);
    let url = target(&peer.url("/echo"), "&method=POST");
    let report = server.send(&Request::post(url, body.clone())).ok().text();
    assert_eq!(line(&report, "length"), "3000017");
    assert_eq!(line(&report, "sha256"), hex_digest(&body));
    let report = fetch(&server, &peer.url("/request"), "&method=PUT&send=30000000");
    assert!(report.contains("body 30000000\n"), "{report}");
    let report = fetch(&server, &peer.url("/bytes?n=30000000"), "");
    assert_eq!(line(&report, "length"), "30000000");
    let report = fetch(&server, &peer.url("/request"), "&method=POST");
    assert!(report.contains("body 0\n"), "{report}");
    server.finish();
}

/// With a length it is sent as it is, without one in chunks.
fn a_request_without_a_length(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let report = fetch(&server, &peer.url("/request"), "&method=POST&send=100000");
    assert!(report.contains("transfer-encoding: chunked\n"), "{report}");
    assert!(report.contains("body 100000\n"), "{report}");
    let rest = "&method=POST&send=100000&header=content-length:100000";
    let report = fetch(&server, &peer.url("/request"), rest);
    assert!(report.contains("content-length: 100000\n"), "{report}");
    assert!(!report.contains("transfer-encoding"), "{report}");
    // And one that does not keep its word: what is too much is not taken, and what
    // is too little is no whole request.
    let lie = |length: u32| {
        let rest = format!("&method=POST&send=100000&header=content-length:{length}");
        fetch(&server, &peer.url("/request"), &rest)
    };
    let report = lie(99_999);
    let told = report.starts_with("error: ") || report.starts_with("upload=short\n");
    assert!(told, "{report}");
    let report = lie(100_001);
    assert!(report.starts_with("error: "), "{report}");
    server.finish();
}

fn a_body_streams_while_it_comes(host: &Host) {
    let (go_on, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let peer = RawPeer::start(move |stream, _| {
        read_head(stream)?;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"6\r\nfirst\n\r\n")?;
        let patience = Duration::from_secs(60);
        if wait.lock().unwrap().recv_timeout(patience).is_ok() {
            stream.write_all(b"7\r\nsecond\n\r\n0\r\n\r\n")?;
        }
        Ok(())
    });
    let server = start(host, &[(ALLOW, &format!("http://{}", peer.addr()))]);
    let url = http::encode(&peer.url("/"));
    let mut conn = server.connect();
    let head = conn
        .start(&Request::get(format!("/fetch-stream?url={url}")))
        .unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(conn.read_some().unwrap().as_deref(), Some(&b"first\n"[..]));
    // Nothing more has been sent to the guest when this has come.
    go_on.send(()).unwrap();
    assert_eq!(conn.read_body().unwrap(), b"second\n");
    drop(conn);
    server.finish();
}

fn trailers(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let report = fetch(&server, &peer.url("/trailers"), "&header=te:trailers");
    assert_eq!(line(&report, "body"), "body");
    assert_eq!(line(&report, "trailer x-check"), "done");
    let rest = "&method=POST&send=10&header=te:trailers&header=trailer:x-sum\
                &trailer=x-sum:ten";
    let report = fetch(&server, &peer.url("/echo"), rest);
    assert_eq!(line(&report, "length"), "10");
    server.finish();
}

fn statuses_and_heads(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    for status in [200, 201, 299, 302, 400, 404, 418, 500, 503, 599] {
        let report = fetch(&server, &peer.url(&format!("/status?code={status}")), "");
        assert_eq!(line(&report, "status"), status.to_string());
        assert_eq!(line(&report, "body"), "status");
    }
    for status in [204, 304] {
        let report = fetch(&server, &peer.url(&format!("/status?code={status}")), "");
        assert_eq!(line(&report, "status"), status.to_string());
        assert_eq!(line(&report, "length"), "0");
    }
    let report = fetch(&server, &peer.url("/bytes?n=5000"), "&method=HEAD");
    assert_eq!(line(&report, "status"), "200");
    assert_eq!(line(&report, "header content-length"), "5000");
    assert_eq!(line(&report, "length"), "0");
    server.finish();
}

/// A guest cannot say whom it talks to in two ways, nor how a connection goes on.
fn fields_of_connections_are_the_hosts(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    for field in [
        "host:other.test",
        "connection:close",
        "connection:upgrade",
        "upgrade:websocket",
        "transfer-encoding:chunked",
        "keep-alive:timeout=1",
        "proxy-connection:close",
        "proxy-authorization:Basic%20eDp5",
        "http2-settings:AAMAAABkAARAAAAAAAIAAAAA",
    ] {
        let report = fetch(&server, &peer.url("/request"), &format!("&header={field}"));
        if report.starts_with("error: header ") {
            // Refused when it is set: just as well.
            continue;
        }
        let (name, value) = field.split_once(':').unwrap();
        let value = value.replace("%20", " ");
        assert!(
            !report.contains(&format!("{name}: {value}")),
            "{field}: {report}"
        );
        assert!(
            report.contains(&format!("host: {}\n", peer.addr())),
            "{field}: {report}"
        );
    }
    server.finish();
}

fn ten_thousand_calls_reuse_connections(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [(ALLOW, &*peer.entry()), ("UNIT_WASM_HTTP_REQUESTS", "1000")];
    let server = start(host, &settings);
    for _ in 0..10 {
        let counts = fetch_many(&server, &peer.url("/"), 1000, 8);
        assert_eq!(counts, "200=1000\n");
    }
    assert_eq!(peer.requests(), 10_000);
    // One for each call at a time. A few more may have been opened before one
    // that is in use came back.
    let connections = peer.connections();
    assert!(connections <= 32, "{connections} connections");
    server.finish();
}

fn connections_are_shared_by_guests(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    for _ in 0..50 {
        let report = fetch(&server, &peer.url("/"), "");
        assert_eq!(line(&report, "status"), "200");
    }
    let connections = peer.connections();
    assert!(
        connections <= 3,
        "{connections} connections for calls one after the other"
    );
    server.finish();
}

fn connections_close_when_unused(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [
        (ALLOW, &*peer.entry()),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "500ms"),
    ];
    let server = start(host, &settings);
    assert_eq!(
        fetch_many(&server, &peer.url("/slow?ms=200"), 20, 20),
        "200=20\n"
    );
    eventually(
        "the connections are closed",
        Duration::from_secs(20),
        || peer.open() == 0,
    );
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    server.finish();
}

fn connections_need_not_be_kept(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [
        (ALLOW, &*peer.entry()),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "off"),
    ];
    let server = start(host, &settings);
    assert_eq!(fetch_many(&server, &peer.url("/"), 20, 1), "200=20\n");
    assert_eq!(peer.connections(), 20);
    eventually(
        "the connections are closed",
        Duration::from_secs(20),
        || peer.open() == 0,
    );
    server.finish();
}

/// The server says nothing of it, it just goes.
fn a_connection_closed_meanwhile_is_not_used(host: &Host) {
    let peer = RawPeer::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
    let server = start(host, &[(ALLOW, &format!("http://{}", peer.addr()))]);
    for number in 1..=20 {
        let report = fetch(&server, &peer.url("/"), "&method=POST&send=100");
        assert_eq!(line(&report, "status"), "200", "request {number}");
        eventually("the end of the connection", Duration::from_secs(60), || {
            peer.closed() == number
        });
        assert_eq!(peer.connections(), number);
    }
    server.finish();
}

fn several_loops_and_processes(host: &Host) {
    let peer = HttpPeer::plain();
    let app = app(&[(ALLOW, &peer.entry()), ("UNIT_WASM_THREADS", "2")]);
    let mut server = Server::start(host, app.processes(json!(2)));
    let addr = server.addr();
    let url = http::encode(&peer.url("/bytes?n=10000"));
    let target = format!("/fetch-many?url={url}&n=20&parallel=4");
    thread::scope(|scope| {
        for _ in 0..16 {
            let target = &target;
            scope.spawn(move || {
                for _ in 0..5 {
                    let answer = http::fetch(addr, &Request::get(target)).unwrap();
                    assert_eq!(answer.ok().text(), "200=20\n");
                }
            });
        }
    });
    assert_eq!(peer.requests(), 1600);
    let connections = peer.connections();
    assert!(
        connections < 400,
        "{connections} connections for 1600 requests"
    );
    // Loops open their sockets to the router when they first have a request.
    server.settle();
    server.finish();
}
