//! Forwards events to an endpoint outside, which only this component may reach.
//!
//! `POST /subscribe` has the server push events here, to `POST /events`. That
//! answers 200 only if the endpoint took them; otherwise the server keeps them.

#[path = "../../common/http.rs"]
mod http;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit-0.3",
        world: "wasi:http/service@0.3.0",
        generate_all,
    });
}

use serde_json::json;

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::http::types::{Method, Request};
use crate::http::{Answer, respond};

bindings::export!(Gateway with_types_in bindings);

const MOST_BYTES: usize = 1024 * 1024;

/// Less than the server's patience with us, so that it hears what was wrong.
const ENDPOINT_MS: u64 = 2000;
const SERVER_MS: u64 = 3000;

struct Gateway;

impl Guest for Gateway {
    async fn handle(request: Request) -> Answer {
        let (method, path) = http::target(&request);
        match (method, path.as_str()) {
            ("GET", "/") => respond(200, "gateway: POST /subscribe, POST /events\n"),
            ("POST", "/subscribe") => answer(subscribe().await, "subscribed\n"),
            ("POST", "/events") => {
                let body = match http::body(request, MOST_BYTES).await {
                    Ok(body) => body,
                    Err(answer) => return answer,
                };
                answer(forward(body).await, "forwarded\n")
            }
            _ => respond(404, "no such route\n"),
        }
    }
}

fn answer(outcome: Result<(), String>, text: &str) -> Answer {
    match outcome {
        Ok(()) => respond(200, text),
        Err(why) => {
            eprintln!("gateway: {why}");
            respond(502, &format!("{why}\n"))
        }
    }
}

/// Has the server push here. To say so again changes nothing.
async fn subscribe() -> Result<(), String> {
    let url = http::setting("SUBSCRIBE_AT")?;
    let callback = json!({ "url": http::setting("CALLBACK")? }).to_string();
    let body = callback.into_bytes();
    let sent = http::send(&Method::Put, &url, "application/json", body, SERVER_MS).await;
    taken("the server", sent)
}

async fn forward(body: Vec<u8>) -> Result<(), String> {
    let url = http::setting("ENDPOINT")?;
    let sent = http::send(&Method::Post, &url, http::BATCH, body, ENDPOINT_MS).await;
    taken("the endpoint", sent)
}

fn taken(who: &str, sent: Result<(u16, String), String>) -> Result<(), String> {
    match sent {
        Ok((200..=299, _)) => Ok(()),
        Ok((status, _)) => Err(format!("{who} answers {status}")),
        Err(error) => Err(format!("{who} is not reached: {error}")),
    }
}
