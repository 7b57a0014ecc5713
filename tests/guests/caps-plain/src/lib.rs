//! A guest that uses what is granted to all: `wasi:config/store` and
//! `wasi:logging/logging`.
//!
//! All parameters come in the query.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package tests:caps-plain;

            world imports {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:logging/logging@0.1.0-draft;
            }
        ",
        path: ["../../../wit/deps/config", "../../../wit/deps/logging"],
        generate_all,
    });
}

use std::io;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::bindings::wasi::config::store;
use crate::bindings::wasi::logging::logging::{self, Level};
use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsPlain);

struct CapsPlain;

impl Guest for CapsPlain {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        if let Err(error) = dispatch(&request, Reply::new(outparam)) {
            eprintln!("caps-plain: {}: {error}", request.path());
        }
    }
}

fn dispatch(request: &Request, reply: Reply) -> io::Result<()> {
    match request.path() {
        "/" => reply.text("caps-plain\n"),
        "/config" => config(request, reply),
        "/config-all" => config_all(reply),
        "/log" => write_log(request, reply),
        _ => reply.status(404).text("no such route\n"),
    }
}

/// `/config?key=KEY`: the value; 404 when there is none.
fn config(request: &Request, reply: Reply) -> io::Result<()> {
    match store::get(&request.text("key")) {
        Ok(Some(value)) => reply.text(value),
        Ok(None) => reply.status(404).text("none\n"),
        Err(error) => reply.text(format!("error: {error:?}\n")),
    }
}

/// `/config-all`: all of them, one per line.
fn config_all(reply: Reply) -> io::Result<()> {
    match store::get_all() {
        Ok(pairs) => {
            let lines = pairs.iter().map(|(key, value)| format!("{key}={value}\n"));
            reply.text(lines.collect::<String>())
        }
        Err(error) => reply.text(format!("error: {error:?}\n")),
    }
}

/// `/log?level=LEVEL&context=C&message=M&n=N&size=B`: N messages, each with B
/// bytes after M.
fn write_log(request: &Request, reply: Reply) -> io::Result<()> {
    let level = match request.text("level").as_str() {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => return reply.status(400).text("no such level\n"),
    };
    let pad = "x".repeat(request.number("size", 0) as usize);
    let message = request.text("message") + &pad;
    let context = request.text("context");
    for _ in 0..request.number("n", 1) {
        logging::log(level, &context, &message);
    }
    reply.text("logged\n")
}
