//! Routes about `wasi:keyvalue`. All take `bucket=NAME&key=KEY`.

use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};
use crate::bindings::wasi::keyvalue::{atomics, batch};
use crate::reply::{self, Answer};
use crate::request::Request;

/// `/set?value=VALUE`.
pub fn set(request: &Request) -> Answer {
    let value = request.text("value").into_bytes();
    let result = bucket(request).and_then(|bucket| bucket.set(&request.text("key"), &value));
    answer(result.map(|()| "set\n".into()))
}

/// `/get`: the value, or `none`.
pub fn get(request: &Request) -> Answer {
    answer(value(request))
}

fn value(request: &Request) -> Result<Vec<u8>, Error> {
    let value = bucket(request)?.get(&request.text("key"))?;
    Ok(value.unwrap_or_else(|| "none\n".into()))
}

/// `/get-many`: the same, as `KEY=VALUE` or `KEY none`, by `batch`; `key` is there
/// any number of times.
pub fn get_many(request: &Request) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = request.query().iter().filter(|(name, _)| name == b"key");
    let keys: Vec<String> = pairs.map(|(_, value)| text(value)).collect();
    let found = bucket(request).and_then(|bucket| batch::get_many(&bucket, &keys));
    let lines = |pairs: Vec<(String, Option<Vec<u8>>)>| {
        let lines = pairs.into_iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={}\n", text(&value)),
            None => format!("{key} none\n"),
        });
        lines.collect::<String>().into_bytes()
    };
    answer(found.map(lines))
}

/// `/increment?by=N`: the new value.
pub fn increment(request: &Request) -> Answer {
    let by = request.text("by").parse().unwrap_or(1);
    let result =
        bucket(request).and_then(|bucket| atomics::increment(&bucket, &request.text("key"), by));
    answer(result.map(|value| format!("{value}\n").into_bytes()))
}

/// `/both?ms=N`: sleeps that long, and gets the value meanwhile.
pub async fn both(request: &Request) -> Answer {
    let pause = request.number("ms", 10).saturating_mul(1_000_000);
    // The store's functions are not async: this is called when the sleep has begun,
    // and an instance does nothing else while the host looks the value up.
    let get = async { value(request) };
    let ((), value) = futures::join!(monotonic_clock::wait_for(pause), get);
    answer(value)
}

fn bucket(request: &Request) -> Result<Bucket, Error> {
    store::open(&request.text("bucket"))
}

fn answer(result: Result<Vec<u8>, Error>) -> Answer {
    match result {
        Ok(bytes) => reply::text(bytes),
        Err(Error::NoSuchStore) => reply::text("error: no-such-store\n"),
        Err(Error::AccessDenied) => reply::text("error: access-denied\n"),
        Err(Error::Other(why)) => reply::text(format!("error: other: {why}\n")),
    }
}
