//! The window of shared memory that a process may fill before the router has
//! sent its contents to clients: a file in memory, of which chunks are taken
//! and given back.

use std::sync::atomic::Ordering;

use super::context::Context;
use super::{Lib, faults, locked};
use crate::sys::shared::MAX_CHUNKS;
use crate::wire::{Header, Kind};

/// Bytes of a chunk.
pub const CHUNK: usize = 16 << 10;
/// Up to this many bytes go without shared memory.
pub const PLAIN: usize = 1024;

impl Lib {
    fn window(&self) -> u64 {
        let limit = faults::limit(&self.birth.faults.shm_limit)
            .map_or(self.birth.window, |bytes| bytes / CHUNK as u64)
            .min(MAX_CHUNKS as u64);
        self.words.limit.store(limit, Ordering::Release);
        limit
    }

    /// Takes chunks for up to `size` bytes. With `minimum` 0 it may take none;
    /// else it waits until it gets that much.
    pub fn allocate(&self, context: &Context, size: usize, minimum: usize) -> Result<Vec<u32>, ()> {
        let wanted = size.div_ceil(CHUNK);
        let minimum = minimum.div_ceil(CHUNK);
        loop {
            let taken = self.try_take(wanted, minimum.max(1));
            if !taken.is_empty() {
                return Ok(taken);
            }
            self.words.oosm.store(1, Ordering::Release);
            let unsent = u64::try_from(self.unsent.load(Ordering::Acquire)).unwrap_or(0);
            if unsent > 0 && unsent + minimum.max(1) as u64 > self.window() {
                // What is not sent, the router cannot give back.
                return if minimum == 0 { Ok(taken) } else { Err(()) };
            }
            if !self.report_exhausted() {
                return Err(());
            }
            if minimum == 0 {
                return Ok(taken);
            }
            context.wait_shm_ack(self)?;
        }
    }

    /// Asks the router to say when there is memory.
    pub fn report_exhausted(&self) -> bool {
        self.words.oosm.store(1, Ordering::Release);
        self.send_or_log(Header::new(Kind::Exhausted, 0), &[])
    }

    /// At least `minimum` chunks, or none.
    fn try_take(&self, wanted: usize, minimum: usize) -> Vec<u32> {
        let _turn = locked(&self.taking);
        let mut taken = Vec::new();
        let used = self.words.used.load(Ordering::Acquire);
        let free = usize::try_from(self.window().saturating_sub(used)).unwrap_or(0);
        if free < minimum {
            return taken;
        }
        let wanted = wanted.min(free);
        for (index, word) in self.words.busy.iter().enumerate() {
            // The router only clears bits, and others wait for their turn.
            let mut busy = word.load(Ordering::Acquire);
            while busy != u64::MAX && taken.len() < wanted {
                let bit = busy.trailing_ones();
                busy = word.fetch_or(1 << bit, Ordering::AcqRel) | 1 << bit;
                taken.push(index as u32 * 64 + bit);
            }
        }
        let count = taken.len();
        self.words.used.fetch_add(count as u64, Ordering::AcqRel);
        self.unsent.fetch_add(count as i64, Ordering::AcqRel);
        taken
    }

    /// Chunks are the router's now.
    pub fn sent(&self, chunks: &[u32]) {
        let count = chunks.len() as i64;
        self.unsent.fetch_sub(count, Ordering::AcqRel);
    }

    /// Chunks are not needed after all.
    pub fn release_unsent(&self, chunks: &[u32]) {
        self.sent(chunks);
        self.words.give_back(chunks);
    }
}
