//! How many requests, and how long they may wait.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::http::{self, encode};
use harness::peers::raw::{Unreachable, read_head};
use harness::peers::{Answer, DnsPeer, HttpPeer, RawPeer};
use harness::{Host, Request};

use super::{ALLOW, assert_error, fetch, fetch_many, line, start, target};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["outbound-limits", All:
        requests_of_one_request,
        requests_in_flight_of_a_process,
        responses_being_read_are_in_flight,
        connecting_takes_no_longer_than_allowed,
        the_first_byte_takes_no_longer_than_allowed,
        the_next_byte_takes_no_longer_than_allowed,
        a_guest_can_ask_for_less_and_not_for_more,
        a_name_server_that_is_silent,
    ]
}

/// Longer than the time limits of which somebody is told, shorter than the defaults.
const SOON: Duration = Duration::from_secs(9);

fn requests_of_one_request(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [(ALLOW, &*peer.entry()), ("UNIT_WASM_HTTP_REQUESTS", "5")];
    let server = start(host, &settings);
    for _ in 0..3 {
        let counts = fetch_many(&server, &peer.url("/"), 8, 1);
        assert_eq!(line(&counts, "200"), "5", "{counts}");
        assert!(
            counts.contains("ErrorCode::ConnectionLimitReached=3\n"),
            "{counts}"
        );
    }
    assert_eq!(peer.requests(), 15);
    server.log.expect(&["[warn]", "UNIT_WASM_HTTP_REQUESTS"]);
    server.finish();
}

