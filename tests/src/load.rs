//! Clients that send healthy requests and check every answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::guests::Download;
use crate::http::{Conn, Error, PATIENCE, Request, Response};
use crate::wait::wait_for;

/// What a client has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Correct answers.
    pub done: u64,
    /// What was wrong with the others.
    pub faults: Vec<String>,
    /// The longest wait for an answer.
    pub slowest: Duration,
}

impl Tally {
    /// Adds up two tallies.
    fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.faults.extend(other.faults);
        self.slowest = self.slowest.max(other.slowest);
    }

    /// Takes out the faults that end in `what`, and says how many there were.
    pub fn forgive(&mut self, what: &str) -> usize {
        let before = self.faults.len();
        self.faults.retain(|fault| !fault.ends_with(what));
        before - self.faults.len()
    }

    /// Panics if anything was wrong, or nothing was asked at all.
    #[track_caller]
    pub fn assert_clean(&self) {
        let shown = &self.faults[..self.faults.len().min(10)];
        let count = self.faults.len();
        assert!(count == 0, "{count} wrong of {}: {shown:#?}", self.done);
        assert!(self.done > 0, "no request was answered");
    }
}

/// What a client makes of the request with a number: it asks and checks.
pub type Outcome = Result<(), String>;

/// A client with a connection that it keeps.
pub struct Client {
    addr: SocketAddr,
    keep: bool,
    patience: Duration,
    conn: Option<Conn>,
}

impl Client {
    /// A client that keeps its connection between requests.
    pub fn keeping(addr: SocketAddr) -> Self {
        Self {
            addr,
            keep: true,
            patience: PATIENCE,
            conn: None,
        }
    }

    /// Sets how long it waits for an answer.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A client that opens a connection for each request.
    pub fn fresh(addr: SocketAddr) -> Self {
        Self {
            keep: false,
            ..Self::keeping(addr)
        }
    }

    /// Sends a request; a kept connection that turns out to be closed before
    /// an answer is opened again, once, as clients do.
    pub fn exchange(&mut self, request: &Request) -> Result<Response, Error> {
        let kept = self.conn.take();
        let mut result = match kept {
            Some(conn) => self.on(conn, request),
            None => Err(Error::Closed),
        };
        let reopen = match &result {
            Err(Error::Closed) => true,
            Err(Error::Io(error)) => matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ),
            _ => false,
        };
        if reopen {
            let conn = Conn::try_open(self.addr).map_err(Error::Io)?;
            result = self.on(conn, request);
        }
        result
    }

    fn on(&mut self, mut conn: Conn, request: &Request) -> Result<Response, Error> {
        conn.set_patience(self.patience);
        let response = conn.exchange(request)?;
        let closing = response.head.first("connection");
        if self.keep && closing.as_deref() != Some("close") {
            self.conn = Some(conn);
        }
        Ok(response)
    }
}

/// Clients at work until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts one client for each of `clients`.
    pub fn start<A>(clients: Vec<Client>, ask: A) -> Self
    where
        A: Fn(&mut Client, u64) -> Outcome + Send + Sync + 'static,
    {
        let ask = Arc::new(ask);
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let start = |(index, mut client): (usize, Client)| {
            let stop = Arc::clone(&stop);
            let answered = Arc::clone(&answered);
            let ask = Arc::clone(&ask);
            thread::spawn(move || {
                let mut tally = Tally::default();
                let mut number = index as u64 * 1_000_003;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    tally.merge(once(&mut client, &*ask, number));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                tally
            })
        };
        let clients = clients.into_iter().enumerate().map(start).collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Two clients whose answers must not be touched by what else happens.
    pub fn neighbours(addr: SocketAddr) -> Self {
        let clients = vec![Client::keeping(addr), Client::fresh(addr)];
        let load = Self::start(clients, mixed);
        load.wait_for_more(4);
        load
    }

    /// Requests answered so far, rightly or wrongly.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` further requests have been answered.
    #[track_caller]
    pub fn wait_for_more(&self, more: u64) {
        let goal = self.answered() + more;
        let limit = Duration::from_secs(60);
        let reached = wait_for(limit, || (self.answered() >= goal).then_some(()));
        assert!(
            reached.is_some(),
            "the neighbours are not answered any more"
        );
    }

    /// Stops the clients and adds up what they have seen.
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients.drain(..) {
            sum.merge(client.join().expect("a client thread"));
        }
        sum
    }
}

