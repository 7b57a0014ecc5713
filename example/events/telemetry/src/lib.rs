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

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;

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
            let ids: Vec<&String> = events.iter().map(|event| &event.id).collect();
            respond(202, &format!("{}\n", json!({ "accepted": ids })))
        }
        Err(Failure::Refused(status, why)) => respond(status, &why),
        Err(Failure::NotNow(why)) => {
            eprintln!("telemetry: {} events not published: {why}", events.len());
            respond(503, "Not stored. Send it again, with the same ids.\n")
        }
    }
}

/// A measurement with its id, and the members that it has beside that, which stay
/// text: as values, they can take many times the length of that in memory.
///
/// What is in them is for the server to look into.
struct Event<'a> {
    id: String,
    data: BTreeMap<String, &'a RawValue>,
}

/// The events that a body stands for.
fn events(body: &[u8]) -> Result<Vec<Event<'_>>, String> {
    let not_json = |error| format!("Not JSON: {error}.");
    let body: &RawValue = serde_json::from_slice(body).map_err(not_json)?;
    let all: Vec<&RawValue> = match body.get().starts_with('[') {
        true => serde_json::from_str(body.get()).map_err(not_json)?,
        false => vec![body],
    };
    if all.is_empty() || all.len() > MOST_EVENTS {
        return Err(format!("1 to {MOST_EVENTS} measurements at a time."));
    }
    all.into_iter().map(event).collect()
}

fn event(measurement: &RawValue) -> Result<Event<'_>, String> {
    let mut data: BTreeMap<String, &RawValue> = serde_json::from_str(measurement.get())
        .map_err(|_| "A measurement is a JSON object.".to_string())?;
    let id = match data.remove("id") {
        None => format!("{:016x}{:016x}", random_number(), random_number()),
        Some(id) => serde_json::from_str(id.get())
            .ok()
            .filter(|id: &String| (1..=LONGEST_ID).contains(&id.len()))
            .ok_or_else(|| format!("An id is a string of 1 to {LONGEST_ID} bytes."))?,
    };
    Ok(Event { id, data })
}

impl Event<'_> {
    fn to_json(&self) -> Result<String, serde_json::Error> {
        let data = serde_json::to_string(&self.data)?;
        let id = serde_json::to_string(&self.id)?;
        Ok(format!(
            r#"{{"specversion":"1.0","id":{id},"source":"/telemetry","type":"measurement","data":{data}}}"#
        ))
    }
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
async fn publish(events: &[Event<'_>]) -> Result<(), Failure> {
    let url = http::setting("PUBLISH_TO").map_err(Failure::NotNow)?;
    let events: Result<Vec<String>, _> = events.iter().map(Event::to_json).collect();
    let events = events.map_err(|error| Failure::NotNow(error.to_string()))?;
    let body = format!("[{}]", events.join(",")).into_bytes();
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
