//! What every event loop needs for itself.
//!
//! Connections live in tasks of the loop that made them, and a process can have
//! several loops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Handle, Id};

/// A `T` for each event loop, made when it is first asked for there.
pub(crate) struct PerLoop<T>(Mutex<HashMap<Id, Arc<T>>>);

impl<T> Default for PerLoop<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> PerLoop<T> {
    /// That of this event loop. `None` outside of any, or if `make` makes none.
    pub fn get(&self, make: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
        let id = Handle::try_current().ok()?.id();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&id) {
            return Some(Arc::clone(found));
        }
        let made = Arc::new(make()?);
        all.insert(id, Arc::clone(&made));
        Some(made)
    }
}
