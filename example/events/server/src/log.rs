//! The log of a topic: a key for each entry, numbered without gaps. An entry is a
//! list of events that were published together; it is there as a whole or not.

use crate::http::setting;
use crate::store::{Refusal, Store};
use crate::topic::{self, Topic};

/// Entries of one topic if the environment says nothing else.
const BACKLOG: u64 = 1000;

pub fn key(topic: &str, entry: u64) -> String {
    format!("event:{topic}:{entry:012}")
}

/// Appends an entry. When this returns without an error, every subscriber will
/// get it.
///
/// The first free number is taken by creating its key, which only one of several
/// can do. So there are no gaps that somebody could have fallen into.
pub fn append(store: &Store, topic: &str, events: &[u8]) -> Result<u64, Refusal> {
    topic::register(store, topic)?;
    let record = Topic::load(store, topic)?;
    let mut entry = end(store, topic, record.front())?;
    if entry - record.first() >= backlog()? {
        return Err(format!("{topic}: the backlog is full").into());
    }
    loop {
        if !store.create(&key(topic, entry), events)? {
            entry += 1;
            continue;
        }
        // While we looked for it, others may have used the number, and the
        // entry may have been delivered and deleted. Then nobody looks there
        // again, and ours needs another one.
        let front = Topic::load(store, topic)?.front();
        if entry >= front {
            return Ok(entry);
        }
        store.delete_many(&[key(topic, entry)])?;
        entry = front;
    }
}

fn backlog() -> Result<u64, String> {
    match setting("BACKLOG") {
        Ok(number) => number.parse().map_err(|_| "BACKLOG: not a number".into()),
        Err(_) => Ok(BACKLOG),
    }
}

/// The number after the last entry, where `from` is not after it: found in steps
/// that double, and then by halves.
pub fn end(store: &Store, topic: &str, from: u64) -> Result<u64, String> {
    let taken = |entry| store.exists(&key(topic, entry));
    if !taken(from)? {
        return Ok(from);
    }
    let mut low = from;
    let mut step = 1;
    while taken(low + step)? {
        low += step;
        step *= 2;
    }
    let mut high = low + step;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match taken(middle)? {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(high)
}
