//! `wasi:sockets`: only what is listed, checked address by address.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::launch::next_ip;
use harness::peers::process::DatabasePeer;
use harness::peers::raw::deserted;
use harness::peers::{Answer, DnsPeer, RawPeer};
use harness::{App, Host, Request, Server, eventually};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["sockets", All:
        nothing_by_default,
        connecting_to_an_address,
        connecting_to_a_network,
        a_star_is_no_local_address,
        the_entry_in_the_log_is_the_one_that_is_missing,
        scanning_does_not_flood_the_log,
        listening_takes_an_entry_of_its_own,
        datagrams,
        names_of_the_list_are_looked_up,
        names_that_cannot_be_looked_up,
        a_name_is_no_grant_for_its_addresses,
        bad_entries_refuse_the_start,
        sockets_of_guests_that_end_are_closed,
        a_silent_peer_costs_one_request,
    ];
    all.extend(cases!["sockets", Redis: a_guest_talks_to_redis]);
    all.extend(cases!["sockets", Postgres: a_guest_talks_to_postgresql]);
    all
}

const PATIENCE: Duration = Duration::from_secs(60);

/// What the guest says to `target`.
#[track_caller]
fn ask(server: &Server, target: impl AsRef<str>) -> String {
    server.get(target.as_ref()).ok().text()
}

fn start(host: &Host, settings: &[(&str, &str)]) -> Server {
    let app = App::caps("net");
    let set = |app: App, (name, value): &(&str, &str)| app.env(name, value);
    Server::start(host, settings.iter().fold(app, set))
}

#[track_caller]
fn assert_denied(text: &str) {
    let denied = text.contains("PermissionDenied") || text.contains("access-denied");
    assert!(denied, "{text}");
}

fn nothing_by_default(host: &Host) {
    let server = start(host, &[]);
    let peer = RawPeer::echo();
    let dns = DnsPeer::start();
    dns.tell_address("name.test", next_ip());
    assert_denied(&ask(&server, format!("/tcp?addr={}&send=x", peer.addr())));
    assert_denied(&ask(&server, format!("/udp?addr={}&send=x", peer.addr())));
    assert_denied(&ask(&server, "/listen?addr=127.0.0.1:0"));
    assert_denied(&ask(&server, "/dns?name=name.test"));
    assert_denied(&ask(&server, "/dns?name=localhost"));
    assert_eq!(peer.connections(), 0);
    server.finish();
}

fn connecting_to_an_address(host: &Host) {
    let peer = RawPeer::echo();
    let other = RawPeer::echo();
    let same_ip = TcpListener::bind((peer.addr().ip(), 0)).unwrap();
    let entry = peer.addr().to_string();
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    let tcp = |addr: &str| ask(&server, format!("/tcp?addr={addr}&send=hello"));
    assert_eq!(tcp(&entry), "hello");
    assert_denied(&tcp(&other.addr().to_string()));
    assert_denied(&tcp(&same_ip.local_addr().unwrap().to_string()));
    // The same address in IPv6's clothes is the same address; no guest of WASI
    // can connect to it so.
    let text = tcp(&format!(
        "[::ffff:{}]:{}",
        peer.addr().ip(),
        peer.addr().port()
    ));
    assert!(text.starts_with("error: connect "), "{text}");
    assert_eq!(peer.connections(), 1);
    assert_eq!(other.connections(), 0);
    // UDP is another setting.
    assert_denied(&ask(&server, format!("/udp?addr={entry}&send=x")));
    server.finish();
}

fn connecting_to_a_network(host: &Host) {
    let peer = RawPeer::echo();
    let port = peer.addr().port();
    let entry = format!("127.0.0.0/8:{port}");
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    let text = ask(&server, format!("/tcp?addr={}&send=hello", peer.addr()));
    assert_eq!(text, "hello");
    let next = port.checked_add(1).unwrap_or(port - 1);
    let text = ask(
        &server,
        format!("/tcp?addr={}:{next}&send=x", peer.addr().ip()),
    );
    assert_denied(&text);
    // Nobody is there, but the guest may knock.
    let text = ask(&server, format!("/tcp?addr=127.255.255.254:{port}&send=x"));
    assert!(text.contains("ConnectionRefused"), "{text}");
    server.finish();
}

