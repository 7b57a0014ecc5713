//! Bodies in both directions.

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use tokio::sync::mpsc;

use super::*;
use crate::host::test_peers::{Ca, answer, until};

/// A body that comes from a channel.
fn channel(room: usize) -> (mpsc::Sender<Frame<Bytes>>, Channel) {
    let (sender, receiver) = mpsc::channel(room);
    (sender, Channel(receiver))
}

struct Channel(mpsc::Receiver<Frame<Bytes>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Servers of both versions of HTTP with the same service, and a guest that may
/// ask them.
async fn both<F, R>(service: F) -> Vec<(Peer, Bench, String)>
where
    F: Fn(http::Request<hyper::body::Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = crate::host::test_peers::Answer> + Send + 'static,
{
    both_with(service, |_| {}).await
}

/// The same under another grant.
async fn both_with<F, R>(service: F, change: fn(&mut HttpGrant)) -> Vec<(Peer, Bench, String)>
where
    F: Fn(http::Request<hyper::body::Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = crate::host::test_peers::Answer> + Send + 'static,
{
    let ca = Ca::new();
    let mut all = Vec::new();
    for protocol in ["http/1.1", "h2"] {
        let tls = ca.server(&["localhost"], &[protocol]);
        let peer = Peer::http("127.0.0.1:0", Some(tls), service.clone()).await;
        let bench = Bench::with(&["localhost:*"], |grant, _| {
            grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
            change(grant);
        });
        let url = format!("https://localhost:{}/", peer.port());
        all.push((peer, bench, url));
    }
    all
}

#[tokio::test]
async fn bodies_go_back_and_forth_piece_by_piece() {
    let echo = |request: http::Request<hyper::body::Incoming>| async {
        let body = request.into_body().map_err(std::io::Error::other);
        http::Response::new(body.boxed_unsync())
    };
    for (_peer, bench, url) in both(echo).await {
        let (sender, body) = channel(1);
        let response = bench.send(post(&url, body.boxed_unsync())).await.unwrap();
        let mut received = response.into_body();
        // Each is back before the next is sent.
        for piece in ["one", "two", "three"] {
            sender.send(Frame::data(piece.into())).await.unwrap();
            let frame = received.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        drop(sender);
        assert!(received.frame().await.is_none());
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let count = |request: http::Request<hyper::body::Incoming>| async {
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        answer(bytes)
    };
    let data: Bytes = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    for (_peer, bench, url) in both(count).await {
        let (sender, body) = channel(4);
        let pieces = data.clone();
        tokio::spawn(async move {
            for piece in pieces.chunks(65_536) {
                let piece = Bytes::copy_from_slice(piece);
                sender.send(Frame::data(piece)).await.unwrap();
            }
        });
        let response = bench.send(post(&url, body.boxed_unsync())).await.unwrap();
        let back = response.into_body().collect().await.unwrap().to_bytes();
        assert!(back == data, "{} of {}", back.len(), data.len());
    }
}

#[tokio::test]
async fn a_guest_that_reads_slowly_slows_the_server_down() {
    let produced = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&produced);
    let endless = move |_| {
        let counter = Arc::clone(&counter);
        async move {
            let pieces = futures::stream::repeat_with(move || {
                counter.fetch_add(65_536, Ordering::SeqCst);
                let piece = Bytes::from_static(&[b'x'; 65_536]);
                Ok::<_, std::io::Error>(Frame::data(piece))
            });
            let body: UnsyncBoxBody<Bytes, std::io::Error> = StreamBody::new(pieces).boxed_unsync();
            http::Response::new(body)
        }
    };
    for (_peer, bench, url) in both(endless).await {
        produced.store(0, Ordering::SeqCst);
        let mut body = bench.get(&url).await.unwrap().into_body();
        // It goes on until all that lies between is full.
        let mut before = usize::MAX;
        while before != produced.load(Ordering::SeqCst) {
            before = produced.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Most of it is the kernel's.
        assert!(before < 24 << 20, "{before}");
        for _ in 0..2000 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        assert!(produced.load(Ordering::SeqCst) > before);
    }
}

#[tokio::test]
async fn a_server_that_reads_slowly_slows_the_guest_down() {
    for (_peer, bench, url) in both(|request| async move {
        let _unread = request;
        std::future::pending().await
    })
    .await
    {
        let (sender, body) = channel(1);
        let request = tokio::spawn(bench.send(post(&url, body.boxed_unsync())));
        let mut sent = 0;
        let piece = Bytes::from_static(&[b'x'; 65_536]);
        let stuck = Duration::from_millis(500);
        while let Ok(taken) =
            tokio::time::timeout(stuck, sender.send(Frame::data(piece.clone()))).await
        {
            taken.unwrap();
            sent += piece.len();
        }
        assert!(sent < 24 << 20, "{sent}");
        request.abort();
    }
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let service = |request: http::Request<hyper::body::Incoming>| async {
        let collected = request.into_body().collect().await.unwrap();
        let mut trailers = collected.trailers().cloned().unwrap_or_default();
        trailers.insert("x-back", "2".parse().unwrap());
        let frames = [Frame::data(collected.to_bytes()), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, std::io::Error>);
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let mut response = http::Response::new(body);
        let names = "x-there, x-back".parse().unwrap();
        response.headers_mut().insert("trailer", names);
        response
    };
    for (_peer, bench, url) in both(service).await {
        let (sender, body) = channel(2);
        let mut request = post(&url, body.boxed_unsync());
        // HTTP/1 sends only those that were announced.
        let fields = request.headers_mut();
        fields.insert("trailer", "x-there".parse().unwrap());
        fields.insert("te", "trailers".parse().unwrap());
        sender.send(Frame::data("body".into())).await.unwrap();
        let trailers = [("x-there".parse().unwrap(), "1".parse().unwrap())];
        let trailers = http::HeaderMap::from_iter(trailers);
        sender.send(Frame::trailers(trailers)).await.unwrap();
        drop(sender);
        let response = bench.send(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(
            (&trailers["x-there"], &trailers["x-back"]),
            (&"1".parse().unwrap(), &"2".parse().unwrap())
        );
        assert_eq!(collected.to_bytes(), "body");
    }
}

#[tokio::test]
async fn trailers_are_bounded_in_number() {
    let service = |request: http::Request<hyper::body::Incoming>| async move {
        let count = request.uri().path().trim_start_matches('/').parse();
        let names: Vec<String> = (0..count.unwrap()).map(|n: u32| format!("x-{n}")).collect();
        let fields = names.iter().map(|name| {
            let name = http::HeaderName::try_from(name).unwrap();
            (name, "1".parse().unwrap())
        });
        let trailers = http::HeaderMap::from_iter(fields);
        let frames = [Frame::data("body".into()), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, std::io::Error>);
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let mut response = http::Response::new(body);
        let announced = names.join(",").parse().unwrap();
        response.headers_mut().insert("trailer", announced);
        response
    };
    for (_peer, bench, url) in both(service).await {
        let answer = async |count: u32| {
            let mut request = get(&format!("{url}{count}"));
            let fields = request.headers_mut();
            fields.insert("te", "trailers".parse().unwrap());
            let response = bench.send(request).await.unwrap();
            response.into_body().collect().await
        };
        let collected = answer(256).await.unwrap();
        assert_eq!(collected.trailers().unwrap().len(), 256);
        let error = answer(257).await.unwrap_err();
        assert_eq!(name(&error), "HttpProtocolError");
        assert_eq!(bench.outbound.in_flight.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_guest_that_dies_does_not_seem_to_have_finished() {
    let whole = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let counters = (Arc::clone(&whole), Arc::clone(&ended));
    let service = move |request: http::Request<hyper::body::Incoming>| {
        let (whole, ended) = counters.clone();
        async move {
            let seen = request.into_body().collect().await;
            whole.fetch_add(usize::from(seen.is_ok()), Ordering::SeqCst);
            ended.fetch_add(1, Ordering::SeqCst);
            answer("done")
        }
    };
    for (number, (_peer, bench, url)) in (1..).zip(both(service).await) {
        let (sender, body) = channel(4);
        let request = tokio::spawn(bench.send(post(&url, body.boxed_unsync())));
        sender.send(Frame::data("half".into())).await.unwrap();
        until(|| sender.capacity() == 4).await;
        // As when a store is dropped: its own end first, and then all it holds.
        drop(bench.store);
        drop(sender);
        assert!(request.await.unwrap().is_err());
        until(|| ended.load(Ordering::SeqCst) == number).await;
    }
    assert_eq!(whole.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_that_fails_is_the_requests_failure() {
    let service = |request: http::Request<hyper::body::Incoming>| async {
        let _ = request.into_body().collect().await;
        answer("done")
    };
    for (_peer, bench, url) in both(service).await {
        let failing = futures::stream::iter([
            Ok(Frame::data(Bytes::from("half"))),
            Err(Error::HttpRequestBodySize(Some(4))),
        ]);
        let body = StreamBody::new(failing).boxed_unsync();
        let error = bench.send(post(&url, body)).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::HttpRequestBodySize(Some(4)) | Error::HttpProtocolError
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_an_answer() {
    for (peer, bench, url) in both(|_| async { answer("early") }).await {
        let body = Full::new(Bytes::from(vec![b'x'; 8 << 20]));
        let body = body.map_err(|never| match never {}).boxed_unsync();
        let response = bench.send(post(&url, body)).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "early");
        assert_eq!(bench.text(&url).await.unwrap(), "early");
        assert!(peer.accepted() <= 2);
    }
}

/// A server that answers at once and reads on does not make room for another
/// request: the connection, or the stream in it, is there until the guest has sent
/// its body.
#[tokio::test]
async fn a_request_is_in_flight_until_its_body_has_been_sent() {
    let reading = |request: http::Request<hyper::body::Incoming>| async {
        tokio::spawn(request.into_body().collect());
        answer("early")
    };
    for (peer, bench, url) in both_with(reading, |grant| grant.concurrency = 2).await {
        let in_flight = || bench.outbound.in_flight.load(Ordering::Relaxed);
        let mut senders = Vec::new();
        for _ in 0..2 {
            let (sender, body) = channel(1);
            let response = bench.send(post(&url, body.boxed_unsync())).await.unwrap();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes, "early");
            senders.push(sender);
        }
        assert_eq!(in_flight(), 2);
        assert_eq!(bench.error(&url).await, "ConnectionLimitReached");
        assert!(peer.accepted() <= 2);
        senders.pop();
        until(|| in_flight() == 1).await;
        assert_eq!(bench.text(&url).await.unwrap(), "early");
        senders.clear();
        until(|| in_flight() == 0).await;
    }
}

/// Of those that one HTTP/2 connection takes at a time, each is there until its
/// body has been sent.
#[tokio::test]
async fn a_stream_is_taken_until_its_body_has_been_sent() {
    let ca = Ca::new();
    let tls = ca.server(&["localhost"], &["h2"]);
    let peer = Peer::http("127.0.0.1:0", Some(tls), |request| async {
        tokio::spawn(request.into_body().collect());
        answer("early")
    })
    .await;
    let bench = Bench::with(&["localhost:*"], |grant, _| {
        grant.load_roots(Some(ca.pem.as_bytes())).unwrap();
    });
    let url = format!("https://localhost:{}/", peer.port());
    let mut senders = Vec::new();
    for _ in 0..pool::STREAMS {
        let (sender, body) = channel(1);
        let response = bench.send(post(&url, body.boxed_unsync())).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "early");
        senders.push(sender);
    }
    assert_eq!(peer.accepted(), 1);
    assert_eq!(bench.text(&url).await.unwrap(), "early");
    assert_eq!(peer.accepted(), 2, "there was no room in the first");
}

#[tokio::test]
async fn sending_counts_as_progress() {
    let service = |request: http::Request<hyper::body::Incoming>| async {
        answer(request.into_body().collect().await.unwrap().to_bytes())
    };
    let peer = Peer::http("127.0.0.1:0", None, service).await;
    let bench = Bench::with(&[&format!("http://{}", peer.addr)], |grant, _| {
        grant.first_byte_timeout = Duration::from_millis(800);
    });
    let (sender, body) = channel(1);
    let url = format!("http://{}/", peer.addr);
    let request = tokio::spawn(bench.send(post(&url, body.boxed_unsync())));
    for _ in 0..8 {
        sender.send(Frame::data("x".into())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(sender);
    let response = request.await.unwrap().unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, "xxxxxxxx");
}
