//! Request heads as a router might pass them on: a first line `METHOD TARGET
//! HOST`, then `name:value` lines, all of any bytes. What reaches a guest is
//! what was sent, and what reaches the log cannot break its lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nxt_wasmtime::http::{Head, request, request_id};

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|&b| b == b'\n');
    let mut first = lines.next().unwrap_or_default().splitn(3, |&b| b == b' ');
    let method = first.next().unwrap_or_default();
    let target = first.next().unwrap_or_default();
    let server_name = first.next().unwrap_or_default();
    let fields: Vec<(&[u8], &[u8])> = lines
        .map(|line| match line.iter().position(|&b| b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        })
        .collect();
    let head = Head {
        method,
        target,
        server_name,
        tls: bytes.len() % 2 == 1,
        fields: fields.iter().copied(),
    };
    let request = match request(head) {
        Ok(request) => request,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control));
            return;
        }
    };
    assert_eq!(request.method().as_str().as_bytes(), method);
    let authority = request.uri().authority().map(|a| a.as_str().as_bytes());
    assert_eq!(authority, Some(server_name));
    if target.starts_with(b"/") {
        let path = request.uri().path_and_query().map(|p| p.as_str());
        // A fragment is no part of what is requested.
        let sent = target.split(|&b| b == b'#').next().unwrap_or_default();
        assert_eq!(path.map(str::as_bytes), Some(sent));
    }
    assert_eq!(request.headers().len(), fields.len());
    for name in request.headers().keys() {
        let sent = fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_str().as_bytes()))
            .map(|(_, value)| *value);
        let kept = request.headers().get_all(name).iter();
        assert!(sent.eq(kept.map(|value| value.as_bytes())));
    }

    let id = request_id(request.headers(), || "made-up".to_owned());
    assert!((1..=64).contains(&id.len()));
    let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    assert!(id.bytes().all(harmless));
});
