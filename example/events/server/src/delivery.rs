//! Pushing what is in the logs to subscribers.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;

use crate::bindings::wasi::http::types::Method;
use crate::event::Batch;
use crate::http::{self, BATCH};
use crate::log::key;
use crate::store::Store;
use crate::topic::{Subscriber, Topic};

/// Entries in one push, and their bytes unless a single one has more.
const MOST_ENTRIES: u64 = 16;
const MOST_BYTES: usize = 256 * 1024;

/// How long a subscriber may take for a push. Shorter than a turn.
const PUSH_MS: u64 = 3000;

/// How long one request may push to a subscriber without saying that it is still
/// at it. Who is killed holds up the deliveries to it for so long.
const TURN: Duration = Duration::from_secs(5);

/// How long a subscriber is left alone after a failed push.
const PAUSE: Duration = Duration::from_secs(1);

/// What one request does at most; the next one goes on.
const MOST_PUSHES: u32 = 16;
const BUDGET: Duration = Duration::from_secs(5);

/// Entries that are deleted at a time.
const MOST_DELETED: u64 = 64;

/// What one request delivers.
pub struct Delivery<'a> {
    store: &'a Store,
    begin: Instant,
    pushes: Cell<u32>,
    events: Cell<usize>,
}

/// A turn to push to a subscriber.
struct Turn {
    url: String,
    cursor: u64,
    /// What stands in the record as long as it is ours.
    until: u64,
    /// What can be deleted: nobody needs these entries any more.
    done: (u64, u64),
}

/// Entries that go together.
struct Entries {
    events: Batch,
    /// The number after the last one.
    next: u64,
    /// Whether there may be more of them by now.
    more: bool,
}

impl<'a> Delivery<'a> {
    pub fn begin(store: &'a Store) -> Self {
        Self {
            store,
            begin: Instant::now(),
            pushes: Cell::new(0),
            events: Cell::new(0),
        }
    }

    /// How many events have been delivered, each counted for each subscriber.
    pub fn events(&self) -> usize {
        self.events.get()
    }

    /// Delivers to all subscribers at a time, so that one that is slow does not
    /// hold up the others.
    pub async fn topic(&self, topic: &str) -> Result<(), String> {
        let record = Topic::load(self.store, topic)?;
        let names = record.subscribers.keys();
        let all = join_all(names.map(|name| self.subscriber(topic, name))).await;
        all.into_iter().collect()
    }

    async fn subscriber(&self, topic: &str, name: &str) -> Result<(), String> {
        while let Some(turn) = self.take_turn(topic, name)? {
            self.use_turn(topic, name, turn).await?;
        }
        Ok(())
    }

    /// A turn, if there is something to push and nobody else is at it.
    ///
    /// Who has just stored an entry and gets no turn need not wait for one: who
    /// has it now looks for new entries after giving it back.
    fn take_turn(&self, topic: &str, name: &str) -> Result<Option<Turn>, String> {
        let record = Topic::load(self.store, topic)?;
        let Some(subscriber) = record.subscribers.get(name) else {
            return Ok(None);
        };
        if self.is_over() || !self.has_entry(topic, name, subscriber.cursor)? {
            return Ok(None);
        }
        self.store.update(&Topic::key(topic), |record: &mut Topic| {
            let done = (record.floor, record.first());
            let subscriber = record.subscribers.get_mut(name)?;
            if subscriber.until > now() {
                return None;
            }
            subscriber.until = now() + nanoseconds(TURN);
            Some(Turn {
                url: subscriber.url.clone(),
                cursor: subscriber.cursor,
                until: subscriber.until,
                done,
            })
        })
    }

    /// Whether the log has the entry that comes next for a subscriber.
    ///
    /// A store can have lost it, as a file system may at a power failure. Then an
    /// empty one takes its place, or nobody would get what is behind it.
    fn has_entry(&self, topic: &str, name: &str, entry: u64) -> Result<bool, String> {
        if self.store.exists(&key(topic, entry))? {
            return Ok(true);
        }
        // It may have been delivered and deleted since the record was read.
        let record = Topic::load(self.store, topic)?;
        if record.subscribers.get(name).map(|one| one.cursor) != Some(entry) {
            return Ok(true);
        }
        let lost = entry < record.front() || self.store.exists(&key(topic, entry + 1))?;
        if lost && self.store.create(&key(topic, entry), b"[]")? {
            eprintln!("server: the store has lost entry {entry} of {topic}");
        }
        Ok(lost)
    }

