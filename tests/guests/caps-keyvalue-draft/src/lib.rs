//! A guest that uses `wasi:keyvalue` 0.2.0-draft, where it is another than
//! 0.2.0-draft2: cursors are numbers, `get-many` leaves out names, `increment`
//! takes no sign, and there is nothing to compare and swap with.
//!
//! Every route takes `bucket=NAME` and, where it needs one, `key=KEY`.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package tests:caps-keyvalue-draft;

            world imports {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }
        ",
        path: "../../../wit/deps/keyvalue-draft",
        generate_all,
    });
}

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};
use crate::bindings::wasi::keyvalue::{atomics, batch};
use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsKeyvalueDraft);

struct CapsKeyvalueDraft;

impl Guest for CapsKeyvalueDraft {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        let text = answer(&request).unwrap_or_else(|error| match error {
            Error::NoSuchStore => "error: no-such-store\n".into(),
            Error::AccessDenied => "error: access-denied\n".into(),
            Error::Other(why) => format!("error: other: {why}\n"),
        });
        if let Err(error) = Reply::new(outparam).text(text) {
            eprintln!("caps-keyvalue-draft: {}: {error}", request.path());
        }
    }
}

fn answer(request: &Request) -> Result<String, Error> {
    if request.path() == "/" {
        return Ok("caps-keyvalue-draft\n".into());
    }
    let bucket = store::open(&request.text("bucket"))?;
    let key = request.text("key");
    match request.path() {
        // `/kv/get`: the value.
        "/kv/get" => Ok(shown(bucket.get(&key)?)),
        // `/kv/set?value=TEXT`.
        "/kv/set" => {
            bucket.set(&key, request.text("value").as_bytes())?;
            Ok("set\n".into())
        }
        "/kv/delete" => {
            bucket.delete(&key)?;
            Ok("deleted\n".into())
        }
        // `/kv/exists`: `true` or `false`.
        "/kv/exists" => Ok(format!("{}\n", bucket.exists(&key)?)),
        // `/kv/increment?delta=N`: the new value.
        "/kv/increment" => {
            let value = atomics::increment(&bucket, &key, request.number("delta", 1))?;
            Ok(format!("{value}\n"))
        }
        "/kv/list-all" => list_all(&bucket),
        // `/kv/get-many?key=K&key=K`: `KEY=VALUE` or `none`, one per line.
        "/kv/get-many" => {
            let values = batch::get_many(&bucket, &keys(request))?;
            let lines = values.into_iter().map(|pair| match pair {
                Some((key, value)) => format!("{key}={}\n", String::from_utf8_lossy(&value)),
                None => "none\n".into(),
            });
            Ok(lines.collect())
        }
        // `/kv/set-many?key=K&key=K&value=TEXT`: sets all of them to the text.
        "/kv/set-many" => {
            let value = request.text("value").into_bytes();
            let pairs = keys(request).into_iter().map(|key| (key, value.clone()));
            batch::set_many(&bucket, &pairs.collect::<Vec<_>>())?;
            Ok("set\n".into())
        }
        "/kv/delete-many" => {
            batch::delete_many(&bucket, &keys(request))?;
            Ok("deleted\n".into())
        }
        _ => Ok("no such route\n".into()),
    }
}

fn shown(value: Option<Vec<u8>>) -> String {
    match value {
        Some(value) => String::from_utf8_lossy(&value).into_owned(),
        None => "none\n".into(),
    }
}

/// All parameters `key`.
fn keys(request: &Request) -> Vec<String> {
    let pairs = request.query().iter();
    let keys = pairs.filter(|(name, _)| name == b"key");
    keys.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// `/kv/list-all`: `PAGES pages` and all keys, one per line, in alphabetical order.
fn list_all(bucket: &Bucket) -> Result<String, Error> {
    let mut keys = Vec::new();
    let mut pages = 0;
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    Ok(format!("{pages} pages\n{}", keys.join("\n")))
}
