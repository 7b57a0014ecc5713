//! A bucket's store, whatever it is.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::{Address, Dialer};
use super::fs::Directory;
use super::grant::{BucketGrant, KeyvalueGrant, Place, S3Place};
use super::memory::{Memory, Room};
use super::number::Range;
use super::paging::Page;
use super::problem::Problem;
use super::redis::Redis;
use super::s3::S3;
use crate::host::dns::{DnsConfig, Resolver};

/// Longest time for making a connection, and its longest part of the time that
/// there is for an operation: that it took too long should be told as such.
const CONNECT: Duration = Duration::from_secs(5);
const CONNECT_PART: f64 = 0.75;

/// Where the values of one bucket are.
///
/// Keys have at most [`MAX_KEY`](super::MAX_KEY) bytes. Whoever uses it sees
/// to that, to how long values may be, and to how long it may take.
pub struct Store(Kind);

enum Kind {
    Memory(Memory),
    Directory(Directory),
    Redis(Redis),
    S3(S3),
}

/// The value of a key as it was at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The value, if there was one.
    pub value: Option<Bytes>,
    /// What the store calls this version of it.
    pub(super) tag: Option<String>,
}

/// What the stores of a process have in common.
pub struct Common {
    room: Arc<Room>,
    dialer: Dialer,
    patience: Duration,
    connect: Duration,
}

impl Common {
    /// Makes what `grant` asks for. Names of servers are looked up as `dns`
    /// says. Connects to nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for the operator.
    pub fn new(grant: &KeyvalueGrant, dns: DnsConfig) -> Result<Self, String> {
        Self::with(grant, Arc::new(Resolver::new(dns)))
    }

    /// The same, names of servers being looked up by `resolver`.
    pub(crate) fn with(grant: &KeyvalueGrant, resolver: Arc<Resolver>) -> Result<Self, String> {
        let patience = grant.limits.timeout;
        let connect = patience.mul_f64(CONNECT_PART).min(CONNECT);
        Ok(Self {
            room: Arc::new(Room::new(grant.limits.memory)),
            dialer: Dialer::new(&grant.authorities, resolver, connect)?,
            patience,
            connect,
        })
    }

    /// The objects of an S3 store, for what is no key-value store. None that is
    /// longer than `most` bytes is received. Connects when it is first used.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, for the operator.
    pub fn objects(&self, place: &S3Place, most: usize) -> Result<opendal::Operator, String> {
        super::s3::operator("store", place, most, self.dialer.clone())
    }

    /// Connects to a server in the way that servers of buckets are connected to.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        tls: bool,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let host = host.to_owned();
        self.dialer.dial(&Address { host, port, tls }).await
    }
}

impl Store {
    /// Opens the store of a bucket: a directory at once, a server when it is
    /// first asked for something. Needs no event loop.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, for the operator.
    pub fn open(bucket: &BucketGrant, common: &Common) -> Result<Self, String> {
        let patience = common.patience;
        let dialer = common.dialer.clone();
        Ok(Self(match &bucket.place {
            Place::Memory => Kind::Memory(Memory::new(Arc::clone(&common.room))),
            Place::Directory(path) => {
                Kind::Directory(Directory::open(path, bucket.readonly, patience)?)
            }
            Place::Redis(place) => {
                Kind::Redis(Redis::new(&bucket.name, place, dialer, common.connect)?)
            }
            Place::S3(place) => Kind::S3(S3::new(&bucket.name, place, bucket.max_value, dialer)?),
        }))
    }

    /// The value of a key, if it has one of at most `most` bytes.
    pub async fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, Problem> {
        match &self.0 {
            Kind::Memory(store) => store.get(key, most),
            Kind::Directory(store) => store.get(key, most).await,
            Kind::Redis(store) => store.get(key, most).await,
            Kind::S3(store) => store.get(key, most).await,
        }
    }

