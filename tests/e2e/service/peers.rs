//! Servers outside that are slow, lie or die, and guests that let go of them: what holds
//! for `wasi:http/outgoing-handler` holds for `wasi:http/client`.

use std::thread;
use std::time::Duration;

use harness::http::encode;
use harness::launch::next_ip;
use harness::peers::raw::{Unreachable, deserted};
use harness::peers::{Ca, DnsPeer, HttpPeer, RawPeer};
use harness::{Host, Request, Server, eventually};
use serde_json::json;

use super::outbound::{ALLOW, fetch, fetch_many};
use super::{app, ask, ask_as, error, start};
use crate::outbound::TlsSetting;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-peers", All:
        http2_under_an_authority_of_ones_own,
        an_unknown_authority_is_not_trusted,
        an_address_that_changes_is_checked_again,
        waiting_is_bounded,
        requests_in_flight_of_a_process,
        servers_that_die,
        a_guest_that_is_stopped,
        a_client_that_leaves,
    ]
}

const PATIENCE: Duration = Duration::from_secs(60);

const H2: [&str; 2] = ["h2", "http/1.1"];

/// May reach any port on loopback, by its address.
fn for_all(host: &Host, settings: &[(&str, &str)]) -> Server {
    let always = [
        (ALLOW, "127.0.0.0/8:*"),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "2s"),
    ];
    start(host, &[&always, settings].concat())
}

fn http2_under_an_authority_of_ones_own(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&H2);
    let server = Server::start(host, setting.trusting(app(&[])));
    let url = |path: &str| peer.url_as("api.test", path);
    assert_eq!(ask(&server, fetch(&url("/"))), "peer HTTP/2\n");
    let body = harness::load::body_of(1, 1_000_000);
    let target = format!("/fetch-post?url={}", encode(&url("/echo")));
    let response = server.send(&Request::post(&target, body.clone())).ok();
    assert!(response.body == body, "{} bytes", response.body.len());
    let many = fetch_many(&server, &url("/bytes?n=1000"), "&n=200&together=8");
    assert_eq!(many, (json!({ "200": 200 }), 200_000));
    let connections = peer.connections();
    assert!(connections <= 2, "{connections} connections");
    server.finish();
}

fn an_unknown_authority_is_not_trusted(host: &Host) {
    let setting = TlsSetting::new();
    let stranger = Ca::new("Authority of the tests");
    let peer = setting.named(HttpPeer::tls(stranger.server(&["api.test"], &H2)));
    let server = Server::start(host, setting.trusting(app(&[])));
    let text = ask_as(&server, "stranger", fetch(&peer.url_as("api.test", "/")));
    assert_eq!(text, error("TlsCertificateError"));
    let line = server.log.expect(&["request=stranger ", "api.test"]);
    assert!(line.contains("[warn]"), "{line}");
    assert_eq!(peer.requests(), 0);
    server.finish();
}

fn an_address_that_changes_is_checked_again(host: &Host) {
    let peer = HttpPeer::plain();
    let dns = DnsPeer::start();
    dns.tell_address("api.test", peer.addr().ip());
    // Somebody there must not hear anything.
    let forbidden = next_ip();
    let bait = std::net::TcpListener::bind((forbidden, peer.port())).unwrap();
    bait.set_nonblocking(true).unwrap();
    let entries = format!("{} {}", peer.entry_as("api.test"), peer.entry());
    let settings = [
        ("UNIT_WASM_DNS_SERVER", &*dns.setting()),
        (ALLOW, &*entries),
        // No connection is left that could be used again.
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "off"),
    ];
    let server = start(host, &settings);
    let url = peer.url_as("api.test", "/");
    assert_eq!(ask(&server, fetch(&url)), "peer HTTP/1.1\n");
    dns.tell_address("api.test", forbidden);
    let text = ask_as(&server, "rebound", fetch(&url));
    assert_eq!(text, error("DestinationIpProhibited"));
    let needed = format!("would need http://{forbidden}:{}", peer.port());
    server.log.expect(&["request=rebound ", &needed]);
    assert!(bait.accept().is_err(), "it came");
    assert_eq!(peer.connections(), 1);
    server.finish();
}

