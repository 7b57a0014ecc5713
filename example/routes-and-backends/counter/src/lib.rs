//! Counters in Redis: `GET /counters/NAME` reads one, `POST` adds 1 to it.
//!
//! A component of WASI 0.2. Redis is at the address in the environment variable
//! REDIS. Every request makes a connection of its own, as it has an instance of
//! its own.

mod redis;

use std::io::Write as _;
use std::time::Duration;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::redis::{Error, Reply};

wasi::http::proxy::export!(Counter);

/// How long Redis may take, to be connected to and to answer.
const PATIENCE: Duration = Duration::from_secs(1);

const LONGEST_NAME: usize = 64;

struct Counter;

impl Guest for Counter {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let (status, text) = match answer(&request) {
            Ok((name, value)) => (200, format!(r#"{{"name":"{name}","value":{value}}}"#)),
            Err((status, why)) => (status, format!(r#"{{"error":"{why}"}}"#)),
        };
        respond(outparam, status, text + "\n");
    }
}

/// A counter and its value, or status and text of what went wrong.
fn answer(request: &IncomingRequest) -> Result<(String, i64), (u16, &'static str)> {
    let target = request.path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let name = path
        .strip_prefix("/counters/")
        .ok_or((404, "no such path"))?;
    if !is_name(name) {
        return Err((400, "names have 1 to 64 letters, digits, - and _"));
    }
    let key = format!("counter:{name}");
    let command = match request.method() {
        Method::Get => ["GET", &key],
        Method::Post => ["INCR", &key],
        _ => return Err((405, "GET or POST")),
    };
    match run(&command) {
        Ok(Some(value)) => Ok((name.to_owned(), value)),
        Ok(None) => Err((404, "no such counter")),
        Err(error) => {
            // For the operator, in Unit's log. The client is told less.
            eprintln!("{} {key}: {error}", command[0]);
            match error {
                Error::Away(_) => Err((503, "the counters are away")),
                Error::Refused(_) => Err((502, "the counters cannot do that")),
                Error::Senseless => Err((502, "the counters make no sense")),
            }
        }
    }
}

/// What can stand in a key and in JSON as it is.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain)
}

/// The number that the command gives, if any.
fn run(command: &[&str]) -> Result<Option<i64>, Error> {
    let address = std::env::var("REDIS").unwrap_or_default();
    match redis::command(&address, PATIENCE, command)? {
        Reply::Integer(value) => Ok(Some(value)),
        Reply::Nothing => Ok(None),
        Reply::Text(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::Refused("it is not a number".into())),
        },
    }
}

fn respond(outparam: ResponseOutparam, status: u16, text: String) {
    let headers = Fields::new();
    let put = |name: &str, value: &str| {
        headers
            .append(name, value.as_bytes())
            .expect("an ordinary header field");
    };
    put("content-type", "application/json");
    put("content-length", &text.len().to_string());
    if status == 503 {
        put("retry-after", "1");
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
    // If it failed the client has gone.
    if sent.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}
