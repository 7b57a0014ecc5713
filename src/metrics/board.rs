//! Where the processes of an application put their numbers: a memory file of the
//! prototype, which all of them inherit.
//!
//! Each process has a place in it, which it holds by a lock. When a process ends,
//! its numbers stay, and the next one to take the place counts on from there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::cells::{COUNT, COUNTERS};
use crate::unit::{is_locked, try_lock};

/// Processes of one application.
const PLACES: u64 = 1024;

const BYTES: usize = COUNT * size_of::<u64>();
const LENGTH: u64 = BYTES as u64;

/// The board of an application.
pub struct Board(File);

/// The place of one process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    fn start(self) -> u64 {
        self.0 * LENGTH
    }
}

impl Board {
    /// A board with nothing on it.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn new() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, memfd_create};
        let file = File::from(memfd_create("wasm-metrics", MemfdFlags::CLOEXEC)?);
        Ok(Self(file))
    }

    /// The same board, for another process.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn share(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Takes a place that no living process has, and what is there.
    pub(super) fn take_place(&self) -> io::Result<(Place, Vec<u64>)> {
        for place in (0..PLACES).map(Place) {
            if try_lock(&self.0, place.start(), LENGTH)? {
                let before = self.read(place)?.unwrap_or_default();
                return Ok((place, before));
            }
        }
        Err(io::Error::other(format!("{PLACES} processes are there")))
    }

    pub(super) fn write(&self, place: Place, values: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        self.0.write_all_at(&bytes, place.start())
    }

    /// What is there, or `None` beyond the last place that was ever taken.
    fn read(&self, place: Place) -> io::Result<Option<Vec<u64>>> {
        let mut bytes = vec![0; BYTES];
        match self.0.read_exact_at(&mut bytes, place.start()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let (values, _) = bytes.as_chunks();
        Ok(Some(
            values.iter().map(|v| u64::from_ne_bytes(*v)).collect(),
        ))
    }

    /// The sum of all places; of what is so at the moment, of those that a living
    /// process has.
    pub(super) fn sum(&self, mine: Place) -> io::Result<Sum> {
        let mut sum = Sum {
            values: vec![0; COUNT],
            processes: 0,
        };
        for place in (0..PLACES).map(Place) {
            let Some(values) = self.read(place)? else {
                break;
            };
            let lives = place == mine || is_locked(&self.0, place.start(), LENGTH)?;
            sum.processes += u64::from(lives);
            let counted = if lives { 0 } else { COUNTERS };
            let pairs = sum.values.iter_mut().zip(values).skip(counted);
            pairs.for_each(|(sum, value)| *sum = sum.wrapping_add(value));
        }
        Ok(sum)
    }
}

/// The numbers of an application.
pub(super) struct Sum {
    pub values: Vec<u64>,
    /// Processes that live.
    pub processes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_lock_leaves_its_counters() {
        let board = Board::new().unwrap();
        let (mine, before) = board.take_place().unwrap();
        assert!(before.is_empty());
        board.write(mine, &[1; COUNT]).unwrap();
        // Nobody has locked the second place.
        board.write(Place(1), &[10; COUNT]).unwrap();
        let sum = board.sum(mine).unwrap();
        assert_eq!(sum.processes, 1);
        assert_eq!(sum.values[0], 1, "gauges are those of the living");
        assert_eq!(sum.values[COUNTERS], 11);
        assert_eq!(sum.values[COUNT - 1], 11);
    }
}
