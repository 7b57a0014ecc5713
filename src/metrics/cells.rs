//! What is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nxt_wasm_runtime::{Cost, Reason};

/// A request that is over.
pub struct Sample<'a> {
    /// What the client was sent, or began to be.
    pub status: u16,
    /// Why it failed, if it did.
    pub reason: Option<Reason>,
    /// From the time libunit handed it over.
    pub duration: Duration,
    /// What it has cost, if it had a guest.
    pub cost: Option<&'a Cost>,
}

/// A distribution: each value falls into the first bucket whose bound it does not
/// exceed.
pub struct Histogram {
    pub name: &'static str,
    pub help: &'static str,
    /// In the unit that is counted: nanoseconds, bytes, units of fuel.
    pub bounds: &'static [u64],
    /// How many of that unit the name's unit has.
    pub scale: u64,
}

const NANOS: u64 = 1_000_000_000;
const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub const HISTOGRAMS: [Histogram; 5] = [
    Histogram {
        name: "nxt_wasm_request_duration_seconds",
        help: "Time from taking a request from Unit to the end of its response.",
        bounds: &[
            MS / 4,
            MS / 2,
            MS,
            5 * MS / 2,
            5 * MS,
            10 * MS,
            25 * MS,
            50 * MS,
            100 * MS,
            250 * MS,
            500 * MS,
            NANOS,
            5 * NANOS / 2,
            5 * NANOS,
            10 * NANOS,
            30 * NANOS,
            60 * NANOS,
        ],
        scale: NANOS,
    },
    Histogram {
        name: "nxt_wasm_guest_cpu_seconds",
        help: "CPU time of the guest per request.",
        bounds: &[
            10 * US,
            25 * US,
            50 * US,
            100 * US,
            250 * US,
            500 * US,
            MS,
            5 * MS / 2,
            5 * MS,
            10 * MS,
            25 * MS,
            50 * MS,
            100 * MS,
            250 * MS,
            500 * MS,
            NANOS,
            5 * NANOS,
            10 * NANOS,
        ],
        scale: NANOS,
    },
    Histogram {
        name: "nxt_wasm_instantiate_seconds",
        help: "Time to make a fresh instance.",
        bounds: &[
            5 * US,
            10 * US,
            20 * US,
            50 * US,
            100 * US,
            200 * US,
            500 * US,
            MS,
            5 * MS,
            20 * MS,
            100 * MS,
        ],
        scale: NANOS,
    },
    Histogram {
        name: "nxt_wasm_guest_memory_bytes",
        help: "Most memory that the guest had at any one time, per request.",
        bounds: &[
            64 * KIB,
            256 * KIB,
            MIB,
            2 * MIB,
            4 * MIB,
            8 * MIB,
            16 * MIB,
            32 * MIB,
            64 * MIB,
            128 * MIB,
            256 * MIB,
            512 * MIB,
            1024 * MIB,
            4096 * MIB,
        ],
        scale: 1,
    },
    Histogram {
        name: "nxt_wasm_guest_fuel",
        help: "Fuel used per request, where fuel is limited.",
        bounds: &[
            10_000,
            100_000,
            1_000_000,
            10_000_000,
            100_000_000,
            1_000_000_000,
            10_000_000_000,
        ],
        scale: 1,
    },
];

const DURATION: usize = 0;
const CPU: usize = 1;
const INSTANTIATE: usize = 2;
const MEMORY: usize = 3;
const FUEL: usize = 4;

/// What is so at a time, and adds up over the processes that live.
#[derive(Clone, Copy)]
pub enum Gauge {
    InFlight,
    Slots,
    BreakerOpen,
    FromCache,
}

/// The statuses that are told apart.
pub const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

// Where the cells of each kind begin.
pub const GAUGES: usize = 0;
const GAUGE_COUNT: usize = 4;
pub const COUNTERS: usize = GAUGES + GAUGE_COUNT;
pub const OUTBOUND: usize = COUNTERS;
pub const FULL: usize = COUNTERS + 1;
pub const REASONS: usize = COUNTERS + 2;
pub const CODES: usize = REASONS + Reason::ALL.len();
const FIRST_HISTOGRAM: usize = CODES + 500;

/// Cells of a histogram: its buckets, the one beyond the last bound, the sum.
const fn width(histogram: &Histogram) -> usize {
    histogram.bounds.len() + 2
}

/// Where the cells of the histogram `index` begin.
pub fn histogram_at(index: usize) -> usize {
    let before = HISTOGRAMS.iter().take(index);
    FIRST_HISTOGRAM + before.map(width).sum::<usize>()
}

