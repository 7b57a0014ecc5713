//! TLS: who is trusted, what is negotiated, what guests hear of failures.

use rustls::ServerConfig;

use super::*;
use crate::host::test_peers::{Ca, answer};

const H2: &[&str] = &["h2", "http/1.1"];
const H1: &[&str] = &["http/1.1"];

async fn version_server(tls: Arc<ServerConfig>) -> Peer {
    Peer::http("127.0.0.1:0", Some(tls), |request| async move {
        let host = request.headers().get("host").map(|v| format!("{v:?}"));
        let version = request.version();
        answer(format!("{version:?} {} {host:?}", request.uri()))
    })
    .await
}

/// May ask `peer` by the name `localhost`, and trusts `ca`.
fn trusting(peer: &Peer, ca: Option<&Ca>) -> Bench {
    Bench::with(
        &[&format!("https://localhost:{}", peer.port())],
        |grant, _| {
            // Without the authorities of this machine.
            grant.roots = match ca {
                Some(ca) => super::super::grant::from_pem(ca.pem.as_bytes()).unwrap(),
                None => Vec::new(),
            };
        },
    )
}

#[tokio::test]
async fn what_both_sides_speak_is_spoken() {
    let ca = Ca::new();
    for (protocols, expected) in [(H2, "HTTP/2.0"), (H1, "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let peer = version_server(ca.server(&["localhost"], protocols)).await;
        let bench = trusting(&peer, Some(&ca));
        let authority = format!("localhost:{}", peer.port());
        for _ in 0..3 {
            let text = bench.text(&format!("https://{authority}/a?b=c")).await;
            let expected = match expected {
                "HTTP/2.0" => format!("HTTP/2.0 https://{authority}/a?b=c None"),
                _ => format!("HTTP/1.1 /a?b=c Some({:?})", format!("{authority:?}")),
            };
            assert_eq!(text.unwrap().replace('\\', ""), expected.replace('\\', ""));
        }
        assert_eq!(peer.accepted(), 1, "the connection is used again");
    }
}

#[tokio::test]
async fn certificates_nobody_vouches_for_are_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let good = || ca.server(&["localhost"], H2);
    for (tls, trusted, part) in [
        (good(), Some(&other), "UnknownIssuer"),
        (good(), None, "UNIT_WASM_HTTP_CA can name a file"),
        (
            ca.server(&["other.test"], H2),
            Some(&ca),
            "not valid for name",
        ),
        (
            ca.server_until(&["localhost"], H2, 2001),
            Some(&ca),
            "expired",
        ),
    ] {
        let peer = version_server(tls).await;
        let bench = trusting(&peer, trusted);
        let url = format!("https://localhost:{}/?token=1", peer.port());
        assert_eq!(bench.error(&url).await, "TlsCertificateError");
        let told = bench.notice();
        let begins = format!("outbound https://localhost:{} failed: ", peer.port());
        assert!(told.starts_with(&begins) && told.contains(part), "{told}");
        assert!(!told.contains("token"), "{told}");
    }
}

#[tokio::test]
async fn a_certificate_for_an_address() {
    let ca = Ca::new();
    let peer = version_server(ca.server(&["127.0.0.1"], H2)).await;
    let bench = Bench::with(&[&format!("https://{}", peer.addr)], |grant, _| {
        grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
    });
    let text = bench
        .text(&format!("https://{}/", peer.addr))
        .await
        .unwrap();
    assert!(text.starts_with("HTTP/2.0"), "{text}");
}

#[tokio::test]
async fn servers_that_do_not_speak_tls() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async { answer("plain") }).await;
    let bench = trusting(&peer, None);
    let url = format!("https://localhost:{}/", peer.port());
    assert_eq!(bench.error(&url).await, "TlsProtocolError");
    let dead = Peer::raw("127.0.0.1:0", |stream, _| async { drop(stream) }).await;
    let bench = trusting(&dead, None);
    let url = format!("https://localhost:{}/", dead.port());
    assert_eq!(bench.error(&url).await, "ConnectionTerminated");
}

