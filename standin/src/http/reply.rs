//! What goes to the client.

use crate::codec::Reader;
use crate::sys::time::http_date;

/// The head of a response as the application sent it.
pub struct Head<'a> {
    /// Any number.
    pub status: u16,
    /// Name and value.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    /// Content that came along.
    pub content: &'a [u8],
}

/// Fields that the router sets itself, or that mean nothing to clients.
const SKIPPED: [&str; 5] = [
    "Status",
    "Server",
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Accept",
];

fn is(name: &[u8], other: &str) -> bool {
    name.eq_ignore_ascii_case(other.as_bytes())
}

impl<'a> Head<'a> {
    /// From the payload of a head frame. `None` if it is malformed, or has a
    /// `Status` field that is none: both are answered with 503.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut input = Reader::new(payload);
        let status = input.u16()?;
        let mut fields = Vec::new();
        for _ in 0..input.u32()? {
            let (name, value) = (input.bytes()?, input.bytes()?);
            if is(name, "Status") {
                let digits = value.get(..3)?;
                let good = digits.iter().all(u8::is_ascii_digit) && digits.first() != Some(&b'0');
                good.then_some(())?;
            }
            fields.push((name, value));
        }
        Some(Self {
            status,
            fields,
            content: input.rest(),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(other, _)| is(other, name))
    }
}

/// How the rest of a response goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Content goes in chunks.
    pub chunked: bool,
    /// The connection stays open after it.
    pub keep_alive: bool,
}

/// Writes the head, and decides on the framing.
pub fn head(head: &Head<'_>, http11: bool, keep_alive: bool, out: &mut Vec<u8>) -> Framing {
    let mut framing = Framing {
        chunked: false,
        keep_alive,
    };
    if !head.has("Content-Length") {
        if !http11 {
            framing.keep_alive = false;
        } else if head.status != 204 && head.status != 304 {
            framing.chunked = true;
        }
    }
    let status = if head.status <= 999 { head.status } else { 500 };
    let line = format!("HTTP/1.1 {status:03} {}\r\n", reason(status));
    out.extend_from_slice(line.as_bytes());
    for (name, value) in &head.fields {
        if !SKIPPED.iter().any(|skipped| is(name, skipped)) {
            field(name, value, out);
        }
    }
    let server = concat!("nxt-standin/", env!("CARGO_PKG_VERSION"));
    field(b"Server", server.as_bytes(), out);
    if !head.has("Date") {
        field(b"Date", http_date().as_bytes(), out);
    }
    if http11 != framing.keep_alive {
        let value: &[u8] = if http11 { b"close" } else { b"keep-alive" };
        field(b"Connection", value, out);
    }
    if framing.chunked {
        field(b"Transfer-Encoding", b"chunked", out);
    }
    out.extend_from_slice(b"\r\n");
    framing
}

fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A whole response with which the router itself answers.
pub fn error(status: u16, http11: bool, keep_alive: bool) -> (Vec<u8>, bool) {
    let text = format!(
        "<!DOCTYPE html><html><title>{status} {0}</title><body>{status} {0}</body></html>\r\n",
        reason(status)
    );
    let length = text.len().to_string();
    let parts = Head {
        status,
        fields: vec![
            (b"Content-Type", b"text/html"),
            (b"Content-Length", length.as_bytes()),
        ],
        content: &[],
    };
    let mut out = Vec::new();
    let framing = head(&parts, http11, keep_alive, &mut out);
    out.extend_from_slice(text.as_bytes());
    (out, framing.keep_alive)
}

/// The text after a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Writer;

    fn payload(status: u16, fields: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(status);
        out.u32(fields.len() as u32);
        for (name, value) in fields {
            out.bytes(name.as_bytes());
            out.bytes(value.as_bytes());
        }
        out.rest(content);
        out.finish()
    }

    fn sent(status: u16, fields: &[(&str, &str)], http11: bool, keep: bool) -> (String, Framing) {
        let payload = payload(status, fields, b"");
        let mut out = Vec::new();
        let framing = head(&Head::decode(&payload).unwrap(), http11, keep, &mut out);
        (String::from_utf8(out).unwrap(), framing)
    }

    #[test]
    fn framing_follows_length_and_version() {
        let framing = |status, fields: &[(&str, &str)], http11, keep| {
            let framing = sent(status, fields, http11, keep).1;
            (framing.chunked, framing.keep_alive)
        };
        let length = ("content-length", "1");
        assert_eq!(framing(200, &[length], true, true), (false, true));
        assert_eq!(framing(200, &[], true, true), (true, true));
        assert_eq!(framing(200, &[], false, true), (false, false));
        assert_eq!(framing(304, &[], true, true), (false, true));
        assert_eq!(framing(204, &[], true, false), (false, false));
    }

    #[test]
    fn the_router_owns_some_fields() {
        let fields = [
            ("Server", "x"),
            ("Connection", "x"),
            ("Status", "404"),
            ("X", "y"),
        ];
        let (text, _) = sent(200, &fields, true, false);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nX: y\r\nServer: nxt-standin/"));
        assert!(text.contains("\r\nDate: "));
        assert!(text.contains("\r\nConnection: close\r\n"));
        assert!(!text.contains("Status"));
        let (text, _) = sent(299, &[("Date", "then")], true, true);
        assert!(text.starts_with("HTTP/1.1 299 \r\nDate: then\r\n"));
        assert!(!text.contains("Connection"));
    }

    #[test]
    fn a_senseless_status_field_is_refused() {
        assert!(Head::decode(&payload(200, &[("Status", "ok")], b"")).is_none());
        assert!(Head::decode(&payload(200, &[("status", "099")], b"")).is_none());
        assert!(Head::decode(b"").is_none());
    }
}
