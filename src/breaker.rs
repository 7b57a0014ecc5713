//! A circuit breaker: an application that fails over and over is left alone for a
//! while.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nxt_wasm_runtime::Reason;
use nxt_wasm_settings::BreakerSettings;

/// The breaker of one process.
pub struct Breaker {
    settings: BreakerSettings,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// How often it has been closed again: requests from before say nothing about
    /// now.
    generation: u32,
}

enum State {
    /// Requests are served.
    Closed(Window),
    /// Requests are refused until this time.
    Open(Instant),
    /// One request is tried since this time, the others are refused.
    Trying(Instant),
}

/// The last requests.
#[derive(Default)]
struct Window {
    /// Whether each one failed.
    last: VecDeque<bool>,
    failed: usize,
}

impl Window {
    /// Adds one, and says how many of the last `most` have failed.
    fn add(&mut self, failed: bool, most: usize) -> usize {
        self.last.push_back(failed);
        self.failed += usize::from(failed);
        if self.last.len() > most && self.last.pop_front() == Some(true) {
            self.failed -= 1;
        }
        self.failed
    }
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is served, in this generation.
    Yes(u32),
    /// It is served, to see whether the application is well again.
    AsTrial,
    /// It is refused.
    No,
}

/// What the end of a request says about its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should, as far as anybody wanted it to.
    Good,
    /// It failed by its own fault.
    Failed,
    /// Nothing: a client, the load or the host ended the request before its guest
    /// had answered.
    Unknown,
}

impl Outcome {
    /// That of a request which failed for `reason`, if it did.
    pub fn of(reason: Option<Reason>) -> Self {
        match reason {
            None => Self::Good,
            Some(
                Reason::Trap
                | Reason::NoResponse
                | Reason::InvalidResponse
                | Reason::Memory
                | Reason::Fuel
                | Reason::CpuTime
                | Reason::Timeout,
            ) => Self::Failed,
            Some(Reason::Overload | Reason::Breaker | Reason::Drain | Reason::Delivery) => {
                Self::Unknown
            }
        }
    }
}

/// What the operator should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many of the last requests have failed: the next ones are refused.
    Opened(usize),
    /// The trial failed as well.
    StillOpen,
    /// The trial went well.
    Closed,
}

