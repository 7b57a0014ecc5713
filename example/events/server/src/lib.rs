//! Keeps events until every subscriber of their topic has them.
//!
//! | route | what it does |
//! |---|---|
//! | `POST /topics/T/events` | stores a list of events; 201 when they are stored |
//! | `PUT /topics/T/subscribers/S` | has events of the topic pushed to the `url` in the body |
//! | `DELETE /topics/T/subscribers/S` | ends that |
//! | `GET /topics/T` | who has got how far |
//! | `POST /deliver` | tries to deliver what is there, in all topics |
//!
//! All state is in a key-value store: an instance lives for a request. See README.md
//! for what is kept there and why nothing is lost.

#[path = "../../common/http.rs"]
mod http;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package example:events;

            world server {
                include wasi:http/service@0.3.0;
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }
        ",
        path: ["../../../wit/deps/keyvalue", "../../../wit-0.3"],
        generate_all,
    });
}

mod delivery;
mod event;
mod log;
mod store;
mod topic;

use serde_json::{Value, json};

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::http::types::Request;
use crate::delivery::Delivery;
use crate::http::{Answer, respond, respond_then};
use crate::store::{Refusal, Store};
use crate::topic::Topic;

bindings::export!(Server with_types_in bindings);

const MOST_BYTES: usize = 128 * 1024;
const LONGEST_NAME: usize = 64;

struct Server;

impl Guest for Server {
    async fn handle(request: Request) -> Answer {
        let (method, path) = http::target(&request);
        let path: Vec<&str> = path.split('/').skip(1).collect();
        let names = path.iter().skip(1).step_by(2);
        if !names.copied().all(is_name) {
            return respond(404, "Names are of a-z, 0-9 and -.\n");
        }
        match (method, path.as_slice()) {
            ("GET", [""]) => respond(200, "server: topics and their subscribers\n"),
            ("POST", ["deliver"]) => told(deliver_all().await),
            ("GET", ["topics", topic]) => told(describe(topic)),
            ("POST", ["topics", topic, "events"]) => store_events(topic, request).await,
            ("PUT", ["topics", topic, "subscribers", name]) => {
                subscribe(topic, name, request).await
            }
            ("DELETE", ["topics", topic, "subscribers", name]) => {
                told(unsubscribe(topic, name).map(|()| json!({ "subscribed": false })))
            }
            _ => respond(404, "no such route\n"),
        }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

fn told(outcome: Result<Value, String>) -> Answer {
    match outcome {
        Ok(value) => respond(200, &format!("{value}\n")),
        Err(why) => not_now(&why),
    }
}

fn refused(why: Refusal) -> Answer {
    match why {
        Refusal::TooMany(text) => respond(409, text),
        Refusal::NotNow(why) => not_now(&why),
    }
}

fn not_now(why: &str) -> Answer {
    eprintln!("server: {why}");
    respond(503, &format!("{why}\n"))
}

/// What has been answered is stored. It is delivered after that.
async fn store_events(topic: &str, request: Request) -> Answer {
    let body = match http::body(request, MOST_BYTES).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    if let Err(why) = event::check(&body) {
        return respond(400, &why);
    }
    match append(topic, &body) {
        Ok(entry) => respond_then(
            201,
            &format!("{}\n", json!({ "entry": entry })),
            deliver(topic.to_string()),
        ),
        Err(why) => refused(why),
    }
}

fn append(topic: &str, events: &[u8]) -> Result<u64, Refusal> {
    log::append(&Store::open()?, topic, events)
}

async fn subscribe(topic: &str, name: &str, request: Request) -> Answer {
    let body = match http::body(request, MOST_BYTES).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(url) = body["url"].as_str() else {
        return respond(400, "A subscriber has a url.\n");
    };
    match add_subscriber(topic, name, url) {
        // It gets what is there already.
        Ok(()) => respond_then(
            200,
            &format!("{}\n", json!({ "subscribed": true })),
            deliver(topic.to_string()),
        ),
        Err(why) => refused(why),
    }
}

fn add_subscriber(topic: &str, name: &str, url: &str) -> Result<(), Refusal> {
    Topic::subscribe(&Store::open()?, topic, name, url)
}

fn unsubscribe(topic: &str, name: &str) -> Result<(), String> {
    Topic::unsubscribe(&Store::open()?, topic, name)
}

fn describe(name: &str) -> Result<Value, String> {
    let store = Store::open()?;
    let topic = Topic::load(&store, name)?;
    let next = log::end(&store, name, topic.front())?;
    let subscribers = topic.subscribers.iter().map(|(name, subscriber)| {
        let state = json!({
            "url": subscriber.url,
            "cursor": subscriber.cursor,
            "pending": next.saturating_sub(subscriber.cursor),
        });
        (name.clone(), state)
    });
    let subscribers: serde_json::Map<String, Value> = subscribers.collect();
    Ok(json!({ "first": topic.first(), "next": next, "subscribers": subscribers }))
}

/// What comes after an answer. Nobody is there to be told how it went.
async fn deliver(topic: String) {
    let delivered = async {
        let store = Store::open()?;
        Delivery::begin(&store).topic(&topic).await
    };
    if let Err(why) = delivered.await {
        eprintln!("server: delivering {topic}: {why}");
    }
}

/// One round through all topics: how many events were delivered, and how many
/// entries of the logs are still to be, added up over all subscribers.
///
/// A topic with a record that cannot be read does not hold up those after it.
async fn deliver_all() -> Result<Value, String> {
    let store = Store::open()?;
    let delivery = Delivery::begin(&store);
    let mut pending = 0;
    let mut failed = Vec::new();
    for name in topic::names(&store)? {
        match deliver_topic(&store, &delivery, &name).await {
            Ok(left) => pending += left,
            Err(why) => failed.push(format!("{name}: {why}")),
        }
        // A store that is away would be asked in vain for each of them.
        if !failed.is_empty() && delivery.is_late() {
            break;
        }
    }
    match failed.is_empty() {
        true => Ok(json!({ "delivered": delivery.events(), "pending": pending })),
        false => Err(failed.join("; ")),
    }
}

/// How many entries are left afterwards, added up over all subscribers.
async fn deliver_topic(store: &Store, delivery: &Delivery<'_>, name: &str) -> Result<u64, String> {
    delivery.topic(name).await?;
    let topic = Topic::load(store, name)?;
    let next = log::end(store, name, topic.front())?;
    let cursors = topic.subscribers.values().map(|one| one.cursor);
    Ok(cursors.map(|at| next.saturating_sub(at)).sum())
}
