//! Failures counted by reason, and repeated ones, and requests refused over and
//! over, kept from flooding the log.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nxt_wasm_runtime::{Failure, Reason};

/// Equal failures that are logged in full within a period.
const BURST: u64 = 100;

/// After this time equal failures are logged in full again, and the number of
/// those that were not is told.
const PERIOD: Duration = Duration::from_secs(10);

/// Different failures told apart at a time. When there are more, the log has
/// other problems; they are then logged in full.
const KINDS: usize = 1024;

/// Failures of one application process.
#[derive(Default)]
pub struct Tally {
    counts: [AtomicU64; Reason::ALL.len()],
    kinds: Mutex<HashMap<u64, Kind>>,
    hasher: RandomState,
}

/// Failures with the same reason and cause, or requests refused for the same.
struct Kind {
    reason: Option<Reason>,
    since: Instant,
    seen: u64,
    example: String,
}

/// Failures that were counted and not logged.
#[derive(Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Their reason, or none if these are requests that no guest was given.
    pub reason: Option<Reason>,
    /// How many.
    pub count: u64,
    /// The first line of one like them.
    pub example: String,
}

impl Tally {
    /// Counts a failure. True if it is to be logged in full.
    pub fn count(&self, failure: &Failure) -> bool {
        self.count_at(failure, Instant::now())
    }

    fn count_at(&self, failure: &Failure, now: Instant) -> bool {
        if let Some(count) = self.counts.get(failure.reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let Failure { reason, detail } = failure;
        self.admit(Some(*reason), detail, now)
    }

    /// Takes note of a request that no guest can be given. True if it is to be
    /// logged.
    pub fn refuse(&self, why: &str) -> bool {
        self.admit(None, why, Instant::now())
    }

    fn admit(&self, reason: Option<Reason>, detail: &str, now: Instant) -> bool {
        let Ok(mut kinds) = self.kinds.lock() else {
            return true;
        };
        let key = self.hasher.hash_one((reason, cause(detail)));
        if kinds.len() >= KINDS && !kinds.contains_key(&key) {
            return true;
        }
        let kind = kinds.entry(key).or_insert_with(|| {
            let line = detail.lines().next().unwrap_or_default();
            let example = match reason {
                Some(reason) => format!("{reason}: {line}"),
                None => line.to_owned(),
            };
            Kind {
                reason,
                since: now,
                seen: 0,
                example: example.chars().take(200).collect(),
            }
        });
        kind.seen += 1;
        kind.seen <= BURST
    }

    /// Failures that have been kept out of the log for a whole period. Each is
    /// returned once; call it now and then.
    pub fn suppressed(&self) -> Vec<Suppressed> {
        self.suppressed_at(Instant::now(), PERIOD)
    }

    /// All failures that have been kept out of the log and not been told.
    pub fn suppressed_at_the_end(&self) -> Vec<Suppressed> {
        self.suppressed_at(Instant::now(), Duration::ZERO)
    }

    fn suppressed_at(&self, now: Instant, period: Duration) -> Vec<Suppressed> {
        let mut told = Vec::new();
        let Ok(mut kinds) = self.kinds.lock() else {
            return told;
        };
        kinds.retain(|_, kind| {
            let over = now.duration_since(kind.since) >= period;
            if over && kind.seen > BURST {
                told.push(Suppressed {
                    reason: kind.reason,
                    count: kind.seen - BURST,
                    example: std::mem::take(&mut kind.example),
                });
            }
            !over
        });
        told
    }

    /// The reasons that have occurred, each with its number.
    pub fn counts(&self) -> Vec<(Reason, u64)> {
        Reason::ALL
            .into_iter()
            .zip(&self.counts)
            .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// What two failures have in common if they are of the same kind: everything
/// but measured numbers.
fn cause(detail: &str) -> String {
    detail.split(|c: char| c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trap(text: &str) -> Failure {
        Failure::new(Reason::Trap, text)
    }

    #[test]
    fn equal_failures_are_logged_so_often_and_then_counted() {
        let tally = Tally::default();
        let start = Instant::now();
        let logged = |text: &str, n: u64| {
            (0..n)
                .filter(|i| tally.count_at(&trap(&format!("{text} {i}ms\nframe")), start))
                .count() as u64
        };
        assert_eq!(logged("spun for", BURST + 50), BURST);
        assert_eq!(logged("something else", 3), 3);
        assert_eq!(tally.suppressed_at(start + PERIOD / 2, PERIOD), []);
        let later = start + PERIOD;
        assert_eq!(
            tally.suppressed_at(later, PERIOD),
            [Suppressed {
                reason: Some(Reason::Trap),
                count: 50,
                example: "trap: spun for 0ms".to_owned()
            }]
        );
        assert_eq!(tally.suppressed_at(later, PERIOD), []);
        assert!(tally.count_at(&trap("spun for 1ms\nframe"), later));
        assert_eq!(tally.counts(), [(Reason::Trap, BURST + 50 + 3 + 1)]);
    }

    #[test]
    fn refused_requests_are_held_back_and_are_no_failures() {
        let tally = Tally::default();
        let logged = (0..BURST + 7).filter(|_| tally.refuse("no URI")).count() as u64;
        assert_eq!(logged, BURST);
        assert!(tally.refuse("no method"));
        // A failure with the same words is something else.
        assert!(tally.count(&trap("no URI")));
        assert_eq!(tally.counts(), [(Reason::Trap, 1)]);
        assert_eq!(
            tally.suppressed_at_the_end(),
            [Suppressed {
                reason: None,
                count: 7,
                example: "no URI".to_owned()
            }]
        );
    }

    #[test]
    fn reasons_are_counted_apart() {
        let tally = Tally::default();
        tally.count(&Failure::new(Reason::Drain, ""));
        tally.count(&Failure::new(Reason::Trap, ""));
        tally.count(&Failure::new(Reason::Drain, ""));
        assert_eq!(tally.counts(), [(Reason::Trap, 1), (Reason::Drain, 2)]);
    }

    #[test]
    fn many_kinds_are_logged_rather_than_remembered() {
        let tally = Tally::default();
        let name = |i: usize| -> String {
            format!("{i}")
                .bytes()
                .map(|b| char::from(b - b'0' + b'a'))
                .collect()
        };
        assert!((0..KINDS * 2).all(|i| tally.count(&trap(&name(i)))));
        assert!(tally.kinds.lock().unwrap().len() <= KINDS);
    }
}