impl Drop for Load {
    /// A test that fails must not leave clients behind that keep the machine
    /// busy during the others.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends `count` requests from each of `clients` and adds up the tallies.
pub fn run<A>(clients: Vec<Client>, count: u64, ask: A) -> Tally
where
    A: Fn(&mut Client, u64) -> Outcome + Sync,
{
    let mut sum = Tally::default();
    let ask = &ask;
    thread::scope(|scope| {
        let work = |(index, mut client): (usize, Client)| {
            scope.spawn(move || {
                let mut tally = Tally::default();
                for number in 0..count {
                    let number = index as u64 * 1_000_003 + number;
                    tally.merge(once(&mut client, ask, number));
                }
                tally
            })
        };
        let threads: Vec<_> = clients.into_iter().enumerate().map(work).collect();
        for thread in threads {
            sum.merge(thread.join().expect("a client thread"));
        }
    });
    sum
}

fn once(client: &mut Client, ask: impl Fn(&mut Client, u64) -> Outcome, number: u64) -> Tally {
    let begin = Instant::now();
    let result = ask(client, number);
    let faults = result.err().map(|why| format!("request {number}: {why}"));
    Tally {
        done: u64::from(faults.is_none()),
        faults: faults.into_iter().collect(),
        slowest: begin.elapsed(),
    }
}

/// `size` bytes that no other `number` has.
pub fn body_of(number: u64, size: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = number.to_be_bytes().to_vec();
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(size.max(8));
    bytes
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Largest chunked body that every host takes, see
/// [`crate::Host::takes_large_chunked_bodies`].
pub const SMALL_CHUNKED: usize = 1000;

/// Asks for the echo of a body of its own.
pub fn echo(client: &mut Client, number: u64) -> Outcome {
    let mut body = body_of(number, usize::try_from(number * 977 % 40_000).unwrap_or(0));
    let request = match number % 3 {
        0 => {
            body.truncate(SMALL_CHUNKED);
            Request::post_chunked("/echo", body.clone())
        }
        1 => Request::post("/echo?length=1", body.clone()),
        _ => Request::post("/echo", body.clone()),
    };
    let response = checked(client, &request)?;
    if response.body == body {
        return Ok(());
    }
    Err(format!(
        "another body came back, {} bytes",
        response.body.len()
    ))
}

/// Goes round the lab guest's healthy routes.
pub fn mixed(client: &mut Client, number: u64) -> Outcome {
    match number % 6 {
        0 | 1 => echo(client, number),
        2 => {
            let body = body_of(number, 30_000);
            let expected = format!("{} {}\n", sha256(&body), body.len());
            let response = checked(client, &Request::post("/sha256", body))?;
            same(&response.text(), &expected)
        }
        3 => {
            let size = usize::try_from(number * 7919 % 200_000).unwrap_or(0);
            let length = number % 2;
            let target = format!("/download?bytes={size}&length={length}");
            let response = checked(client, &Request::get(target))?;
            let mut expected = Download::default();
            expected.check(&response.body)?;
            same(&expected.seen().to_string(), &size.to_string())
        }
        4 => {
            let token = format!("token-{number}");
            let request = Request::get("/request").header("x-token", &token);
            let response = checked(client, &request)?;
            let line = format!("x-token={}", hex(token.as_bytes()));
            let text = response.text();
            let found = text.lines().any(|given| given == line);
            found
                .then_some(())
                .ok_or_else(|| format!("no {line} in {text:?}"))
        }
        _ => {
            let response = checked(client, &Request::get("/counter"))?;
            same(&response.text(), "1\n")
        }
    }
}

/// Sends a request that has to be answered with 200.
pub fn checked(client: &mut Client, request: &Request) -> Result<Response, String> {
    let response = client
        .exchange(request)
        .map_err(|error| error.to_string())?;
    match response.status() {
        200 => Ok(response),
        status => Err(format!("status {status}: {}", response.text())),
    }
}

fn same(given: &str, expected: &str) -> Outcome {
    if given == expected {
        return Ok(());
    }
    Err(format!("{given:?} instead of {expected:?}"))
}
