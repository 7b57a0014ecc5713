//! Topics: one record each, with all subscribers and how far they are, so that a
//! single swap changes all of it at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::{Refusal, Store};

const MOST_TOPICS: usize = 64;
const MOST_SUBSCRIBERS: usize = 8;

/// The list of all topics.
const TOPICS: &str = "topics";

#[derive(Default, Serialize, Deserialize)]
pub struct Topic {
    /// Entries of the log below this one have been deleted.
    pub floor: u64,
    pub subscribers: BTreeMap<String, Subscriber>,
}

#[derive(Serialize, Deserialize)]
pub struct Subscriber {
    pub url: String,
    /// The first entry that it has not acknowledged.
    pub cursor: u64,
    /// Nobody else pushes to it before that time, in nanoseconds since 1970. It
    /// also tells whose turn it is.
    pub until: u64,
}

pub fn names(store: &Store) -> Result<Vec<String>, String> {
    store.load(TOPICS)
}

/// Puts a topic on the list, before there is anything else of it.
pub fn register(store: &Store, name: &str) -> Result<(), Refusal> {
    let listed = |all: &[String]| all.iter().any(|one| one == name);
    if listed(&names(store)?) {
        return Ok(());
    }
    let changed = store.update(TOPICS, |all: &mut Vec<String>| {
        if listed(all) {
            return Some(true);
        }
        let room = all.len() < MOST_TOPICS;
        room.then(|| all.push(name.to_string()))?;
        Some(true)
    })?;
    changed
        .map(drop)
        .ok_or(Refusal::TooMany("There are too many topics.\n"))
}

impl Topic {
    pub fn key(name: &str) -> String {
        format!("topic:{name}")
    }

    pub fn load(store: &Store, name: &str) -> Result<Self, String> {
        store.load(&Self::key(name))
    }

    /// The first entry that is still needed, with which a new subscriber begins.
    pub fn first(&self) -> u64 {
        let cursors = self.subscribers.values().map(|one| one.cursor);
        cursors.min().unwrap_or(self.floor).max(self.floor)
    }

    /// No subscriber has got past this one.
    pub fn front(&self) -> u64 {
        let cursors = self.subscribers.values().map(|one| one.cursor);
        cursors.max().unwrap_or(0).max(self.floor)
    }

    /// Who is subscribed already keeps its place.
    pub fn subscribe(store: &Store, topic: &str, name: &str, url: &str) -> Result<(), Refusal> {
        register(store, topic)?;
        let changed = store.update(&Self::key(topic), |record: &mut Self| {
            let first = record.first();
            let known = record.subscribers.contains_key(name);
            if !known && record.subscribers.len() >= MOST_SUBSCRIBERS {
                return None;
            }
            let new = || Subscriber {
                url: String::new(),
                cursor: first,
                until: 0,
            };
            let subscriber = record.subscribers.entry(name.into()).or_insert_with(new);
            url.clone_into(&mut subscriber.url);
            Some(())
        })?;
        changed.ok_or(Refusal::TooMany("There are too many subscribers.\n"))
    }

    pub fn unsubscribe(store: &Store, topic: &str, name: &str) -> Result<(), String> {
        let changed = store.update(&Self::key(topic), |record: &mut Self| {
            let first = record.first();
            record.subscribers.remove(name)?;
            // What the last one has got is for nobody.
            if record.subscribers.is_empty() {
                record.floor = first;
            }
            Some(())
        });
        changed.map(drop)
    }
}
