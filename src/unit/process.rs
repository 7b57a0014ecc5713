//! Processes: a short-lived child with fewer rights, for work that must not be
//! done in the prototype itself, one that stays beside it, and what there is to
//! know of this one.

use std::ffi::{CStr, CString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A user and a group to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    uid: libc::uid_t,
    gid: libc::gid_t,
    /// The user's name, which groups list their members by.
    name: CString,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
}

/// Lets writes fail that would make a file larger than `ulimit -f` allows. Without
/// that they end the process, and guests that may write files could do it.
pub fn survive_file_size_limit() {
    // SAFETY: SIG_IGN is a valid disposition and runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Finds the identity of an application process: the user and group that unitd
/// has chosen for it, the group being the user's own if it is not given.
/// `None` if this process is not root, and so cannot become anybody else.
///
/// # Errors
///
/// A text naming the user or group that does not exist.
pub fn application_identity(
    user: Option<&str>,
    group: Option<&str>,
) -> Result<Option<Identity>, String> {
    // SAFETY: always succeeds, touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let user = user.ok_or("unitd has named no user for the application")?;
    let name = CString::new(user).map_err(|_| format!("user \"{user}\" has a NUL"))?;
    // SAFETY: a C string; the result points to static memory, read at once;
    // the prototype has a single thread.
    let entry = unsafe { libc::getpwnam(name.as_ptr()).as_ref() };
    let entry = entry.ok_or_else(|| format!("there is no user \"{user}\""))?;
    let mut identity = Identity {
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        name,
    };
    if let Some(group) = group {
        let name = CString::new(group).map_err(|_| format!("group \"{group}\" has a NUL"))?;
        // SAFETY: as for the user.
        let entry = unsafe { libc::getgrnam(name.as_ptr()).as_ref() };
        identity.gid = entry
            .ok_or_else(|| format!("there is no group \"{group}\""))?
            .gr_gid;
    }
    Ok(Some(identity))
}

/// Exit codes of a child whose work panicked, or was not begun because it
/// could not give up its rights.
pub const CHILD_PANICKED: i32 = 101;
/// See [`CHILD_PANICKED`].
pub const CHILD_UNCONFINED: i32 = 102;

/// Limits of a child, besides its identity.
const CPU_SECONDS: u64 = 600;
const DATA_BYTES: u64 = 8 << 30;
const WALL_TIME: Duration = Duration::from_secs(900);

/// Forks, runs `work` in the child with the rights of `identity`, and waits
/// for its end, calling `waiting` now and then with the time that has passed.
/// When that says that it is enough, the child is killed.
///
/// The child ends with the value of `work` as its exit code, without running
/// anything else; `work` must not return before all it made is written.
/// Must be called in a process with a single thread, as the child has only
/// the calling one.
///
/// # Errors
///
/// The operating system's, if there can be no child.
pub fn run_child(
    identity: Option<&Identity>,
    work: impl FnOnce() -> i32,
    mut waiting: impl FnMut(Duration) -> ControlFlow<()>,
) -> io::Result<Status> {
    // SAFETY: this process has a single thread, so the child may go on using
    // everything it has, allocator and locks included.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = super::guard("compile helper", CHILD_PANICKED, || {
                confine(identity).map_or_else(|_| CHILD_UNCONFINED, |()| work())
            });
            // SAFETY: ends the process at once, without the exit handlers of
            // unitd, which are not the child's to run.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let started = std::time::Instant::now();
            let mut pause = Duration::from_millis(1);
            let mut enough = false;
            loop {
                if enough || started.elapsed() > WALL_TIME {
                    // SAFETY: our own child, which has not been reaped.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                let mut status = 0;
                // SAFETY: `status` is ours; the pid is our own child's.
                match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
                    0 => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(50));
                        enough |= waiting(started.elapsed()).is_break();
                    }
                    -1 => {
                        let error = io::Error::last_os_error();
                        if error.kind() != io::ErrorKind::Interrupted {
                            return Err(error);
                        }
                    }
                    _ if libc::WIFSIGNALED(status) => {
                        return Ok(Status::Killed(libc::WTERMSIG(status)));
                    }
                    _ => return Ok(Status::Exited(libc::WEXITSTATUS(status))),
                }
            }
        }
    }
}

