//! Buckets in the memory of the process.
//!
//! Not OpenDAL's memory service, which has no bound and no atomic operations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::number::{self, Range};
use super::paging::{ByHash, PAGE, Page, Pick};
use super::problem::Problem;
use super::store::Seen;

/// Bytes that an entry costs besides its key and value, about.
const ENTRY: usize = 128;

/// Bytes that all buckets of a process share.
pub(super) struct Room {
    limit: usize,
    used: AtomicUsize,
}

impl Room {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Problem> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| {
                Problem::Full(format!(
                    "all memory buckets of a process together may have {} bytes \
                     (UNIT_WASM_KEYVALUE_MEMORY)",
                    self.limit
                ))
            })
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One bucket.
pub(super) struct Memory {
    entries: Mutex<BTreeMap<String, Bytes>>,
    room: Arc<Room>,
}

type Entries = BTreeMap<String, Bytes>;

impl Memory {
    pub fn new(room: Arc<Room>) -> Self {
        Self {
            entries: Mutex::default(),
            room,
        }
    }

    /// Held for one operation, never while waiting.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Each change is one insertion or removal, so there is no half of one.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, Problem> {
        match self.lock().get(key) {
            Some(value) if value.len() > most => Err(Problem::TooLarge(most)),
            value => Ok(value.cloned()),
        }
    }

    pub fn exists(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    pub fn set(&self, key: &str, value: Bytes) -> Result<(), Problem> {
        self.put(&mut self.lock(), key, value)
    }

    fn put(&self, entries: &mut Entries, key: &str, value: Bytes) -> Result<(), Problem> {
        // A view of something larger would keep all of that.
        let value = Bytes::copy_from_slice(&value);
        let (old, new) = match entries.get(key) {
            Some(old) => (old.len(), value.len()),
            None => (0, key.len() + value.len() + ENTRY),
        };
        if new > old {
            self.room.take(new - old)?;
        } else {
            self.room.give_back(old - new);
        }
        entries.insert(key.to_owned(), value);
        Ok(())
    }

    pub fn delete(&self, key: &str) {
        if let Some(old) = self.lock().remove(key) {
            self.room.give_back(key.len() + old.len() + ENTRY);
        }
    }

    pub fn list(&self, cursor: Option<&str>) -> Page<String> {
        let entries = self.lock();
        let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = entries
            .range::<str, _>((after, Bound::Unbounded))
            .map(|(key, _)| key);
        let keys: Vec<String> = rest.by_ref().take(PAGE).cloned().collect();
        let next = rest.next().and_then(|_| keys.last().cloned());
        Page { keys, next }
    }

    pub fn list_by_hash(&self, cursor: Option<u64>) -> Page<u64> {
        let mut pick = ByHash::after(cursor);
        self.lock().keys().for_each(|key| pick.offer(key));
        pick.finish()
    }

    pub fn increment(&self, key: &str, delta: i64, range: Range) -> Result<i64, Problem> {
        let mut entries = self.lock();
        let sum = number::add(entries.get(key).map(Bytes::as_ref), delta, range)?;
        self.put(&mut entries, key, sum.to_string().into())?;
        Ok(sum)
    }

    pub fn replace(&self, key: &str, seen: &Seen, value: Bytes) -> Result<bool, Problem> {
        let mut entries = self.lock();
        if entries.get(key) != seen.value.as_ref() {
            return Ok(false);
        }
        self.put(&mut entries, key, value)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_share_their_room_and_give_it_back() {
        let room = Arc::new(Room::new(3 * ENTRY));
        let (one, other) = (Memory::new(Arc::clone(&room)), Memory::new(room));
        let value = Bytes::from(vec![0; 2 * ENTRY]);
        one.set("k", value.clone()).unwrap_err();
        let value = value.slice(..ENTRY / 2);
        one.set("a", value.clone()).unwrap();
        assert!(matches!(
            other.set("a", value.clone()),
            Err(Problem::Full(_))
        ));
        assert!(!other.exists("a"));
        one.delete("a");
        one.delete("a");
        other.set("a", value.clone()).unwrap();
        other.delete("a");
        assert_eq!(one.room.used.load(Ordering::Relaxed), 0);
        // What is there can change as long as it does not grow.
        one.set("a", Bytes::from(vec![0; 2 * ENTRY - 1])).unwrap();
        for n in 0..3 {
            one.set("a", Bytes::from(vec![n; 2 * ENTRY - 1])).unwrap();
        }
        one.set("a", Bytes::from(vec![0; 2 * ENTRY])).unwrap_err();
        one.set("a", Bytes::new()).unwrap();
        assert_eq!(one.room.used.load(Ordering::Relaxed), ENTRY + 1);
    }
}
