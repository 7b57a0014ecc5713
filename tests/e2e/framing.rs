//! How responses are delimited.

use std::time::{Duration, Instant};

use harness::host::Wasi;
use harness::http::Error;
use harness::{App, Conn, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["framing", Both:
        events_arrive_one_by_one,
        head_has_no_body,
        no_content_and_not_modified_have_no_body,
        a_declared_length_is_kept,
        chunked_without_a_length,
        http_1_0,
        connection_close,
        a_thousand_requests_on_one_connection,
        statuses_pass_through,
    ]
}

fn events_arrive_one_by_one(host: &Host) {
    const EVENTS: usize = 5;
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    let begin = Instant::now();
    let request = Request::get(format!("/sse?events={EVENTS}&interval=2000"));
    let head = conn.start(&request).unwrap();
    assert_eq!(head.status, 200);
    let kind = head.first("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let mut text = String::new();
    let mut arrivals: Vec<Duration> = Vec::new();
    while let Some(piece) = conn.read_some().unwrap() {
        text.push_str(&String::from_utf8(piece).unwrap());
        let complete = text.matches("\n\n").count();
        arrivals.resize(complete.max(arrivals.len()), begin.elapsed());
    }
    let expected: String = (0..EVENTS).map(|i| format!("data: {i}\n\n")).collect();
    assert_eq!(text, expected);
    for pair in arrivals.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(
            gap > Duration::from_millis(200),
            "events in bunches: {arrivals:?}"
        );
    }
    drop(conn);
    server.finish();
}

/// After such a response the connection has to serve further ones, which it
/// cannot if a stray body was sent.
fn reusable(conn: &mut Conn) {
    for _ in 0..2 {
        assert_eq!(
            conn.exchange(&Request::get("/")).unwrap().ok().text(),
            "lab\n"
        );
    }
}

fn head_has_no_body(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for target in [
        "/",
        "/download?bytes=100&length=1",
        "/download?bytes=100&length=0",
        "/download?bytes=3000000&length=1",
        "/download?bytes=3000000&length=0",
        "/status?code=200&body=",
        "/status?code=404&body=nothing",
    ] {
        let response = conn.exchange(&Request::head(target)).unwrap();
        assert_eq!(response.body, b"", "{target}");
        let status = if target.contains("404") { 404 } else { 200 };
        assert_eq!(response.status(), status, "{target}");
        reusable(&mut conn);
    }
    let sized = conn.exchange(&Request::head("/download?bytes=100&length=1"));
    let length = sized.unwrap().head.first("content-length");
    assert_eq!(
        length.as_deref(),
        Some("100"),
        "HEAD tells the length of GET"
    );
    drop(conn);
    server.finish();
}

fn no_content_and_not_modified_have_no_body(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for code in [204, 304] {
        for body in ["", "should-not-be-sent"] {
            let request = Request::get(format!("/status?code={code}&body={body}"));
            let response = conn.exchange(&request).unwrap();
            assert_eq!(response.status(), code);
            let coding = response.head.all("transfer-encoding");
            assert!(coding.is_empty(), "{code}: {coding:?}");
            reusable(&mut conn);
        }
    }
    drop(conn);
    server.finish();
}

fn a_declared_length_is_kept(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for size in [0, 1, 1024, 100_000] {
        let request = Request::get(format!("/download?bytes={size}&length=1"));
        let response = conn.exchange(&request).unwrap().ok();
        let length = response.head.first("content-length");
        assert_eq!(length, Some(size.to_string()));
        assert_eq!(response.body.len(), size);
    }
    drop(conn);
    server.finish();
}

fn chunked_without_a_length(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for size in [0, 1, 1024, 100_000] {
        let request = Request::get(format!("/download?bytes={size}&length=0"));
        let response = conn.exchange(&request).unwrap().ok();
        assert_eq!(response.body.len(), size);
        reusable(&mut conn);
    }
    drop(conn);
    server.finish();
}

fn http_1_0(host: &Host) {
    let server = Server::start(host, App::lab());
    for length in [0, 1] {
        let mut conn = server.connect();
        let request = Request::get(format!("/download?bytes=100000&length={length}"));
        let response = conn.exchange(&request.http10()).unwrap().ok();
        let coding = response.head.all("transfer-encoding");
        assert!(coding.is_empty(), "no chunks for HTTP/1.0: {coding:?}");
        assert_eq!(response.body.len(), 100_000);
        conn.expect_close().unwrap();
    }
    server.finish();
}

fn connection_close(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    let response = conn.exchange(&Request::get("/").close()).unwrap().ok();
    assert_eq!(response.text(), "lab\n");
    conn.expect_close().unwrap();
    let again = conn.exchange(&Request::get("/"));
    assert!(
        matches!(again, Err(Error::Closed | Error::Io(_))),
        "{again:?}"
    );
    server.finish();
}

fn a_thousand_requests_on_one_connection(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for number in 0..1000 {
        let token = format!("{number}");
        let request = Request::post("/echo", token.clone());
        let response = conn.exchange(&request).unwrap().ok();
        assert_eq!(response.text(), token);
    }
    drop(conn);
    server.finish();
}

fn statuses_pass_through(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for code in [200, 201, 299, 302, 400, 404, 418, 500, 503, 599] {
        let request = Request::get(format!("/status?code={code}&body=of-{code}"));
        let response = conn.exchange(&request).unwrap();
        assert_eq!(response.status(), code);
        assert_eq!(response.text(), format!("of-{code}"));
    }
    // No client knows what to make of these.
    for code in [600, 999] {
        let id = format!("status-{code}");
        let request = Request::get(format!("/status?code={code}&body=of-{code}"));
        let response = conn.exchange(&request.header("x-request-id", &id)).unwrap();
        match host.wasi {
            // The guest can set them.
            Wasi::V02 => {
                assert_eq!(response.status(), 500, "for {code}");
                let failure = server.log.expect_failure(&id);
                assert_eq!(failure.reason, "invalid-response", "{failure:?}");
            }
            // The guest cannot, and goes on.
            Wasi::V03 => assert_eq!(response.ok().text(), format!("refused: status {code}\n")),
        }
    }
    drop(conn);
    server.finish();
}
