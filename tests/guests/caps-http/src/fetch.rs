//! Routes that make one outgoing request.

use std::io;

use wasi::http::types::{Fields, IncomingResponse};

use crate::exchange::{Failed, Incoming, read_all, receive, report, send};
use crate::reply::{Reply, put};
use crate::request::Request;

/// `/fetch?url=URL&method=M&header=N:V&trailer=N:V&send=N&leave=body&follow=N`
/// and `connect_ms`, `first_byte_ms`, `between_ms`: sends the request's body on
/// and answers what came back, as `exchange::report` has it. Up to `follow`
/// redirects are followed, each told in a line `redirect URL`.
pub fn fetch(request: &Request) -> String {
    let mut text = String::new();
    match follow(request, &mut text) {
        Ok(report) => text + &report,
        Err(Failed(why)) => text + &why,
    }
}

/// The report of the last response; the redirects go into `text`.
fn follow(request: &Request, text: &mut String) -> Result<String, Failed> {
    let mut url = request.text("url");
    let redirects = request.number("follow", 0);
    if redirects == 0 {
        return report(send(request, &url, Incoming::Forward)?);
    }
    for _ in 0..redirects {
        let response = receive(&send(request, &url, Incoming::Leave)?)?;
        match location(&response, &url) {
            None => break,
            Some(next) => url = next,
        }
        *text += &format!("redirect {url}\n");
    }
    report(send(request, &url, Incoming::Leave)?)
}

/// Where a redirect leads that came from `url`.
fn location(response: &IncomingResponse, url: &str) -> Option<String> {
    if !(300..400).contains(&response.status()) {
        return None;
    }
    let field = response.headers().get("location").into_iter().next()?;
    let target = String::from_utf8(field).ok()?;
    if !target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    Some(format!("{scheme}://{authority}{target}"))
}

/// `/fetch-stream?url=URL`: the response itself, piece by piece.
pub fn stream(request: &Request, reply: Reply) -> io::Result<()> {
    let sent = send(request, &request.text("url"), Incoming::Forward);
    let response = match sent.and_then(|sent| receive(&sent)) {
        Ok(response) => response,
        Err(Failed(why)) => return reply.status(502).text(why),
    };
    let headers = Fields::new();
    for name in ["content-type", "content-length"] {
        for value in response.headers().get(name) {
            put(&headers, name, value);
        }
    }
    let body = response.consume().expect("the body is taken once");
    let input = body.stream().expect("the stream is taken once");
    let mut output = reply.status(response.status()).start(headers)?;
    let mut written = Ok(());
    let end = read_all(&input, |piece| {
        if written.is_ok() {
            written = output.write(piece).and_then(|()| output.flush());
        }
    });
    written?;
    match end {
        Ok(()) => output.finish(),
        Err(Failed(why)) => Err(io::Error::other(why)),
    }
}

/// `/fetch-drop?url=URL&how=future|response|body&bytes=N`: makes a request and
/// lets go of what came back: of the promise of a response, of the response, or
/// of the body after N bytes.
pub fn break_off(request: &Request) -> String {
    let sent = match send(request, &request.text("url"), Incoming::Forward) {
        Ok(sent) => sent,
        Err(Failed(why)) => return why,
    };
    let how = request.text("how");
    if how == "future" {
        return "dropped the future\n".into();
    }
    let response = match receive(&sent) {
        Ok(response) => response,
        Err(Failed(why)) => return why,
    };
    if how == "response" {
        return "dropped the response\n".into();
    }
    let body = response.consume().expect("the body is taken once");
    let input = body.stream().expect("the stream is taken once");
    let wanted = request.number("bytes", 1);
    let mut total = 0;
    while total < wanted {
        match input.blocking_read(wanted - total) {
            Ok(piece) => total += piece.len() as u64,
            Err(error) => return format!("error: body {error:?} after {total}\n"),
        }
    }
    "dropped the body\n".into()
}
