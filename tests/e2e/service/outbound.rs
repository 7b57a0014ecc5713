//! Requests that guests make by `wasi:http/client`.

use harness::guests::Download;
use harness::http::encode;
use harness::load::body_of;
use harness::peers::{DnsPeer, HttpPeer};
use harness::{Host, Request, Server};
use serde_json::{Value, json};

use super::{ask, ask_as, error, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-outbound", All:
        nothing_by_default,
        an_entry_is_for_one_host,
        private_addresses_take_an_entry,
        a_body_is_passed_on,
        a_body_is_sent,
        connections_are_used_again,
        requests_are_counted,
        a_response_that_breaks_off,
    ]
}

pub const ALLOW: &str = "UNIT_WASM_ALLOW_HTTP";

/// The guest, which may reach `peer`. Unused connections are closed soon, so that a
/// test's end can tell them from lost ones.
fn with(host: &Host, peer: &HttpPeer) -> Server {
    let settings = [(ALLOW, &*peer.entry()), ("UNIT_WASM_HTTP_KEEP_ALIVE", "2s")];
    start(host, &settings)
}

/// The target by which the guest fetches `url`.
pub fn fetch(url: &str) -> String {
    format!("/fetch?url={}", encode(url))
}

fn nothing_by_default(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &[]);
    let text = ask_as(&server, "nothing", fetch(&peer.url("/")));
    assert_eq!(text, error("HttpRequestDenied"));
    let line = server
        .log
        .expect(&["request=nothing ", ALLOW, &peer.entry()]);
    assert!(line.contains("[warn]"), "{line}");
    assert_eq!(peer.connections(), 0);
    server.finish();
}

fn an_entry_is_for_one_host(host: &Host) {
    let peer = HttpPeer::plain();
    let other = HttpPeer::plain();
    let server = with(host, &peer);
    assert_eq!(ask(&server, fetch(&peer.url("/"))), "peer HTTP/1.1\n");
    let text = ask_as(&server, "other", fetch(&other.url("/")));
    assert_eq!(text, error("HttpRequestDenied"));
    let needed = format!("would need {}", other.entry());
    server.log.expect(&["request=other ", ALLOW, &needed]);
    assert_eq!(other.connections(), 0);
    server.finish();
}

/// Whatever name leads to them.
fn private_addresses_take_an_entry(host: &Host) {
    let peer = HttpPeer::plain();
    let dns = DnsPeer::start();
    dns.tell_address("api.test", peer.addr().ip());
    let start = |entries: &str| {
        let settings = [
            ("UNIT_WASM_DNS_SERVER", &*dns.setting()),
            (ALLOW, entries),
            ("UNIT_WASM_HTTP_KEEP_ALIVE", "2s"),
        ];
        start(host, &settings)
    };
    let url = peer.url_as("api.test", "/");
    let server = start(&format!("*.test:{}", peer.port()));
    assert_eq!(ask(&server, fetch(&url)), error("DestinationIpProhibited"));
    let needed = format!("would need {}", peer.entry());
    server.log.expect(&["api.test", ALLOW, &needed]);
    assert_eq!(peer.connections(), 0);
    server.finish();
    let server = start(&format!("*.test:{} {}", peer.port(), peer.entry()));
    assert_eq!(ask(&server, fetch(&url)), "peer HTTP/1.1\n");
    server.finish();
}

/// The body's stream is the response's: the guest has ended before it is through.
fn a_body_is_passed_on(host: &Host) {
    let peer = HttpPeer::plain();
    let server = with(host, &peer);
    for n in [0, 1, 100_000, 5_000_000] {
        let url = peer.url(&format!("/bytes?n={n}"));
        let response = server.get(fetch(&url)).ok();
        let mut expected = Download::default();
        expected.check(&response.body).expect("the peer's bytes");
        assert_eq!(expected.seen(), n);
    }
    let url = peer.url("/pieces?n=5&size=1000&ms=200");
    let response = server.get(fetch(&url)).ok();
    let mut expected = Download::default();
    expected.check(&response.body).expect("the peer's bytes");
    assert_eq!(expected.seen(), 5_000);
    let response = server.get(fetch(&peer.url("/status?code=404")));
    assert_eq!(response.status(), 404);
    server.finish();
}

