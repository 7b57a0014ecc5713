//! Request bodies, and responses made of them.

use std::thread;
use std::time::Duration;

use harness::config::Config;
use harness::load::{SMALL_CHUNKED, body_of, sha256};
use harness::{App, Conn, Host, Request, Server};

use crate::{Case, cases};

const TEN_MB: usize = 10_000_000;

pub fn cases() -> Vec<Case> {
    cases!["bodies", Both:
        ten_megabytes_echoed_with_a_length,
        ten_megabytes_echoed_chunked,
        ten_megabytes_hashed,
        sizes_around_every_boundary,
        a_body_that_nobody_reads,
        a_body_that_is_dropped,
        a_body_over_the_limit_of_the_host,
        a_body_that_arrives_slowly,
    ]
}

fn large(host: &Host) -> Server {
    let config = Config::of([App::lab()]).max_body_size(16 << 20);
    Server::start(host, config)
}

fn ten_megabytes_echoed_with_a_length(host: &Host) {
    let server = large(host);
    let body = body_of(1, TEN_MB);
    let request = Request::post("/echo?length=1", body.clone());
    let response = server.send(&request).ok();
    let length = response.head.first("content-length");
    assert_eq!(length, Some(TEN_MB.to_string()));
    assert!(response.body == body, "another body came back");
    server.finish();
}

fn ten_megabytes_echoed_chunked(host: &Host) {
    let server = large(host);
    let size = match host.takes_large_chunked_bodies() {
        true => TEN_MB,
        false => SMALL_CHUNKED,
    };
    let body = body_of(2, size);
    let response = server
        .send_chunked(&Request::post_chunked("/echo", body.clone()))
        .ok();
    let coding = response.head.first("transfer-encoding");
    assert_eq!(coding.as_deref(), Some("chunked"));
    assert!(response.body == body, "another body came back");
    server.finish();
}

fn ten_megabytes_hashed(host: &Host) {
    let server = large(host);
    let body = body_of(3, TEN_MB);
    let expected = format!("{} {TEN_MB}\n", sha256(&body));
    let request = Request::post("/sha256", body.clone());
    assert_eq!(server.send(&request).ok().text(), expected);
    if host.takes_large_chunked_bodies() {
        let request = Request::post_chunked("/sha256", body);
        assert_eq!(server.send_chunked(&request).ok().text(), expected);
    }
    server.finish();
}

/// Around the sizes at which Unit changes the way a body travels.
fn sizes_around_every_boundary(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for edge in [16, 1024, 4096, 16 << 10, 32 << 10, 64 << 10, 1 << 20] {
        for size in edge - 1..=edge + 1 {
            let body = body_of(size as u64, size);
            let requests = [
                Request::post("/echo?length=1", body.clone()),
                Request::post("/echo", body.clone()),
            ];
            for request in requests {
                let response = conn.exchange(&request).unwrap().ok();
                assert!(response.body == body, "{size} bytes came back as others");
            }
            if host.takes_large_chunked_bodies() || size <= SMALL_CHUNKED {
                // On a connection of its own: after such a body FreeUnit can
                // take what is left of it for the next request.
                let request = Request::post_chunked("/echo", body.clone());
                let response = server.send_chunked(&request).ok();
                assert!(response.body == body, "{size} bytes came back as others");
            }
        }
    }
    let empty = conn.exchange(&Request::post("/echo", "")).unwrap().ok();
    assert!(empty.body.is_empty());
    let empty = conn
        .exchange(&Request::post_chunked("/echo", ""))
        .unwrap()
        .ok();
    assert!(empty.body.is_empty());
    drop(conn);
    server.finish();
}

fn a_body_that_nobody_reads(host: &Host) {
    let server = large(host);
    let mut conn = server.connect();
    for size in [10, 100_000, TEN_MB] {
        let request = Request::post("/hold-body", body_of(4, size));
        conn.exchange(&request).unwrap().ok();
        assert_eq!(
            conn.exchange(&Request::get("/")).unwrap().ok().text(),
            "lab\n"
        );
    }
    drop(conn);
    server.finish();
}

fn a_body_that_is_dropped(host: &Host) {
    let server = large(host);
    let mut conn = server.connect();
    for size in [10, 100_000, TEN_MB] {
        let request = Request::post("/drop-body?bytes=5", body_of(5, size));
        let response = conn.exchange(&request).unwrap().ok();
        assert_eq!(response.text(), "dropped\n");
    }
    drop(conn);
    server.finish();
}

fn a_body_over_the_limit_of_the_host(host: &Host) {
    let config = Config::of([App::lab()]).max_body_size(200_000);
    let server = Server::start(host, config);
    let fits = server.send(&Request::post("/echo", body_of(6, 200_000)));
    assert_eq!(fits.ok().body.len(), 200_000);
    let over = server.send(&Request::post("/echo", body_of(6, 200_001)));
    assert_eq!(over.status(), 413);
    server.finish();
}

fn a_body_that_arrives_slowly(host: &Host) {
    let server = Server::start(host, App::lab());
    let body = body_of(7, 60_000);
    let request = Request::post("/echo", body.clone());
    let mut slow = Conn::open(server.addr());
    // The head byte by byte, the body in pieces.
    for byte in request.head_bytes() {
        slow.send(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    for piece in body.chunks(2_000) {
        slow.send(piece).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(server.get("/").ok().text(), "lab\n");
    }
    assert!(slow.read_response(false).unwrap().ok().body == body);
    drop(slow);
    server.finish();
}
