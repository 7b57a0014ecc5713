//! Counts, and what is never sent.

use super::*;
use crate::host::test_peers::answer;

async fn hello() -> Peer {
    Peer::http("127.0.0.1:0", None, |_| async { answer("hello") }).await
}

fn granting(peer: &Peer, change: impl FnOnce(&mut HttpGrant)) -> Bench {
    Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        change(grant)
    })
}

#[tokio::test]
async fn requests_of_one_incoming_request_are_counted() {
    let peer = hello().await;
    let mut bench = granting(&peer, |grant| grant.requests = 3);
    let url = format!("http://{}/", peer.addr);
    assert_eq!(bench.text(&url).await.unwrap(), "hello");
    // What is refused counts too.
    assert_eq!(
        bench.error("http://elsewhere.test/").await,
        "HttpRequestDenied"
    );
    bench.notice();
    assert_eq!(bench.text(&url).await.unwrap(), "hello");
    assert_eq!(bench.error(&url).await, "ConnectionLimitReached");
    let told = "outbound request refused: 3 have been sent (UNIT_WASM_HTTP_REQUESTS)";
    assert_eq!(bench.notice(), told);
    bench.renew();
    assert_eq!(bench.text(&url).await.unwrap(), "hello");
}

#[tokio::test]
async fn requests_in_flight_are_counted_until_their_bodies_are_done() {
    let peer = Peer::http("127.0.0.1:0", None, |_| async {
        answer(vec![b'x'; 4 << 20])
    })
    .await;
    let bench = granting(&peer, |grant| grant.concurrency = 2);
    let url = format!("http://{}/", peer.addr);
    let first = bench.get(&url).await.unwrap();
    let second = bench.get(&url).await.unwrap();
    assert_eq!(bench.error(&url).await, "ConnectionLimitReached");
    let told = "outbound request refused: 2 are in flight (UNIT_WASM_HTTP_CONCURRENCY)";
    assert_eq!(bench.notice(), told);
    // One is read, one is let go.
    assert_eq!(
        first.into_body().collect().await.unwrap().to_bytes().len(),
        4 << 20
    );
    let third = bench.get(&url).await.unwrap();
    assert_eq!(bench.error(&url).await, "ConnectionLimitReached");
    drop((second, third));
    assert_eq!(bench.text(&url).await.unwrap().len(), 4 << 20);
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
    // Nor are those that never got that far.
    let waiting = bench.get(&url);
    drop(waiting);
    let _ = bench.get("http://elsewhere.test/").await;
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_refused() {
    let peer = hello().await;
    let bench = granting(&peer, |_| {});
    let at = peer.addr;
    for (url, error) in [
        (
            format!("http://me:secret@{at}/?token=1"),
            "HttpRequestUriInvalid",
        ),
        (format!("ftp://{at}/"), "HttpRequestDenied"),
        (format!("unix://{at}/"), "HttpRequestDenied"),
        ("http://2130706433/".to_owned(), "HttpRequestUriInvalid"),
        (
            format!("http://127.1:{}/", at.port()),
            "HttpRequestUriInvalid",
        ),
        (
            "http://127.0.0.1:99999/".to_owned(),
            "HttpRequestUriInvalid",
        ),
        ("/path".to_owned(), "HttpRequestDenied"),
    ] {
        assert_eq!(bench.error(&url).await, error, "{url}");
        let told = bench.notice();
        assert!(
            !told.contains("secret") && !told.contains("token"),
            "{told}"
        );
    }
    let mut connect = get(&format!("http://{at}/"));
    *connect.method_mut() = Method::CONNECT;
    let error = bench.send(connect).await.unwrap_err();
    assert_eq!(name(&error), "HttpRequestMethodInvalid");
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn redirects_are_answers() {
    let secret = hello().await;
    let to = format!("http://{}/", secret.addr);
    let location = to.clone();
    let peer = Peer::http("127.0.0.2:0", None, move |_| {
        let mut redirect = answer("elsewhere");
        *redirect.status_mut() = http::StatusCode::FOUND;
        let location = location.parse().unwrap();
        redirect.headers_mut().insert("location", location);
        async { redirect }
    })
    .await;
    let bench = Bench::for_peer(&peer);
    let response = bench.get(&format!("http://{}/", peer.addr)).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::FOUND);
    assert_eq!(response.headers()["location"], to);
    assert_eq!(bench.error(&to).await, "HttpRequestDenied");
    assert_eq!(secret.accepted(), 0);
}

#[tokio::test]
async fn heads_are_as_the_guest_made_them_but_for_the_connection() {
    let peer = Peer::http("127.0.0.1:0", None, |request| async move {
        let mut fields: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        answer(format!(
            "{} {}\n{}",
            request.method(),
            request.uri(),
            fields.join("\n")
        ))
    })
    .await;
    let bench = Bench::for_peer(&peer);
    let mut request = get(&format!("http://{}/p%20q?x=y", peer.addr));
    for (name, value) in [
        ("host", "elsewhere.test"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("proxy-authorization", "x"),
        ("x-mine", "1"),
    ] {
        let name = http::HeaderName::from_static(name);
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let response = bench.send(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let expected = format!("GET /p%20q?x=y\nhost: {}\nx-mine: 1", peer.addr);
    assert_eq!(bytes, expected.as_bytes());
}

#[tokio::test]
async fn responses_without_a_body_are_done_at_once() {
    let peer = Peer::http("127.0.0.1:0", None, |request| async move {
        let mut answer = answer("hello");
        if request.uri().path() == "/none" {
            answer = answer.map(|_| answer_body());
            *answer.status_mut() = http::StatusCode::NO_CONTENT;
        }
        answer
    })
    .await;
    let bench = granting(&peer, |grant| grant.concurrency = 1);
    let mut head = get(&format!("http://{}/", peer.addr));
    *head.method_mut() = Method::HEAD;
    let first = bench.send(head).await.unwrap();
    assert_eq!(first.headers()["content-length"], "5");
    // The guest need not read what is not there.
    let none = bench
        .get(&format!("http://{}/none", peer.addr))
        .await
        .unwrap();
    assert_eq!(none.status(), http::StatusCode::NO_CONTENT);
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
    assert!(
        first
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    assert!(
        none.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

fn answer_body() -> http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error> {
    answer("").into_body()
}

#[test]
fn event_loops_share_counts_but_no_connections() {
    let rt = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (send, receive) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        rt().block_on(async {
            let peer = hello().await;
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            send.send((peer.addr, stop)).unwrap();
            let _ = stopped.await;
            peer.accepted()
        })
    });
    let (addr, stop) = receive.recv().unwrap();
    let bench = Bench::with(&[&format!("http://{addr}")], |grant, _| {
        grant.requests = 1000
    });
    let url = format!("http://{addr}/");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (bench, url) = (&bench, &url);
            scope.spawn(move || {
                rt().block_on(async {
                    for _ in 0..20 {
                        assert_eq!(bench.text(url).await.unwrap(), "hello");
                    }
                });
            });
        }
    });
    drop(stop);
    assert_eq!(server.join().unwrap(), 2);
    assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
}
