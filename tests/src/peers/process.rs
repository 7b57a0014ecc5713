//! Databases: real servers, in processes of their own.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use tempfile::TempDir;

use crate::launch::{free_addr, next_ip};
use crate::wait::wait_for;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// A server process in a directory of its own.
pub struct DatabasePeer {
    addr: SocketAddr,
    child: Child,
    /// The signal that ends it without waiting for clients.
    signal: libc::c_int,
    _dir: TempDir,
}

/// Where `redis-server` is.
pub fn redis_server() -> Option<PathBuf> {
    on_path("redis-server")
}

/// The directory with PostgreSQL's programs.
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .chain(on_path("initdb").and_then(|path| Some(path.parent()?.to_owned())))
        .filter(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut all = env::split_paths(&path).map(|dir| dir.join(name));
    all.find(|path| path.exists())
}

impl DatabasePeer {
    /// A Redis server that keeps nothing, with a password if one is given.
    pub fn redis(password: Option<&str>) -> Self {
        Self::redis_at(free_addr(next_ip()), password)
    }

    /// Starts an empty server where the one that was killed was.
    pub fn restart_redis(&mut self) {
        *self = Self::redis_at(self.addr, None);
    }

    fn redis_at(addr: SocketAddr, password: Option<&str>) -> Self {
        let program = redis_server().expect("redis-server");
        let dir = directory();
        let mut peer = Self::start(dir, addr, libc::SIGKILL, |dir, addr| {
            let mut command = Command::new(&program);
            command.arg("--bind").arg(addr.ip().to_string());
            command.arg("--port").arg(addr.port().to_string());
            command.arg("--dir").arg(dir);
            command.args(["--save", "", "--appendonly", "no"]);
            if let Some(password) = password {
                command.args(["--requirepass", password]);
            }
            command
        });
        peer.await_start(|addr| {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(START))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            // PONG, or that it wants the password.
            Ok(&answer == b"+PONG" || &answer == b"-NOAU")
        });
        peer
    }

    /// A PostgreSQL server with the database `postgres` and the user `guest`, whom
    /// it trusts.
    pub fn postgres() -> Self {
        let programs = postgres_programs().expect("PostgreSQL");
        let dir = directory();
        let data = dir.path().join("data");
        // It refuses to run as root.
        let user = user_for_postgres();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).expect("chown");
        }
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(dir.path()).env("LC_ALL", "C");
            if let Some((uid, gid)) = user {
                command.gid(gid).uid(uid);
            }
            command
        };
        let mut init = run("initdb");
        init.args([
            "--username=guest",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ]);
        init.arg("--pgdata").arg(&data);
        let output = init.output().expect("initdb");
        assert!(output.status.success(), "{output:?}");

        let mut server = run("postgres");
        server.arg("-D").arg(&data);
        let addr = free_addr(next_ip());
        let mut peer = Self::start(dir, addr, libc::SIGINT, |_, addr| {
            server.arg("-h").arg(addr.ip().to_string());
            server.arg("-p").arg(addr.port().to_string());
            server.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
            server.args(["-c", "shared_buffers=16MB", "-c", "max_connections=20"]);
            server
        });
        peer.await_start(|addr| {
            // Version 3.0 of its protocol, and who wants what. Before it is ready it
            // answers with an error.
            const WHO: &[u8] = b"\0\x03\0\0user\0guest\0database\0postgres\0\0";
            let length = u32::try_from(WHO.len() + 4).expect("a short message");
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(START))?;
            stream.write_all(&[&length.to_be_bytes(), WHO].concat())?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"R")
        });
        peer
    }

    fn start(
        dir: TempDir,
        addr: SocketAddr,
        signal: libc::c_int,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Self {
        let output = File::create(dir.path().join("output")).expect("a file for output");
        let errors = output.try_clone().expect("a second descriptor");
        let mut command = command(dir.path(), addr);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // SAFETY: prctl is a bare system call, safe to make between fork and
        // exec; the closure allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                // It must not outlive an interrupted run.
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let program = command.get_program().to_owned();
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", shown(&program)));
        Self {
            addr,
            child,
            signal,
            _dir: dir,
        }
    }

    fn await_start(&mut self, ready: impl Fn(SocketAddr) -> io::Result<bool>) {
        let addr = self.addr;
        let up = wait_for(START, || {
            let exited = self.child.try_wait().expect("wait").is_some();
            let up = !exited && ready(addr).unwrap_or(false);
            (exited || up).then_some(up)
        });
        let output = self._dir.path().join("output");
        let output = || fs::read_to_string(&output).unwrap_or_default();
        assert_eq!(up, Some(true), "did not start: {}", output());
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for DatabasePeer {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes two integers and touches no memory of ours; the
        // child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, self.signal) };
        for _ in 0..500 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("nxt-e2e-").tempdir();
    let dir = dir.expect("a temporary directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("permissions");
    dir
}

/// Whom PostgreSQL runs as if this is root: its own user, or nobody.
fn user_for_postgres() -> Option<(u32, u32)> {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |wanted: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        let mut number = || fields.next()?.parse().ok();
        Some((number()?, number()?))
    };
    let found = find("postgres").or_else(|| find("nobody"));
    Some(found.expect("a user for PostgreSQL"))
}

fn shown(program: &OsStr) -> String {
    program.to_string_lossy().into_owned()
}
