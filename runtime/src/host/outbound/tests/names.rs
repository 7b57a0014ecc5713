//! Names: which addresses they lead to, and which not.

use super::*;
use crate::host::test_peers::{A, AAAA, Dns, NameServer, addresses, answer};

/// Two servers at the same port of different addresses: one that may be asked,
/// and one that may not.
async fn pair() -> (Peer, Peer) {
    loop {
        let good = Peer::http("127.0.0.2:0", None, |_| async { answer("good") }).await;
        let taken = std::net::TcpListener::bind(("127.0.0.1", good.port()));
        if taken.is_err() {
            continue;
        }
        drop(taken);
        let at = format!("127.0.0.1:{}", good.port());
        let secret = Peer::http(&at, None, |_| async { answer("secret") }).await;
        return (good, secret);
    }
}

fn bench(good: &Peer, server: &NameServer) -> Bench {
    let port = good.port();
    let rules = [format!("http://*.test:{port}"), format!("127.0.0.2:{port}")];
    Bench::with(&[&rules[0], &rules[1]], |grant, dns| {
        dns.servers = vec![server.addr];
        grant.keep_alive = Duration::ZERO;
    })
}

#[tokio::test]
async fn a_name_that_leads_home_is_refused() {
    let (good, secret) = pair().await;
    let server = NameServer::start(|_, _, _| addresses(&["127.0.0.1", "::1", "10.0.0.1"])).await;
    let bench = bench(&good, &server);
    let url = format!("http://evil.test:{}/?token=1", good.port());
    assert_eq!(bench.error(&url).await, "DestinationIpProhibited");
    let told = bench.notice();
    assert!(
        told.contains("which is loopback: UNIT_WASM_ALLOW_HTTP would need http://"),
        "{told}"
    );
    assert!(!told.contains("token"), "{told}");
    assert_eq!(secret.accepted() + good.accepted(), 0);
}

#[tokio::test]
async fn of_several_addresses_only_the_good_are_used() {
    let (good, secret) = pair().await;
    let server = NameServer::start(|_, _, _| addresses(&["127.0.0.1", "127.0.0.2"])).await;
    let bench = bench(&good, &server);
    for _ in 0..5 {
        let text = bench.text(&format!("http://a.test:{}/", good.port())).await;
        assert_eq!(text.unwrap(), "good");
    }
    assert_eq!(secret.accepted(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_once_for_a_connection() {
    let (good, secret) = pair().await;
    // What it says first may be connected to, what it says then may not.
    let server = NameServer::start(|_, _, before| match before {
        0 => addresses(&["127.0.0.2"]),
        _ => addresses(&["127.0.0.1"]),
    })
    .await;
    let bench = bench(&good, &server);
    let url = format!("http://rebind.test:{}/", good.port());
    assert_eq!(bench.text(&url).await.unwrap(), "good");
    assert_eq!(server.asked("rebind.test", A), 1);
    assert_eq!(bench.error(&url).await, "DestinationIpProhibited");
    assert_eq!(secret.accepted(), 0);
}

#[tokio::test]
async fn names_that_no_rule_covers_are_never_asked_for() {
    let (good, _) = pair().await;
    let server = NameServer::start(|_, _, _| addresses(&["127.0.0.2"])).await;
    let bench = bench(&good, &server);
    let url = format!("http://secret.elsewhere:{}/path?token=1", good.port());
    assert_eq!(bench.error(&url).await, "HttpRequestDenied");
    let entry = format!("http://secret.elsewhere:{}", good.port());
    let expected = format!("outbound {entry} refused: UNIT_WASM_ALLOW_HTTP would need {entry}");
    assert_eq!(bench.notice(), expected);
    assert_eq!(server.questions(), 0);
}

#[tokio::test]
async fn localhost_is_loopback_whatever_the_name_server_says() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("local") }).await;
    let server = NameServer::start(|_, _, _| addresses(&["93.184.216.34"])).await;
    let bench = Bench::with(&[&format!("localhost:{}", peer.port())], |_, dns| {
        dns.servers = vec![server.addr];
    });
    let url = format!("http://LocalHost:{}/", peer.port());
    assert_eq!(bench.text(&url).await.unwrap(), "local");
    assert_eq!(server.questions(), 0);
    let denied = bench.error(&format!("http://{}/", peer.addr)).await;
    assert_eq!(denied, "HttpRequestDenied");
    let any = Bench::new(&["*:*"]);
    assert_eq!(any.error(&url).await, "DestinationIpProhibited");
}

