//! A guest that uses `unit:wasm/secrets` and `unit:wasm/audit-log`, and tries
//! to get secrets into the log.
//!
//! All parameters come in the query. What the host refuses is answered with
//! status 200 and a text that begins with `error:`.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package tests:caps-secrets;

            world imports {
                import unit:wasm/secrets@0.1.0;
                import unit:wasm/audit-log@0.1.0;
                import wasi:logging/logging@0.1.0-draft;
            }
        ",
        path: "../../../wit",
        generate_all,
    });
}

use std::io::{self, Write};

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::bindings::unit::wasm::audit_log::{self, Event, Outcome};
use crate::bindings::unit::wasm::secrets;
use crate::bindings::wasi::logging::logging;
use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsSecrets);

struct CapsSecrets;

impl Guest for CapsSecrets {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        if let Err(error) = dispatch(&request, Reply::new(outparam)) {
            eprintln!("caps-secrets: {}: {error}", request.path());
        }
    }
}

fn dispatch(request: &Request, reply: Reply) -> io::Result<()> {
    match request.path() {
        "/" => reply.text("caps-secrets\n"),
        "/secret" => reply.text(secret(request)),
        "/guess" => reply.text(guess(request)),
        "/names" => reply.text(secrets::names().join("\n")),
        "/print-secret" => print_secret(request, reply),
        "/audit" => audit(request, reply),
        _ => reply.status(404).text("no such route\n"),
    }
}

/// `/secret?name=NAME`: its value.
fn secret(request: &Request) -> String {
    match secrets::get(&request.text("name")) {
        Ok(value) => value,
        Err(secrets::Error::NotGranted) => "error: not-granted".into(),
    }
}

/// `/guess?n=N`: asks for N secrets, each of another name, and answers how many
/// it got.
fn guess(request: &Request) -> String {
    let found = (0..request.number("n", 1))
        .map(in_letters)
        .filter(|name| secrets::get(name).is_ok())
        .count();
    format!("{found}\n")
}

/// A number in letters, as the host may take texts for equal that differ in
/// numbers alone.
fn in_letters(mut number: u64) -> String {
    let mut letters = String::new();
    loop {
        letters.push((b'a' + (number % 26) as u8) as char);
        number /= 26;
        if number == 0 {
            return letters;
        }
    }
}

/// `/print-secret?name=NAME&how=stdout|stderr|log|context|pieces|panic`: the
/// length of its value, which goes to the log in that way between `[` and `]`.
fn print_secret(request: &Request, reply: Reply) -> io::Result<()> {
    let Ok(value) = secrets::get(&request.text("name")) else {
        return reply.text("error: not-granted");
    };
    match request.text("how").as_str() {
        "stdout" => println!("[{value}]"),
        "stderr" => eprintln!("[{value}]"),
        "log" => logging::log(logging::Level::Error, "secrets", &format!("[{value}]")),
        "context" => logging::log(logging::Level::Info, &format!("[{value}]"), "context"),
        "pieces" => {
            // One write per byte, so that the host never sees the whole at once.
            let mut output = io::stderr().lock();
            for byte in format!("[{value}]\n").bytes() {
                output.write_all(&[byte])?;
            }
        }
        "panic" => panic!("[{value}]"),
        _ => return reply.text("error: how"),
    }
    reply.text(format!("{}\n", value.len()))
}

/// `/audit?action=A&subject=S&outcome=success|failure|denied&n=N&size=B`, with
/// any number of `field.NAME=VALUE`: N events, with B bytes in a field `pad`;
/// `recorded`, or the error and how many were recorded before. With
/// `then=panic` there is no answer.
fn audit(request: &Request, reply: Reply) -> io::Result<()> {
    let outcome = match request.text("outcome").as_str() {
        "failure" => Outcome::Failure,
        "denied" => Outcome::Denied,
        _ => Outcome::Success,
    };
    let mut fields: Vec<(String, String)> = Vec::new();
    for (name, value) in request.query() {
        if let Some(name) = name.strip_prefix(b"field.") {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            fields.push((text(name), text(value)));
        }
    }
    match request.number("size", 0) as usize {
        0 => {}
        size => fields.push(("pad".into(), "x".repeat(size))),
    }
    let event = Event {
        action: request.text("action"),
        subject: request.text("subject"),
        outcome,
        fields,
    };
    for done in 0..request.number("n", 1) {
        if let Err(error) = audit_log::append(&event) {
            let error = match error {
                audit_log::Error::TooLarge => "too-large",
                audit_log::Error::TooMany => "too-many",
                audit_log::Error::Unavailable => "unavailable",
            };
            return reply.text(format!("error: {error} after {done}\n"));
        }
    }
    match request.text("then").as_str() {
        "panic" => panic!("caps-secrets was asked to panic"),
        _ => reply.text("recorded\n"),
    }
}