    async fn use_turn(&self, topic: &str, name: &str, mut turn: Turn) -> Result<(), String> {
        let floor = self.delete(topic, turn.done)?;
        loop {
            let entries = self.read(topic, turn.cursor)?;
            let pushed = self.push(&turn.url, entries.events).await;
            if let Err(why) = &pushed {
                eprintln!("server: pushing {topic} to {name}: {why}");
            }
            let go_on = pushed.is_ok() && entries.more && !self.is_over();
            let rest = match (&pushed, go_on) {
                (Err(_), _) => now() + nanoseconds(PAUSE),
                (Ok(()), true) => now() + nanoseconds(TURN),
                (Ok(()), false) => 0,
            };
            let got = pushed.is_ok().then_some(entries.next);
            let ours = self
                .store
                .update(&Topic::key(topic), |record: &mut Topic| {
                    record.floor = record.floor.max(floor);
                    let subscriber = record.subscribers.get_mut(name)?;
                    Some(subscriber.give_back(&turn, got, rest))
                })?;
            if !go_on || ours != Some(true) {
                return Ok(());
            }
            turn.cursor = entries.next;
            turn.until = rest;
        }
    }

    /// Deletes some of the entries that everybody has. Gives what the floor is
    /// then.
    fn delete(&self, topic: &str, (floor, first): (u64, u64)) -> Result<u64, String> {
        let end = first.min(floor + MOST_DELETED);
        let keys: Vec<String> = (floor..end).map(|entry| key(topic, entry)).collect();
        self.store.delete_many(&keys)?;
        Ok(end)
    }

    /// The entries from `cursor` on.
    fn read(&self, topic: &str, cursor: u64) -> Result<Entries, String> {
        let keys: Vec<String> = (cursor..cursor + MOST_ENTRIES)
            .map(|entry| key(topic, entry))
            .collect();
        let values = self.store.get_many(&keys)?;
        let mut entries = Entries {
            events: Batch::default(),
            next: cursor,
            more: false,
        };
        let mut bytes = 0;
        for value in values {
            let Some(value) = value else {
                return Ok(entries);
            };
            bytes += value.len();
            if bytes > MOST_BYTES && entries.next > cursor {
                break;
            }
            entries.add(&value);
        }
        entries.more = true;
        Ok(entries)
    }

    async fn push(&self, url: &str, events: Batch) -> Result<(), String> {
        let count = events.count();
        let Some(body) = events.body() else {
            return Ok(());
        };
        self.pushes.set(self.pushes.get() + 1);
        let (status, _) = http::send(&Method::Post, url, BATCH, body, PUSH_MS).await?;
        if !(200..300).contains(&status) {
            return Err(format!("status {status}"));
        }
        self.events.set(self.events.get() + count);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.pushes.get() >= MOST_PUSHES || self.is_late()
    }

    pub fn is_late(&self) -> bool {
        self.begin.elapsed() > BUDGET
    }
}

impl Subscriber {
    /// Notes that it has got all before `next`, if that is so, and who may push
    /// when; whether it was our turn still.
    fn give_back(&mut self, turn: &Turn, next: Option<u64>, until: u64) -> bool {
        // Also if it was no longer our turn: it has got them.
        self.cursor = self.cursor.max(next.unwrap_or(0));
        let ours = self.until == turn.until;
        if ours {
            self.until = until;
        }
        ours
    }
}

impl Entries {
    /// Adds what comes next in the log.
    fn add(&mut self, entry: &[u8]) {
        if let Err(error) = self.events.add(self.next, entry) {
            eprintln!("server: entry {} is broken: {error}", self.next);
        }
        self.next += 1;
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, nanoseconds)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
