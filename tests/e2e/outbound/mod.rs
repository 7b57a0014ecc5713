//! Outbound HTTP, by real servers on loopback.

mod faults;
mod limits;
mod messages;
mod rules;
mod tls;

use harness::http::encode;
use harness::peers::{DnsPeer, HttpPeer};
use harness::{App, Host, Server};

use crate::Case;

pub use tls::TlsSetting;

pub fn cases() -> Vec<Case> {
    let topics = [
        messages::cases(),
        rules::cases(),
        tls::cases(),
        faults::cases(),
        limits::cases(),
    ];
    topics.into_iter().flatten().collect()
}

const ALLOW: &str = "UNIT_WASM_ALLOW_HTTP";

/// The guest that sends requests. Unused connections are closed soon, so that a
/// test's end can tell them from lost ones.
fn app(settings: &[(&str, &str)]) -> App {
    let app = App::caps("http").env("UNIT_WASM_HTTP_KEEP_ALIVE", "2s");
    settings
        .iter()
        .fold(app, |app, (name, value)| app.env(name, value))
}

fn start(host: &Host, settings: &[(&str, &str)]) -> Server {
    Server::start(host, app(settings))
}

/// May reach exactly `peer`, by its address.
fn start_with(host: &Host, peer: &HttpPeer) -> Server {
    start(host, &[(ALLOW, &peer.entry())])
}

/// May reach names, at whatever loopback address they have.
fn start_by_name(host: &Host, dns: &DnsPeer, entries: &str) -> Server {
    let settings = [("UNIT_WASM_DNS_SERVER", &*dns.setting()), (ALLOW, entries)];
    start(host, &settings)
}

/// The target by which the guest fetches `url`; `rest` is more of its query.
fn target(url: &str, rest: &str) -> String {
    format!("/fetch?url={}{rest}", encode(url))
}

/// What the guest says to the fetching of `url`.
#[track_caller]
fn fetch(server: &Server, url: &str, rest: &str) -> String {
    server.get(target(url, rest)).ok().text()
}

/// What it says to fetching often: how often it got what.
#[track_caller]
fn fetch_many(server: &Server, url: &str, n: u32, parallel: u32) -> String {
    let url = encode(url);
    let target = format!("/fetch-many?url={url}&n={n}&parallel={parallel}");
    server.get(target).ok().text()
}

/// The value of a line `NAME=VALUE` of what the guest says.
#[track_caller]
fn line<'a>(report: &'a str, name: &str) -> &'a str {
    let mut lines = report.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in: {report}"))
}

/// Asserts that it failed, with this error code of `wasi:http` and no other.
#[track_caller]
fn assert_error(report: &str, code: &str) {
    let mut lines = report.lines();
    let error = lines.find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("no error in: {report}"));
    let found = error.split("ErrorCode::").nth(1).unwrap_or_default();
    let name: String = found
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    assert_eq!(name, code, "{report}");
}
