//! Processes: fork, title, user, signals.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::{Pid, Signal};

/// What `fork` returned.
pub enum Forked {
    /// In the parent: the child.
    Parent(Pid),
    /// In the child.
    Child,
}

/// Forks. The caller has one thread only, so the child may do anything.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: no argument; the process is single-threaded where this is
    // called, so no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Kills this process when its parent dies, so that nothing is left behind.
pub fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// Blocks the signals by which a terminal or an operator addresses the main
/// process; application processes are told to quit through their port.
pub fn block_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is valid; the call initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGUSR1,
        libc::SIGCHLD,
    ] {
        // SAFETY: the set is initialised above, the signal number valid.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: the set is initialised; no old mask is asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) };
}

/// Replaces the command line that `ps` shows, as far as it has room.
pub fn set_title(title: &str) {
    let Some((start, end)) = argument_area() else {
        return;
    };
    let room = end.saturating_sub(start).saturating_sub(1);
    let bytes = title.as_bytes();
    let length = bytes.len().min(room);
    let area = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel put this process's arguments there, `room` + 1 bytes
    // that stay mapped and writable; nothing else holds references to them.
    unsafe { ptr::write_bytes(area, 0, room + 1) };
    // SAFETY: as above, and `length` is not above `room`.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), area, length) };
}

/// Where the arguments of this process are, from fields 48 and 49 of `stat`.
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    // The first field after the name is field 3.
    let mut fields = after_name.split_ascii_whitespace().skip(48 - 3);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end))
}

/// Whether the process could change its user.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Changes to `user`, and to `group` if given, else to the user's own groups.
pub fn change_user(user: &str, group: Option<&str>) -> io::Result<()> {
    let name = CString::new(user)?;
    // SAFETY: a NUL-terminated string; the process is single-threaded, and
    // the static result is read before any other call of its kind.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    // SAFETY: null, or an entry that is valid until the next such call.
    let entry =
        unsafe { entry.as_ref() }.ok_or_else(|| io::Error::other(format!("no user \"{user}\"")))?;
    let (uid, mut gid) = (entry.pw_uid, entry.pw_gid);
    if let Some(group) = group {
        gid = group_id(group)?;
    }
    // SAFETY: a NUL-terminated string and a number.
    check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: a number.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: a number.
    check(unsafe { libc::setuid(uid) })
}

fn group_id(group: &str) -> io::Result<libc::gid_t> {
    let name = CString::new(group)?;
    // SAFETY: as `getpwnam` above.
    let entry = unsafe { libc::getgrnam(name.as_ptr()) };
    // SAFETY: null, or an entry that is valid until the next such call.
    unsafe { entry.as_ref() }
        .map(|entry| entry.gr_gid)
        .ok_or_else(|| io::Error::other(format!("no group \"{group}\"")))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
