//! Serves `example:cipher/cipher` by HTTP, with JSON in and out.
//!
//! It can shift no letter itself: it is composed with a component that exports
//! that interface.

mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "client",
        generate_all,
    });
}

use std::io::{Read as _, Write as _};

use serde::Deserialize;
use serde_json::{Value, json};
use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::bindings::example::cipher::cipher;

wasi::http::proxy::export!(Adapter);

struct Adapter;

impl Guest for Adapter {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        match answer(&request) {
            Ok(result) => respond(outparam, 200, &json!({ "result": result })),
            Err(Refusal::Status(status, why)) => {
                respond(outparam, status, &json!({ "error": why }));
            }
            Err(Refusal::BrokenOff(why)) => {
                ResponseOutparam::set(outparam, Err(ErrorCode::InternalError(Some(why))));
            }
        }
    }
}

enum Refusal {
    Status(u16, &'static str),
    /// The client ended in the middle of its request.
    BrokenOff(String),
}

/// Bytes that the body of a request may have.
const MAX_BODY: u64 = 64 * 1024;

fn answer(request: &IncomingRequest) -> Result<String, Refusal> {
    let target = request.path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let operation = match path {
        "/encrypt" => cipher::encrypt,
        "/decrypt" => cipher::decrypt,
        _ => return Err(Refusal::Status(404, "there are /encrypt and /decrypt")),
    };
    if !matches!(request.method(), Method::Post) {
        return Err(Refusal::Status(405, "the method has to be POST"));
    }
    let message = message_of(&read_body(request)?)?;
    operation(&message).map_err(|error| match error {
        cipher::Error::Misconfigured => Refusal::Status(500, "the service is set up wrongly"),
        cipher::Error::NotRecorded => {
            Refusal::Status(503, "this cannot be recorded, so it was not done")
        }
    })
}

fn read_body(request: &IncomingRequest) -> Result<Vec<u8>, Refusal> {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    // One byte more than it may have, to tell.
    let read = stream.take(MAX_BODY + 1).read_to_end(&mut bytes);
    read.map_err(|error| Refusal::BrokenOff(error.to_string()))?;
    if bytes.len() as u64 > MAX_BODY {
        return Err(Refusal::Status(413, "the body may have 64 KiB"));
    }
    Ok(bytes)
}

/// The body of a request. Other members are skipped: as values, a short text of
/// a client's can take many times its length in memory.
#[derive(Deserialize)]
struct Body {
    message: String,
}

fn message_of(body: &[u8]) -> Result<String, Refusal> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    match serde_json::from_slice(body) {
        Err(error) if !error.is_data() => Err(Refusal::Status(400, "the body is not JSON")),
        // A struct may be a list of its fields, too.
        _ if !is_object => Err(Refusal::Status(400, "the body has to be a JSON object")),
        Ok(Body { message }) => Ok(message),
        Err(_) => Err(Refusal::Status(400, "there has to be a text \"message\"")),
    }
}

fn respond(outparam: ResponseOutparam, status: u16, answer: &Value) {
    let text = format!("{answer}\n");
    let length = text.len().to_string();
    let mut fields = vec![
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
    ];
    if status == 405 {
        fields.push(("allow", "POST"));
    }
    let headers = Fields::new();
    for (name, value) in fields {
        headers
            .append(name, value.as_bytes())
            .expect("an ordinary header field");
    }
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(status)
        .expect("an ordinary status");
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