/// Cells in all.
pub const COUNT: usize = {
    let [a, b, c, d, e] = &HISTOGRAMS;
    FIRST_HISTOGRAM + width(a) + width(b) + width(c) + width(d) + width(e)
};

/// The numbers of a process.
pub struct Cells([AtomicU64; COUNT]);

impl Default for Cells {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; COUNT])
    }
}

impl Cells {
    /// What another process has counted before it ended: counters never become
    /// less.
    pub fn go_on_from(&self, before: &[u64]) {
        for (cell, value) in self.0.iter().zip(before).skip(COUNTERS) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    pub fn values(&self) -> Vec<u64> {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        self.0.iter().map(load).collect()
    }

    pub fn set(&self, gauge: Gauge, value: u64) {
        if let Some(cell) = self.0.get(GAUGES + gauge as usize) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    fn add(&self, at: usize, value: u64) {
        if let Some(cell) = self.0.get(at) {
            cell.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn observe(&self, index: usize, value: u64) {
        let Some(histogram) = HISTOGRAMS.get(index) else {
            return;
        };
        let at = histogram_at(index);
        let bounds = histogram.bounds;
        let bucket = bounds.partition_point(|&bound| bound < value);
        self.add(at + bucket, 1);
        self.add(at + bounds.len() + 1, value);
    }

    pub fn full(&self) {
        self.add(FULL, 1);
    }

    pub fn request(&self, sample: &Sample<'_>) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        if let Some(status) = sample.status.checked_sub(*STATUSES.start()) {
            // Statuses beyond are not HTTP's, and Unit sends none.
            if STATUSES.contains(&sample.status) {
                self.add(CODES + usize::from(status), 1);
            }
        }
        if let Some(reason) = sample.reason {
            self.add(REASONS + reason as usize, 1);
        }
        self.observe(DURATION, nanos(sample.duration));
        let Some(cost) = sample.cost else { return };
        let usage = cost.usage();
        self.observe(CPU, nanos(usage.cpu_time));
        if let Some(time) = cost.instantiate_time() {
            self.observe(INSTANTIATE, nanos(time));
        }
        if usage.memory > 0 {
            self.observe(MEMORY, usage.memory as u64);
        }
        if let Some(fuel) = usage.fuel {
            self.observe(FUEL, fuel);
        }
        self.add(OUTBOUND, u64::from(cost.outbound_requests()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_and_nothing_overlaps() {
        for histogram in &HISTOGRAMS {
            assert!(histogram.bounds.is_sorted(), "{}", histogram.name);
        }
        let ends = histogram_at(HISTOGRAMS.len());
        assert_eq!(ends, COUNT);
        assert_eq!(STATUSES.count(), FIRST_HISTOGRAM - CODES);
    }

    #[test]
    fn values_fall_into_the_first_bucket_that_holds_them() {
        let cells = Cells::default();
        let at = histogram_at(FUEL);
        for (value, bucket) in [(0, 0), (10_000, 0), (10_001, 1), (u64::MAX / 2, 7)] {
            let before = cells.values()[at + bucket];
            cells.observe(FUEL, value);
            assert_eq!(cells.values()[at + bucket], before + 1, "{value}");
        }
        assert_eq!(cells.values()[at + 8], 20_001 + u64::MAX / 2);
    }

    #[test]
    fn a_request_is_counted_once() {
        let cells = Cells::default();
        cells.request(&Sample {
            status: 504,
            reason: Some(Reason::Fuel),
            duration: Duration::from_millis(3),
            cost: None,
        });
        let values = cells.values();
        assert_eq!(values[CODES + 404], 1);
        assert_eq!(values[REASONS + Reason::Fuel as usize], 1);
        assert_eq!(values[CODES..CODES + 500].iter().sum::<u64>(), 1);
        let unknown = Sample {
            status: 999,
            reason: None,
            duration: Duration::ZERO,
            cost: None,
        };
        cells.request(&unknown);
        let values = cells.values();
        assert_eq!(values[CODES..CODES + 500].iter().sum::<u64>(), 1);
    }

    #[test]
    fn counters_go_on_and_gauges_begin_anew() {
        let (first, second) = (Cells::default(), Cells::default());
        first.full();
        first.set(Gauge::InFlight, 7);
        second.go_on_from(&first.values());
        let values = second.values();
        assert_eq!((values[FULL], values[GAUGES]), (1, 0));
    }
}
