//! Answers every request with a description of that request.

use std::io::{self, Write as _};

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasi::io::streams::StreamError;

wasi::http::proxy::export!(Hello);

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let headers = request.headers().entries();
        let text = describe(&request, &headers);

        // A request without Content-Length has no body: a server that takes
        // chunked requests states the length once it has the whole of it.
        let body_length = content_length(&headers);
        let newline = if body_length > 0 { 1 } else { 0 };
        let length = text.len() as u64 + body_length + newline;

        let response_headers = Fields::new();
        set(&response_headers, "content-type", "text/plain");
        set(&response_headers, "content-length", &length.to_string());

        // Status 200 is what a new response has.
        let response = OutgoingResponse::new(response_headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(outparam, Ok(response));

        // A failure now is a client gone, on either side: there is nobody to
        // tell, and a body dropped without finish() cannot pass for a whole one.
        let request_body = (body_length > 0).then_some(request);
        if send(&body, &text, request_body).is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

/// Sends the text, then the request's body a piece at a time as it comes.
fn send(body: &OutgoingBody, text: &str, request: Option<IncomingRequest>) -> io::Result<()> {
    let mut out = body.write().expect("the stream is taken once");
    out.write_all(text.as_bytes())?;

    if let Some(request) = request {
        let body = request.consume().expect("the body is taken once");
        let input = body.stream().expect("the stream is taken once");
        loop {
            match input.blocking_read(64 * 1024) {
                Ok(piece) => out.write_all(&piece)?,
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(io::Error::other(error));
                }
            }
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn describe(request: &IncomingRequest, headers: &[(String, Vec<u8>)]) -> String {
    let mut text = String::with_capacity(1024);
    text.push_str(" * Welcome to the component model in Rust! *\n\n[Request Info]\n");
    line(
        &mut text,
        "REQUEST_PATH",
        &request.path_with_query().unwrap_or_default(),
    );
    line(&mut text, "METHOD", method(&request.method()));
    line(&mut text, "SCHEME", scheme(request.scheme().as_ref()));
    line(
        &mut text,
        "AUTHORITY",
        &request.authority().unwrap_or_default(),
    );

    text.push_str("\n[Request Headers]\n");
    for (name, value) in headers {
        line(&mut text, name, &String::from_utf8_lossy(value));
    }

    text.push_str("\n[Request Data]\n");
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(" = ");
    text.push_str(value);
    text.push('\n');
}

fn method(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

fn scheme(scheme: Option<&Scheme>) -> &str {
    match scheme {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        Some(Scheme::Other(name)) => name,
        None => "",
    }
}

fn content_length(headers: &[(String, Vec<u8>)]) -> u64 {
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok())
        .unwrap_or(0)
}

fn set(headers: &Fields, name: &str, value: &str) {
    headers
        .append(name, value.as_bytes())
        .expect("a new response takes plain headers");
}
