//! Events as JSON. They are text all the way: as values of `serde_json`, a short
//! text of a client's can take many times its length in memory.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::{RawValue, to_raw_value};

const MOST_EVENTS: usize = 100;

/// The members of an event. What is in them stays as it was written.
type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether that is a list of events, each with an id.
pub fn check(body: &[u8]) -> Result<(), String> {
    let not_a_list = |error: serde_json::Error| format!("Not a list of events: {error}.\n");
    // Only this looks into the members.
    serde_json::from_slice::<Sound>(body).map_err(not_a_list)?;
    let all: Vec<Members> = serde_json::from_slice(body).map_err(not_a_list)?;
    if all.is_empty() || all.len() > MOST_EVENTS {
        return Err(format!("1 to {MOST_EVENTS} events at a time.\n"));
    }
    let is_text = |id: &&RawValue| id.get().starts_with('"');
    match all.iter().all(|event| event.get("id").is_some_and(is_text)) {
        true => Ok(()),
        false => Err("Every event has an id, which is a string.\n".into()),
    }
}

/// A list of events that is sent: JSON, of which only the end is missing.
#[derive(Default)]
pub struct Batch {
    text: Vec<u8>,
    count: usize,
}

impl Batch {
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds the events of an entry of the log, each with its place in the topic.
    pub fn add(&mut self, number: u64, entry: &[u8]) -> Result<(), serde_json::Error> {
        let events: Vec<Members> = serde_json::from_slice(entry)?;
        for (index, mut event) in events.into_iter().enumerate() {
            let sequence = to_raw_value(&format!("{number:012}.{index:03}"))?;
            event.insert("sequence".into(), &sequence);
            self.text.push(if self.count == 0 { b'[' } else { b',' });
            serde_json::to_writer(&mut self.text, &event)?;
            self.count += 1;
        }
        Ok(())
    }

    /// The whole list, if there is anything in it.
    pub fn body(mut self) -> Option<Vec<u8>> {
        self.text.push(b']');
        (self.count > 0).then_some(self.text)
    }
}

/// JSON that every parser will take, of which nothing is kept. Those parts that
/// are skipped or stay text are looked at less closely: they may be nested without
/// end, and have numbers that are none.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}
