//! Requests and responses through the C module `hello`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod host;

use std::io::{Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use host::{Host, field, kill, pattern, receive};
use serde_json::json;

#[test]
fn requests_are_shown_as_they_came() {
    let host = Host::with(json!({}));
    let response = host.exchange(
        b"POST /x/%2e%2e//request?a=%20\xff HTTP/1.1\r\nHost: Example.COM:81\r\n\
          X-One: \xe9\r\nx-one: 2\r\nX_Under: 3\r\nContent-Length: 2\r\n\r\nhi",
    );
    // The body of the answer has the raw bytes.
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status, 200, "{text}");
    for line in [
        "method=POST",
        "target=/x/%2e%2e//request?a=%20\u{fffd}",
        "path=/request",
        "version=HTTP/1.1",
        "server=example.com",
        "remote=127.0.0.1",
        &format!("local={}", host.addr.ip()),
        "length=2",
        "fd=0",
        "tls=0",
        "Host: Example.COM:81",
        "X-One: \u{fffd}",
        "x-one: 2",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}:\n{text}");
    }
    assert!(!text.contains("X_Under"));
}

#[test]
fn the_process_is_set_up() {
    let environment = json!({"SOME": "thing"});
    let host = Host::with(json!({"environment": environment, "working_directory": "/usr"}));
    assert_eq!(host.get("/env?SOME").text(), "thing");
    assert_eq!(host.get("/cwd").text(), "/usr");
    assert!(host.log().contains("[notice]"));
    assert!(host.log().lines().any(|line| line.ends_with(" /c")));
    let pid = host.app_pid();
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(title.contains("\"a\" application"), "{title}");
}

#[test]
fn bodies_come_back() {
    let host = Host::with(json!({}));
    let body = pattern(10 << 20);
    for size in [0, 1, 1024, 1025, 16 << 10, (16 << 10) + 1, 10 << 20] {
        let body = &body[..size];
        let mut stream = host.connect();
        write!(
            stream,
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        )
        .unwrap();
        let mut sending = stream.try_clone().unwrap();
        let response = std::thread::scope(|scope| {
            scope.spawn(move || sending.write_all(body).unwrap());
            receive(&mut stream)
        });
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{size}");
    }
}

#[test]
fn chunked_bodies_come_in_a_file() {
    let host = Host::with(json!({}));
    let request = |path: &str| {
        let text = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        );
        host.exchange(text.as_bytes())
    };
    assert_eq!(request("/echo").text(), "hello world");
    let shown = request("/request");
    assert!(
        shown.text().contains("length=11\nfd=1\n"),
        "{}",
        shown.text()
    );
    assert!(shown.text().contains("Content-Length: 11\n"));
    assert!(!shown.text().contains("Transfer-Encoding"));
}

#[test]
fn connections_stay_open() {
    let host = Host::with(json!({}));
    let mut stream = host.connect();
    for _ in 0..3 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let response = receive(&mut stream);
        assert_eq!(response.text(), "hello\n");
        assert_eq!(field(&response.head, "connection"), None);
    }
    let response = host.exchange(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.text(), "hello\n");
    // A head without a length, in chunks on 1.1.
    let response = host.get("/large?10");
    assert_eq!(field(&response.head, "transfer-encoding"), Some("chunked"));
    assert_eq!(field(&response.head, "x-large"), Some("vvvvvvvvvv"));
    let response = host.exchange(b"GET /large?10 HTTP/1.0\r\n\r\n");
    assert_eq!(field(&response.head, "transfer-encoding"), None);
}

#[test]
fn refusals_have_units_status() {
    let host = Host::with(json!({}));
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "v".repeat(40_000));
    for (request, status) in [
        ("BAD\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (long.as_str(), 431),
        ("GET /refuse HTTP/1.1\r\n\r\n", 503),
    ] {
        let response = host.exchange(request.as_bytes());
        assert_eq!(
            response.status,
            status,
            "{}",
            &request[..request.len().min(60)]
        );
    }
    let broken = host.get("/broken");
    assert_eq!((broken.text(), broken.whole), ("12345", false));
}

#[test]
fn a_slow_reader_holds_the_application_back() {
    const SIZE: usize = 50 << 20;
    let host = Host::with(json!({"limits": {"shm": 1 << 20}}));
    let mut stream = host.connect();
    write!(stream, "GET /download?{SIZE} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    sleep(Duration::from_millis(500));
    // The application has filled its window of 10 MiB and waits; others are
    // served meanwhile.
    assert_eq!(host.get("/").text(), "hello\n");
    host.until("request in progress", || {
        let path = "/status/applications/a/requests/active";
        host.control("GET", path, "").1 == json!(1)
    });
    let main = std::fs::read_to_string(format!("/proc/{}/status", host.main_pid())).unwrap();
    let resident = main
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 40 << 10, "{kilobytes} kB");
    let response = receive(&mut stream);
    assert!(response.body == pattern(SIZE));
    // Many at once, each slow, still all get everything.
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = host.connect();
            write!(stream, "GET /download?4000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            std::thread::spawn(move || {
                sleep(Duration::from_millis(200));
                receive(&mut stream).body == pattern(4_000_000)
            })
        })
        .collect();
    assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
}

#[test]
fn a_client_that_leaves_frees_the_window() {
    let host = Host::with(json!({"limits": {"shm": 1 << 20}}));
    for _ in 0..4 {
        let mut stream = host.connect();
        stream
            .write_all(b"GET /download?60000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
    }
    assert_eq!(host.get("/download?20000000").body.len(), 20_000_000);
}

#[test]
fn a_large_head_may_wait_for_memory() {
    let host = Host::with(json!({"limits": {"shm": 1 << 20}}));
    let mut stream = host.connect();
    write!(stream, "GET /download?30000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    sleep(Duration::from_millis(300));
    let mut blocked = host.connect();
    write!(blocked, "GET /large?5000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    sleep(Duration::from_millis(200));
    assert_eq!(receive(&mut stream).body.len(), 30_000_000);
    let large = receive(&mut blocked);
    assert_eq!(field(&large.head, "x-large").map(str::len), Some(5000));
}

#[test]
fn a_request_that_takes_too_long_is_answered_with_503() {
    let host = Host::with(json!({"limits": {"timeout": 1}}));
    let start = Instant::now();
    assert_eq!(host.get("/sleep?20000").status, 503);
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(host.get("/").status, 200);
}

#[test]
fn a_killed_process_is_replaced() {
    let host = Host::with(json!({}));
    let first = host.app_pid();
    let mut before = host.connect();
    before
        .write_all(b"GET /sleep?5000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut after = host.connect();
    after
        .write_all(b"GET /download?100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    after.read_exact(&mut [0; 1000]).unwrap();
    kill(first, "KILL");
    assert_eq!(receive(&mut before).status, 503);
    let mut rest = Vec::new();
    let _ = after.read_to_end(&mut rest);
    assert!(rest.len() < 99_000_000);
    assert_ne!(host.app_pid(), first);
}
