//! Answers every request with a description of that request, in JSON.

use std::io::{self, Read as _, Write as _};

use serde_json::{Map, Value, json};
use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wasi::http::proxy::export!(Example);

struct Example;

impl Guest for Example {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        match describe(request) {
            Ok(text) => respond(outparam, &text),
            // The client broke off in the middle of the body.
            Err(error) => {
                let error = ErrorCode::InternalError(Some(error.to_string()));
                ResponseOutparam::set(outparam, Err(error));
            }
        }
    }
}

fn describe(request: IncomingRequest) -> io::Result<String> {
    let method = name_of(request.method());
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));

    // What a component prints is in the server's log.
    eprintln!("rust: {method} {path}");

    let query: Map<String, Value> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .collect();
    let headers = headers_of(&request);
    let body = read_body(&request)?;
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".into());
    let description = json!({
        "language": "rust",
        "method": method,
        "path": path,
        "query": query,
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
        "greeting": greeting,
    });
    Ok(format!("{description}\n"))
}

fn name_of(method: Method) -> String {
    match method {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Delete => "DELETE".into(),
        Method::Connect => "CONNECT".into(),
        Method::Options => "OPTIONS".into(),
        Method::Trace => "TRACE".into(),
        Method::Patch => "PATCH".into(),
        Method::Other(name) => name,
    }
}

/// Header fields as a JSON object; values of equal names are joined.
fn headers_of(request: &IncomingRequest) -> Map<String, Value> {
    let mut described: Map<String, Value> = Map::new();
    for (name, value) in request.headers().entries() {
        let value = String::from_utf8_lossy(&value);
        match described.get_mut(&name) {
            Some(Value::String(values)) => {
                values.push_str(", ");
                values.push_str(&value);
            }
            _ => {
                described.insert(name, value.into());
            }
        }
    }
    described
}

/// The request's body, all of it.
fn read_body(request: &IncomingRequest) -> io::Result<Vec<u8>> {
    let body = request.consume().expect("the body is taken once");
    let mut stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn respond(outparam: ResponseOutparam, text: &str) {
    let headers = Fields::new();
    let length = text.len().to_string();
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", &length),
    ] {
        headers
            .append(name, value.as_bytes())
            .expect("an ordinary header field");
    }

    // Status 200 is what a new response has.
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(outparam, Ok(response));

    let mut stream = body.write().expect("the stream is taken once");
    let sent = stream.write_all(text.as_bytes());
    drop(stream);
    // If it failed the client has gone: a body that is dropped without finish()
    // cannot pass for a whole one.
    if sent.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}
