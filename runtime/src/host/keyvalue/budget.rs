//! What one request may still do.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::grant::KeyvalueLimits;

/// What one request has done with buckets.
#[derive(Default)]
pub(crate) struct Used {
    opened: AtomicU32,
    operations: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
}

/// A limit that a request has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Opened,
    Operations,
    Read,
    Written,
}

impl Limit {
    /// What guests are told.
    pub fn for_guest(self) -> &'static str {
        match self {
            Self::Opened => "this request has opened too many buckets",
            Self::Operations => "this request has made too many operations",
            Self::Read => "this request has read too many bytes",
            Self::Written => "this request has written too many bytes",
        }
    }

    /// What the operator is told.
    pub fn for_operator(self, limits: &KeyvalueLimits) -> String {
        match self {
            Self::Opened => format!(
                "more than {} buckets opened (UNIT_WASM_KEYVALUE_OPEN)",
                limits.opened
            ),
            Self::Operations => format!(
                "more than {} operations (UNIT_WASM_KEYVALUE_OPERATIONS)",
                limits.operations
            ),
            Self::Read => format!(
                "more than {} bytes read (UNIT_WASM_KEYVALUE_BYTES_READ)",
                limits.bytes_read
            ),
            Self::Written => format!(
                "more than {} bytes written (UNIT_WASM_KEYVALUE_BYTES_WRITTEN)",
                limits.bytes_written
            ),
        }
    }
}

impl Used {
    /// A further request begins.
    pub(crate) fn renew(&self) {
        self.opened.store(0, Ordering::Relaxed);
        self.operations.store(0, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
    }

    pub(super) fn open(&self, limits: &KeyvalueLimits) -> Result<(), Limit> {
        take(&self.opened, 1, limits.opened).ok_or(Limit::Opened)
    }

    pub(super) fn operations(&self, count: usize, limits: &KeyvalueLimits) -> Result<(), Limit> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        take(&self.operations, count, limits.operations).ok_or(Limit::Operations)
    }

    /// Bytes that may still be read.
    pub(super) fn readable(&self, limits: &KeyvalueLimits) -> u64 {
        let read = self.read.load(Ordering::Relaxed);
        limits.bytes_read.saturating_sub(read)
    }

    pub(super) fn read(&self, bytes: usize, limits: &KeyvalueLimits) -> Result<(), Limit> {
        take_bytes(&self.read, bytes, limits.bytes_read).ok_or(Limit::Read)
    }

    pub(super) fn write(&self, bytes: usize, limits: &KeyvalueLimits) -> Result<(), Limit> {
        take_bytes(&self.written, bytes, limits.bytes_written).ok_or(Limit::Written)
    }
}

fn take(used: &AtomicU32, more: u32, limit: u32) -> Option<()> {
    let add = |used: u32| used.checked_add(more).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .map(|_| ())
        .ok()
}

fn take_bytes(used: &AtomicU64, more: usize, limit: u64) -> Option<()> {
    let add = |used: u64| used.checked_add(more as u64).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .map(|_| ())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_exact_and_a_refusal_uses_nothing() {
        let limits = KeyvalueLimits {
            opened: 1,
            operations: 3,
            bytes_read: 10,
            bytes_written: 10,
            ..KeyvalueLimits::default()
        };
        let used = Used::default();
        assert_eq!(used.open(&limits), Ok(()));
        assert_eq!(used.open(&limits), Err(Limit::Opened));
        assert_eq!(used.operations(2, &limits), Ok(()));
        assert_eq!(used.operations(2, &limits), Err(Limit::Operations));
        assert_eq!(used.operations(1, &limits), Ok(()));
        assert_eq!(used.read(7, &limits), Ok(()));
        assert_eq!(used.readable(&limits), 3);
        assert_eq!(used.read(4, &limits), Err(Limit::Read));
        assert_eq!(used.read(3, &limits), Ok(()));
        assert_eq!(used.write(11, &limits), Err(Limit::Written));
        assert_eq!(used.write(usize::MAX, &limits), Err(Limit::Written));
        assert_eq!(used.write(10, &limits), Ok(()));
        assert!(
            Limit::Read
                .for_operator(&limits)
                .contains("UNIT_WASM_KEYVALUE_BYTES_READ")
        );
    }
}