fn requests_in_flight_of_a_process(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [(ALLOW, &*peer.entry()), ("UNIT_WASM_HTTP_CONCURRENCY", "4")];
    let server = start(host, &settings);
    let counts = fetch_many(&server, &peer.url("/slow?ms=10000"), 10, 10);
    assert_eq!(line(&counts, "200"), "4", "{counts}");
    assert!(
        counts.contains("ErrorCode::ConnectionLimitReached=6\n"),
        "{counts}"
    );
    assert_eq!(peer.most_in_flight(), 4);
    server.log.expect(&["[warn]", "UNIT_WASM_HTTP_CONCURRENCY"]);
    // Of all guests together.
    let addr = server.addr();
    let target = target(&peer.url("/slow?ms=10000"), "");
    let reports: Vec<String> = thread::scope(|scope| {
        let fetch = || {
            http::fetch(addr, &Request::get(&target))
                .unwrap()
                .ok()
                .text()
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(fetch)).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let good = reports
        .iter()
        .filter(|report| report.starts_with("status=200"));
    assert_eq!(good.count(), 4, "{reports:?}");
    assert_eq!(peer.most_in_flight(), 4);
    // And then there is room again.
    assert_eq!(fetch_many(&server, &peer.url("/"), 4, 4), "200=4\n");
    server.finish();
}

fn responses_being_read_are_in_flight(host: &Host) {
    let (go_on, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    // The body of the first response ends when it is told to.
    let peer = RawPeer::start(move |stream, number| {
        read_head(stream)?;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"first")?;
        let patience = Duration::from_secs(60);
        if number == 0 && wait.lock().unwrap().recv_timeout(patience).is_err() {
            return Ok(());
        }
        stream.write_all(b" last")
    });
    let entry = format!("http://{}", peer.addr());
    let settings = [(ALLOW, &*entry), ("UNIT_WASM_HTTP_CONCURRENCY", "1")];
    let server = start(host, &settings);
    let url = encode(&peer.url("/"));
    let mut conn = server.connect();
    conn.start(&Request::get(format!("/fetch-stream?url={url}")))
        .unwrap();
    let report = fetch(&server, &peer.url("/"), "");
    assert_error(&report, "ConnectionLimitReached");
    assert_eq!(peer.connections(), 1);
    go_on.send(()).unwrap();
    assert_eq!(conn.read_body().unwrap(), b"first last");
    drop(conn);
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    server.finish();
}

/// Fetches what takes for ever, and has to be told so in time: at one of three times,
/// as the machine may be busy.
#[track_caller]
fn assert_timeout(server: &harness::Server, url: &str, rest: &str, code: &str) {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        if took >= SOON {
            let begin = Instant::now();
            let report = fetch(server, url, rest);
            assert_error(&report, code);
            took = begin.elapsed();
        }
    }
    assert!(took < SOON, "{rest}: {took:?}");
}

fn connecting_takes_no_longer_than_allowed(host: &Host) {
    let nowhere = Unreachable::start();
    let url = format!("http://{}/", nowhere.addr());
    let settings = [
        (ALLOW, "127.0.0.0/8:*"),
        ("UNIT_WASM_HTTP_CONNECT_TIMEOUT", "500ms"),
    ];
    let server = start(host, &settings);
    assert_timeout(&server, &url, "", "ConnectionTimeout");
    assert_timeout(&server, &url, "&connect_ms=60000", "ConnectionTimeout");
    // A handshake is a part of it.
    let silent = RawPeer::silent();
    assert_timeout(
        &server,
        &format!("https://{}/", silent.addr()),
        "",
        "ConnectionTimeout",
    );
    server.finish();
}

fn the_first_byte_takes_no_longer_than_allowed(host: &Host) {
    let silent = RawPeer::silent();
    let settings = [
        (ALLOW, "127.0.0.0/8:*"),
        ("UNIT_WASM_HTTP_FIRST_BYTE_TIMEOUT", "500ms"),
    ];
    let server = start(host, &settings);
    assert_timeout(&server, &silent.url("/"), "", "HttpResponseTimeout");
    let rest = "&method=POST&send=1000&first_byte_ms=60000";
    assert_timeout(&server, &silent.url("/"), rest, "HttpResponseTimeout");
    // Half a head is none.
    let half = RawPeer::start(|stream, _| {
        use std::io::{Read, Write};
        // An answer before the request would be none.
        stream.read_exact(&mut [0; 4])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-half:")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    assert_timeout(&server, &half.url("/"), "", "HttpResponseTimeout");
    server.finish();
}

fn the_next_byte_takes_no_longer_than_allowed(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [
        (ALLOW, "127.0.0.0/8:*"),
        ("UNIT_WASM_HTTP_BETWEEN_BYTES_TIMEOUT", "10s"),
    ];
    let server = start(host, &settings);
    let url = peer.url("/pieces?n=2&size=10&ms=60000");
    let report = fetch(&server, &url, "");
    assert_eq!(line(&report, "length"), "10");
    assert_error(&report, "ConnectionReadTimeout");
    // It is for each silence, not for all of the body.
    let report = fetch(&server, &peer.url("/pieces?n=14&size=10&ms=900"), "");
    assert_eq!(line(&report, "length"), "140", "{report}");
    assert!(!report.contains("error"), "{report}");
    server.finish();
}

fn a_guest_can_ask_for_less_and_not_for_more(host: &Host) {
    let nowhere = Unreachable::start();
    let silent = RawPeer::silent();
    let peer = HttpPeer::plain();
    let server = start(host, &[(ALLOW, "127.0.0.0/8:*")]);
    let url = format!("http://{}/", nowhere.addr());
    assert_timeout(&server, &url, "&connect_ms=300", "ConnectionTimeout");
    let rest = "&first_byte_ms=300";
    assert_timeout(&server, &silent.url("/"), rest, "HttpResponseTimeout");
    let pieces = peer.url("/pieces?n=2&size=10&ms=60000");
    assert_timeout(&server, &pieces, "&between_ms=300", "ConnectionReadTimeout");
    server.finish();
}

fn a_name_server_that_is_silent(host: &Host) {
    let dns = DnsPeer::start();
    dns.tell("silent.test", Answer::Silence);
    dns.tell("broken.test", Answer::Code(2));
    dns.tell("nothing.test", Answer::Addresses(Vec::new()));
    let settings = [
        ("UNIT_WASM_DNS_SERVER", &*dns.setting()),
        (ALLOW, "*.test"),
        ("UNIT_WASM_HTTP_CONNECT_TIMEOUT", "5s"),
    ];
    let server = start(host, &settings);
    assert_timeout(&server, "http://silent.test/", "", "DnsTimeout");
    for (name, code) in [
        ("unknown.test", "NXDOMAIN"),
        ("broken.test", "SERVFAIL"),
        ("nothing.test", ""),
    ] {
        let report = fetch(&server, &format!("http://{name}/"), "");
        assert_error(&report, "DnsError");
        assert!(report.contains(code), "{name}: {report}");
    }
    server.finish();
}