impl Breaker {
    /// A breaker that lets requests through.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            inner: Mutex::new(Inner {
                state: State::Closed(Window::default()),
                generation: 0,
            }),
        }
    }

    /// When to refuse.
    pub fn settings(&self) -> BreakerSettings {
        self.settings
    }

    /// Whether a request may go to a guest.
    pub fn admit(&self) -> Admitted {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Admitted {
        let mut inner = self.lock();
        match inner.state {
            State::Closed(_) => Admitted::Yes(inner.generation),
            State::Open(until) if now < until => Admitted::No,
            // A trial that has not come to its end, whatever became of it, does
            // not keep the breaker open for ever.
            State::Trying(since) if now < since + self.settings.pause => Admitted::No,
            State::Open(_) | State::Trying(_) => {
                inner.state = State::Trying(now);
                Admitted::AsTrial
            }
        }
    }

    /// Takes note of how a request ended that was `admitted`.
    pub fn ended(&self, admitted: Admitted, outcome: Outcome) -> Option<Turn> {
        self.ended_at(admitted, outcome, Instant::now())
    }

    fn ended_at(&self, admitted: Admitted, outcome: Outcome, now: Instant) -> Option<Turn> {
        let BreakerSettings {
            failures,
            window,
            pause,
        } = self.settings;
        let mut inner = self.lock();
        let generation = inner.generation;
        match (&mut inner.state, admitted, outcome) {
            (_, _, Outcome::Unknown) if admitted != Admitted::AsTrial => None,
            (State::Closed(last), Admitted::Yes(of), _) if of == generation => {
                let failed = last.add(outcome == Outcome::Failed, window);
                (failed >= failures).then(|| {
                    inner.state = State::Open(now + pause);
                    Turn::Opened(failed)
                })
            }
            (State::Trying(_), Admitted::AsTrial, Outcome::Failed) => {
                inner.state = State::Open(now + pause);
                Some(Turn::StillOpen)
            }
            (State::Trying(_), Admitted::AsTrial, Outcome::Good) => {
                *inner = Inner {
                    state: State::Closed(Window::default()),
                    generation: generation.wrapping_add(1),
                };
                Some(Turn::Closed)
            }
            // The next request is tried.
            (State::Trying(_), Admitted::AsTrial, Outcome::Unknown) => {
                inner.state = State::Open(now);
                None
            }
            // Those that were under way when it opened, or closed.
            _ => None,
        }
    }

    /// Whether requests are refused at the moment.
    pub fn is_open(&self) -> bool {
        !matches!(self.lock().state, State::Closed(_))
    }

    /// For how long requests will go on being refused, at least.
    pub fn remaining(&self) -> Duration {
        match self.lock().state {
            State::Open(until) => until.saturating_duration_since(Instant::now()),
            State::Closed(_) | State::Trying(_) => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn breaker(failures: usize, window: usize) -> Breaker {
        Breaker::new(BreakerSettings {
            failures,
            window,
            pause: PAUSE,
        })
    }

    fn serve(breaker: &Breaker, outcome: Outcome, now: Instant) -> Option<Turn> {
        let admitted = breaker.admit_at(now);
        assert_ne!(admitted, Admitted::No);
        breaker.ended_at(admitted, outcome, now)
    }

    #[test]
    fn it_opens_after_so_many_failures_among_the_last_requests() {
        use Outcome::{Failed, Good, Unknown};
        let (breaker, now) = (breaker(3, 5), Instant::now());
        for outcome in [
            Failed, Failed, Good, Unknown, Good, Good, Failed, Failed, Unknown, Good,
        ] {
            assert_eq!(serve(&breaker, outcome, now), None);
        }
        assert_eq!(serve(&breaker, Failed, now), Some(Turn::Opened(3)));
        assert_eq!(breaker.admit_at(now), Admitted::No);
        assert!(breaker.is_open());
        assert!(breaker.remaining() > PAUSE / 2);
    }

    #[test]
    fn what_is_not_the_guests_fault_says_nothing() {
        let blamed = Reason::ALL.map(|reason| Outcome::of(Some(reason)) == Outcome::Failed);
        assert_eq!(blamed.iter().filter(|&&blamed| blamed).count(), 7);
        assert_eq!(Outcome::of(Some(Reason::Delivery)), Outcome::Unknown);
        assert_eq!(Outcome::of(None), Outcome::Good);
    }

    #[test]
    fn one_request_is_tried_after_the_pause() {
        let (breaker, now) = (breaker(1, 1), Instant::now());
        let early = breaker.admit_at(now);
        serve(&breaker, Outcome::Failed, now);
        let later = now + PAUSE;
        let moment = Duration::from_millis(1);
        assert_eq!(breaker.admit_at(later - moment), Admitted::No);
        assert_eq!(breaker.admit_at(later), Admitted::AsTrial);
        assert_eq!(breaker.admit_at(later), Admitted::No);
        // One that began before says nothing about now.
        assert_eq!(breaker.ended_at(early, Outcome::Good, later), None);
        let turn = breaker.ended_at(Admitted::AsTrial, Outcome::Failed, later);
        assert_eq!(turn, Some(Turn::StillOpen));
        assert_eq!(breaker.admit_at(later), Admitted::No);
        let later = later + PAUSE;
        assert_eq!(serve(&breaker, Outcome::Good, later), Some(Turn::Closed));
        // Nor does its failure count after that.
        assert_eq!(breaker.ended_at(early, Outcome::Failed, later), None);
        assert_eq!(serve(&breaker, Outcome::Good, later), None);
    }

    #[test]
    fn a_trial_that_tells_nothing_is_followed_by_another_one() {
        let (breaker, now) = (breaker(1, 1), Instant::now());
        serve(&breaker, Outcome::Failed, now);
        let later = now + PAUSE;
        assert_eq!(serve(&breaker, Outcome::Unknown, later), None);
        assert_eq!(breaker.admit_at(later), Admitted::AsTrial);
        // And so is one that never ends.
        assert_eq!(breaker.admit_at(later + PAUSE), Admitted::AsTrial);
    }
}
