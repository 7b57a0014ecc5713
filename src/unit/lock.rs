//! Locks on parts of a file, which the operating system takes back when their
//! process ends, however it does.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{F_GETLK, F_SETLK, F_UNLCK, F_WRLCK, c_int, c_short, flock, off_t};

fn part(kind: c_int, at: u64, length: u64) -> io::Result<flock> {
    let number = |n: u64| off_t::try_from(n).map_err(io::Error::other);
    Ok(flock {
        l_type: c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: number(at)?,
        l_len: number(length)?,
        l_pid: 0,
    })
}

fn control(file: &File, command: c_int, part: &mut flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and `part` is a lock's description, which is
    // what both commands read and write.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(part)) };
    match rc {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Locks `length` bytes of `file` from `at` for this process, unless another one
/// has. It is unlocked when this process closes any descriptor of the file.
///
/// # Errors
///
/// The operating system's, if the answer is neither yes nor no.
pub fn try_lock(file: &File, at: u64, length: u64) -> io::Result<bool> {
    match control(file, F_SETLK, &mut part(F_WRLCK, at, length)?) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether another process has locked any of `length` bytes of `file` from `at`.
///
/// # Errors
///
/// The operating system's.
pub fn is_locked(file: &File, at: u64, length: u64) -> io::Result<bool> {
    let mut part = part(F_WRLCK, at, length)?;
    control(file, F_GETLK, &mut part)?;
    Ok(c_int::from(part.l_type) != F_UNLCK)
}
