//! Routes about the heads of requests and responses.

use std::fmt::Write as _;
use std::io;

use wasi::http::types::Fields;

use crate::reply::{Reply, plain_text, put};
use crate::request::Request;

/// `/request`: the request as the guest sees it, header values in hex.
pub fn request(request: &Request, reply: Reply) -> io::Result<()> {
    let mut text = format!(
        "method={}\npath={}\nauthority={}\nscheme={}\n",
        request.method(),
        request.target(),
        request.authority(),
        request.scheme(),
    );
    for (name, value) in request.headers() {
        text.push_str(&name);
        text.push('=');
        for byte in value {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    reply.text(text)
}

/// `/status?code=N&body=TEXT`: content-length is set when `body` is given.
pub fn status(request: &Request, reply: Reply) -> io::Result<()> {
    let code = request.number("code", 200);
    let Ok(code) = u16::try_from(code) else {
        return reply.text(format!("refused: status {code}\n"));
    };
    let headers = plain_text();
    let text = request.text("body");
    if request.query().iter().any(|(name, _)| name == b"body") {
        put(&headers, "content-length", text.len().to_string());
    }
    let mut body = reply.status(code).start(headers)?;
    body.write(text.as_bytes())?;
    body.finish()
}

/// `/headers?name=N&value=V&...`: each pair is a header field of the response,
/// text/plain is added when they name no content type.
pub fn headers(request: &Request, reply: Reply) -> io::Result<()> {
    let headers = Fields::new();
    for pair in request.query().chunks(2) {
        let [(first, name), (second, value)] = pair else {
            return reply.text("refused: a name without a value\n");
        };
        if (first.as_slice(), second.as_slice()) != (b"name", b"value") {
            return reply.text("refused: the query is not pairs of name and value\n");
        }
        // A WIT string is UTF-8: other bytes cannot be a field's name at all.
        let Ok(name) = std::str::from_utf8(name) else {
            return reply.text("refused: the name is not UTF-8\n");
        };
        if let Err(error) = headers.append(name, value) {
            return reply.text(format!("refused: {error}\n"));
        }
    }
    if !headers.has("content-type") {
        put(&headers, "content-type", "text/plain");
    }
    let mut body = reply.start(headers)?;
    body.write(b"headers\n")?;
    body.finish()
}

/// `/bigheaders?count=N&size=K`: N header fields of K bytes each.
pub fn big_headers(request: &Request, reply: Reply) -> io::Result<()> {
    let value = vec![b'x'; request.number("size", 100) as usize];
    let headers = plain_text();
    for i in 0..request.number("count", 1) {
        if let Err(error) = headers.append(&format!("x-big-{i}"), &value) {
            return reply.text(format!("refused: {error}\n"));
        }
    }
    let mut body = reply.start(headers)?;
    body.write(b"bigheaders\n")?;
    body.finish()
}
