//! Routes about one key.

use crate::bindings::wasi::keyvalue::atomics::{self, Cas, CasError};
use crate::bindings::wasi::keyvalue::store::{Bucket, Error};
use crate::request::Request;
use crate::{Answer, body, bucket};

/// `/kv/get`: the value.
pub fn get(request: &Request) -> Result<Answer, Error> {
    let value = bucket(request)?.get(&request.text("key"))?;
    Ok(value.map_or(Answer::None, Answer::Bytes))
}

/// `/kv/set`, or `/kv/set?size=N` for a value of N bytes instead of the body.
pub fn set(request: &Request) -> Result<Answer, Error> {
    let value = match request.number("size", 0) as usize {
        0 => body(request),
        size => vec![b'x'; size],
    };
    bucket(request)?.set(&request.text("key"), &value)?;
    Ok(Answer::text("set\n"))
}

/// `/kv/delete`.
pub fn delete(request: &Request) -> Result<Answer, Error> {
    bucket(request)?.delete(&request.text("key"))?;
    Ok(Answer::text("deleted\n"))
}

/// `/kv/exists`: `true` or `false`.
pub fn exists(request: &Request) -> Result<Answer, Error> {
    let exists = bucket(request)?.exists(&request.text("key"))?;
    Ok(Answer::text(format!("{exists}\n")))
}

/// `/kv/increment?delta=N`: the new value.
pub fn increment(request: &Request) -> Result<Answer, Error> {
    let delta = request.text("delta").parse().unwrap_or(1);
    let value = atomics::increment(&bucket(request)?, &request.text("key"), delta)?;
    Ok(Answer::text(format!("{value}\n")))
}

/// `/kv/cas[?between=VALUE][&retry=1]`: takes a handle, sets the key to VALUE by
/// other means if that is given, and swaps the body in. Answers what the handle
/// held, and whether the swap was done at once (`swapped`), with the handle that
/// a failed swap gives back (`retried`), or not (`failed`).
pub fn compare_and_swap(request: &Request) -> Result<Answer, Error> {
    let value = body(request);
    let bucket = bucket(request)?;
    let key = request.text("key");
    let handle = Cas::new(&bucket, &key)?;
    let found = match handle.current()? {
        Some(value) => String::from_utf8_lossy(&value).into_owned(),
        None => "none".into(),
    };
    let between = request.text("between");
    if !between.is_empty() {
        bucket.set(&key, between.as_bytes())?;
    }
    let outcome = match atomics::swap(handle, &value) {
        Ok(()) => "swapped",
        Err(CasError::StoreError(error)) => return Err(error),
        Err(CasError::CasFailed(_)) if request.number("retry", 0) == 0 => "failed",
        Err(CasError::CasFailed(again)) => match atomics::swap(again, &value) {
            Ok(()) => "retried",
            Err(CasError::StoreError(error)) => return Err(error),
            Err(CasError::CasFailed(_)) => "failed",
        },
    };
    Ok(Answer::text(format!("{found} {outcome}\n")))
}

/// `/kv/race?n=N`: increments N times by one, and answers the last value.
pub fn race(request: &Request) -> Result<Answer, Error> {
    let bucket = bucket(request)?;
    let key = request.text("key");
    let mut last = 0;
    for _ in 0..request.number("n", 1) {
        last = atomics::increment(&bucket, &key, 1)?;
    }
    Ok(Answer::text(format!("{last}\n")))
}

/// `/kv/cas-race?n=N`: adds one N times to the number in the key by comparing
/// and swapping, as often as it takes; answers how many swaps failed.
pub fn cas_race(request: &Request) -> Result<Answer, Error> {
    let bucket = bucket(request)?;
    let key = request.text("key");
    let mut failed = 0;
    for _ in 0..request.number("n", 1) {
        failed += add_one(&bucket, &key)?;
    }
    Ok(Answer::text(format!("{failed}\n")))
}

/// Adds one, and says how many attempts were in vain.
fn add_one(bucket: &Bucket, key: &str) -> Result<u64, Error> {
    let mut failed = 0;
    let mut handle = Cas::new(bucket, key)?;
    loop {
        let number = match handle.current()? {
            None => 0,
            Some(value) => std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| Error::Other("not a number".into()))?,
        };
        match atomics::swap(handle, (number + 1).to_string().as_bytes()) {
            Ok(()) => return Ok(failed),
            Err(CasError::StoreError(error)) => return Err(error),
            Err(CasError::CasFailed(again)) => handle = again,
        }
        failed += 1;
    }
}
