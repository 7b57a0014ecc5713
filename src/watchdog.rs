//! A look from outside at the event loops of a process.
//!
//! Epochs stop a guest that spins, timers one that waits. Neither stops a call
//! into the host that never returns: it holds its event loop, and with it every
//! request there. One thread per process watches for that. It says what it
//! sees, and then ends the process, since nothing less would help: Unit starts
//! another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::report::App;
use crate::unit::{self, Level};

/// How often loops are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The sign of life of one event loop.
pub struct Pulse {
    epoch: Instant,
    /// Milliseconds from `epoch` to the beginning of the turn in progress,
    /// plus one; 0 between turns.
    turn: AtomicU64,
    thread: u32,
    /// The request that is being worked on.
    request: Mutex<Option<Arc<str>>>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            turn: AtomicU64::new(0),
            thread: unit::thread_id(),
            request: Mutex::new(None),
        }
    }

    /// The loop begins a turn.
    pub fn begin(&self) {
        self.turn.store(self.now() + 1, Ordering::Relaxed);
    }

    /// The turn has ended.
    pub fn end(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }

    /// The turn has come to this request.
    pub fn at(&self, request: &Arc<str>) {
        if let Ok(mut current) = self.request.lock() {
            *current = Some(Arc::clone(request));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// How long the turn in progress has lasted.
    fn lasting(&self) -> Duration {
        match self.turn.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            begun => Duration::from_millis(self.now().saturating_sub(begun - 1)),
        }
    }

    /// What tells this turn from others.
    fn identity(&self) -> (u32, u64) {
        (self.thread, self.turn.load(Ordering::Relaxed))
    }

    /// Where the kernel says that the thread is.
    fn sighting(&self) -> String {
        let request = self.request.lock().ok().and_then(|r| r.clone());
        let read = |what: &str| {
            let path = format!("/proc/self/task/{}/{what}", self.thread);
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let stat = read("stat");
        // The state follows the name, which is in parentheses.
        let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
        format!(
            "thread={} state={} syscall=\"{}\" wchan={} request={}",
            self.thread,
            state.unwrap_or('?'),
            read("syscall"),
            read("wchan"),
            request.as_deref().unwrap_or("none")
        )
    }
}

/// The loops that are watched, and the thread that does it.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    app: App,
    limit: Duration,
    pulses: Mutex<Vec<Weak<Pulse>>>,
    stop: AtomicBool,
}

impl Watchdog {
    /// Starts watching. A turn that lasts longer than `limit` ends the process.
    ///
    /// # Errors
    ///
    /// The operating system's, if there can be no thread.
    pub fn start(app: App, limit: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            app,
            limit,
            pulses: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("wasm-watchdog".into())
            .spawn(move || watch(&seen))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The pulse of the calling thread's event loop.
    pub fn watch_me(&self) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::new());
        if let Ok(mut pulses) = self.shared.pulses.lock() {
            pulses.push(Arc::downgrade(&pulse));
        }
        pulse
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared) {
    // A process that was stopped for a while looks as if it had hung, once.
    let mut suspect = None;
    while !shared.stop.load(Ordering::Acquire) {
        thread::park_timeout(PERIOD);
        shared.app.log_suppressed();
        let stuck = shared.pulses.lock().ok().and_then(|pulses| {
            pulses
                .iter()
                .filter_map(Weak::upgrade)
                .find(|pulse| pulse.lasting() > shared.limit)
        });
        let before = std::mem::replace(&mut suspect, stuck.as_ref().map(|p| p.identity()));
        if let Some(pulse) = stuck.filter(|_| suspect == before) {
            // The log can hang too. Then the process ends without it.
            let without_log = thread::Builder::new().spawn(|| {
                thread::sleep(PERIOD * 2);
                unit::exit_now(1);
            });
            if without_log.is_err() {
                unit::exit_now(1);
            }
            shared.app.log(
                Level::Alert,
                &format!(
                    "a host call has not returned for {:?} (UNIT_WASM_WATCHDOG): {}; \
                     ending this process with all its requests",
                    pulse.lasting(),
                    pulse.sighting()
                ),
            );
            shared.app.log_totals();
            unit::exit_now(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_turn_in_progress_lasts() {
        let pulse = Pulse::new();
        assert_eq!(pulse.lasting(), Duration::ZERO);
        pulse.begin();
        thread::sleep(Duration::from_millis(20));
        assert!(pulse.lasting() >= Duration::from_millis(15));
        pulse.end();
        assert_eq!(pulse.lasting(), Duration::ZERO);
    }

    #[test]
    fn a_sighting_names_thread_and_request() {
        let pulse = Pulse::new();
        pulse.at(&"r-1".into());
        let text = pulse.sighting();
        assert!(text.contains("request=r-1"), "{text}");
        assert!(text.contains("state=R"), "{text}");
    }
}
