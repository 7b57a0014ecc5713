//! HTTPS: certificates, HTTP/2, and servers that are not what they seem.

use std::path::PathBuf;
use std::sync::Arc;

use harness::launch::next_ip;
use harness::peers::{Ca, DnsPeer, HttpPeer, RawPeer};
use harness::{App, Host, Request, Server};

use super::{ALLOW, app, assert_error, fetch, fetch_many, line, target};
use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["outbound-tls", All:
        http2_under_an_authority_of_ones_own,
        servers_that_speak_http1_alone,
        ten_thousand_calls_in_one_connection,
        calls_at_a_time_share_a_connection,
        a_certificate_for_an_address,
        an_unknown_authority_is_not_trusted,
        an_authority_is_for_one_application,
        a_certificate_for_another_name,
        an_expired_certificate,
        plain_text_where_tls_was_expected_and_the_reverse,
        a_dying_http2_server,
        files_of_authorities_that_cannot_be_used,
    ]
}

const H2: [&str; 2] = ["h2", "http/1.1"];

/// What a test of TLS needs: an authority, its certificate in a file, names.
pub struct TlsSetting {
    ca: Ca,
    file: PathBuf,
    dns: DnsPeer,
    dir: tempfile::TempDir,
}

impl TlsSetting {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new("Authority of the tests");
        Self {
            file: ca.write(dir.path()),
            ca,
            dns: DnsPeer::start(),
            dir,
        }
    }

    /// A server called `api.test`.
    pub fn peer(&self, protocols: &[&str]) -> HttpPeer {
        self.named(HttpPeer::tls(self.ca.server(&["api.test"], protocols)))
    }

    pub fn named(&self, peer: HttpPeer) -> HttpPeer {
        self.dns.tell_address("api.test", peer.addr().ip());
        peer
    }

    /// The guest that may reach all of them and trusts the authority.
    fn app(&self) -> App {
        self.trusting(app(&[]))
    }

    /// The same of another guest.
    pub fn trusting(&self, app: App) -> App {
        self.granted(app)
            .env("UNIT_WASM_HTTP_CA", self.file.to_str().unwrap())
    }

    fn distrustful(&self) -> App {
        self.granted(app(&[]))
    }

    fn granted(&self, app: App) -> App {
        app.env("UNIT_WASM_DNS_SERVER", &self.dns.setting())
            .env(ALLOW, "https://api.test:*, https://127.0.0.0/8:*")
            .env("UNIT_WASM_HTTP_REQUESTS", "1000")
    }
}

fn http2_under_an_authority_of_ones_own(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&H2);
    let server = Server::start(host, setting.app());
    let report = fetch(&server, &peer.url_as("api.test", "/"), "");
    assert_eq!(line(&report, "body"), "peer HTTP/2");
    let rest = "&method=POST&send=1000000&header=x-a:b";
    let report = fetch(&server, &peer.url_as("api.test", "/request?q=1"), rest);
    let uri = peer.url_as("api.test", "/request?q=1");
    assert!(
        report.contains(&format!("body=POST {uri} HTTP/2\n")),
        "{report}"
    );
    assert!(report.contains("x-a: b\n"), "{report}");
    assert!(report.contains("body 1000000\n"), "{report}");
    let report = fetch(&server, &peer.url_as("api.test", "/trailers"), "");
    assert_eq!(line(&report, "trailer x-check"), "done");
    let report = fetch(&server, &peer.url_as("api.test", "/bytes?n=10000000"), "");
    assert_eq!(line(&report, "length"), "10000000");
    server.finish();
}

fn servers_that_speak_http1_alone(host: &Host) {
    let setting = TlsSetting::new();
    for protocols in [&["http/1.1"][..], &[]] {
        let peer = setting.peer(protocols);
        let server = Server::start(host, setting.app());
        let report = fetch(&server, &peer.url_as("api.test", "/"), "");
        assert_eq!(line(&report, "body"), "peer HTTP/1.1", "{protocols:?}");
        let counts = fetch_many(&server, &peer.url_as("api.test", "/"), 200, 4);
        assert_eq!(counts, "200=200\n");
        let connections = peer.connections();
        assert!(connections <= 16, "{connections} connections");
        server.finish();
    }
}

fn ten_thousand_calls_in_one_connection(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&H2);
    let server = Server::start(host, setting.app());
    for _ in 0..10 {
        let counts = fetch_many(&server, &peer.url_as("api.test", "/"), 1000, 8);
        assert_eq!(counts, "200=1000\n");
    }
    assert_eq!(peer.requests(), 10_000);
    let connections = peer.connections();
    assert!(connections <= 2, "{connections} connections");
    server.finish();
}

fn calls_at_a_time_share_a_connection(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&H2);
    let server = Server::start(host, setting.app());
    let counts = fetch_many(&server, &peer.url_as("api.test", "/slow?ms=3000"), 60, 30);
    assert_eq!(counts, "200=60\n");
    assert!(
        peer.most_in_flight() >= 20,
        "{} at a time",
        peer.most_in_flight()
    );
    let connections = peer.connections();
    assert!(connections <= 2, "{connections} connections");
    server.finish();
}

