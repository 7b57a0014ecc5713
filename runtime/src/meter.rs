//! How much time a guest has spent executing.
//!
//! A guest executes only while its future is polled, and epochs end a poll
//! about every tick, so the time between the two ends of each poll is what
//! the guest used. That is wall-clock time, which costs some nanoseconds to
//! read. As soon as a guest runs longer than a tick it is measured by the
//! thread's CPU clock instead, and of what the wall clock has shown before, no
//! more is billed than a guest can have executed: a busy machine is not its
//! fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::instance::GuestResponse;

/// Most that a poll is billed by the wall clock. Whatever takes longer comes to
/// the end of an epoch, unless it is a single call into the host or one large
/// memory instruction; otherwise the thread was not running.
const WALL_CLOCK: Duration = Duration::from_millis(10);

/// What a running guest and the future that drives it share.
pub(crate) struct Meter {
    limit: Duration,
    /// Nanoseconds spent in polls that have ended.
    spent: AtomicU64,
    /// Where the poll in progress began.
    started: Mutex<Started>,
    /// The guest ran longer than a tick: from now on read the CPU clock.
    long: AtomicBool,
    /// The latest poll has ended with the epoch.
    yielded: AtomicBool,
    /// The CPU limit was hit, and the guest interrupted for it.
    exceeded: AtomicBool,
    /// Nothing of the guest is at work any more.
    at_rest: AtomicBool,
    response: Mutex<Option<GuestResponse>>,
}

#[derive(Clone, Copy)]
enum Started {
    Idle,
    Wall(Instant),
    /// Reading of the thread's CPU clock, in nanoseconds.
    Cpu(u64),
}

/// What the epoch callback is to do with the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yield,
    Stop,
}

impl Meter {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            spent: AtomicU64::new(0),
            started: Mutex::new(Started::Idle),
            long: AtomicBool::new(false),
            yielded: AtomicBool::new(false),
            exceeded: AtomicBool::new(false),
            at_rest: AtomicBool::new(false),
            response: Mutex::new(None),
        }
    }

    /// A further request begins, with all of the time.
    pub(crate) fn renew(&self) {
        self.spent.store(0, Ordering::Relaxed);
        self.exceeded.store(false, Ordering::Relaxed);
    }

    /// A poll of the guest begins on this thread.
    pub(crate) fn enter(&self) {
        self.yielded.store(false, Ordering::Relaxed);
        let now = if self.long.load(Ordering::Relaxed) {
            Started::Cpu(thread_cpu_nanos())
        } else {
            Started::Wall(Instant::now())
        };
        self.set_started(now);
    }

    /// The poll has ended.
    pub(crate) fn leave(&self) {
        let ran = self.running();
        self.spent.fetch_add(ran, Ordering::Relaxed);
        self.set_started(Started::Idle);
    }

    /// Called from the guest at the end of an epoch.
    pub(crate) fn tick(&self) -> Verdict {
        if !self.long.swap(true, Ordering::Relaxed) {
            self.leave();
            self.enter();
        }
        if self.spent() > self.limit {
            self.exceeded.store(true, Ordering::Relaxed);
            return Verdict::Stop;
        }
        self.yielded.store(true, Ordering::Relaxed);
        Verdict::Yield
    }

    /// Whether the latest poll has ended with the epoch: the guest has more to compute.
    /// Otherwise it waits for something.
    pub(crate) fn has_yielded(&self) -> bool {
        self.yielded.load(Ordering::Relaxed)
    }

    /// Time spent executing so far, the poll in progress included.
    pub(crate) fn spent(&self) -> Duration {
        let ended = self.spent.load(Ordering::Relaxed);
        Duration::from_nanos(ended.saturating_add(self.running()))
    }

    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_at_rest(&self) {
        self.at_rest.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Ordering::Relaxed)
    }

    pub(crate) fn set_response(&self, response: GuestResponse) {
        if let Ok(mut slot) = self.response.lock() {
            *slot = Some(response);
        }
    }

    pub(crate) fn take_response(&self) -> Option<GuestResponse> {
        self.response.lock().ok().and_then(|mut slot| slot.take())
    }

    fn running(&self) -> u64 {
        let started = self.started.lock().map_or(Started::Idle, |s| *s);
        match started {
            Started::Idle => 0,
            Started::Wall(at) => {
                let wall = at.elapsed().min(WALL_CLOCK);
                u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
            }
            Started::Cpu(at) => thread_cpu_nanos().saturating_sub(at),
        }
    }

    fn set_started(&self, value: Started) {
        if let Ok(mut started) = self.started.lock() {
            *started = value;
        }
    }
}

/// CPU time of the calling thread.
fn thread_cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses up CPU time, however long a busy machine takes for that.
    fn spin(time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        let start = thread_cpu_nanos();
        while thread_cpu_nanos() - start < nanos {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn waiting_is_not_billed() {
        let meter = Meter::new(Duration::from_secs(1));
        meter.enter();
        meter.leave();
        std::thread::sleep(Duration::from_millis(30));
        assert!(meter.spent() < Duration::from_millis(20));
    }

    #[test]
    fn stops_only_past_the_limit() {
        let meter = Meter::new(Duration::from_millis(20));
        meter.enter();
        assert!(!meter.has_yielded());
        assert_eq!(meter.tick(), Verdict::Yield);
        meter.leave();
        assert!(meter.has_yielded());
        meter.enter();
        spin(Duration::from_millis(30));
        assert_eq!(meter.tick(), Verdict::Stop);
        assert!(meter.exceeded());
    }

    #[test]
    fn a_thread_that_has_to_wait_for_a_processor_is_not_billed_much() {
        let meter = Meter::new(Duration::from_millis(60));
        for _ in 0..3 {
            meter.enter();
            std::thread::sleep(Duration::from_millis(40));
            meter.leave();
        }
        meter.enter();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(meter.tick(), Verdict::Yield);
        meter.leave();
    }

    #[test]
    fn sleeping_inside_a_long_poll_is_not_cpu_time() {
        let meter = Meter::new(Duration::from_secs(1));
        meter.enter();
        meter.tick();
        meter.leave();
        let before = meter.spent();
        meter.enter();
        std::thread::sleep(Duration::from_millis(50));
        meter.leave();
        assert!(meter.spent() - before < Duration::from_millis(25));
    }
}