fn waiting_is_bounded(host: &Host) {
    let settings = [
        ("UNIT_WASM_HTTP_CONNECT_TIMEOUT", "3s"),
        ("UNIT_WASM_HTTP_FIRST_BYTE_TIMEOUT", "3s"),
        ("UNIT_WASM_HTTP_BETWEEN_BYTES_TIMEOUT", "3s"),
    ];
    let server = for_all(host, &settings);
    let nowhere = Unreachable::start();
    let url = format!("http://{}/", nowhere.addr());
    assert_eq!(ask(&server, fetch(&url)), error("ConnectionTimeout"));
    let silent = RawPeer::silent();
    let text = ask(&server, fetch(&silent.url("/")));
    assert_eq!(text, error("HttpResponseTimeout"));
    // Within a body as well.
    let peer = HttpPeer::plain();
    let url = peer.url("/pieces?n=2&size=10&ms=60000");
    let (outcomes, _) = fetch_many(&server, &url, "&n=1");
    assert_eq!(outcomes, json!({ "ConnectionReadTimeout": 1 }));
    server.finish();
}

fn requests_in_flight_of_a_process(host: &Host) {
    let peer = HttpPeer::plain();
    let server = for_all(host, &[("UNIT_WASM_HTTP_CONCURRENCY", "4")]);
    let url = peer.url("/slow?ms=8000");
    let (outcomes, _) = fetch_many(&server, &url, "&n=10&together=10");
    assert_eq!(outcomes, json!({ "200": 4, "ConnectionLimitReached": 6 }));
    assert_eq!(peer.most_in_flight(), 4);
    server.log.expect(&["[warn]", "UNIT_WASM_HTTP_CONCURRENCY"]);
    // And then there is room again.
    let (outcomes, _) = fetch_many(&server, &peer.url("/"), "&n=4&together=4");
    assert_eq!(outcomes, json!({ "200": 4 }));
    server.finish();
}

fn servers_that_die(host: &Host) {
    let server = for_all(host, &[]);
    let said = |url: &str| ask(&server, fetch(url));
    let nobody = format!("http://{}/", deserted());
    assert_eq!(said(&nobody), error("ConnectionRefused"));
    let peer = HttpPeer::plain();
    assert_eq!(
        said(&peer.url("/die?when=head")),
        error("ConnectionTerminated")
    );
    let half = RawPeer::answering_once("HTTP/1.1 200 OK\r\nContent-Le");
    assert_eq!(said(&half.url("/")), error("ConnectionTerminated"));
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let chunks = RawPeer::answering_once(chunks);
    let (outcomes, _) = fetch_many(&server, &chunks.url("/"), "&n=1");
    assert_eq!(outcomes, json!({ "HttpResponseIncomplete": 1 }));
    server.finish();
}

/// Nothing is left of what it had on the way.
fn a_guest_that_is_stopped(host: &Host) {
    let peer = HttpPeer::plain();
    let server = for_all(host, &[("UNIT_WASM_TIMEOUT", "5s")]);
    let url = peer.url("/slow?ms=600000");
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(server.get(fetch(&url)).status(), 504));
        let target = format!("/fetch-many?url={}&n=10&together=10", encode(&url));
        assert_eq!(server.get(target).status(), 504);
    });
    let soon = Duration::from_secs(20);
    eventually("the connections are closed", soon, || peer.open() == 0);
    server.finish();
}

/// Unit does not tell, so the guest goes on to the end. Nothing is left then.
fn a_client_that_leaves(host: &Host) {
    let peer = HttpPeer::plain();
    let server = for_all(host, &[]);
    let url = peer.url("/pieces?n=100&size=100000&ms=50");
    let mut conn = server.connect();
    conn.start(&Request::get(fetch(&url))).unwrap();
    conn.read_some().unwrap();
    drop(conn);
    eventually("the connection is closed", PATIENCE, || peer.open() == 0);
    server.finish();
}
