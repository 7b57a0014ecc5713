//! Processes: a short-lived child with fewer rights, for work that must not be
//! done in the prototype itself, and what there is to know of this one.

use std::ffi::CString;
use std::io;
use std::time::Duration;

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
const CPU_SECONDS: libc::rlim_t = 600;
const DATA_BYTES: libc::rlim_t = 8 << 30;
const WALL_TIME: Duration = Duration::from_secs(900);

/// Forks, runs `work` in the child with the rights of `identity`, and waits
/// for its end, calling `waiting` now and then with the time that has passed.
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
    mut waiting: impl FnMut(Duration),
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
            loop {
                if started.elapsed() > WALL_TIME {
                    // SAFETY: our own child, which has not been reaped.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                let mut status = 0;
                // SAFETY: `status` is ours; the pid is our own child's.
                match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
                    0 => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(50));
                        waiting(started.elapsed());
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

/// Gives up what the child does not need.
fn confine(identity: Option<&Identity>) -> io::Result<()> {
    let check = |rc: libc::c_int| match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: PR_SET_PDEATHSIG takes a signal number. The child shall not
    // outlive a prototype that is stopped while it compiles.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    for (resource, limit) in [
        (libc::RLIMIT_CPU, CPU_SECONDS),
        (libc::RLIMIT_DATA, DATA_BYTES),
        (libc::RLIMIT_CORE, 0),
    ] {
        let limit = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: `limit` is a valid structure.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    }
    let Some(&Identity { uid, gid, ref name }) = identity else {
        return Ok(());
    };
    // SAFETY: `name` is a C string, and this process has a single thread.
    check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })?;
    // Changing the user clears it.
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
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
