//! A service in Python: a secret, an echo, and the hash of a page that it fetches.

use std::thread;

use harness::config::Config;
use harness::http;
use harness::load::{body_of, sha256};
use harness::peers::HttpPeer;
use harness::{Host, Request, Response, Server, guests};

use crate::failures::assert_generic;
use crate::secrets::write_private;
use crate::startup::expect_refusal;
use crate::{Case, Scope};

const NAME: &str = "function-service";

pub fn cases() -> Vec<Case> {
    let case = |name, run| Case {
        name,
        run,
        scope: Scope::Built(NAME),
    };
    vec![
        case("scenarios::function::the_secret", the_secret),
        case(
            "scenarios::function::a_secret_that_is_not_granted",
            not_granted,
        ),
        case("scenarios::function::the_echo", the_echo),
        case("scenarios::function::hashes_of_pages", hashes_of_pages),
        case(
            "scenarios::function::a_page_larger_than_memory",
            larger_than_memory,
        ),
        case(
            "scenarios::function::urls_that_are_not_allowed",
            not_allowed,
        ),
        case(
            "scenarios::function::bad_requests_are_answered",
            bad_requests,
        ),
        case("scenarios::function::bad_pages_are_answered", bad_pages),
        case("scenarios::function::a_slow_server", a_slow_server),
        case("scenarios::function::many_at_once", many_at_once),
        case("scenarios::function::too_little_fuel", too_little_fuel),
        case("scenarios::function::too_little_memory", too_little_memory),
    ]
}

/// The service as `config.json` has it, which may reach `peer`, with parts of the
/// file replaced.
fn config(server: &Server, peer: &HttpPeer, replace: &[(&str, &str)]) -> Config {
    let secrets = server.dir().join("secrets");
    write_private(
        &secrets,
        "function-secret = open-sesame\nother = 4711-4711\n",
    );
    let component = guests::built(NAME);
    let addr = peer.addr().to_string();
    let mut all = vec![
        (
            "/srv/wasm/function-service.wasm",
            component.to_str().unwrap(),
        ),
        ("/etc/unit/secrets", secrets.to_str().unwrap()),
        ("127.0.0.1:8000", &addr),
    ];
    all.extend_from_slice(replace);
    Config::of_file("example/function-service/config.json", &all)
}

/// The harness would warm it up with a page that it does not have.
fn start(host: &Host, peer: &HttpPeer, replace: &[(&str, &str)]) -> Server {
    let mut server = Server::bare(host);
    server.apply(&config(&server, peer, replace));
    assert_eq!(server.get("/").status(), 404);
    server.settle();
    server
}

fn hash_of(url: impl AsRef<[u8]>) -> Request {
    Request::get("/hash-all").header("url", url)
}

/// The page of `size` bytes that the peer has, and what its hash is.
fn page(peer: &HttpPeer, size: usize) -> (String, String) {
    let bytes = guests::Download::default().bytes(size);
    let url = peer.url(&format!("/bytes?n={size}"));
    (url, format!("{}\n", sha256(&bytes)))
}

#[track_caller]
fn assert_refusal(response: &Response, status: u16, text: &str) {
    assert_eq!(
        (response.status(), response.text()),
        (status, format!("{text}\n"))
    );
}

/// The peer first, whose connections are kept by the application until then.
fn finish(server: Server, peer: HttpPeer) {
    drop(peer);
    server.finish();
}

fn the_secret(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    assert_eq!(server.get("/secret").ok().text(), "open-sesame\n");
    assert!(!server.log.text().contains("open-sesame"));
    finish(server, peer);
}

fn not_granted(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[("function-secret", "other")]);
    let response = server.get("/secret");
    assert_refusal(&response, 500, "The secret was not granted.");
    server
        .log
        .expect(&["[warn]", "function-secret", "UNIT_WASM_ALLOW_SECRETS"]);
    finish(server, peer);
}

