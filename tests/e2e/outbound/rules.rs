//! Which hosts can be reached: entries, addresses, names, redirects.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use harness::http::encode;
use harness::launch::next_ip;
use harness::peers::{Answer, DnsPeer, HttpPeer};
use harness::{Host, Request, Server};

use super::{ALLOW, app, assert_error, fetch, line, start, start_by_name, start_with, target};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["outbound-rules", All:
        nothing_by_default,
        an_entry_is_for_one_host,
        an_entry_is_for_one_scheme_and_port,
        the_entry_in_the_log_is_the_one_that_is_missing,
        networks,
        a_star_is_no_local_address,
        other_spellings_of_local_addresses,
        localhost_has_to_be_named,
        a_public_name_with_a_local_address,
        names_of_the_list,
        an_address_is_resolved_once_and_checked,
        an_address_that_changes_is_checked_again,
        of_several_addresses_only_those_that_are_covered,
        redirects_into_loopback_are_refused,
        redirects_are_the_guests_business,
        urls_that_say_two_things,
        bad_entries_refuse_the_start,
    ]
}

#[track_caller]
fn assert_ok(report: &str) {
    assert_eq!(line(report, "status"), "200", "{report}");
}

/// A listener that must not hear anything.
fn bait(ip: impl Into<IpAddr>, port: u16) -> TcpListener {
    let listener = TcpListener::bind((ip.into(), port)).expect("an address for a bait");
    listener.set_nonblocking(true).unwrap();
    listener
}

#[track_caller]
fn nobody_came(listener: &TcpListener) {
    assert!(listener.accept().is_err(), "somebody came");
}

fn nothing_by_default(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &[]);
    let request = Request::get(target(&peer.url("/"), ""));
    let report = server
        .send(&request.header("x-request-id", "nothing"))
        .ok()
        .text();
    assert_error(&report, "HttpRequestDenied");
    server
        .log
        .expect(&["request=nothing ", "UNIT_WASM_ALLOW_HTTP", &peer.entry()]);
    assert_eq!(peer.connections(), 0);
    server.finish();
}

fn an_entry_is_for_one_host(host: &Host) {
    let peer = HttpPeer::plain();
    let other = HttpPeer::plain();
    let server = start_with(host, &peer);
    assert_ok(&fetch(&server, &peer.url("/"), ""));
    assert_error(&fetch(&server, &other.url("/"), ""), "HttpRequestDenied");
    assert_eq!(other.connections(), 0);
    server.finish();
}

fn an_entry_is_for_one_scheme_and_port(host: &Host) {
    let peer = HttpPeer::plain();
    let neighbour = bait(peer.addr().ip(), 0);
    let ip = peer.addr().ip();
    let next = format!("http://{}/", neighbour.local_addr().unwrap());
    for entry in [
        format!("https://{}", peer.addr()),
        format!("http://{ip}"),
        ip.to_string(),
    ] {
        let server = start(host, &[(ALLOW, &entry)]);
        assert_error(&fetch(&server, &peer.url("/"), ""), "HttpRequestDenied");
        assert_error(&fetch(&server, &next, ""), "HttpRequestDenied");
        server.finish();
    }
    assert_eq!(peer.connections(), 0);
    // Without a scheme it is for both, and a star is every port.
    for entry in [
        peer.addr().to_string(),
        format!("{ip}:*"),
        format!("http://{ip}:*"),
    ] {
        let server = start(host, &[(ALLOW, &entry)]);
        assert_ok(&fetch(&server, &peer.url("/"), ""));
        server.finish();
    }
    nobody_came(&neighbour);
}

fn the_entry_in_the_log_is_the_one_that_is_missing(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &[(ALLOW, "https://api.example.com")]);
    let ask = |server: &Server, id: &str| {
        let request = Request::get(target(&peer.url("/"), ""));
        server.send(&request.header("x-request-id", id)).ok().text()
    };
    assert_error(&ask(&server, "first"), "HttpRequestDenied");
    let line = server
        .log
        .expect(&["request=first ", "UNIT_WASM_ALLOW_HTTP"]);
    assert!(line.contains("[warn]"), "{line}");
    let all = server.log.matching(|line| line.contains("request=first "));
    assert_eq!(all.len(), 1, "one line: {all:?}");
    let (_, entry) = line.split_once("would need ").expect("the entry");
    server.finish();
    let server = start(host, &[(ALLOW, entry.trim())]);
    assert_ok(&ask(&server, "second"));
    server.finish();
}

