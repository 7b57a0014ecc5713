//! Counters that several processes share through a memory file.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A type that may live in memory shared with other processes.
///
/// # Safety
/// The type is `repr(C)` and consists of atomics only.
pub unsafe trait Layout: Sync {}

/// Words of one application generation's request queue.
#[repr(C)]
pub struct QueueWords {
    /// 1 while a notification is on its way to the readers.
    pub notified: AtomicU32,
}

/// Words of one context's read port.
#[repr(C)]
pub struct ContextWords {
    /// Messages sent and not yet taken; a send that finds 0 notifies.
    pub queued: AtomicI64,
}

/// The most chunks of a window: one GiB.
pub const MAX_CHUNKS: usize = 64 << 10;

/// Words of one application process: its window of shared memory.
#[repr(C)]
pub struct ProcessWords {
    /// A bit for each chunk; the process sets it, the router clears it.
    pub busy: [AtomicU64; MAX_CHUNKS / 64],
    /// How many are set.
    pub used: AtomicU64,
    /// Chunks the process may hold; the router compares with `used`.
    pub limit: AtomicU64,
    /// 1 once the process has found the window exhausted.
    pub oosm: AtomicU32,
}

impl ProcessWords {
    /// Chunks are free again.
    pub fn give_back(&self, chunks: &[u32]) {
        for chunk in chunks {
            if let Some(word) = self.busy.get(*chunk as usize / 64) {
                word.fetch_and(!(1 << (chunk % 64)), Ordering::AcqRel);
            }
        }
        let count = chunks.len() as u64;
        self.used.fetch_sub(count, Ordering::AcqRel);
    }
}

/// When a call of one function fails: both 0 means never. And how long each
/// call takes before it does anything.
#[repr(C)]
pub struct FailWords {
    /// Seconds.
    pub block: AtomicU64,
    /// The call with this number, once.
    pub nth: AtomicU64,
    /// Each call whose number is a multiple.
    pub every: AtomicU64,
}

/// Functions that can be made to fail or to block.
pub const FAULTY: [&str; 7] = [
    "response_init",
    "add_field",
    "add_content",
    "response_send",
    "write_nb",
    "request_read",
    "process_port_msg",
];

/// Words of one application's faults; limits are stored as value + 1, 0 is off.
#[repr(C)]
pub struct FaultWords {
    /// Changes whenever faults are set; call counts then begin anew.
    pub epoch: AtomicU64,
    /// Bytes of the window.
    pub shm_limit: AtomicU64,
    /// Bytes that one `write_nb` takes.
    pub write_nb_max: AtomicU64,
    /// Requests after which a process quits.
    pub quit_after: AtomicU64,
    /// Requests after which a process is killed.
    pub kill_after: AtomicU64,
    /// In the order of [`FAULTY`].
    pub fail: [FailWords; FAULTY.len()],
}

// SAFETY: repr(C), atomics only.
unsafe impl Layout for QueueWords {}
// SAFETY: repr(C), atomics only.
unsafe impl Layout for ContextWords {}
// SAFETY: repr(C), atomics only.
unsafe impl Layout for ProcessWords {}
// SAFETY: repr(C), atomics only.
unsafe impl Layout for FaultWords {}

/// A mapped memory file that begins with a `T`.
pub struct Shared<T: Layout> {
    fd: OwnedFd,
    at: NonNull<T>,
}

// SAFETY: only atomics are reachable through it (see `Layout`).
unsafe impl<T: Layout> Send for Shared<T> {}
// SAFETY: only atomics are reachable through it (see `Layout`).
unsafe impl<T: Layout> Sync for Shared<T> {}

impl<T: Layout> Shared<T> {
    const SIZE: usize = size_of::<T>().next_multiple_of(4096);

    /// A new file, all words zero.
    pub fn create() -> io::Result<Self> {
        let fd = memfd_create("nxt-standin", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, Self::SIZE as u64)?;
        Self::open(fd)
    }

    /// Maps a file that another process created.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        if fstat(&fd)?.st_size < Self::SIZE as i64 {
            return Err(io::Error::other("shared words: file too short"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            mmap(
                ptr::null_mut(),
                Self::SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }?;
        let at =
            NonNull::new(at.cast()).ok_or_else(|| io::Error::other("shared words: no address"))?;
        Ok(Self { fd, at })
    }
}

impl<T: Layout> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped until drop, page-aligned, and the mapping covers a T, of
        // which every bit pattern is valid (see `Layout` and `open`).
        unsafe { self.at.as_ref() }
    }
}

impl<T: Layout> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<T: Layout> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this size; `deref` borrows have ended.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), Self::SIZE) };
    }
}
