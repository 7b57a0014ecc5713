//! Waiting for conditions, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const STEP: Duration = Duration::from_millis(20);

/// Looks until `probe` has an answer or the time is over.
pub fn wait_for<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(STEP);
    }
}

/// Panics if `condition` does not come true within `limit`.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    if wait_for(limit, || condition().then_some(())).is_none() {
        panic!("not within {limit:?}: {what}");
    }
}