fn a_certificate_for_an_address(host: &Host) {
    let setting = TlsSetting::new();
    let ip = next_ip();
    let config = setting.ca.server(&[&ip.to_string()], &H2);
    let peer = setting.named(HttpPeer::tls_at(ip.into(), config));
    let server = Server::start(host, setting.app());
    let report = fetch(&server, &peer.url("/"), "");
    assert_eq!(line(&report, "status"), "200");
    // It is for the address and not for what has it.
    let report = fetch(&server, &peer.url_as("api.test", "/"), "");
    assert_error(&report, "TlsCertificateError");
    server.finish();
}

fn an_unknown_authority_is_not_trusted(host: &Host) {
    let setting = TlsSetting::new();
    let stranger = Ca::new("Authority of the tests");
    let config = stranger.server(&["api.test"], &H2);
    let peer = setting.named(HttpPeer::tls(config));
    let server = Server::start(host, setting.app());
    let request = Request::get(target(&peer.url_as("api.test", "/"), ""));
    let report = server
        .send(&request.header("x-request-id", "stranger"))
        .ok()
        .text();
    assert_error(&report, "TlsCertificateError");
    let line = server.log.expect(&["request=stranger ", "api.test"]);
    assert!(line.contains("[warn]"), "{line}");
    assert_eq!(peer.requests(), 0);
    server.finish();
}

fn an_authority_is_for_one_application(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&H2);
    // There has to be some authority: one that has nothing to do with it.
    let other = Ca::new("Another");
    let folder = setting.dir.path().join("other");
    std::fs::create_dir(&folder).unwrap();
    let file = other.write(&folder);
    let app = setting
        .distrustful()
        .env("UNIT_WASM_HTTP_CA", file.to_str().unwrap());
    let server = Server::start(host, app);
    let report = fetch(&server, &peer.url_as("api.test", "/"), "");
    assert_error(&report, "TlsCertificateError");
    assert_eq!(peer.requests(), 0);
    server.finish();
}

fn a_certificate_for_another_name(host: &Host) {
    let setting = TlsSetting::new();
    let config = setting.ca.server(&["other.test", "*.api.test"], &H2);
    let peer = setting.named(HttpPeer::tls(config));
    let server = Server::start(host, setting.app());
    let report = fetch(&server, &peer.url_as("api.test", "/"), "");
    assert_error(&report, "TlsCertificateError");
    assert_eq!(peer.requests(), 0);
    assert!(peer.failed_handshakes() <= 1);
    server.finish();
}

fn an_expired_certificate(host: &Host) {
    let setting = TlsSetting::new();
    let config = setting.ca.expired_server(&["api.test"], &H2);
    let peer = setting.named(HttpPeer::tls(config));
    let server = Server::start(host, setting.app());
    let report = fetch(&server, &peer.url_as("api.test", "/"), "");
    assert_error(&report, "TlsCertificateError");
    assert_eq!(peer.requests(), 0);
    server.finish();
}

fn plain_text_where_tls_was_expected_and_the_reverse(host: &Host) {
    let setting = TlsSetting::new();
    let plain = RawPeer::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let talkative = RawPeer::start(|stream, _| {
        use std::io::Write;
        stream.write_all(b"220 mail.test ESMTP, at your service\r\n")?;
        let mut rest = Vec::new();
        std::io::Read::read_to_end(stream, &mut rest).map(drop)
    });
    let tls = setting.peer(&H2);
    let app = setting.app().env(ALLOW, "127.0.0.0/8:*, api.test:*");
    let server = Server::start(host, app.env("UNIT_WASM_HTTP_CONNECT_TIMEOUT", "15s"));
    let report = fetch(&server, &format!("https://{}/", talkative.addr()), "");
    assert_error(&report, "TlsProtocolError");
    let report = fetch(&server, &format!("https://{}/", plain.addr()), "");
    assert_error(&report, "ConnectionTimeout");
    let report = fetch(&server, &format!("http://{}/", tls.addr()), "");
    assert!(
        report.starts_with("error: response ErrorCode::"),
        "{report}"
    );
    assert_eq!(tls.requests(), 0);
    server.finish();
}

fn a_dying_http2_server(host: &Host) {
    let setting = TlsSetting::new();
    let peer = setting.peer(&["h2"]);
    let server = Server::start(host, setting.app());
    let url = |path: &str| peer.url_as("api.test", path);
    let report = fetch(&server, &url("/die?when=head"), "");
    assert!(
        report.starts_with("error: response ErrorCode::"),
        "{report}"
    );
    let report = fetch(&server, &url("/die?when=body&n=1000"), "");
    assert_eq!(line(&report, "status"), "200");
    assert_eq!(line(&report, "length"), "1000");
    assert!(report.contains("error: body ErrorCode::"), "{report}");
    // Others in the same connection do not mind.
    let report = fetch(&server, &url("/"), "");
    assert_eq!(line(&report, "body"), "peer HTTP/2");
    server.finish();
}

fn files_of_authorities_that_cannot_be_used(host: &Host) {
    let setting = Arc::new(TlsSetting::new());
    let dir = setting.dir.path();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (file, problem) in [
        (dir.join("missing.pem"), "No such file"),
        (dir.to_path_buf(), "not a regular file"),
        (write("empty.pem", ""), "no certificate"),
        (write("text.pem", "not a certificate\n"), "no certificate"),
        (
            write(
                "bad.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
            "certificate 1",
        ),
    ] {
        let path = file.to_str().unwrap();
        let app = setting
            .distrustful()
            .env("UNIT_WASM_HTTP_CA", path)
            .named("bad");
        assert_refused(host, &app, &["UNIT_WASM_HTTP_CA", path, problem]);
    }
}
