//! The epoch ticker: one thread per engine that makes running guests yield.
//!
//! It ticks only while guests run and sleeps otherwise: an idle process is not
//! woken by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// Time between epochs: how long a guest can keep its neighbours waiting.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without any request after which the thread goes to sleep.
const IDLE_TICKS: u32 = 100;

struct Shared {
    active: AtomicU32,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// Handle on the thread. When it is dropped the thread ends with the last guest
/// that still runs, which nothing else would stop.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

/// A request in flight: while one lives, epochs advance.
pub(crate) struct Active {
    shared: Arc<Shared>,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            active: AtomicU32::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let seen = Arc::clone(&shared);
        let join = thread::Builder::new()
            .name("wasm-epoch".into())
            .spawn(move || run(&seen, &engine))?;
        Ok(Self {
            shared,
            thread: join.thread().clone(),
        })
    }

    /// Keeps epochs advancing until the returned value is dropped.
    pub(crate) fn active(&self) -> Active {
        // Sequentially consistent with `parked` in `run`: either the thread
        // sees the count, or we see that it has parked.
        self.shared.active.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Active {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.shared.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn run(shared: &Shared, engine: &Engine) {
    let mut idle = 0;
    loop {
        thread::sleep(TICK);
        engine.increment_epoch();
        if shared.active.load(Ordering::SeqCst) > 0 {
            idle = 0;
            continue;
        }
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        idle += 1;
        if idle < IDLE_TICKS {
            continue;
        }
        shared.parked.store(true, Ordering::SeqCst);
        while shared.active.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        shared.parked.store(false, Ordering::SeqCst);
        idle = 0;
    }
}