fn a_body_is_sent(host: &Host) {
    let peer = HttpPeer::plain();
    let server = with(host, &peer);
    let target = format!("/fetch-post?url={}", encode(&peer.url("/echo")));
    for size in [10, 1_000_000] {
        let body = body_of(1, size);
        let response = server.send(&Request::post(&target, body.clone())).ok();
        assert!(response.body == body, "{} bytes", response.body.len());
    }
    let target = format!("/fetch-post?url={}", encode(&peer.url("/request")));
    let report = server.send(&Request::post(&target, body_of(1, 1_000_000)));
    let report = report.ok().text();
    assert!(report.contains("content-length: 1000000\n"), "{report}");
    assert!(report.ends_with("body 1000000\n"), "{report}");
    server.finish();
}

/// What `/fetch-many` says: how often it got what, and how many bytes in all.
#[track_caller]
pub fn fetch_many(server: &Server, url: &str, rest: &str) -> (Value, u64) {
    let target = format!("/fetch-many?url={}{rest}", encode(url));
    let said: Value = serde_json::from_str(&ask(server, target)).expect("JSON");
    let bytes = said["bytes"].as_u64().expect("a number");
    (said["outcomes"].clone(), bytes)
}

fn connections_are_used_again(host: &Host) {
    let peer = HttpPeer::plain();
    let server = with(host, &peer);
    let url = peer.url("/slow?ms=50");
    let (outcomes, bytes) = fetch_many(&server, &url, "&n=40&together=4");
    assert_eq!((outcomes, bytes), (json!({ "200": 40 }), 200));
    assert_eq!(peer.requests(), 40);
    // One for each at a time. A few more may have been opened before one that is
    // in use came back.
    let first = peer.connections();
    assert!(first <= 12, "{first} connections");
    assert!(peer.most_in_flight() > 1, "one after the other");
    // By the next guests as well. On a busy machine they may come too late for some.
    for _ in 0..10 {
        assert_eq!(ask(&server, fetch(&peer.url("/"))), "peer HTTP/1.1\n");
    }
    let more = peer.connections() - first;
    assert!(more <= 5, "{more} connections for ten more");
    server.finish();
}

fn requests_are_counted(host: &Host) {
    let peer = HttpPeer::plain();
    let settings = [
        (ALLOW, &*peer.entry()),
        ("UNIT_WASM_HTTP_REQUESTS", "5"),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "2s"),
    ];
    let server = start(host, &settings);
    for _ in 0..3 {
        let (outcomes, _) = fetch_many(&server, &peer.url("/"), "&n=8&together=1");
        let expected = json!({ "200": 5, "ConnectionLimitReached": 3 });
        assert_eq!(outcomes, expected);
    }
    assert_eq!(peer.requests(), 15);
    server.log.expect(&["[warn]", "UNIT_WASM_HTTP_REQUESTS"]);
    server.finish();
}

/// It must not look complete to the client, whether the guest reads it or passes it
/// on.
fn a_response_that_breaks_off(host: &Host) {
    let peer = HttpPeer::plain();
    let server = with(host, &peer);
    let url = peer.url("/die?when=body&n=300000");
    let request = Request::get(fetch(&url)).header("x-request-id", "cut");
    let result = server.fetch(&request);
    assert!(
        matches!(
            result,
            Err(harness::http::Error::Truncated { .. } | harness::http::Error::Closed)
        ),
        "{:?}",
        result.map(|response| response.body.len())
    );
    let failure = server.log.expect_failure("cut");
    assert_eq!(failure.reason, "invalid-response", "{failure:?}");
    let (outcomes, bytes) = fetch_many(&server, &url, "&n=2");
    assert_eq!(bytes, 0, "{outcomes}");
    assert_eq!(outcomes.get("200"), None, "{outcomes}");
    server.finish();
}