    /// Whether a key has a value.
    pub async fn exists(&self, key: &str) -> Result<bool, Problem> {
        match &self.0 {
            Kind::Memory(store) => Ok(store.exists(key)),
            Kind::Directory(store) => store.exists(key).await,
            Kind::Redis(store) => store.exists(key).await,
            Kind::S3(store) => store.exists(key).await,
        }
    }

    /// Gives a key a value.
    pub async fn set(&self, key: &str, value: Bytes) -> Result<(), Problem> {
        match &self.0 {
            Kind::Memory(store) => store.set(key, value),
            Kind::Directory(store) => store.set(key, value).await,
            Kind::Redis(store) => store.set(key, value).await,
            Kind::S3(store) => store.set(key, value).await,
        }
    }

    /// Takes a key's value away, if it has one.
    pub async fn delete(&self, key: &str) -> Result<(), Problem> {
        match &self.0 {
            Kind::Memory(store) => {
                store.delete(key);
                Ok(())
            }
            Kind::Directory(store) => store.delete(key).await,
            Kind::Redis(store) => store.delete(key).await,
            Kind::S3(store) => store.delete(key).await,
        }
    }

    /// Some of the keys. `cursor` is what the page before has told.
    pub async fn list(&self, cursor: Option<&str>) -> Result<Page<String>, Problem> {
        match &self.0 {
            Kind::Memory(store) => Ok(store.list(cursor)),
            Kind::Directory(store) => store.list(cursor).await,
            Kind::Redis(store) => {
                let cursor = cursor.unwrap_or("0").parse();
                let page = store.list(cursor.map_err(|_| Problem::Cursor)?).await?;
                Ok(page.map(|next| next.to_string()))
            }
            Kind::S3(store) => store.list(cursor).await,
        }
    }

    /// The same with numbers for cursors. All stores but Redis have to go
    /// through all of their keys for each page of it.
    pub async fn list_numbered(&self, cursor: Option<u64>) -> Result<Page<u64>, Problem> {
        match &self.0 {
            Kind::Memory(store) => Ok(store.list_by_hash(cursor)),
            Kind::Directory(store) => store.list_by_hash(cursor).await,
            Kind::Redis(store) => store.list(cursor.unwrap_or(0)).await,
            Kind::S3(store) => store.list_by_hash(cursor).await,
        }
    }

    /// Adds `delta` to the number that a key has as its value, or gives it
    /// that value if it has none. Nothing comes between reading and writing.
    pub async fn increment(&self, key: &str, delta: i64, range: Range) -> Result<i64, Problem> {
        match &self.0 {
            Kind::Memory(store) => store.increment(key, delta, range),
            Kind::Directory(store) => store.increment(key, delta, range).await,
            Kind::Redis(store) => store.increment(key, delta, range).await,
            Kind::S3(store) => store.increment(key, delta, range).await,
        }
    }

    /// The value of a key, to be replaced if it is still the same then.
    pub async fn observe(&self, key: &str, most: usize) -> Result<Seen, Problem> {
        if let Kind::S3(store) = &self.0 {
            return store.observe(key, most).await;
        }
        let value = self.get(key, most).await?;
        Ok(Seen { value, tag: None })
    }

    /// Gives a key a value if what it has is what was `seen`. False if not.
    pub async fn replace(&self, key: &str, seen: &Seen, value: Bytes) -> Result<bool, Problem> {
        match &self.0 {
            Kind::Memory(store) => store.replace(key, seen, value),
            Kind::Directory(store) => store.replace(key, seen, value).await,
            Kind::Redis(store) => store.replace(key, seen, value).await,
            Kind::S3(store) => store.replace(key, seen, value).await,
        }
    }
}

/// Between half of `longest` and all of it, not the same for all that wait.
pub(super) fn jitter(longest: Duration) -> Duration {
    let random = RandomState::new().hash_one((std::process::id(), Instant::now()));
    let part = 0.5 + (random % 1024) as f64 / 2048.0;
    longest.mul_f64(part)
}
