//! What the event loops of a process share: the runtime, the room for requests,
//! and the means to wake each other up.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nxt_wasm_runtime::{GuestLog, Runtime};
use nxt_wasm_settings::Settings;
use tokio::sync::Notify;

use crate::breaker::Breaker;
use crate::metrics::{self, Metrics};
use crate::report::App;
use crate::watchdog::Watchdog;

/// Everything that the contexts of a process share.
pub struct Service {
    /// For the log.
    pub app: App,
    /// Runs the guests.
    pub runtime: Serving,
    /// As configured.
    pub settings: Settings,
    /// The contexts of this process.
    pub siblings: Siblings,
    /// Requests in flight in this process.
    pub in_flight: AtomicU32,
    /// Sees to it that no event loop stands still.
    pub watchdog: Watchdog,
    /// Where the output of guests goes.
    pub guest_log: Arc<dyn GuestLog>,
    /// The prototype, whose child each application process is.
    pub prototype: u32,
    /// Whether the artifact was found in the cache.
    pub from_cache: bool,
    /// Counters, if anybody wants to read them.
    pub metrics: Option<Metrics>,
    /// Keeps requests from a guest that fails over and over, if that is wanted.
    pub breaker: Option<Breaker>,
}

impl Service {
    /// Whether a further request would find a slot.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < self.settings.limits.concurrency
    }

    /// What is so at the moment.
    pub fn state(&self) -> metrics::State {
        metrics::State {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            slots: self.settings.limits.concurrency,
            breaker_open: self.breaker.as_ref().is_some_and(Breaker::is_open),
            from_cache: self.from_cache,
        }
    }
}

/// The runtime that requests get when they begin. It can be replaced.
pub struct Serving(RwLock<Arc<Runtime>>);

impl Serving {
    /// Begins with this one.
    pub fn new(runtime: Runtime) -> Self {
        Self(RwLock::new(Arc::new(runtime)))
    }

    /// The one that serves. Who has it keeps it until the request is over, and drops
    /// it last: an instance pool goes with it, which takes its time.
    pub fn get(&self) -> Arc<Runtime> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets another one serve, and returns the one that did.
    pub fn replace(&self, runtime: Arc<Runtime>) -> Arc<Runtime> {
        let mut serving = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut serving, runtime)
    }
}

/// Room for one request in flight. The instance pool has no more than all
/// contexts of the process may have together.
pub(crate) struct Slot {
    service: Arc<Service>,
    used: bool,
}

impl Slot {
    /// `None` if there is no room. When a request that had the last room is
    /// done, all contexts are woken.
    pub fn take(service: &Arc<Service>) -> Option<Self> {
        let limit = service.settings.limits.concurrency;
        let one_more = |n: u32| (n < limit).then_some(n + 1);
        service
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()?;
        Some(Self {
            service: Arc::clone(service),
            used: false,
        })
    }

    /// A request has it now.
    pub fn fill(mut self) -> Self {
        self.used = true;
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let before = self.service.in_flight.fetch_sub(1, Ordering::AcqRel);
        // One that no request had was only a look at the queue: waking up for
        // it would be to look again, and so on.
        if self.used && before == self.service.settings.limits.concurrency {
            self.service.siblings.wake_all();
        }
    }
}

/// The contexts of a process, for waking each other up.
#[derive(Default)]
pub struct Siblings {
    all: Mutex<Vec<Arc<Sibling>>>,
    draining: AtomicBool,
    failed: AtomicBool,
}

/// One of them.
#[derive(Default)]
pub(crate) struct Sibling {
    /// Has nothing to do.
    pub idle: AtomicBool,
    wake: Notify,
}

impl Siblings {
    pub(crate) fn join(&self) -> Arc<Sibling> {
        let sibling = Arc::new(Sibling::default());
        if let Ok(mut all) = self.all.lock() {
            all.push(Arc::clone(&sibling));
        }
        sibling
    }

    /// Wakes an idle context other than `me`: there may be a further request.
    pub(crate) fn wake_idle(&self, me: &Arc<Sibling>) {
        let Ok(all) = self.all.lock() else { return };
        let idle = all
            .iter()
            .filter(|sibling| !Arc::ptr_eq(sibling, me))
            .find(|sibling| sibling.idle.swap(false, Ordering::AcqRel));
        if let Some(sibling) = idle {
            sibling.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        if let Ok(all) = self.all.lock() {
            all.iter().for_each(|sibling| sibling.wake.notify_one());
        }
    }

    /// Whether a context has ended by an error.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether a context has ended.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// One context has ended: the process is to end, and so are the others.
    pub(crate) fn drain(&self, failed: bool) {
        self.failed.fetch_or(failed, Ordering::AcqRel);
        self.draining.store(true, Ordering::Release);
        self.wake_all();
    }
}

/// Ready when the context `me` was woken.
pub(crate) fn woken(me: Arc<Sibling>) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move { me.wake.notified().await })
}