fn networks(host: &Host) {
    let peer = HttpPeer::plain();
    let IpAddr::V4(ip) = peer.addr().ip() else {
        unreachable!("peers have IPv4 addresses");
    };
    let [a, b, ..] = ip.octets();
    let outside = Ipv4Addr::new(a, b.wrapping_add(1), 0, 1);
    let entry = format!("http://{a}.{b}.0.0/16:*");
    let server = start(host, &[(ALLOW, &entry)]);
    assert_ok(&fetch(&server, &peer.url("/"), ""));
    let elsewhere = format!("http://{outside}:{}/", peer.port());
    assert_error(&fetch(&server, &elsewhere, ""), "HttpRequestDenied");
    server.finish();
}

/// All these are refused before anything is sent.
fn a_star_is_no_local_address(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &[(ALLOW, "*:*, http://*:80")]);
    for host in [
        peer.addr().ip().to_string().as_str(),
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
    ] {
        let report = fetch(&server, &format!("http://{host}:{}/", peer.port()), "");
        assert_error(&report, "DestinationIpProhibited");
    }
    let line = server
        .log
        .expect(&["169.254.169.254", "UNIT_WASM_ALLOW_HTTP"]);
    assert!(
        line.contains("would need http://169.254.169.254:"),
        "{line}"
    );
    assert_eq!(peer.connections(), 0);
    server.finish();
}

/// What some programs read as an address, and others as a name.
fn other_spellings_of_local_addresses(host: &Host) {
    let listener = bait(Ipv4Addr::LOCALHOST, 0);
    let port = listener.local_addr().unwrap().port();
    let dns = DnsPeer::start();
    let server = start_by_name(host, &dns, "*:*");
    for host in [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.0.0.01",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST.",
        "x.localhost",
        "127%2e0.0.1",
        "%6cocalhost",
        "\u{ff11}27.0.0.1",
    ] {
        let report = fetch(&server, &format!("http://{host}:{port}/"), "");
        assert!(report.starts_with("error: "), "{host}: {report}");
    }
    nobody_came(&listener);
    server.finish();
}

fn localhost_has_to_be_named(host: &Host) {
    let peer = HttpPeer::plain_at(Ipv4Addr::LOCALHOST.into());
    let url = peer.url_as("localhost", "/");
    let server = start(host, &[(ALLOW, &peer.entry_as("localhost"))]);
    assert_ok(&fetch(&server, &url, ""));
    assert_error(&fetch(&server, &peer.url("/"), ""), "HttpRequestDenied");
    server.finish();
    let server = start(host, &[(ALLOW, &format!("http://*:{}", peer.port()))]);
    assert_error(&fetch(&server, &url, ""), "DestinationIpProhibited");
    server.finish();
}

fn a_public_name_with_a_local_address(host: &Host) {
    let peer = HttpPeer::plain();
    let dns = DnsPeer::start();
    dns.tell_address("api.test", peer.addr().ip());
    dns.tell_address("metadata.test", Ipv4Addr::new(169, 254, 169, 254));
    dns.tell("six.test", Answer::Addresses(vec!["::1".parse().unwrap()]));
    dns.tell(
        "mapped.test",
        Answer::Addresses(vec!["::ffff:127.0.0.1".parse().unwrap()]),
    );
    dns.tell("alias.test", Answer::Alias("api.test".into()));
    let entries = format!("*.test:{}", peer.port());
    let server = start_by_name(host, &dns, &entries);
    for name in [
        "api.test",
        "metadata.test",
        "six.test",
        "mapped.test",
        "alias.test",
    ] {
        let report = fetch(&server, &peer.url_as(name, "/"), "");
        assert_error(&report, "DestinationIpProhibited");
    }
    let needed = format!("would need {}", peer.entry());
    server
        .log
        .expect(&["api.test", "UNIT_WASM_ALLOW_HTTP", &needed]);
    assert_eq!(peer.connections(), 0);
    server.finish();
    // With what the log says it is reached, by the name and by no other.
    let entries = format!("http://api.test:{}, {}", peer.port(), peer.entry());
    let server = start_by_name(host, &dns, &entries);
    assert_ok(&fetch(&server, &peer.url_as("api.test", "/"), ""));
    assert_error(
        &fetch(&server, &peer.url_as("alias.test", "/"), ""),
        "HttpRequestDenied",
    );
    server.finish();
}

