//! Connections that are used for more than one request, of one event loop.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, sleep};

use super::body::Upload;
use super::origin::Origin;

/// Unused connections to one origin, and to all.
const IDLE_PER_ORIGIN: usize = 64;
const IDLE: usize = 128;
/// A connection is not used for longer than this, so that changes of a name's
/// addresses are seen some time.
const AGE: Duration = Duration::from_secs(300);
/// Origins that are known. More are only if there is a connection to each of them.
const PEERS: usize = 1024;
/// How long what is of no use any more is kept at most.
const SWEEP: Duration = Duration::from_secs(60);
/// Requests at a time in one HTTP/2 connection.
pub(super) const STREAMS: usize = 64;

/// A connection that takes one request after the other.
pub(super) struct Http1 {
    pub sender: http1::SendRequest<Upload>,
    born: Instant,
    idle_since: Instant,
}

impl Http1 {
    pub fn new(sender: http1::SendRequest<Upload>) -> Self {
        let now = Instant::now();
        Self {
            sender,
            born: now,
            idle_since: now,
        }
    }
}

/// A connection that takes several requests at a time.
#[derive(Clone)]
pub(super) struct Http2 {
    pub sender: http2::SendRequest<Upload>,
    shared: Arc<Shared>,
}

struct Shared {
    born: Instant,
    streams: AtomicUsize,
    /// Milliseconds after `born` when the last request ended.
    used: AtomicU64,
    broken: AtomicBool,
    /// Requests at a time that the peer allows.
    allowed: AtomicUsize,
}

impl Http2 {
    /// A connection that is already used for one request.
    pub fn new(sender: http2::SendRequest<Upload>) -> (Self, Stream) {
        let shared = Arc::new(Shared {
            born: Instant::now(),
            streams: AtomicUsize::new(1),
            used: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            allowed: AtomicUsize::new(STREAMS),
        });
        let stream = Stream(Arc::clone(&shared));
        (Self { sender, shared }, stream)
    }

    /// No further request should go there.
    pub fn give_up(&self) {
        self.shared.broken.store(true, Ordering::Relaxed);
    }

    /// Tells how many requests the peer allows, now and later.
    pub fn allowance(&self) -> impl Fn(usize) + Send + use<> {
        let shared = Arc::downgrade(&self.shared);
        move |allowed| {
            if let Some(shared) = shared.upgrade() {
                shared.allowed.store(allowed, Ordering::Relaxed);
            }
        }
    }

    /// One more request, if there is room.
    fn stream(&self) -> Option<Stream> {
        let streams = &self.shared.streams;
        let most = STREAMS.min(self.shared.allowed.load(Ordering::Relaxed));
        // Only this event loop counts up.
        (streams.load(Ordering::Relaxed) < most).then(|| {
            streams.fetch_add(1, Ordering::Relaxed);
            Stream(Arc::clone(&self.shared))
        })
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed()
            && !self.shared.broken.load(Ordering::Relaxed)
            && self.shared.born.elapsed() < AGE
    }

    fn is_idle_for(&self, long: Duration) -> bool {
        let used = Duration::from_millis(self.shared.used.load(Ordering::Relaxed));
        self.shared.streams.load(Ordering::Relaxed) == 0
            && (self.shared.born + used).elapsed() >= long
    }
}

/// One request in an HTTP/2 connection.
pub(super) struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        let used = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used.store(used, Ordering::Relaxed);
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection for one request.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2, Stream),
}

/// What is known of an origin.
#[derive(Default)]
struct Peer {
    idle: VecDeque<Http1>,
    shared: Vec<Http2>,
    /// Held while connecting, as long as the connection could be one that
    /// others can share.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// It has been found to speak HTTP/1 only.
    http1: bool,
}

impl Peer {
    /// Whether there is a connection, or will be.
    fn is_in_use(&self) -> bool {
        !self.idle.is_empty() || !self.shared.is_empty() || Arc::strong_count(&self.turn) > 1
    }
}

/// The connections of one event loop.
pub(super) struct Pool {
    keep_alive: Duration,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    by_origin: HashMap<Origin, Peer>,
    /// A task will sweep.
    swept: bool,
    /// With so many origins, those that are not in use are forgotten.
    full: usize,
    /// Connections that can be added before all have to be counted.
    room: usize,
}

