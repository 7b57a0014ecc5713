//! Heads of guests' responses: two bytes of status, one of flags, then
//! `name:value` lines. What passes the check is what Unit can send, and is
//! framed without contradiction.

#![no_main]

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use nxt_wasmtime::http::{Framing, check_response};

fuzz_target!(|bytes: &[u8]| {
    let [high, low, flags, rest @ ..] = bytes else {
        return;
    };
    // Any status that the type can have.
    let status = u16::from_be_bytes([*high, *low]) % 900 + 100;
    let Ok(status) = StatusCode::from_u16(status) else {
        return;
    };
    let is_head = flags & 1 == 1;
    let mut response = Response::new(());
    *response.status_mut() = status;
    for line in rest.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            // A guest can repeat a field so often that the heads get large.
            for _ in 0..=flags >> 1 {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
    }
    let before = response.headers().clone();
    let framing = match check_response(is_head, &mut response) {
        Ok(framing) => framing,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control) && text.len() < 300);
            return;
        }
    };
    assert!((200..=599).contains(&status.as_u16()));
    let headers = response.headers();
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "status",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let size: usize = headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len())
        .sum();
    assert!(size <= 256 * 1024);
    for (name, value) in headers {
        assert!(name.as_str().len() <= 255);
        // Nothing is added or altered.
        assert!(before.get_all(name).iter().any(|v| v == value));
    }
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1);
    let length = lengths.first().and_then(|v| v.to_str().ok()?.parse().ok());
    assert_eq!(length.is_some(), !lengths.is_empty());
    let bodiless = is_head || matches!(status.as_u16(), 204 | 304);
    match framing {
        Framing::None => assert!(bodiless),
        Framing::Length(declared) => assert!(!bodiless && length == Some(declared)),
        Framing::Stream => assert!(!bodiless && length.is_none()),
    }
});