fn check(rc: libc::c_int) -> io::Result<()> {
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How much less urgent than others a companion is, and all that it starts.
const COMPANION_NICE: i32 = 10;

/// When memory is short, a companion and all that it starts are ended before those
/// that serve.
const COMPANION_OOM_SCORE: &str = "1000";

/// Where a companion has the descriptor that it keeps.
const KEPT: RawFd = 3;

/// Forks a process that goes on beside this one, its parent, and runs `work` with
/// the rights of `identity`, at a low priority. Of the descriptors it has `keep`
/// and the log. It ends without running anything else when `work` returns, or if
/// it cannot become what it is to be.
///
/// What other processes can see as a closed descriptor, such as ports of Unit,
/// must not be kept open by it. So `work` must not use, nor drop, what holds a
/// descriptor that it did not open itself.
/// Must be called in a process with a single thread, as for [`run_child`].
///
/// # Errors
///
/// The operating system's, if there can be no such process.
pub fn spawn_companion(
    name: &CStr,
    identity: Option<&Identity>,
    keep: OwnedFd,
    work: impl FnOnce(OwnedFd) -> i32,
) -> io::Result<()> {
    // SAFETY: as in `run_child`.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = super::guard("watcher", CHILD_PANICKED, || {
                let become_it = || {
                    rustix::thread::set_name(name)?;
                    rustix::process::nice(COMPANION_NICE)?;
                    // While this file is its own, which it is not after a change of
                    // user. It can do without.
                    let _ = std::fs::write("/proc/self/oom_score_adj", COMPANION_OOM_SCORE);
                    take_on(identity)?;
                    rustix::thread::set_no_new_privs(true)?;
                    keep_only(keep)
                };
                become_it().map_or(CHILD_UNCONFINED, work)
            });
            // SAFETY: as in `run_child`.
            unsafe { libc::_exit(code) }
        }
        _ => Ok(()),
    }
}

/// Closes all descriptors but `keep` and the log, which is descriptor 2.
fn keep_only(keep: OwnedFd) -> io::Result<OwnedFd> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let (null, keep) = (null.into_raw_fd(), keep.into_raw_fd());
    debug_assert_ne!(null, keep);
    if keep != KEPT {
        // SAFETY: takes numbers. Whoever had `KEPT` in this process is not run
        // any more, as the caller of `spawn_companion` has promised.
        let copied = unsafe { libc::dup3(keep, KEPT, libc::O_CLOEXEC) };
        check(copied.min(0))?;
    }
    // SAFETY: takes numbers; as above for whoever had these.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, KEPT + 1, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // Linux before 5.9, or a filter that does not know the call.
        let limit = getrlimit(Resource::Nofile);
        let limit = limit.current.unwrap_or(1 << 20).min(1 << 20);
        for fd in KEPT + 1..RawFd::try_from(limit).unwrap_or(RawFd::MAX) {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
    // SAFETY: open since the call above, or as `keep`, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

/// The limits that a child gets where the process had `maximum`.
fn lowered(limit: u64, maximum: Option<u64>) -> Rlimit {
    // A lower limit stays: raising one takes root, and was not meant to be possible.
    let limit = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
    Rlimit {
        current: limit,
        maximum: limit,
    }
}

/// Gives up what the child does not need.
fn confine(identity: Option<&Identity>) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number. The child shall not
    // outlive a prototype that is stopped while it compiles.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    for (resource, limit) in [
        (Resource::Cpu, CPU_SECONDS),
        (Resource::Data, DATA_BYTES),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, lowered(limit, getrlimit(resource).maximum))?;
    }
    take_on(identity)?;
    // Changing the user clears it.
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Becomes the user and the group, if there are any to become.
fn take_on(identity: Option<&Identity>) -> io::Result<()> {
    let Some(&Identity { uid, gid, ref name }) = identity else {
        return Ok(());
    };
    // SAFETY: `name` is a C string, and this process has a single thread.
    check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Whether this process may become anybody.
pub fn is_root() -> bool {
    // SAFETY: always succeeds, touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: takes no arguments and always succeeds.
    let id = unsafe { libc::gettid() };
    u32::try_from(id).unwrap_or(0)
}

/// Ends the process at once, whatever its other threads are doing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: runs no code of this process any more.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const NOBODY: libc::uid_t = 65_534;

    fn maxima() -> [Option<u64>; 3] {
        [Resource::Cpu, Resource::Data, Resource::Core].map(|of| getrlimit(of).maximum)
    }

    #[test]
    fn a_lower_limit_stays() {
        const VARIABLE: &str = "NXT_TEST_CHILD";
        const NAME: &str = "unit::process::tests::a_lower_limit_stays";
        if std::env::var_os(VARIABLE).is_none() {
            // Limits cannot be raised again, so it takes a process of its own.
            let child = Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--exact", "--nocapture"])
                .env(VARIABLE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success(), "{text}");
            assert!(text.contains("1 passed"), "{text}");
            return;
        }
        for (resource, limit) in [(Resource::Cpu, 500), (Resource::Data, 4 << 30)] {
            setrlimit(resource, lowered(limit, None)).unwrap();
        }
        if is_root() {
            // Of this thread alone, by the system call itself. Root may do anything.
            // SAFETY: takes three numbers.
            let rc = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(rc, 0);
        }
        confine(None).unwrap();
        assert_eq!(maxima(), [Some(500), Some(4 << 30), Some(0)]);
    }
}