impl Pool {
    /// A pool that keeps unused connections for `keep_alive`.
    pub fn new(keep_alive: Duration) -> Self {
        Self {
            keep_alive,
            peers: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that has been used before.
    pub fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut peers = self.lock();
        let peer = peers.by_origin.get_mut(origin)?;
        peer.shared.retain(Http2::is_usable);
        for connection in &peer.shared {
            if let Some(stream) = connection.stream() {
                return Some(Connection::Http2(connection.clone(), stream));
            }
        }
        // The one used last is the least likely to have been closed.
        while let Some(connection) = peer.idle.pop_back() {
            if connection.sender.is_ready() && connection.born.elapsed() < AGE {
                return Some(Connection::Http1(connection));
            }
        }
        None
    }

    /// What has to be held while connecting to `origin`, if anything.
    pub fn turn(self: &Arc<Self>, origin: &Origin) -> Option<Arc<tokio::sync::Mutex<()>>> {
        if !origin.tls || self.keep_alive.is_zero() {
            return None;
        }
        let mut peers = self.lock();
        let peer = peers.entry(origin);
        let turn = (!peer.http1).then(|| Arc::clone(&peer.turn));
        self.see_to_sweeping(&mut peers);
        turn
    }

    /// Nothing can be shared with `origin`.
    pub fn only_http1(&self, origin: &Origin) {
        if let Some(peer) = self.lock().by_origin.get_mut(origin) {
            peer.http1 = true;
        }
    }

    /// Takes in a connection whose last request is done.
    pub fn put(self: &Arc<Self>, origin: &Origin, mut connection: Http1) {
        if self.keep_alive.is_zero() || connection.born.elapsed() >= AGE {
            return;
        }
        connection.idle_since = Instant::now();
        let mut peers = self.lock();
        let peer = peers.entry(origin);
        peer.idle.push_back(connection);
        if peer.idle.len() > IDLE_PER_ORIGIN {
            peer.idle.pop_front();
        }
        peers.trim();
        self.see_to_sweeping(&mut peers);
    }

    /// Lets others use `connection` too.
    pub fn share(self: &Arc<Self>, origin: &Origin, connection: Http2) {
        if self.keep_alive.is_zero() {
            return;
        }
        let mut peers = self.lock();
        let peer = peers.entry(origin);
        peer.shared.push(connection);
        peers.trim();
        self.see_to_sweeping(&mut peers);
    }

    fn see_to_sweeping(self: &Arc<Self>, peers: &mut Peers) {
        if std::mem::replace(&mut peers.swept, true) {
            return;
        }
        let (pool, keep_alive) = (Arc::downgrade(self), self.keep_alive);
        tokio::spawn(sweep(pool, keep_alive));
    }

    /// Unused connections, for tests.
    #[cfg(test)]
    pub fn unused(&self) -> usize {
        self.lock().unused()
    }

    /// Origins of which something is known, for tests.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        self.lock().by_origin.len()
    }
}

/// Closes what has not been used for long, until nothing is left.
async fn sweep(pool: Weak<Pool>, keep_alive: Duration) {
    loop {
        sleep((keep_alive / 4).clamp(Duration::from_millis(10), SWEEP)).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut peers = pool.lock();
        peers.sweep(keep_alive);
        if peers.by_origin.is_empty() {
            peers.swept = false;
            return;
        }
    }
}

impl Peers {
    fn sweep(&mut self, keep_alive: Duration) {
        self.by_origin.retain(|_, peer| {
            peer.idle.retain(|c| {
                c.idle_since.elapsed() < keep_alive && c.born.elapsed() < AGE && c.sender.is_ready()
            });
            peer.shared
                .retain(|c| c.is_usable() && !c.is_idle_for(keep_alive));
            peer.is_in_use()
        });
    }

    /// What is known of `origin`. A guest that may ask any host decides how many
    /// there are.
    fn entry(&mut self, origin: &Origin) -> &mut Peer {
        if self.by_origin.len() >= self.full {
            self.by_origin.retain(|_, peer| peer.is_in_use());
            self.full = PEERS.max(2 * self.by_origin.len());
        }
        self.by_origin.entry(origin.clone()).or_default()
    }

    fn unused(&self) -> usize {
        let unused = |peer: &Peer| {
            let shared = peer.shared.iter();
            peer.idle.len() + shared.filter(|c| c.is_idle_for(Duration::ZERO)).count()
        };
        self.by_origin.values().map(unused).sum()
    }

    /// Closes the connections that have been unused for longest, of those that
    /// are too many. Called whenever one is added.
    fn trim(&mut self) {
        if self.room > 0 {
            self.room -= 1;
            return;
        }
        let mut unused = self.unused();
        while unused > IDLE {
            let oldest = self
                .by_origin
                .values_mut()
                .filter(|peer| !peer.idle.is_empty())
                .min_by_key(|peer| peer.idle.front().map(|c| c.idle_since));
            if oldest.and_then(|peer| peer.idle.pop_front()).is_none() {
                // They are all of the kind that is shared.
                for peer in self.by_origin.values_mut() {
                    peer.shared.retain(|c| !c.is_idle_for(Duration::ZERO));
                }
                break;
            }
            unused -= 1;
        }
        // Those in use may be unused when the next is added.
        let kept = |peer: &Peer| peer.idle.len() + peer.shared.len();
        self.room = IDLE.saturating_sub(self.by_origin.values().map(kept).sum());
    }
}
