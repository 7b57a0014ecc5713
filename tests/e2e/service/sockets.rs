//! `wasi:sockets` of WASI 0.3: only what is listed.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::launch::{free_addr, next_ip};
use harness::peers::{Answer, DnsPeer, RawPeer};
use harness::{Host, Server};

use super::{ask, ask_as, error, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-sockets", All:
        nothing_by_default,
        connecting,
        datagrams,
        listening,
        names,
        sockets_are_counted,
        sockets_of_guests_that_end_are_closed,
    ]
}

fn denied() -> String {
    error("AccessDenied")
}

fn nothing_by_default(host: &Host) {
    let peer = RawPeer::echo();
    let server = start(host, &[]);
    let addr = peer.addr();
    for target in [
        format!("/tcp?addr={addr}&send=x"),
        format!("/udp?addr={addr}&send=x"),
        format!("/listen?addr={}:0", next_ip()),
        "/resolve?name=localhost".to_owned(),
    ] {
        assert_eq!(ask(&server, &target), denied(), "{target}");
    }
    assert_eq!(peer.connections(), 0);
    server.finish();
}

/// A peer that sends back one line and closes.
fn one_line() -> RawPeer {
    RawPeer::start(|stream, _| {
        let mut text = [0; 5];
        std::io::Read::read_exact(stream, &mut text)?;
        stream.write_all(&text)
    })
}

fn connecting(host: &Host) {
    let peer = one_line();
    let other = one_line();
    let entry = peer.addr().to_string();
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    assert_eq!(
        ask(&server, format!("/tcp?addr={entry}&send=hello")),
        "hello"
    );
    let elsewhere = other.addr();
    let target = format!("/tcp?addr={elsewhere}&send=hello");
    assert_eq!(ask_as(&server, "other", target), denied());
    let needed = format!("would need {elsewhere}");
    let line = server
        .log
        .expect(&["request=other ", "UNIT_WASM_ALLOW_TCP", &needed]);
    assert!(line.contains("[warn]"), "{line}");
    assert_eq!(other.connections(), 0);
    // UDP is another setting, and so is listening.
    assert_eq!(ask(&server, format!("/udp?addr={entry}&send=x")), denied());
    let ip = peer.addr().ip();
    assert_eq!(ask(&server, format!("/listen?addr={ip}:0")), denied());
    server.finish();
}

fn datagrams(host: &Host) {
    let peer = UdpSocket::bind((next_ip(), 0)).expect("an address");
    let addr = peer.local_addr().expect("its address");
    let patience = Some(Duration::from_secs(20));
    peer.set_read_timeout(patience).expect("socket option");
    let echo = peer.try_clone().expect("a second descriptor");
    let answering = thread::spawn(move || {
        let mut packet = [0; 100];
        let (length, client) = echo.recv_from(&mut packet).expect("a datagram");
        echo.send_to(&packet[..length], client).expect("sent");
    });
    let server = start(host, &[("UNIT_WASM_ALLOW_UDP", &addr.to_string())]);
    assert_eq!(
        ask(&server, format!("/udp?addr={addr}&send=hello")),
        "hello"
    );
    answering.join().expect("the peer");
    let other = UdpSocket::bind((next_ip(), 0)).expect("an address");
    other.set_nonblocking(true).expect("socket option");
    let elsewhere = other.local_addr().expect("its address");
    let target = format!("/udp?addr={elsewhere}&send=x");
    assert_eq!(ask_as(&server, "other", target), denied());
    let needed = format!("would need {elsewhere}");
    server
        .log
        .expect(&["request=other ", "UNIT_WASM_ALLOW_UDP", &needed]);
    assert!(other.recv(&mut [0; 10]).is_err(), "a datagram came");
    server.finish();
}

fn listening(host: &Host) {
    let addr = free_addr(next_ip());
    let entry = format!("listen:{addr}");
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    let client = thread::spawn(move || {
        harness::wait_for(Duration::from_secs(20), || {
            let mut stream = TcpStream::connect(addr).ok()?;
            stream.write_all(b"hello").ok()
        })
    });
    let target = format!("/listen?addr={addr}&accept=1");
    assert_eq!(ask(&server, target), "hello");
    assert!(client.join().expect("the client").is_some());
    let target = format!("/listen?addr={}:0", addr.ip());
    assert_eq!(ask_as(&server, "other", target), denied());
    server.log.expect(&["request=other ", "would need listen:"]);
    server.finish();
}

fn names(host: &Host) {
    let dns = DnsPeer::start();
    let addresses = ["127.9.9.1", "fd00::5"].map(|ip| ip.parse().expect("an address"));
    dns.tell("db.test", Answer::Addresses(addresses.to_vec()));
    dns.tell_address("other.test", next_ip());
    let settings = [
        ("UNIT_WASM_DNS_SERVER", &*dns.setting()),
        ("UNIT_WASM_ALLOW_DNS", "db.test unknown.test"),
    ];
    let server = start(host, &settings);
    let text = ask(&server, "/resolve?name=db.test");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["127.9.9.1", "fd00::5"]);
    let unknown = ask(&server, "/resolve?name=unknown.test");
    assert_eq!(unknown, error("NameUnresolvable"));
    assert_eq!(
        ask_as(&server, "other", "/resolve?name=other.test"),
        denied()
    );
    server
        .log
        .expect(&["request=other ", "other.test", "UNIT_WASM_ALLOW_DNS"]);
    assert_eq!(dns.asked("other.test"), 0, "it was looked up");
    // An address is its own, and nobody is asked for it.
    assert_eq!(ask(&server, "/resolve?name=127.0.0.1"), "127.0.0.1\n");
    assert_eq!(dns.names_asked(), ["db.test", "unknown.test"]);
    server.finish();
}

/// How many sockets the guest could make, and the error that came instead of more.
fn make(server: &Server, id: &str, n: u32) -> String {
    ask_as(server, id, format!("/tcp-many?n={n}"))
}

fn sockets_are_counted(host: &Host) {
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", "127.0.0.0/8:1")]);
    for number in 0..3 {
        let id = format!("many-{number}");
        let text = make(&server, &id, 300);
        assert!(text.starts_with("256 "), "{text}");
        let line = server
            .log
            .expect(&[&format!("request={id} "), "256 (fixed)"]);
        assert!(line.contains("[warn]"), "{line}");
    }
    assert_eq!(make(&server, "few", 256), "256\n");
    server.finish();
}

/// finish() looks for what is left of them.
fn sockets_of_guests_that_end_are_closed(host: &Host) {
    // Does not even close.
    let peer = RawPeer::start(|_, _| {
        thread::sleep(Duration::from_secs(15));
        Ok(())
    });
    let entry = peer.addr().to_string();
    let settings = [
        ("UNIT_WASM_ALLOW_TCP", &*entry),
        ("UNIT_WASM_TIMEOUT", "5s"),
    ];
    let server = start(host, &settings);
    thread::scope(|scope| {
        for _ in 0..5 {
            // The guest waits for what the peer does not send.
            scope.spawn(|| {
                let response = server.get(format!("/tcp?addr={entry}&send=hello"));
                assert_eq!(response.status(), 504);
            });
        }
    });
    // The peer may be late to accept them.
    harness::eventually("all connections", Duration::from_secs(60), || {
        peer.connections() == 5
    });
    server.finish();
}