fn names_of_the_list(host: &Host) {
    let peer = HttpPeer::plain();
    let dns = DnsPeer::start();
    let names = [
        "api.test",
        "a.sub.test",
        "b.a.sub.test",
        "sub.test",
        "xsub.test",
        "other.test",
    ];
    for name in names {
        dns.tell_address(name, peer.addr().ip());
    }
    let port = peer.port();
    let entries = format!("api.test:{port} *.sub.test:{port} {}", peer.entry());
    let server = start_by_name(host, &dns, &entries);
    for name in [
        "api.test",
        "API.Test",
        "api.test.",
        "a.sub.test",
        "b.a.sub.test",
    ] {
        let report = fetch(&server, &peer.url_as(name, "/request"), "");
        assert_ok(&report);
        let written = name.to_lowercase();
        let written = written.trim_end_matches('.');
        assert!(
            report.contains(&format!("host: {written}:{port}\n")),
            "{report}"
        );
    }
    for name in ["sub.test", "xsub.test", "other.test"] {
        let report = fetch(&server, &peer.url_as(name, "/"), "");
        assert_error(&report, "HttpRequestDenied");
        assert_eq!(dns.asked(name), 0, "{name} was looked up");
    }
    server.finish();
}

fn an_address_is_resolved_once_and_checked(host: &Host) {
    let peer = HttpPeer::plain();
    let forbidden = next_ip();
    let listener = bait(forbidden, peer.port());
    let dns = DnsPeer::start();
    let entries = format!("{} {}", peer.entry_as("*.test"), peer.entry());
    let server = start_by_name(host, &dns, &entries);
    // A question whose answer is late is sent again, so that on a busy machine it may
    // take another name.
    let once = (0..5).any(|number| {
        let name = format!("api{number}.test");
        // A second look at the name would find the other address.
        let answer = Answer::Changing(vec![peer.addr().ip(), forbidden.into()]);
        dns.tell(&name, answer);
        let report = fetch(&server, &peer.url_as(&name, "/"), "");
        let once = dns.asked(&name) == 1;
        if once {
            assert_ok(&report);
        }
        once
    });
    assert!(once, "it is resolved twice");
    nobody_came(&listener);
    server.finish();
}

fn an_address_that_changes_is_checked_again(host: &Host) {
    let peer = HttpPeer::plain();
    let forbidden = next_ip();
    let listener = bait(forbidden, peer.port());
    let dns = DnsPeer::start();
    dns.tell_address("api.test", peer.addr().ip());
    let entries = format!("{} {}", peer.entry_as("api.test"), peer.entry());
    let settings = [
        ("UNIT_WASM_DNS_SERVER", &*dns.setting()),
        (ALLOW, &*entries),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "off"),
    ];
    let server = start(host, &settings);
    let url = peer.url_as("api.test", "/");
    assert_ok(&fetch(&server, &url, ""));
    dns.tell_address("api.test", forbidden);
    let request = Request::get(target(&url, "")).header("x-request-id", "rebound");
    assert_error(
        &server.send(&request).ok().text(),
        "DestinationIpProhibited",
    );
    let needed = format!("would need http://{forbidden}:{}", peer.port());
    server.log.expect(&["request=rebound ", &needed]);
    nobody_came(&listener);
    assert_eq!(peer.connections(), 1);
    server.finish();
}

fn of_several_addresses_only_those_that_are_covered(host: &Host) {
    let peer = HttpPeer::plain();
    let forbidden = next_ip();
    let listener = bait(forbidden, peer.port());
    let dns = DnsPeer::start();
    let both = vec![forbidden.into(), peer.addr().ip(), "::1".parse().unwrap()];
    dns.tell("api.test", Answer::Addresses(both));
    let entries = format!("{} {}", peer.entry_as("api.test"), peer.entry());
    let server = start_by_name(host, &dns, &entries);
    for _ in 0..5 {
        assert_ok(&fetch(&server, &peer.url_as("api.test", "/"), ""));
    }
    nobody_came(&listener);
    server.finish();
}

