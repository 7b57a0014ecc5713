//! Who may change a key.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::host::keyvalue::names::Name;
use crate::host::keyvalue::store::jitter;

/// Locks of a bucket; each stands for the keys whose names fall to it.
pub(super) const SHARDS: usize = 64;

/// The lock that a name falls to. The same for every process and build that
/// may share the directory, so not by a hash that may change.
pub(super) fn shard(name: &Name) -> usize {
    let sum = name.as_str().bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    sum as usize % SHARDS
}

/// Turns of the operations of one process, first come, first served.
pub(super) struct Turns(Vec<Arc<Mutex<()>>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Arc::default()).collect())
    }
}

impl Turns {
    /// Waits for a turn. It may be given back on any thread.
    pub async fn take(&self, shard: usize) -> Option<OwnedMutexGuard<()>> {
        let turn = Arc::clone(self.0.get(shard)?);
        Some(turn.lock_owned().await)
    }
}

/// How long to wait before trying again for a lock that another process has:
/// longer each time, up to some 20 ms, and not the same for all.
pub(super) fn pause(attempt: u32) -> Duration {
    jitter(Duration::from_micros(300 << attempt.min(6)))
}
