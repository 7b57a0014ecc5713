//! Instances that serve more than one request, one after the other.
//!
//! Only if the operator wants it: what one request leaves behind in an instance,
//! the next one finds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use wasmtime::Store;

use crate::instance::Handler;
use crate::state::State;

/// An instance between two requests.
pub(crate) struct Kept {
    pub store: Store<State>,
    pub handler: Handler,
    /// Requests that it has served.
    pub served: u32,
}

/// The instances of a process that wait for a request.
///
/// As one of them is taken before another one is made, and no more are in use at
/// once than the instance pool has room for, there are never too many.
pub(crate) struct Idle {
    /// `None` when no further request comes.
    kept: Mutex<Option<Vec<Kept>>>,
    /// Requests that an instance may serve.
    most: u32,
}

impl Idle {
    pub fn new(most: u32) -> Self {
        Self {
            kept: Mutex::new(Some(Vec::new())),
            most,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last: its memory is most likely in the caches.
    pub fn take(&self) -> Option<Kept> {
        self.locked().as_mut()?.pop()
    }

    /// Keeps an instance, unless it has served enough.
    pub fn put(&self, kept: Kept) {
        if kept.served < self.most
            && let Some(all) = &mut *self.locked()
        {
            all.push(kept);
        }
    }

    /// Ends those that are kept, and keeps no others.
    pub fn retire(&self) {
        let kept = self.locked().take();
        // Not while others wait for the lock.
        drop(kept);
    }
}