#[tokio::test]
async fn servers_that_want_another_version_send_an_alert() {
    let ca = Ca::new();
    // Nothing that we offer is accepted there.
    let peer = version_server(ca.server(&["localhost"], &["spdy/3"])).await;
    let bench = trusting(&peer, Some(&ca));
    let error = bench
        .error(&format!("https://localhost:{}/", peer.port()))
        .await;
    assert_eq!(
        error,
        "TlsAlertReceived { alert_id: Some(120), alert_message: Some(\"NoApplicationProtocol\") }"
    );
}

#[tokio::test]
async fn the_connect_timeout_covers_the_handshake() {
    let peer = Peer::raw("127.0.0.1:0", |stream, _| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut bench = trusting(&peer, None);
    Arc::get_mut(&mut bench.outbound)
        .unwrap()
        .grant
        .connect_timeout = Duration::from_millis(200);
    let url = format!("https://localhost:{}/", peer.port());
    assert_eq!(bench.error(&url).await, "ConnectionTimeout");
}

#[tokio::test]
async fn many_at_once_share_a_connection() {
    let ca = Ca::new();
    let peer = version_server(ca.server(&["localhost"], H2)).await;
    let mut bench = trusting(&peer, Some(&ca));
    let url = format!("https://localhost:{}/", peer.port());
    for _ in 0..3 {
        bench.renew();
        let all = futures::future::join_all((0..50).map(|_| bench.text(&url))).await;
        assert!(all.iter().all(Result::is_ok));
    }
    assert_eq!(peer.accepted(), 1);
    // Beyond what one connection is to carry.
    bench.renew();
    let held: Vec<_> = futures::future::join_all((0..100).map(|_| bench.get(&url))).await;
    assert!(held.iter().all(Result::is_ok));
    assert!(peer.accepted() <= 2, "{}", peer.accepted());
}

/// In a process of its own: it is the environment that says where the authorities of
/// this machine are.
#[test]
fn authorities_of_this_machine_are_trusted() {
    const TEST: &str = "host::outbound::tests::tls::authorities_of_this_machine_are_trusted";
    const INNER: &str = "NXT_WASM_TEST_AUTHORITIES";
    if std::env::var_os(INNER).is_some() {
        let place = std::env::var_os("SSL_CERT_FILE").unwrap();
        let event_loop = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return event_loop
            .unwrap()
            .block_on(trust_what_is_in(place.as_ref()));
    }
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env("SSL_CERT_FILE", dir.path().join("authorities.pem"))
        .env_remove("SSL_CERT_DIR")
        .env(INNER, "yes")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

async fn trust_what_is_in(place: &std::path::Path) {
    let (ca, other) = (Ca::new(), Ca::new());
    std::fs::write(place, &ca.pem).unwrap();
    for (extra, count) in [(None, 1), (Some(other.pem.as_bytes()), 2)] {
        let peer = version_server(ca.server(&["localhost"], H2)).await;
        let rule = format!("https://localhost:{}", peer.port());
        let bench = Bench::with(&[&rule], |grant, _| {
            grant.load_roots(extra).unwrap();
            assert_eq!(grant.roots.len(), count);
        });
        assert!(bench.text(&format!("{rule}/")).await.is_ok());
        let peer = version_server(Ca::new().server(&["localhost"], H2)).await;
        let rule = format!("https://localhost:{}", peer.port());
        let bench = Bench::with(&[&rule], |grant, _| grant.load_roots(extra).unwrap());
        let error = bench.error(&format!("{rule}/")).await;
        assert_eq!(error, "TlsCertificateError");
    }
}

#[test]
fn files_of_certificates() {
    let ca = Ca::new();
    let mut grant = HttpGrant {
        rules: vec!["http://a.example".parse().unwrap()],
        ..HttpGrant::default()
    };
    let two = format!("some text\n{}{}", ca.pem, Ca::new().pem);
    grant.load_roots(Some(two.as_bytes())).unwrap();
    assert_eq!(grant.roots.len(), 2, "nothing of the system for http");
    for (pem, part) in [
        ("", "no certificate"),
        ("nothing", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "not PEM",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 1 in it cannot be used",
        ),
    ] {
        let error = grant.load_roots(Some(pem.as_bytes())).unwrap_err();
        assert!(error.to_string().contains(part), "{pem}: {error}");
    }
}
