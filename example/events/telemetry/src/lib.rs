//! Takes measurements, and answers 202 only when the server has stored them.
//!
//! `POST /measurements` with a JSON object, or a list of them. Each becomes an
//! event (CloudEvents 1.0), whose id is the `id` of the object, or a random one.
//! Who sends something again, because no answer came, has to give it the same id.

#[path = "../../common/http.rs"]
mod http;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit-0.3",
        world: "wasi:http/service@0.3.0",
        generate_all,
    });
}

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::http::types::{Method, Request};
use crate::bindings::wasi::random::random;
use crate::http::{Answer, respond};

bindings::export!(Telemetry with_types_in bindings);

const MOST_BYTES: usize = 64 * 1024;
const MOST_EVENTS: usize = 100;
const LONGEST_ID: usize = 128;

/// How long one attempt may take, and all of them.
const ATTEMPT_MS: u64 = 2000;
const BUDGET: Duration = Duration::from_secs(5);

/// The pause after the first attempt, which doubles.
const PAUSE: Duration = Duration::from_millis(50);

struct Telemetry;

impl Guest for Telemetry {
    async fn handle(request: Request) -> Answer {
        let (method, path) = http::target(&request);
        match (method, path.as_str()) {
            ("GET", "/") => respond(200, "telemetry: POST /measurements\n"),
            ("POST", "/measurements") => measurements(request).await,
            _ => respond(404, "no such route\n"),
        }
    }
}

async fn measurements(request: Request) -> Answer {
    let body = match http::body(request, MOST_BYTES).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let events = match events(&body) {
        Ok(events) => events,
        Err(why) => return respond(400, &format!("{why}\n")),
    };
    match publish(&events).await {
        Ok(()) => {
            let ids: Vec<&Value> = events.iter().map(|event| &event["id"]).collect();
            respond(202, &format!("{}\n", json!({ "accepted": ids })))
        }
        Err(Failure::Refused(status, why)) => respond(status, &why),
        Err(Failure::NotNow(why)) => {
            eprintln!("telemetry: {} events not published: {why}", events.len());
            respond(503, "Not stored. Send it again, with the same ids.\n")
        }
    }
}

/// The events that a body stands for.
fn events(body: &[u8]) -> Result<Vec<Value>, String> {
    let body = serde_json::from_slice(body).map_err(|error| format!("Not JSON: {error}."))?;
    let all = match body {
        Value::Array(all) => all,
        one => vec![one],
    };
    if all.is_empty() || all.len() > MOST_EVENTS {
        return Err(format!("1 to {MOST_EVENTS} measurements at a time."));
    }
    all.into_iter().map(event).collect()
}

fn event(mut measurement: Value) -> Result<Value, String> {
    let fields = measurement
        .as_object_mut()
        .ok_or("A measurement is a JSON object.")?;
    let id = match fields.remove("id") {
        None => format!("{:016x}{:016x}", random_number(), random_number()),
        Some(Value::String(id)) if (1..=LONGEST_ID).contains(&id.len()) => id,
        Some(_) => return Err(format!("An id is a string of 1 to {LONGEST_ID} bytes.")),
    };
    Ok(json!({
        "specversion": "1.0",
        "id": id,
        "source": "/telemetry",
        "type": "measurement",
        "data": measurement,
    }))
}

fn random_number() -> u64 {
    random::get_random_u64()
}

/// Why events are not stored, as far as we know.
enum Failure {
    /// To try again would not help.
    Refused(u16, String),
    NotNow(String),
}

/// Tries until the server has stored the events, or the time is over.
///
/// An attempt that fails may have stored them all the same, and the next one
/// stores them again: that is what their ids are for.
async fn publish(events: &[Value]) -> Result<(), Failure> {
    let url = http::setting("PUBLISH_TO").map_err(Failure::NotNow)?;
    let body = Value::from(events).to_string().into_bytes();
    let begin = Instant::now();
    let mut pause = PAUSE;
    loop {
        let sent = http::send(&Method::Post, &url, http::BATCH, body.clone(), ATTEMPT_MS);
        let why = match sent.await {
            Ok((201, _)) => return Ok(()),
            Ok((status @ 400..=499, text)) => return Err(Failure::Refused(status, text)),
            Ok((status, text)) => format!("status {status}: {}", text.trim_end()),
            Err(error) => error,
        };
        if begin.elapsed() + pause > BUDGET {
            return Err(Failure::NotNow(why));
        }
        let nanoseconds = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        monotonic_clock::wait_for(nanoseconds).await;
        pause *= 2;
    }
}