fn the_echo(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    for size in [0, 1, 4096, 4097, 100_000, 5_000_000] {
        let body = body_of(1, size);
        let response = server.send(&Request::post("/echo", body.clone())).ok();
        assert!(response.body == body, "another body of {size} bytes");
    }
    finish(server, peer);
}

fn hashes_of_pages(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    for size in [0, 1, 1000, 100_000, 5_000_000] {
        let (url, hash) = page(&peer, size);
        assert_eq!(server.send(&hash_of(url)).ok().text(), hash, "{size} bytes");
    }
    // Without a path and a query.
    let hash = format!("{}\n", sha256(b"peer HTTP/1.1\n"));
    assert_eq!(server.send(&hash_of(peer.url(""))).ok().text(), hash);
    // It comes in pieces, some time apart.
    let url = peer.url("/pieces?n=5&size=1000&ms=50");
    let (_, hash) = page(&peer, 5000);
    assert_eq!(server.send(&hash_of(url)).ok().text(), hash);
    assert_eq!(peer.requests(), 7);
    finish(server, peer);
}

/// So it is not kept. That takes more fuel than `config.json` grants.
fn larger_than_memory(host: &Host) {
    const SIZE: usize = 40_000_000;
    let peer = HttpPeer::plain();
    let more = [("500000000", "5000000000"), ("2s", "30s")];
    let server = start(host, &peer, &more);
    let (url, hash) = page(&peer, SIZE);
    assert_eq!(server.send(&hash_of(url)).ok().text(), hash);
    finish(server, peer);
}

fn not_allowed(host: &Host) {
    let peer = HttpPeer::plain();
    let other = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    for (number, (url, entry)) in [
        (other.url("/bytes?n=1"), other.entry()),
        (
            format!("http://{}:1/", peer.addr().ip()),
            format!("http://{}:1", peer.addr().ip()),
        ),
        (
            format!("https://{}/", peer.addr()),
            format!("https://{}", peer.addr()),
        ),
        ("http://example.com/a?b".into(), "http://example.com".into()),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("denied-{number}");
        let response = server.send(&hash_of(&url).header("x-request-id", &id));
        assert_refusal(&response, 403, "That URL is not allowed here.");
        let of_request = format!("request={id} outbound ");
        let needed = format!("UNIT_WASM_ALLOW_HTTP would need {entry}");
        let line = server.log.expect(&[&of_request]);
        assert!(line.ends_with(&needed), "{line}, and not: {needed}");
        let lines = server.log.matching(|line| line.contains(&of_request));
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
    assert_eq!((peer.connections(), other.connections()), (0, 0));
    finish(server, peer);
}

fn bad_requests(host: &Host) {
    const NO_URL: &str = "The header field url is no URL for http or https.";
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    let missing = server.get("/hash-all");
    assert_refusal(&missing, 400, "There has to be one header field url.");
    let url = peer.url("/");
    let two = server.send(&hash_of(&url).header("url", &url));
    assert_refusal(&two, 400, "There has to be one header field url.");
    for url in [
        "",
        "nonsense",
        "/bytes?n=1",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "http://a b/",
        "http://127.0.0.1:99999/",
        "http://127.1/",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1/\u{e4}",
    ] {
        let response = server.send(&hash_of(url));
        assert_refusal(&response, 400, NO_URL);
    }
    for (request, allow) in [
        (Request::post("/secret", ""), "GET"),
        (Request::get("/echo"), "POST"),
        (Request::post("/hash-all", "").header("url", &url), "GET"),
    ] {
        let response = server.send(&request);
        assert_refusal(&response, 405, &format!("The method has to be {allow}."));
        assert_eq!(response.head.first("allow").as_deref(), Some(allow));
    }
    for path in ["/secrets", "/hash-all/", "/Echo"] {
        let response = server.get(path);
        assert_refusal(&response, 404, "There are /secret, /echo and /hash-all.");
    }
    assert_eq!(peer.requests(), 0);
    assert_eq!(server.log.failures(), []);
    finish(server, peer);
}

fn bad_pages(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[]);
    for (target, text) in [
        ("/nowhere", "The server of that URL answered 404."),
        ("/status?code=500", "The server of that URL answered 500."),
        ("/redirect?to=/", "The server of that URL answered 302."),
        ("/die?when=head", "That URL could not be fetched."),
        ("/die?when=body&n=1000", "The page broke off."),
    ] {
        let response = server.send(&hash_of(peer.url(target)));
        assert_refusal(&response, 502, text);
    }
    let url = peer.url("/");
    drop(peer);
    let response = server.send(&hash_of(url));
    assert_refusal(&response, 502, "That URL could not be fetched.");
    server.finish();
}

