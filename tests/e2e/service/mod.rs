//! Components of WASI 0.3: what they can do that others cannot, and that all the
//! rest holds for them as well.
//!
//! Much of that is tested elsewhere, with a lab guest of either version.

mod after;
mod client;
mod composition;
mod ends;
mod extras;
mod files;
mod hello;
mod outbound;
mod output;
mod peers;
mod reuse;
mod shared;
mod sockets;
mod streams;

use harness::{App, Host, Request, Server};

use crate::Case;

pub fn cases() -> Vec<Case> {
    let topics = [
        hello::cases(),
        streams::cases(),
        ends::cases(),
        after::cases(),
        client::cases(),
        output::cases(),
        files::cases(),
        outbound::cases(),
        peers::cases(),
        sockets::cases(),
        extras::cases(),
        composition::cases(),
        reuse::cases(),
        shared::cases(),
    ];
    topics.into_iter().flatten().collect()
}

/// The lab guest of WASI 0.3 with some settings.
fn app(settings: &[(&str, &str)]) -> App {
    settings
        .iter()
        .fold(App::lab3(), |app, (name, value)| app.env(name, value))
}

fn start(host: &Host, settings: &[(&str, &str)]) -> Server {
    Server::start(host, app(settings))
}

/// What the guest says to `target`.
#[track_caller]
fn ask(server: &Server, target: impl AsRef<str>) -> String {
    server.get(target.as_ref()).ok().text()
}

/// The same of a request with an id.
#[track_caller]
fn ask_as(server: &Server, id: &str, target: impl AsRef<str>) -> String {
    let request = Request::get(target.as_ref()).header("x-request-id", id);
    server.send(&request).ok().text()
}

/// What the guest says when a call of its own fails with `name`.
fn error(name: &str) -> String {
    format!("{{\"error\":\"{name}\"}}\n")
}