#[tokio::test]
async fn what_name_servers_say_no_with() {
    let server = NameServer::start(|name, kind, _| match (name, kind) {
        ("none.test", _) => Dns::Code(3),
        ("broken.test", _) => Dns::Code(2),
        ("refused.test", _) => Dns::Code(5),
        ("empty.test", _) => Dns::Addresses(Vec::new()),
        _ => Dns::Silence,
    })
    .await;
    let bench = Bench::with(&["*.test"], |grant, dns| {
        dns.servers = vec![server.addr];
        dns.timeout = Duration::from_millis(300);
        grant.connect_timeout = Duration::from_secs(20);
    });
    for (name, part) in [
        ("none", "DnsError { rcode: Some(\"NXDOMAIN\")"),
        ("broken", "DnsError { rcode: Some(\"SERVFAIL\")"),
        ("refused", "DnsError { rcode: Some(\"REFUSED\")"),
        ("empty", "there is no address"),
        ("silent", "DnsTimeout"),
    ] {
        let error = bench.error(&format!("http://{name}.test/")).await;
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_connect_timeout_covers_names() {
    let server = NameServer::start(|_, _, _| Dns::Silence).await;
    let bench = Bench::with(&["*.test"], |grant, dns| {
        dns.servers = vec![server.addr];
        dns.timeout = Duration::from_secs(30);
        grant.connect_timeout = Duration::from_millis(200);
    });
    assert_eq!(bench.error("http://slow.test/").await, "DnsTimeout");
}

#[tokio::test]
async fn a_server_that_is_silent_about_one_family_does_not_matter() {
    for silent in [A, AAAA] {
        let at = if silent == A {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        };
        let peer = Peer::http(at, None, |_| async { answer("found") }).await;
        let server = NameServer::start(move |_, kind, _| match kind == silent {
            true => Dns::Silence,
            false => addresses(&["127.0.0.1", "::1"]),
        })
        .await;
        let port = peer.port();
        let rules = [
            format!("x.test:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let bench = Bench::with(&rules, |_, dns| {
            dns.servers = vec![server.addr];
            dns.timeout = Duration::from_secs(30);
        });
        let text = bench.text(&format!("http://x.test:{port}/")).await;
        assert_eq!(text.unwrap(), "found");
    }
}

#[tokio::test]
async fn files_and_search_domains_lead_to_addresses_too() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("found") }).await;
    let server = NameServer::start(|name, _, _| match name {
        "api.svc.test" => addresses(&["127.0.0.1"]),
        _ => Dns::Code(3),
    })
    .await;
    let port = peer.port();
    let rules = [
        format!("api:{port}"),
        format!("db:{port}"),
        format!("{}", peer.addr),
    ];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let bench = Bench::with(&rules, |_, dns| {
        let ours = server.addr;
        *dns = DnsConfig::from_files(b"search svc.test\n", b"127.0.0.1 db\n");
        dns.servers = vec![ours];
    });
    for name in ["api", "db"] {
        let text = bench.text(&format!("http://{name}:{port}/")).await;
        assert_eq!(text.unwrap(), "found", "{name}");
    }
    assert_eq!(server.asked("db", A), 0);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("second") }).await;
    let server = NameServer::start(|_, _, _| addresses(&["127.0.0.3", "127.0.0.1"])).await;
    let port = peer.port();
    let rules = [format!("x.test:{port}"), format!("127.0.0.0/8:{port}")];
    let bench = Bench::with(&[&rules[0], &rules[1]], |_, dns| {
        dns.servers = vec![server.addr];
    });
    let text = bench.text(&format!("http://x.test:{port}/")).await;
    assert_eq!(text.unwrap(), "second");
}

#[tokio::test]
async fn answers_that_are_too_long_are_asked_for_by_tcp() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("found") }).await;
    let server =
        NameServer::start(|_, _, _| Dns::TooLong(vec!["127.0.0.1".parse().unwrap()])).await;
    let port = peer.port();
    let rules = [format!("x.test:{port}"), format!("{}", peer.addr)];
    let bench = Bench::with(&[&rules[0], &rules[1]], |_, dns| {
        dns.servers = vec![server.addr];
    });
    let text = bench.text(&format!("http://x.test:{port}/")).await;
    assert_eq!(text.unwrap(), "found");
}

#[tokio::test]
async fn the_next_name_server_is_asked_when_one_does_not_answer() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("found") }).await;
    let dead = NameServer::start(|_, _, _| Dns::Silence).await;
    let server = NameServer::start(|_, _, _| addresses(&["127.0.0.1"])).await;
    let port = peer.port();
    let rules = [format!("*.test:{port}"), format!("{}", peer.addr)];
    let bench = Bench::with(&[&rules[0], &rules[1]], |_, dns| {
        dns.servers = vec![dead.addr, server.addr];
        dns.timeout = Duration::from_secs(1);
        dns.attempts = 2;
    });
    for name in ["x", "y"] {
        let text = bench.text(&format!("http://{name}.test:{port}/")).await;
        assert_eq!(text.unwrap(), "found");
    }
}
