//! Listing keys a page at a time.
//!
//! Nothing is kept between pages: a cursor tells by itself where to go on, in
//! any process, however the store has changed in between. A key that is there
//! all the time is listed exactly once.
//!
//! Pages are in the order of names, and their cursor is the last name. The old
//! draft of the interface has numbers for cursors, and no number can tell a
//! name: its pages are in the order of a hash of the name, and the cursor is
//! the last hash.

use std::collections::BinaryHeap;

use sha2::{Digest, Sha256};

/// Keys of one page.
pub const PAGE: usize = 1000;

/// Some keys of a store, and where to go on, if there may be more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<C> {
    /// In no particular order.
    pub keys: Vec<String>,
    /// What to ask for the next page with.
    pub next: Option<C>,
}

impl<C> Page<C> {
    /// The same keys with another kind of cursor.
    pub(super) fn map<D>(self, next: impl FnOnce(C) -> D) -> Page<D> {
        Page {
            keys: self.keys,
            next: self.next.map(next),
        }
    }
}

/// Picks the names of a page out of any number of names in any order.
pub(super) trait Pick {
    type Cursor;

    /// Another name.
    fn offer(&mut self, name: &str);

    /// The names of the page, and its cursor.
    fn finish(self) -> Page<Self::Cursor>;
}

/// Picks by name.
pub(super) struct ByName {
    after: Option<String>,
    /// One more than a page, if there are so many.
    least: BinaryHeap<String>,
}

impl ByName {
    pub fn after(cursor: Option<&str>) -> Self {
        Self {
            after: cursor.map(str::to_owned),
            least: BinaryHeap::new(),
        }
    }
}

impl Pick for ByName {
    type Cursor = String;

    fn offer(&mut self, name: &str) {
        if self.after.as_deref().is_some_and(|after| name <= after) {
            return;
        }
        if self.least.len() <= PAGE {
            self.least.push(name.to_owned());
        } else if let Some(mut greatest) = self.least.peek_mut()
            && name < greatest.as_str()
        {
            *greatest = name.to_owned();
        }
    }

    fn finish(self) -> Page<String> {
        let mut keys = self.least.into_sorted_vec();
        let more = keys.len() > PAGE;
        keys.truncate(PAGE);
        let next = more.then(|| keys.last().cloned()).flatten();
        Page { keys, next }
    }
}

/// Picks by the hash of a name.
pub(super) struct ByHash {
    after: Option<u64>,
    /// One more than a page, if there are so many.
    least: BinaryHeap<(u64, String)>,
}

impl ByHash {
    pub fn after(cursor: Option<u64>) -> Self {
        Self {
            after: cursor,
            least: BinaryHeap::new(),
        }
    }

    fn offer_as(&mut self, hash: u64, name: &str) {
        if self.after.is_some_and(|after| hash <= after) {
            return;
        }
        if self.least.len() <= PAGE {
            self.least.push((hash, name.to_owned()));
        } else if let Some(mut greatest) = self.least.peek_mut()
            && (hash, name) < (greatest.0, greatest.1.as_str())
        {
            *greatest = (hash, name.to_owned());
        }
    }
}

impl Pick for ByHash {
    type Cursor = u64;

    fn offer(&mut self, name: &str) {
        self.offer_as(hash(name), name);
    }

    fn finish(self) -> Page<u64> {
        let mut least = self.least.into_sorted_vec();
        if least.len() > PAGE
            && let Some((beyond, _)) = least.pop()
        {
            // Names of one hash stay together, or the cursor would lose some.
            while least.last().is_some_and(|(hash, _)| *hash == beyond) {
                least.pop();
            }
            let next = least.last().map(|(hash, _)| *hash);
            let keys = least.into_iter().map(|(_, name)| name).collect();
            return Page { keys, next };
        }
        Page {
            keys: least.into_iter().map(|(_, name)| name).collect(),
            next: None,
        }
    }
}

/// The same in every process, now and later.
fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name);
    let first = digest.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| format!("key-{:05}", n * 7919 % count))
            .collect()
    }

    fn all<P: Pick>(names: &[String], pick: impl Fn(Option<P::Cursor>) -> P) -> Vec<Vec<String>>
    where
        P::Cursor: Clone,
    {
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let mut pick = pick(cursor);
            names.iter().for_each(|name| pick.offer(name));
            let page = pick.finish();
            assert!(page.keys.len() <= PAGE);
            pages.push(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_have_every_name_once() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2500] {
            let names = names(count);
            let expected: BTreeSet<&String> = names.iter().collect();
            let by_name = all(&names, |c: Option<String>| ByName::after(c.as_deref()));
            let by_hash = all(&names, ByHash::after);
            for pages in [by_name, by_hash] {
                assert_eq!(pages.len(), count.div_ceil(PAGE).max(1), "{count}");
                let found: Vec<&String> = pages.iter().flatten().collect();
                assert_eq!(found.len(), count);
                assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }

    #[test]
    fn names_of_one_hash_stay_together() {
        let mut pick = ByHash::after(None);
        for n in 0..PAGE as u64 - 1 {
            pick.offer_as(n, &format!("{n}"));
        }
        for name in ["a", "b", "c"] {
            pick.offer_as(5000, name);
        }
        let page = pick.finish();
        assert_eq!(page.keys.len(), PAGE - 1);
        assert_eq!(page.next, Some(PAGE as u64 - 2));

        let mut pick = ByHash::after(page.next);
        for name in ["a", "b", "c"] {
            pick.offer_as(5000, name);
        }
        let page = pick.finish();
        assert_eq!(page.keys, ["a", "b", "c"]);
        assert_eq!(page.next, None);
    }

    #[test]
    fn the_order_of_hashes_does_not_change() {
        assert_eq!(hash("key"), 0x2c70_e12b_7a06_46f9);
    }
}
