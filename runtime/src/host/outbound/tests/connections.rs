//! Connections: used again, given up, and closed in the end.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::host::test_peers::{Ca, answer, until};

async fn hello() -> Peer {
    Peer::http("127.0.0.1:0", None, |_| async { answer("hello") }).await
}

#[tokio::test]
async fn many_requests_take_a_handful_of_connections() {
    let peer = hello().await;
    let mut bench = Bench::for_peer(&peer);
    let url = format!("http://{}/", peer.addr);
    for round in 0..200 {
        bench.renew();
        for _ in 0..10 {
            assert_eq!(bench.text(&url).await.unwrap(), "hello");
        }
        let most = if round == 0 { 2 } else { 12 };
        assert!(peer.accepted() <= most, "{}", peer.accepted());
        let all = futures::future::join_all((0..10).map(|_| bench.text(&url))).await;
        assert!(all.iter().all(Result::is_ok));
    }
    drop(bench);
    peer.until_open(0).await;
}

#[tokio::test]
async fn unused_connections_are_closed_after_a_while() {
    let peer = hello().await;
    let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        grant.keep_alive = Duration::from_millis(100);
    });
    let url = format!("http://{}/", peer.addr);
    for _ in 0..2 {
        let all = futures::future::join_all((0..5).map(|_| bench.text(&url))).await;
        assert!(all.iter().all(Result::is_ok));
        peer.until_open(0).await;
    }
    let pool = bench.outbound.pool().unwrap();
    assert_eq!(pool.unused(), 0);
}

#[tokio::test]
async fn unused_connections_are_bounded_in_number() {
    let peer = hello().await;
    let mut bench = Bench::with(
        &[&format!("http://127.0.0.0/8:{}", peer.port())],
        |grant, _| {
            grant.requests = 1000;
        },
    );
    bench.renew();
    let url = format!("http://{}/", peer.addr);
    let all = futures::future::join_all((0..200).map(|_| bench.get(&url))).await;
    assert_eq!(peer.open(), 200);
    drop(all);
    peer.until_open(64).await;
    assert_eq!(bench.outbound.pool().unwrap().unused(), 64);
}

#[tokio::test]
async fn unused_connections_to_all_hosts_are_bounded_in_number() {
    let peer = Peer::http("0.0.0.0:0", None, |_| async { answer("hello") }).await;
    let bench = Bench::with(
        &[&format!("http://127.0.0.0/8:{}", peer.port())],
        |grant, _| {
            grant.requests = 1000;
        },
    );
    // More after some have been used again.
    for hosts in [1..=2, 1..=4] {
        let urls = hosts.flat_map(|host| std::iter::repeat_n(host, 50));
        let urls = urls.map(|host| format!("http://127.0.0.{host}:{}/", peer.port()));
        let urls: Vec<String> = urls.collect();
        let all = futures::future::join_all(urls.iter().map(|url| bench.get(url))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(peer.open(), urls.len());
        drop(all);
        peer.until_open(urls.len().min(128)).await;
        let pool = bench.outbound.pool().unwrap();
        until(|| pool.unused() == urls.len().min(128)).await;
    }
}

#[tokio::test]
async fn hosts_that_nothing_came_of_are_forgotten() {
    let bench = Bench::with(&["https://127.0.0.0/8:1"], |grant, _| {
        grant.requests = 10_000;
        grant.keep_alive = Duration::from_secs(86_400);
    });
    for number in 0..3000 {
        // Nobody listens there.
        let url = format!("https://127.1.{}.{}:1/", number / 200, number % 200 + 1);
        assert_eq!(bench.error(&url).await, "ConnectionRefused");
    }
    let known = bench.outbound.pool().unwrap().known();
    assert!(known <= 1024, "{known}");
}

#[tokio::test]
async fn connections_can_be_for_one_request_each() {
    let ca = Ca::new();
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let tls = ca.server(&["localhost"], protocols);
        let peer = Peer::http("127.0.0.1:0", Some(tls), |_| async { answer("hello") }).await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
            grant.keep_alive = Duration::ZERO;
        });
        let url = format!("https://localhost:{}/", peer.port());
        for round in 1..=3 {
            assert_eq!(bench.text(&url).await.unwrap(), "hello");
            peer.until_open(0).await;
            assert_eq!(peer.accepted(), round);
        }
    }
}

/// Reads a request without a body.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_that_the_server_closed_are_not_noticed_by_guests() {
    // Each connection takes one request, and says nothing of closing.
    let peer = Peer::raw("127.0.0.1:0", |mut stream, _| async move {
        if read_head(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let bench = Bench::for_peer(&peer);
    let url = format!("http://{}/", peer.addr);
    for round in 1..=10 {
        assert_eq!(bench.text(&url).await.unwrap(), "ok");
        assert_eq!(peer.accepted(), round);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&seen);
    let peer = Peer::raw("127.0.0.1:0", move |mut stream, _| {
        let seen = Arc::clone(&requests);
        async move {
            // The second request of a connection is read, and not answered.
            for answered in [true, false] {
                if read_head(&mut stream).await.is_none() {
                    return;
                }
                seen.fetch_add(1, Ordering::SeqCst);
                if answered {
                    stream.write_all(OK).await.unwrap();
                }
            }
        }
    })
    .await;
    let bench = Bench::for_peer(&peer);
    let url = format!("http://{}/", peer.addr);
    assert_eq!(bench.text(&url).await.unwrap(), "ok");
    until(|| bench.outbound.pool().unwrap().unused() == 1).await;
    assert_eq!(bench.error(&url).await, "ConnectionTerminated");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_cancelled_request_closes_its_connection() {
    let peer = Peer::raw("127.0.0.1:0", |mut stream, _| async move {
        read_head(&mut stream).await;
        // Until the client goes.
        let _ = stream.read_u8().await;
    })
    .await;
    let bench = Bench::for_peer(&peer);
    let url = format!("http://{}/", peer.addr);
    for _ in 0..3 {
        let request = tokio::spawn(bench.send(get(&url)));
        peer.until_open(1).await;
        request.abort();
        peer.until_open(0).await;
    }
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_response_that_is_let_go_leaves_no_bad_connection() {
    let ca = Ca::new();
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let tls = ca.server(&["localhost"], protocols);
        let peer = Peer::http("127.0.0.1:0", Some(tls), |request| async move {
            match request.uri().path() {
                "/big" => answer(vec![b'x'; 8 << 20]),
                _ => answer("small"),
            }
        })
        .await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
        });
        let big = format!("https://localhost:{}/big", peer.port());
        let small = format!("https://localhost:{}/small", peer.port());
        for _ in 0..10 {
            let mut body = bench.get(&big).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().unwrap().is_data());
            drop(body);
            assert_eq!(bench.text(&small).await.unwrap(), "small");
        }
        if protocols == ["h2"] {
            assert_eq!(peer.accepted(), 1, "only streams are reset");
        } else {
            peer.until_open(1).await;
        }
    }
}

#[tokio::test]
async fn heads_before_the_head_are_passed_over() {
    let peer = Peer::raw("127.0.0.1:0", |mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            for head in ["100 Continue", "103 Early Hints\r\nlink: </x>"] {
                let head = format!("HTTP/1.1 {head}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let bench = Bench::for_peer(&peer);
    for _ in 0..3 {
        let response = bench.get(&format!("http://{}/", peer.addr)).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::OK);
        assert!(!response.headers().contains_key("link"));
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "ok"
        );
    }
    assert_eq!(peer.accepted(), 1);
}