fn a_slow_server(host: &Host) {
    let peer = HttpPeer::plain();
    let server = start(host, &peer, &[("10s", "2s")]);
    for (target, status, text) in [
        (
            "/slow?ms=100000",
            504,
            "The server of that URL did not answer in time.",
        ),
        (
            "/pieces?n=2&size=1000&ms=100000",
            502,
            "The page broke off.",
        ),
    ] {
        let response = server.send(&hash_of(peer.url(target)));
        assert_refusal(&response, status, text);
    }
    // The guest has said so, not the host.
    assert_eq!(server.log.failures(), []);
    finish(server, peer);
}

fn many_at_once(host: &Host) {
    let peer = HttpPeer::plain();
    let mut server = start(host, &peer, &[]);
    let addr = server.addr();
    thread::scope(|scope| {
        for client in 0..8_usize {
            let peer = &peer;
            scope.spawn(move || {
                for number in 0..5_usize {
                    let (url, hash) = page(peer, 1000 * client + number);
                    let hashed = http::fetch(addr, &hash_of(url)).unwrap().ok();
                    assert_eq!(hashed.text(), hash);
                    let body = body_of(client as u64, 10_000 + number);
                    let request = Request::post("/echo", body.clone());
                    let echoed = http::fetch(addr, &request).unwrap().ok();
                    assert!(echoed.body == body, "another body");
                }
            });
        }
    });
    drop(peer);
    // Threads open their sockets to the router when they first have a request.
    server.settle();
    server.finish();
}

/// What takes how much is in the README.
fn too_little_fuel(host: &Host) {
    for (fuel, enough, too_large) in [
        ("3000000", 1000, 100_000),
        ("100000000", 1_000_000, 2_000_000),
        ("500000000", 5_000_000, 8_000_000),
    ] {
        let peer = HttpPeer::plain();
        let server = start(host, &peer, &[("500000000", fuel)]);
        let (url, hash) = page(&peer, enough);
        assert_eq!(server.send(&hash_of(url)).ok().text(), hash, "{fuel}");

        let (url, _) = page(&peer, too_large);
        let response = server.send(&hash_of(url).header("x-request-id", "thirsty"));
        assert_eq!(response.status(), 504, "{fuel}: {}", response.text());
        assert_generic(&response);
        let failure = server.log.expect_failure("thirsty");
        assert_eq!(failure.reason, "fuel", "{failure:?}");
        let detail = format!("limit {fuel} (UNIT_WASM_FUEL)");
        assert!(failure.detail.contains(&detail), "{failure:?}");

        // Others have fuel of their own.
        assert_eq!(server.get("/secret").ok().text(), "open-sesame\n");
        let echoed = server.send(&Request::post("/echo", "again")).ok();
        assert_eq!(echoed.text(), "again");
        finish(server, peer);
    }
}

/// The interpreter needs more from the beginning. What runs stays.
fn too_little_memory(host: &Host) {
    let peer = HttpPeer::plain();
    let mut server = start(host, &peer, &[]);
    expect_refusal(&mut server);
    let config = config(&server, &peer, &[("32MiB", "8MiB")]);
    assert!(!server.put(&config).success());
    let parts = ["cannot start", "limit of 8388608 bytes", "UNIT_WASM_MEMORY"];
    server.log.expect(&parts);
    assert_eq!(server.get("/secret").ok().text(), "open-sesame\n");
    finish(server, peer);
}
