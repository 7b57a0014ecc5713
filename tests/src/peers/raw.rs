//! A TCP server that does what HTTP does not allow, or knows nothing of it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::launch::next_ip;

type Script = dyn Fn(&mut TcpStream, usize) -> io::Result<()> + Send + Sync;

/// A server whose every connection runs a script in a thread of its own, and is
/// closed when the script returns.
pub struct RawPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    accepted: AtomicUsize,
    closed: AtomicUsize,
    stopping: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl RawPeer {
    /// Starts a server; `script` gets each connection, and its number.
    pub fn start(
        script: impl Fn(&mut TcpStream, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((next_ip(), 0)).expect("an address for a peer");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            accepted: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(&listener, &accepting));
        Self {
            addr,
            shared,
            thread: Some(thread),
        }
    }

    /// Reads one request and answers these bytes, whatever they are, as often as
    /// it is asked on a connection.
    pub fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |stream, _| {
            while read_head(stream)? {
                stream.write_all(&response)?;
            }
            Ok(())
        })
    }

    /// Reads one request, answers these bytes and closes the connection.
    pub fn answering_once(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |stream, _| {
            read_head(stream)?;
            stream.write_all(&response)
        })
    }

    /// Reads, and never answers.
    pub fn silent() -> Self {
        Self::start(|stream, _| {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).map(drop)
        })
    }

    /// Sends back what it receives.
    pub fn echo() -> Self {
        Self::start(|stream, _| {
            let mut output = stream.try_clone()?;
            io::copy(stream, &mut output).map(drop)
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of `target` by the server's address.
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.addr)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many of them it has closed.
    pub fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(5));
        for stream in self.shared.open.lock().expect("connections").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut scripts = Vec::new();
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let mut stream = stream.expect("a connection");
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let same = stream.try_clone().expect("a second descriptor");
        let mut open = shared.open.lock().expect("connections");
        // Whoever stops it has been through the list, or finds this one there.
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        open.push(same);
        drop(open);
        let shared = Arc::clone(shared);
        scripts.push(thread::spawn(move || {
            // A client that goes away is none of its business.
            let _ = (shared.script)(&mut stream, number);
            let _ = stream.shutdown(Shutdown::Both);
            shared.closed.fetch_add(1, Ordering::SeqCst);
        }));
    }
    for script in scripts {
        let _ = script.join();
    }
}

/// Reads up to the end of a head; false if the connection ends before one.
pub fn read_head(stream: &mut TcpStream) -> io::Result<bool> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    Ok(true)
}

/// An address where nobody listens.
pub fn deserted() -> SocketAddr {
    crate::launch::free_addr(next_ip())
}

/// An address where a connection is never made: its queue is full.
pub struct Unreachable {
    addr: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Unreachable {
    /// Fills the queue of a listener that accepts nobody.
    pub fn start() -> Self {
        let listener = listen_without_queue(next_ip());
        let addr = listener.local_addr().expect("its address");
        let patience = Duration::from_millis(300);
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&addr, patience) {
            queue.push(stream);
            assert!(queue.len() < 100, "the queue has no end");
        }
        Self {
            addr,
            _listener: listener,
            _queue: queue,
        }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn listen_without_queue(ip: Ipv4Addr) -> TcpListener {
    use std::os::fd::AsRawFd;
    let listener = TcpListener::bind((ip, 0)).expect("an address for a peer");
    // SAFETY: listen takes two integers; the descriptor is open. To call it once
    // more changes the length of the queue.
    let rc = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    assert_eq!(rc, 0, "listen: {}", io::Error::last_os_error());
    listener
}
