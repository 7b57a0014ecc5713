//! A `redis-server` of a test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub struct RedisServer {
    child: Child,
    pub address: SocketAddr,
    password: Option<String>,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one at an address of its own. `None`, and a message, if there is no
    /// `redis-server` here.
    pub fn start(password: Option<&str>) -> Option<Self> {
        for _ in 0..10 {
            let address = next_address();
            let directory = tempfile::tempdir().unwrap();
            let Some(child) = spawn(address, password, &directory) else {
                println!("skipped: there is no redis-server here");
                return None;
            };
            let mut server = Self {
                child,
                address,
                password: password.map(str::to_owned),
                directory,
            };
            if server.is_up() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    fn is_up(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if TcpStream::connect(self.address).is_ok() {
                return self.child.try_wait().unwrap().is_none();
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Ends it at once, as if it had crashed.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address. What it had is gone.
    pub fn restart(&mut self) {
        let password = self.password.as_deref();
        self.child = spawn(self.address, password, &self.directory).unwrap();
        assert!(self.is_up(), "redis-server does not start again");
    }

    /// Stops it from doing anything, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen {
            rustix::process::Signal::STOP
        } else {
            rustix::process::Signal::CONT
        };
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }
}

/// Another one each time, where no connection of a client comes from either: a server
/// that starts again finds it free.
fn next_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let run = u8::try_from(std::process::id() % 250 + 2).unwrap();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, run, 255, number), 16379).into()
}

fn spawn(address: SocketAddr, password: Option<&str>, directory: &TempDir) -> Option<Child> {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", &ip, "--port", &port])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("redis-server: {error}"),
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