fn redirects_into_loopback_are_refused(host: &Host) {
    let peer = HttpPeer::plain();
    let inside = HttpPeer::plain();
    let dns = DnsPeer::start();
    dns.tell_address("api.test", peer.addr().ip());
    dns.tell_address("inside.test", inside.addr().ip());
    let entries = format!("*.test:* {}", peer.entry());
    let server = start_by_name(host, &dns, &entries);
    for (to, code) in [
        (inside.url("/"), "HttpRequestDenied"),
        (inside.url_as("inside.test", "/"), "DestinationIpProhibited"),
        (
            "http://169.254.169.254/latest/meta-data/".into(),
            "HttpRequestDenied",
        ),
        ("https://api.test/".into(), "DestinationIpProhibited"),
        ("http://[::1]/".into(), "HttpRequestDenied"),
    ] {
        let url = peer.url_as("api.test", &format!("/redirect?to={}", encode(&to)));
        let report = fetch(&server, &url, "&follow=5");
        assert!(report.starts_with(&format!("redirect {to}\n")), "{report}");
        assert_error(&report, code);
    }
    assert_eq!(inside.connections(), 0);
    server.finish();
}

fn redirects_are_the_guests_business(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start_with(host, &peer);
    let url = peer.url(&format!("/redirect?to={}", encode(&peer.url("/"))));
    let report = fetch(&server, &url, "");
    assert_eq!(line(&report, "status"), "302", "not followed for the guest");
    assert_eq!(line(&report, "header location"), peer.url("/"));
    let report = fetch(&server, &url, "&follow=1");
    assert_eq!(line(&report, "body"), "peer HTTP/1.1");
    let report = fetch(&server, &peer.url("/redirect?to=/slow?ms=1"), "&follow=1");
    assert_eq!(line(&report, "body"), "slow");
    server.finish();
}

fn urls_that_say_two_things(host: &Host) {
    let peer = HttpPeer::plain();
    let inside = HttpPeer::plain();
    let server = start_with(host, &peer);
    let (good, bad) = (peer.addr(), inside.addr());
    for url in [
        format!("http://{good}@{bad}/"),
        format!("http://{good}#@{bad}/"),
        format!("http://{good}\\@{bad}/"),
        format!("http://{bad}#{good}/"),
        format!("http://{bad}?{good}/"),
        format!("http://{good} {bad}/"),
        format!("http://{good}%00{bad}/"),
        format!("http://{good}:{}/", bad.port()),
        format!("http://{}:+{}/", good.ip(), good.port()),
        format!("http://:{}/", good.port()),
        "http:///".into(),
        format!("ftp://{good}/"),
        format!("ws://{good}/"),
    ] {
        let report = fetch(&server, &url, "");
        assert!(report.starts_with("error: "), "{url}: {report}");
    }
    let report = fetch(&server, &peer.url("/"), "&method=CONNECT");
    assert!(report.starts_with("error: "), "CONNECT: {report}");
    assert_eq!(inside.connections(), 0);
    server.finish();
}

fn bad_entries_refuse_the_start(host: &Host) {
    for (key, value, parts) in [
        (
            ALLOW,
            "api.test, ftp://api.test",
            ["\"ftp://api.test\"", "http and https"],
        ),
        (
            ALLOW,
            "https://api.test/path",
            ["https://api.test/path", "path"],
        ),
        (
            ALLOW,
            "https://user@api.test",
            ["https://...@api.test", "has an @"],
        ),
        (ALLOW, "a*.test", ["a*.test", "*"]),
        (ALLOW, "10.1.2.3/8", ["10.1.2.3/8", "10.0.0.0/8"]),
        (ALLOW, "http://::1", ["http://::1", "brackets"]),
        (ALLOW, "api.test:0", ["api.test:0", "port"]),
        (
            "UNIT_WASM_HTTP_CA",
            "relative.pem",
            ["relative.pem", "absolute path"],
        ),
        ("UNIT_WASM_HTTP_REQUESTS", "0", ["\"0\"", "a number from 1"]),
        (
            "UNIT_WASM_HTTP_CONCURRENCY",
            "many",
            ["many", "a number from 1"],
        ),
        (
            "UNIT_WASM_HTTP_CONNECT_TIMEOUT",
            "10x",
            ["\"10x\"", "duration"],
        ),
        (
            "UNIT_WASM_DNS_SERVER",
            "dns.test",
            ["dns.test", "an address"],
        ),
        (
            "UNIT_WASM_ALLOW_HTPP",
            "api.test",
            ["UNIT_WASM_ALLOW_HTPP", ALLOW],
        ),
    ] {
        let mut server = Server::bare(host);
        crate::startup::expect_refusal(&mut server);
        let reply = server.put(&app(&[(key, value)]).into());
        assert!(!reply.success(), "{key}={value}: {reply:?}");
        server
            .log
            .expect(&["cannot start", key, parts[0], parts[1]]);
        server.finish();
    }
}
