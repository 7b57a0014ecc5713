//! Routes about several keys.

use crate::bindings::wasi::keyvalue::batch;
use crate::bindings::wasi::keyvalue::store::Error;
use crate::request::Request;
use crate::{Answer, body, bucket};

/// All parameters `key`.
fn keys(request: &Request) -> Vec<String> {
    let pairs = request.query().iter();
    let keys = pairs.filter(|(name, _)| name == b"key");
    keys.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// `/kv/list[?cursor=C]`: one page of keys, one per line, in alphabetical order,
/// and in a last line `cursor=C` if there are more.
pub fn list(request: &Request) -> Result<Answer, Error> {
    let cursor = Some(request.text("cursor")).filter(|cursor| !cursor.is_empty());
    let page = bucket(request)?.list_keys(cursor.as_deref())?;
    let mut lines = page.keys;
    lines.sort();
    lines.extend(page.cursor.map(|cursor| format!("cursor={cursor}")));
    Ok(Answer::text(lines.join("\n")))
}

/// `/kv/list-all`: `PAGES pages` and all keys, one per line, in alphabetical order.
pub fn list_all(request: &Request) -> Result<Answer, Error> {
    let bucket = bucket(request)?;
    let mut keys = Vec::new();
    let mut pages = 0;
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    Ok(Answer::text(format!("{pages} pages\n{}", keys.join("\n"))))
}

/// `/kv/get-many?key=K&key=K`: `KEY=VALUE` or `KEY none`, one per line, in the
/// order of the answer.
pub fn get(request: &Request) -> Result<Answer, Error> {
    let pairs = batch::get_many(&bucket(request)?, &keys(request))?;
    let lines = pairs.into_iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={}\n", String::from_utf8_lossy(&value)),
        None => format!("{key} none\n"),
    });
    Ok(Answer::text(lines.collect::<String>()))
}

/// `/kv/set-many`: sets what the body lists, one `KEY=VALUE` per line.
pub fn set(request: &Request) -> Result<Answer, Error> {
    let text = String::from_utf8_lossy(&body(request)).into_owned();
    let pairs: Vec<(String, Vec<u8>)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_string(), value.as_bytes().to_vec()))
        .collect();
    batch::set_many(&bucket(request)?, &pairs)?;
    Ok(Answer::text("set\n"))
}

/// `/kv/delete-many?key=K&key=K`.
pub fn delete(request: &Request) -> Result<Answer, Error> {
    batch::delete_many(&bucket(request)?, &keys(request))?;
    Ok(Answer::text("deleted\n"))
}

/// `/kv/fill?n=N&size=B`: sets N keys `PREFIX0`, `PREFIX1` and so on to B bytes
/// each, PREFIX being `key`, until one is refused; answers how many it set.
pub fn fill(request: &Request) -> Result<Answer, Error> {
    let bucket = bucket(request)?;
    let prefix = request.text("key");
    let value = vec![b'x'; request.number("size", 1) as usize];
    let mut done = 0;
    while done < request.number("n", 1) {
        match bucket.set(&format!("{prefix}{done}"), &value) {
            Ok(()) => done += 1,
            Err(Error::Other(why)) => {
                return Ok(Answer::text(format!("{done} error: other: {why}\n")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Answer::text(format!("{done}\n")))
}
