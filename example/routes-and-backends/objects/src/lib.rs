//! Objects in the key-value bucket `objects`: `GET /objects` lists their keys,
//! `GET /objects/KEY` and `HEAD` send one, `PUT /objects/KEY` stores one.
//!
//! A component of WASI 0.2. Where the objects are, in files, Redis or S3, is up to
//! whoever configures the bucket.

use std::io::{Read as _, Write as _};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package example:objects;

            world imports {
                import wasi:keyvalue/store@0.2.0-draft2;
            }
        ",
        path: "../../../wit/deps/keyvalue",
        generate_all,
    });
}

wasi::http::proxy::export!(Objects);

/// Longest object that is taken: what a bucket takes if its URL does not say
/// otherwise.
const LONGEST: u64 = 1 << 20;

struct Objects;

impl Guest for Objects {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let answer = answer(&request).unwrap_or_else(|failure| failure);
        let with_body = !matches!(request.method(), Method::Head);
        respond(outparam, answer, with_body);
    }
}

struct Answer {
    status: u16,
    content_type: &'static str,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            bytes: format!("{value}\n").into_bytes(),
        }
    }

    fn error(status: u16, why: &str) -> Self {
        Self::json(status, &json!({ "error": why }))
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::AccessDenied => Self::error(403, "this may not be done"),
            Error::NoSuchStore => Self::error(500, "there is no bucket `objects`"),
            // The reason is in Unit's log.
            Error::Other(_) => Self::error(503, "the store fails"),
        }
    }
}

fn answer(request: &IncomingRequest) -> Result<Answer, Answer> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let bucket = store::open("objects")?;
    if path == "/objects" {
        return match request.method() {
            Method::Get | Method::Head => list(&bucket, query),
            _ => Err(Answer::error(405, "GET or HEAD")),
        };
    }
    let key = path.strip_prefix("/objects/").and_then(decode);
    let key = key.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Answer::error(400, "not a key"))?;
    match request.method() {
        Method::Get | Method::Head => get(&bucket, &key),
        Method::Put => put(&bucket, &key, request),
        _ => Err(Answer::error(405, "GET, HEAD or PUT")),
    }
}

fn decode(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// One page of keys. Where `next` is not null, `?from=NEXT` is the next page.
fn list(bucket: &Bucket, query: &str) -> Result<Answer, Answer> {
    let from = query.strip_prefix("from=").and_then(decode);
    let mut page = bucket.list_keys(from.as_deref())?;
    page.keys.sort();
    Ok(Answer::json(
        200,
        &json!({ "keys": page.keys, "next": page.cursor }),
    ))
}

fn get(bucket: &Bucket, key: &str) -> Result<Answer, Answer> {
    match bucket.get(key)? {
        Some(bytes) => Ok(Answer {
            status: 200,
            content_type: "application/octet-stream",
            bytes,
        }),
        None => Err(Answer::error(404, "no such object")),
    }
}

fn put(bucket: &Bucket, key: &str, request: &IncomingRequest) -> Result<Answer, Answer> {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    // One more tells those that are too long.
    stream
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| Answer::error(400, "the body broke off"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Answer::error(413, "objects have up to 1 MiB"));
    }
    bucket.set(key, &bytes)?;
    Ok(Answer::json(
        201,
        &json!({ "key": key, "bytes": bytes.len() }),
    ))
}

fn respond(outparam: ResponseOutparam, answer: Answer, with_body: bool) {
    let headers = Fields::new();
    let length = answer.bytes.len().to_string();
    for (name, value) in [
        ("content-type", answer.content_type),
        ("content-length", &length),
    ] {
        headers
            .append(name, value.as_bytes())
            .expect("an ordinary header field");
    }
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(answer.status)
        .expect("an ordinary status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(outparam, Ok(response));

    let mut stream = body.write().expect("the stream is taken once");
    let sent = match with_body {
        true => stream.write_all(&answer.bytes),
        false => Ok(()),
    };
    drop(stream);
    // If it failed the client has gone: a body that is dropped without finish()
    // cannot pass for a whole one.
    if sent.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}