/// All these are refused before anything is sent.
fn a_star_is_no_local_address(host: &Host) {
    let peer = RawPeer::echo();
    let server = start(
        host,
        &[
            ("UNIT_WASM_ALLOW_TCP", "*:*"),
            ("UNIT_WASM_ALLOW_UDP", "*:*"),
        ],
    );
    let port = peer.addr().port();
    for ip in [
        peer.addr().ip().to_string().as_str(),
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
    ] {
        let text = ask(&server, format!("/tcp?addr={ip}:{port}&send=x"));
        let mapped = ip.starts_with("[::ffff:") || ip == "0.0.0.0" || ip == "[::]";
        if mapped {
            // Not an address that a WASI socket connects to at all.
            assert!(text.starts_with("error: connect "), "{ip}: {text}");
        } else {
            assert_denied(&text);
        }
    }
    assert_eq!(peer.connections(), 0);
    server.finish();
}

/// The entry that a line of the log says was needed.
fn needed(line: &str) -> String {
    let (_, entry) = line.split_once("would need ").expect("the entry");
    entry.trim().to_owned()
}

fn the_entry_in_the_log_is_the_one_that_is_missing(host: &Host) {
    let peer = RawPeer::echo();
    let addr = peer.addr();
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", "10.0.0.5:5432")]);
    let request = Request::get(format!("/tcp?addr={addr}&send=hello"));
    assert_denied(
        &server
            .send(&request.header("x-request-id", "missing"))
            .ok()
            .text(),
    );
    let line = server
        .log
        .expect(&["request=missing ", "UNIT_WASM_ALLOW_TCP"]);
    assert!(line.contains("[warn]"), "{line}");
    let tcp = needed(&line);
    let request = Request::get(format!("/listen?addr={}:0", addr.ip()));
    assert_denied(
        &server
            .send(&request.header("x-request-id", "listen"))
            .ok()
            .text(),
    );
    let listen = needed(
        &server
            .log
            .expect(&["request=listen ", "UNIT_WASM_ALLOW_TCP"]),
    );
    server.finish();

    let entries = format!("{tcp}, {listen}");
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entries)]);
    assert_eq!(
        ask(&server, format!("/tcp?addr={addr}&send=hello")),
        "hello"
    );
    let steps = ask(&server, format!("/listen?addr={}:0", addr.ip()));
    assert!(steps.contains("listen: ok"), "{steps}");
    server.finish();
}

fn scanning_does_not_flood_the_log(host: &Host) {
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", "10.0.0.5:5432")]);
    let before = server.log.size();
    assert_eq!(ask(&server, "/scan?addr=127.0.0.1:1&n=20000"), "0\n");
    let grown = server.log.size() - before;
    assert!(grown < 1 << 20, "{grown} bytes of log from one request");
    server.finish();
}

