//! A running stand-in with the module `hello`, and a client for it.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// The directory with the compiled module.
fn modules() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules");
        fs::create_dir_all(&dir).unwrap();
        // Under a name of its own first: other test binaries may do the same.
        let next = dir.join(format!("hello.{}", std::process::id()));
        let status = Command::new("cc")
            .args([
                "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC", "-I",
            ])
            .arg(here.join("include"))
            .arg("-o")
            .arg(&next)
            .arg(here.join("tests/module/hello.c"))
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(next, dir.join("hello.unit.so")).unwrap();
        dir
    })
}

/// A loopback address of its own, so that nobody takes the port meanwhile.
fn next_ip() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let run = u8::try_from(std::process::id() % 250 + 2).unwrap();
    let [.., high, low] = (COUNT.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
    Ipv4Addr::new(127, run, high, low)
}

/// A stand-in; it is ended on drop.
pub struct Host {
    child: Child,
    dir: PathBuf,
    /// Address of the listener.
    pub addr: SocketAddr,
}

/// A response as it came.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Response {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Host {
    /// Starts one without a configuration.
    pub fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nxt-standin-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("tmp")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_nxt-standin"))
            .arg("--no-daemon")
            .arg(format!("--control=unix:{}", dir.join("control").display()))
            .arg("--modulesdir")
            .arg(modules())
            .arg("--statedir")
            .arg(dir.join("state"))
            .arg("--tmpdir")
            .arg(dir.join("tmp"))
            .arg("--pid")
            .arg(dir.join("pid"))
            .arg("--log")
            .arg(dir.join("log"))
            .spawn()
            .unwrap();
        let listener = TcpListener::bind((next_ip(), 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let host = Self { child, dir, addr };
        host.until("control API", || {
            UnixStream::connect(host.dir.join("control")).is_ok()
        });
        host
    }

    /// Starts one with the application `a`, which has these members besides.
    pub fn with(more: Value) -> Self {
        let host = Self::start();
        let (status, shown) = host.configure(more);
        assert_eq!(status, 200, "{shown} {}", host.log());
        host
    }

    /// Puts a configuration with the application `a`.
    pub fn configure(&self, more: Value) -> (u16, Value) {
        let mut app = json!({"type": "wasm-wasi-component", "component": "/c"});
        for (name, value) in more.as_object().unwrap() {
            app[name] = value.clone();
        }
        let listener = self.addr.to_string();
        let config = json!({
            "listeners": {listener: {"pass": "applications/a"}},
            "applications": {"a": app},
            "settings": {"http": {"max_body_size": 16 << 20, "chunked_transform": true}},
        });
        self.control("PUT", "/config", &config.to_string())
    }

    /// Asks the control API.
    pub fn control(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.dir.join("control")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let response = receive(&mut stream);
        let shown = serde_json::from_slice(&response.body).unwrap();
        (response.status, shown)
    }

    /// Opens a connection to the listener.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, and receives one response.
    pub fn exchange(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        receive(&mut stream)
    }

    pub fn get(&self, target: &str) -> Response {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
    }

    /// The process that answers.
    pub fn app_pid(&self) -> i32 {
        let response = self.get("/pid");
        assert_eq!(response.status, 200, "{}", self.log());
        response.text().trim().parse().unwrap()
    }

    /// All processes below the main process.
    pub fn children(&self) -> Vec<i32> {
        let mut found = vec![self.child.id() as i32];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let list = list.unwrap_or_default();
            found.extend(
                list.split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
            next += 1;
        }
        found.split_off(1)
    }

    pub fn main_pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// A file of the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "no {what}:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the main process.
    pub fn signal(&self, name: &str) {
        kill(self.child.id() as i32, name);
    }

    /// Waits for the end of the main process; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "no end:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the host:\n{}", self.log());
        }
        // Prototypes and application processes die with their parents.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn kill(pid: i32, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Receives one response; a body without a length lasts to the end.
pub fn receive(stream: &mut impl Read) -> Response {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(more(stream, &mut bytes), "no head: {bytes:?}");
    };
    let mut body = bytes.split_off(head_end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = field(&head, "content-length").map(|value| value.parse::<usize>().unwrap());
    let chunked = field(&head, "transfer-encoding").is_some();
    let mut whole = true;
    if chunked {
        while !body.ends_with(b"0\r\n\r\n") && whole {
            whole = more(stream, &mut body);
        }
        body = dechunk(&body);
    } else if let Some(length) = length {
        while body.len() < length && whole {
            whole = more(stream, &mut body);
        }
    } else {
        while more(stream, &mut body) {}
    }
    Response {
        status,
        head,
        body,
        whole,
    }
}

/// The value of a field of a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (other, value) = line.split_once(": ")?;
        other.eq_ignore_ascii_case(name).then_some(value)
    })
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 65536];
    // A reset is an end as well.
    match stream.read(&mut buffer) {
        Ok(count) => {
            bytes.extend_from_slice(&buffer[..count]);
            count != 0
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("the host keeps silent")
        }
        Err(_) => false,
    }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        bytes = &bytes[end + 2..];
        let part = size.min(bytes.len());
        out.extend_from_slice(&bytes[..part]);
        bytes = bytes.get(size + 2..).unwrap_or_default();
    }
    out
}

/// What `/download` sends.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}
