//! Counters of an application, over all of its processes.
//!
//! Each process counts for itself, and puts its numbers on the application's
//! [`Board`] half a second after they have changed. Whichever process is asked adds up what is
//! there.

mod board;
mod cells;
mod listen;
mod text;

pub use board::Board;
pub use cells::Sample;
pub use listen::{check, listen};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use board::Place;
use cells::{Cells, Gauge};

/// The counters of this process.
pub struct Metrics {
    app: String,
    board: Board,
    place: Place,
    cells: Cells,
    /// Something was counted that is not on the board.
    changed: AtomicBool,
    /// What is so, as it is on the board.
    published: Mutex<State>,
}

/// What is so at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Requests in flight in this process.
    pub in_flight: u32,
    /// Requests that it may have in flight.
    pub slots: u32,
    /// Whether its circuit breaker refuses requests.
    pub breaker_open: bool,
    /// Whether its artifact was found in the cache.
    pub from_cache: bool,
}

impl Metrics {
    /// Those of a process of application `app`, which takes a place on `board`.
    ///
    /// # Errors
    ///
    /// The operating system's, or that there is no place.
    pub fn join(app: &str, board: Board) -> std::io::Result<Self> {
        let (place, before) = board.take_place()?;
        let cells = Cells::default();
        cells.go_on_from(&before);
        // What was so for the one that had the place before is so no more.
        board.write(place, &cells.values())?;
        Ok(Self {
            app: app.to_owned(),
            board,
            place,
            cells,
            changed: AtomicBool::new(true),
            published: Mutex::default(),
        })
    }

    /// Counts a request that is over.
    pub fn request(&self, sample: &Sample) {
        self.cells.request(sample);
        self.changed.store(true, Ordering::Release);
    }

    /// Counts that a request waits as there is no room for it.
    pub fn full(&self) {
        self.cells.full();
        self.changed.store(true, Ordering::Release);
    }

    /// Whether [`Metrics::publish`] has something to do.
    pub fn has_changed(&self, state: &State) -> bool {
        self.changed.load(Ordering::Acquire) || *self.published() != *state
    }

    fn published(&self) -> std::sync::MutexGuard<'_, State> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the numbers on the board.
    pub fn publish(&self, state: &State) {
        // Held until they are written: what another thread reads later must not be
        // followed by what this one has read.
        let mut published = self.published();
        *published = *state;
        // Whoever has set it has counted before. What is counted from here on sets it
        // again.
        self.changed.swap(false, Ordering::AcqRel);
        self.cells.set(Gauge::InFlight, u64::from(state.in_flight));
        self.cells.set(Gauge::Slots, u64::from(state.slots));
        self.cells
            .set(Gauge::BreakerOpen, u64::from(state.breaker_open));
        self.cells
            .set(Gauge::FromCache, u64::from(state.from_cache));
        // If it fails, what is there stays.
        let _ = self.board.write(self.place, &self.cells.values());
    }

    /// The sum of all processes, in the text format of Prometheus.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn text(&self, state: &State) -> std::io::Result<String> {
        self.publish(state);
        let sum = self.board.sum(self.place)?;
        Ok(text::write(&self.app, &sum))
    }
}