fn listening_takes_an_entry_of_its_own(host: &Host) {
    let ip = next_ip();
    let connecting = format!("{ip}:*");
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &connecting)]);
    assert_denied(&ask(&server, format!("/listen?addr={ip}:0")));
    assert_denied(&ask(&server, "/listen?addr=0.0.0.0:0"));
    server.finish();

    let port = harness::launch::free_addr(ip).port();
    let listening = format!("listen:{ip}:{port}");
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &listening)]);
    assert_denied(&ask(&server, format!("/listen?addr={ip}:0")));
    assert_denied(&ask(&server, format!("/listen?addr=0.0.0.0:{port}")));
    assert_denied(&ask(&server, format!("/tcp?addr={ip}:{port}&send=x")));
    let client = thread::spawn(move || {
        harness::wait_for(Duration::from_secs(20), || {
            let mut stream = TcpStream::connect((ip, port)).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    });
    let steps = ask(&server, format!("/listen?addr={ip}:{port}&accept=20000"));
    let expected =
        format!("create: ok\nbind: ok\nlisten: ok\nlocal: {ip}:{port}\naccept: ok\nsend: ok\n");
    assert_eq!(steps, expected);
    assert_eq!(client.join().unwrap().as_deref(), Some("hello"));
    server.finish();
}

fn datagrams(host: &Host) {
    let peer = UdpSocket::bind((next_ip(), 0)).unwrap();
    let addr = peer.local_addr().unwrap();
    let echo = peer.try_clone().unwrap();
    let answering = thread::spawn(move || {
        let mut packet = [0; 100];
        // A datagram from each of two guests.
        for _ in 0..2 {
            let (length, client) = echo.recv_from(&mut packet).unwrap();
            echo.send_to(&packet[..length], client).unwrap();
        }
    });
    let entry = addr.to_string();
    let server = start(host, &[("UNIT_WASM_ALLOW_UDP", &entry)]);
    for how in ["", "&unconnected=1"] {
        let steps = ask(
            &server,
            format!("/udp?addr={addr}&send=hello&ms=20000{how}"),
        );
        assert!(
            steps.ends_with(&format!("receive: ok\nfrom {addr}: hello\n")),
            "{steps}"
        );
    }
    answering.join().unwrap();
    let other = UdpSocket::bind((next_ip(), 0)).unwrap();
    other.set_nonblocking(true).unwrap();
    let elsewhere = other.local_addr().unwrap();
    for how in ["", "&unconnected=1"] {
        let steps = ask(&server, format!("/udp?addr={elsewhere}&send=x&ms=100{how}"));
        assert_denied(&steps);
    }
    assert!(other.recv(&mut [0; 10]).is_err(), "a datagram came");
    let bound = format!("/udp?addr={addr}&send=x&bind={}:0", next_ip());
    assert_denied(&ask(&server, bound));
    // Nothing is listed for TCP, so it does not come to an address.
    let request = Request::get(format!("/tcp?addr={addr}&send=x"));
    let request = request.header("x-request-id", "unset");
    assert_denied(&server.send(&request).ok().text());
    let line = server.log.expect(&["request=unset "]);
    let told = "a TCP socket refused: UNIT_WASM_ALLOW_TCP is not set";
    assert!(line.contains(told), "{line}");
    server.finish();
}

fn names_of_the_list_are_looked_up(host: &Host) {
    let dns = DnsPeer::start();
    let addresses = ["127.9.9.1", "10.1.2.3"].map(|ip| ip.parse().unwrap());
    dns.tell("db.test", Answer::Addresses(addresses.to_vec()));
    dns.tell("a.cache.test", Answer::Alias("db.test".into()));
    dns.tell(
        "six.test",
        Answer::Addresses(vec!["fd00::5".parse().unwrap()]),
    );
    dns.tell_address("other.test", next_ip());
    let server = start(
        host,
        &[
            ("UNIT_WASM_DNS_SERVER", &dns.setting()),
            ("UNIT_WASM_ALLOW_DNS", "db.test six.test *.cache.test"),
        ],
    );
    let lookup = |name: &str| {
        let mut lines: Vec<String> = ask(&server, format!("/dns?name={name}"))
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lookup("db.test"), ["10.1.2.3", "127.9.9.1"]);
    assert_eq!(lookup("DB.Test."), ["10.1.2.3", "127.9.9.1"]);
    assert_eq!(lookup("a.cache.test"), ["10.1.2.3", "127.9.9.1"]);
    assert_eq!(lookup("six.test"), ["fd00::5"]);
    for name in ["other.test", "cache.test", "xdb.test", "localhost"] {
        let text = lookup(name).concat();
        assert_denied(&text);
    }
    let asked = dns.names_asked();
    assert_eq!(
        asked,
        ["a.cache.test", "db.test", "six.test"],
        "what has left the machine"
    );
    let line = server.log.expect(&["other.test", "UNIT_WASM_ALLOW_DNS"]);
    assert!(line.contains("[warn]"), "{line}");
    server.finish();
}

fn names_that_cannot_be_looked_up(host: &Host) {
    let dns = DnsPeer::start();
    dns.tell("broken.test", Answer::Code(2));
    dns.tell("nothing.test", Answer::Addresses(Vec::new()));
    let server = start(
        host,
        &[
            ("UNIT_WASM_DNS_SERVER", &dns.setting()),
            ("UNIT_WASM_ALLOW_DNS", "*"),
        ],
    );
    for (name, expected) in [
        ("unknown.test", &["name-unresolvable"][..]),
        ("nothing.test", &["name-unresolvable"]),
        (
            "broken.test",
            &[
                "name-unresolvable",
                "temporary-resolver-failure",
                "permanent-resolver-failure",
            ],
        ),
        ("not%20a%20name", &["invalid-argument", "access-denied"]),
        ("", &["invalid-argument", "access-denied"]),
    ] {
        let text = ask(&server, format!("/dns?name={name}"));
        let told = expected
            .iter()
            .any(|code| text == format!("error: {code}\n"));
        assert!(told, "{name}: {text}");
    }
    server.finish();
}

fn a_name_is_no_grant_for_its_addresses(host: &Host) {
    let granted = RawPeer::echo();
    let port = granted.addr().port();
    let dns = DnsPeer::start();
    let elsewhere = next_ip();
    // A listener that must not hear anything.
    let bait = TcpListener::bind((elsewhere, port)).unwrap();
    bait.set_nonblocking(true).unwrap();
    dns.tell_address("db.test", granted.addr().ip());
    let entry = granted.addr().to_string();
    let server = start(
        host,
        &[
            ("UNIT_WASM_DNS_SERVER", &dns.setting()),
            ("UNIT_WASM_ALLOW_DNS", "db.test"),
            ("UNIT_WASM_ALLOW_TCP", &entry),
        ],
    );
    let target = format!("/tcp?addr=db.test:{port}&send=hello");
    assert_eq!(ask(&server, &target), "hello");
    // The name points elsewhere now.
    dns.tell_address("db.test", elsewhere);
    assert_denied(&ask(&server, &target));
    assert!(bait.accept().is_err(), "the guest came");
    server.finish();
}

fn bad_entries_refuse_the_start(host: &Host) {
    for (key, value, part) in [
        (
            "UNIT_WASM_ALLOW_TCP",
            "10.0.0.5:1, 10.0.0.5",
            "\"10.0.0.5\"",
        ),
        ("UNIT_WASM_ALLOW_TCP", "db.test:5432", "db.test"),
        ("UNIT_WASM_ALLOW_TCP", "10.0.0.5/8:80", "10.0.0.0/8"),
        ("UNIT_WASM_ALLOW_TCP", "10.0.0.5:http", "http"),
        ("UNIT_WASM_ALLOW_UDP", "::1:53", "brackets"),
        ("UNIT_WASM_ALLOW_DNS", "a.*.test", "a.*.test"),
    ] {
        let mut server = Server::bare(host);
        crate::startup::expect_refusal(&mut server);
        let reply = server.put(&App::caps("net").env(key, value).into());
        assert!(!reply.success(), "{key}={value}: {reply:?}");
        server.log.expect(&["cannot start", key, part]);
        server.finish();
    }
}

fn sockets_of_guests_that_end_are_closed(host: &Host) {
    let peer = RawPeer::silent();
    let entry = peer.addr().to_string();
    let server = start(
        host,
        &[
            ("UNIT_WASM_ALLOW_TCP", &entry),
            ("UNIT_WASM_TIMEOUT", "10s"),
        ],
    );
    let many = |rest: &str| format!("/tcp-many?addr={entry}&n=20&{rest}");
    assert_eq!(ask(&server, many("ms=0")), "20\n");
    // And those of one that is ended.
    let answer = server.get(many("ms=60000"));
    assert_eq!(answer.status(), 504);
    // The peer may be late to accept them.
    eventually("all connections", PATIENCE, || peer.connections() == 40);
    // finish() looks for what is left of them.
    server.finish();
}

fn a_silent_peer_costs_one_request(host: &Host) {
    let peer = RawPeer::silent();
    let entry = peer.addr().to_string();
    let server = start(
        host,
        &[
            ("UNIT_WASM_ALLOW_TCP", &entry),
            ("UNIT_WASM_TIMEOUT", "10s"),
        ],
    );
    let addr = server.addr();
    let target = format!("/tcp?addr={entry}&send=x&expect=1");
    thread::scope(|scope| {
        for _ in 0..4 {
            let target = &target;
            scope.spawn(move || {
                let answer = harness::http::fetch(addr, &Request::get(target)).unwrap();
                assert_eq!(answer.status(), 504);
            });
        }
        // Neighbours do not wait.
        for _ in 0..20 {
            assert_eq!(ask(&server, "/"), "caps-net\n");
        }
    });
    let refused = ask(&server, format!("/tcp?addr={}&send=x", deserted()));
    assert_denied(&refused);
    server.finish();
}

fn a_guest_talks_to_redis(host: &Host) {
    let mut redis = DatabasePeer::redis(None);
    let addr = redis.addr();
    let entry = addr.to_string();
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    let command = |words: &str| ask(&server, format!("/redis?addr={addr}&{words}"));
    assert_eq!(command("cmd=PING"), "PONG\n");
    assert_eq!(command("cmd=SET&cmd=key&cmd=a%20value"), "OK\n");
    assert_eq!(command("cmd=GET&cmd=key"), "a value\n");
    assert_eq!(command("cmd=INCRBY&cmd=count&cmd=41"), "41\n");
    assert_eq!(command("cmd=INCR&cmd=count"), "42\n");
    assert_eq!(command("cmd=GET&cmd=nothing"), "none\n");
    // What the guest wrote is there for others.
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"GET key\r\n").unwrap();
    let mut value = [0; 13];
    client.read_exact(&mut value).unwrap();
    assert_eq!(&value, b"$7\r\na value\r\n");
    drop(client);
    redis.kill();
    let text = command("cmd=PING");
    assert!(text.contains("ConnectionRefused"), "{text}");
    server.finish();
}

fn a_guest_talks_to_postgresql(host: &Host) {
    let postgres = DatabasePeer::postgres();
    let addr = postgres.addr();
    let entry = addr.to_string();
    let server = start(host, &[("UNIT_WASM_ALLOW_TCP", &entry)]);
    let query = |sql: &str| {
        let sql = sql.replace(' ', "%20");
        ask(
            &server,
            format!("/postgres?addr={addr}&user=guest&db=postgres&query={sql}"),
        )
    };
    assert_eq!(query("SELECT 6 * 7"), "42\n");
    assert_eq!(query("CREATE TABLE words (word text)"), "");
    assert_eq!(query("INSERT INTO words VALUES ('one'), ('two')"), "");
    assert_eq!(
        query("SELECT word FROM words ORDER BY word DESC"),
        "two\none\n"
    );
    assert_eq!(
        query("SELECT count(*) FROM generate_series(1, 100000)"),
        "100000\n"
    );
    let text = query("SELECT * FROM nothing");
    assert!(text.contains("does not exist"), "{text}");
    eventually("the end of connections", PATIENCE, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        query(sql) == "1\n"
    });
    server.finish();
}
