//! A guest that uses `wasi:keyvalue` 0.2.0-draft2.
//!
//! Every route takes `bucket=NAME` and, where it needs one, `key=KEY`. Values
//! come in the body. What the host refuses is answered with status 200 and a
//! text that begins with `error:`.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package tests:caps-keyvalue;

            world imports {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }
        ",
        path: "../../../wit/deps/keyvalue",
        generate_all,
    });
}
mod many;
mod single;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};
use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsKeyvalue);

struct CapsKeyvalue;

impl Guest for CapsKeyvalue {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        let done = match answer(&request) {
            Ok(Answer::Bytes(bytes)) => Reply::new(outparam).text(bytes),
            Ok(Answer::None) => Reply::new(outparam).status(404).text("none\n"),
            Err(Error::NoSuchStore) => Reply::new(outparam).text("error: no-such-store\n"),
            Err(Error::AccessDenied) => Reply::new(outparam).text("error: access-denied\n"),
            Err(Error::Other(why)) => Reply::new(outparam).text(format!("error: other: {why}\n")),
        };
        if let Err(error) = done {
            eprintln!("caps-keyvalue: {}: {error}", request.path());
        }
    }
}

/// What a route found.
enum Answer {
    Bytes(Vec<u8>),
    /// No such key, or no such route.
    None,
}

impl Answer {
    fn text(text: impl Into<String>) -> Answer {
        Answer::Bytes(text.into().into_bytes())
    }
}

fn answer(request: &Request) -> Result<Answer, Error> {
    match request.path() {
        "/" => Ok(Answer::text("caps-keyvalue\n")),
        "/kv/open" => bucket(request).map(|_| Answer::text("open\n")),
        "/kv/get" => single::get(request),
        "/kv/set" => single::set(request),
        "/kv/delete" => single::delete(request),
        "/kv/exists" => single::exists(request),
        "/kv/increment" => single::increment(request),
        "/kv/cas" => single::compare_and_swap(request),
        "/kv/race" => single::race(request),
        "/kv/cas-race" => single::cas_race(request),
        "/kv/list" => many::list(request),
        "/kv/list-all" => many::list_all(request),
        "/kv/get-many" => many::get(request),
        "/kv/set-many" => many::set(request),
        "/kv/delete-many" => many::delete(request),
        "/kv/fill" => many::fill(request),
        _ => Ok(Answer::None),
    }
}

fn bucket(request: &Request) -> Result<Bucket, Error> {
    store::open(&request.text("bucket"))
}

/// The whole body.
fn body(request: &Request) -> Vec<u8> {
    let mut input = request.body();
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = input.read(&mut piece) {
        bytes.extend_from_slice(&piece[..length]);
    }
    bytes
}
