//! What it takes to start a host: directories, addresses, the process.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::{env, io, process};

use crate::guests;
use crate::host::Host;

/// Lets every user read and write a directory.
pub fn open_to_all(directory: &Path) {
    let all = Permissions::from_mode(0o777);
    fs::set_permissions(directory, all).expect("permissions");
}

/// Starts the host in a process group of its own, so that every process it
/// leaves behind can be found.
pub fn spawn(host: &Host, dir: &Path) -> Child {
    let output = File::create(dir.join("output")).expect("a file for output");
    let errors = output.try_clone().expect("a second descriptor");
    let mut command = Command::new(&host.exe);
    command.arg("--no-daemon");
    command.arg("--modulesdir").arg(&host.modules);
    command.arg("--statedir").arg(dir.join("state"));
    let control = format!("unix:{}", dir.join("control.sock").display());
    command.arg("--control").arg(control);
    command.arg("--pid").arg(dir.join("pid"));
    command.arg("--log").arg(dir.join("log"));
    command.arg("--tmpdir").arg(dir.join("tmp"));
    command.current_dir(dir).process_group(0);
    // Guests must not see this one.
    command.env("NXT_E2E_HOST_SECRET", "not for guests");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    // SAFETY: prctl is a bare system call, safe to make between fork and
    // exec; the closure allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            // A host must not outlive an interrupted run.
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn();
    child.unwrap_or_else(|error| panic!("{}: {error}", host.exe.display()))
}

/// A loopback address that no other server of this run has, so that ports do
/// not clash with those of clients and of tests that run at the same time.
pub fn next_ip() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let run = process::id() % 250 + 2;
    let run = u8::try_from(run).expect("below 252");
    Ipv4Addr::new(127, run, high, low.wrapping_add(1).max(1))
}

/// An address that nobody listens on, at an IP of [`next_ip`]. Its port is none of those
/// that the kernel gives to clients. Nobody binds it to find out: a child that another
/// test forks would inherit the listener, and hold the address for a moment.
pub fn free_addr(ip: Ipv4Addr) -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let port = 10_000 + COUNT.fetch_add(1, Ordering::Relaxed) % 20_000;
    (ip, port).into()
}

/// The directory of compiled artifacts that all tests of a run share.
pub fn cache() -> PathBuf {
    let given = env::var_os("E2E_CACHE").map(PathBuf::from);
    let path = given.unwrap_or_else(|| {
        let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| guests::root().join("target"));
        target.join("e2e-cache")
    });
    let path = if path.is_absolute() {
        path
    } else {
        guests::root().join(path)
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&path).expect("the cache directory");
    path
}
