//! Buckets in a Redis server, or another that speaks its protocol.
//!
//! Not OpenDAL's `redis` service: it cannot list, has no atomic operation,
//! reads values of any length, and asks the server for a sign of life before
//! each operation. This is on the `redis` crate that OpenDAL is on too, all of
//! it, so that there is one connection and one view of what is stored.
//!
//! A key is the bucket's prefix and the guest's key, a value a Redis string:
//! other programs can use them as they are.

mod connection;

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, cmd, pipe};
use bytes::Bytes;

use self::connection::{Attempt, Connections, What};
use super::dial::{Address, Dialer};
use super::grant::{RedisAddress, RedisPlace};
use super::names::MAX_KEY;
use super::number::Range;
use super::paging::{PAGE, Page};
use super::problem::Problem;
use super::store::Seen;

/// Keys that the server looks at for each part of a page.
const COUNT: usize = PAGE / 2;
/// Parts of a page; a database can have many keys beside those of a bucket.
const PARTS: usize = 100;

/// Adds to a number that must not be negative. Lua's own numbers are not exact
/// enough to return, so the sum is read as text.
const INCREMENT_UNSIGNED: &str = "\
    local v = redis.call('GET', KEYS[1]) \
    if v and string.sub(v, 1, 1) == '-' then return false end \
    redis.call('INCRBY', KEYS[1], ARGV[1]) \
    return redis.call('GET', KEYS[1])";

/// Sets a value if the one before is still there.
const REPLACE: &str = "\
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2]) \
    return 1";

/// One bucket.
pub(super) struct Redis {
    connections: Connections,
    prefix: String,
}

impl Redis {
    /// Connects when it is first used.
    pub fn new(
        bucket: &str,
        place: &RedisPlace,
        dialer: Dialer,
        patience: Duration,
    ) -> Result<Self, String> {
        let (host, port, tls) = match &place.address {
            RedisAddress::Tcp(host, port) => (host, port, false),
            RedisAddress::Tls(host, port) => (host, port, true),
        };
        let address = Address {
            host: host.clone(),
            port: *port,
            tls,
        };
        let login = place.login(bucket).map_err(|e| e.to_string())?;
        Ok(Self {
            connections: Connections::new(address, place.database, login, dialer, patience),
            prefix: place.prefix.clone(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Sends what may be sent twice.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Problem> {
        self.connections
            .run(Attempt::Twice, What::Command(command))
            .await
            .map_err(problem)
    }

    /// Sends what would be done twice.
    async fn tell<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Problem> {
        self.connections
            .run(Attempt::Once, What::Command(command))
            .await
            .map_err(problem)
    }

    pub async fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, Problem> {
        let key = self.key(key);
        // One byte more than wanted tells that there are more. As one
        // transaction, since an empty value and none look the same otherwise.
        let mut both = pipe();
        both.atomic().cmd("EXISTS").arg(&key);
        both.cmd("GETRANGE").arg(&key).arg(0).arg(most);
        let (exists, value): (bool, Bytes) = self
            .connections
            .run(Attempt::Twice, What::Transaction(&both))
            .await
            .map_err(problem)?;
        if value.len() > most {
            return Err(Problem::TooLarge(most));
        }
        Ok(exists.then_some(value))
    }

    pub async fn exists(&self, key: &str) -> Result<bool, Problem> {
        self.ask(cmd("EXISTS").arg(self.key(key))).await
    }

    pub async fn set(&self, key: &str, value: Bytes) -> Result<(), Problem> {
        self.ask(cmd("SET").arg(self.key(key)).arg(&*value)).await
    }

    pub async fn delete(&self, key: &str) -> Result<(), Problem> {
        self.ask(cmd("DEL").arg(self.key(key))).await
    }

    /// A page of about [`PAGE`] keys. The server may tell a key twice.
    pub async fn list(&self, cursor: u64) -> Result<Page<u64>, Problem> {
        let pattern = (!self.prefix.is_empty()).then(|| format!("{}*", literal(&self.prefix)));
        let (mut keys, mut cursor) = (Vec::new(), cursor);
        for _ in 0..PARTS {
            let mut scan = cmd("SCAN");
            scan.arg(cursor);
            if let Some(pattern) = &pattern {
                scan.arg("MATCH").arg(pattern);
            }
            let (next, found): (u64, Vec<Vec<u8>>) = self.ask(scan.arg("COUNT").arg(COUNT)).await?;
            // What no guest could ask for is not listed.
            keys.extend(found.into_iter().filter_map(|key| {
                let key = String::from_utf8(key).ok()?;
                let key = key.strip_prefix(&self.prefix)?;
                (key.len() <= MAX_KEY).then(|| key.to_owned())
            }));
            cursor = next;
            if cursor == 0 || keys.len() > PAGE - COUNT {
                break;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let next = (cursor != 0).then_some(cursor);
        Ok(Page { keys, next })
    }

    pub async fn increment(&self, key: &str, delta: i64, range: Range) -> Result<i64, Problem> {
        let key = self.key(key);
        if range == Range::Signed {
            return self.tell(cmd("INCRBY").arg(key).arg(delta)).await;
        }
        let mut script = cmd("EVAL");
        script.arg(INCREMENT_UNSIGNED).arg(1).arg(key).arg(delta);
        let sum: Option<i64> = self.tell(&script).await?;
        sum.ok_or(Problem::NotANumber)
    }

    pub async fn replace(&self, key: &str, seen: &Seen, value: Bytes) -> Result<bool, Problem> {
        let key = self.key(key);
        let Some(before) = &seen.value else {
            let mut new = cmd("SET");
            new.arg(key).arg(&*value).arg("NX");
            let done: Option<String> = self.tell(&new).await?;
            return Ok(done.is_some());
        };
        let mut script = cmd("EVAL");
        script.arg(REPLACE).arg(1).arg(key);
        self.tell(script.arg(&**before).arg(&*value)).await
    }
}

/// As a pattern that matches nothing but `text`.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

fn problem(error: RedisError) -> Problem {
    let text = error.to_string();
    if text.contains("not an integer") {
        Problem::NotANumber
    } else if text.contains("would overflow") {
        Problem::Overflow
    } else if error.code() == Some("OOM") {
        Problem::Full(text)
    } else {
        Problem::Failed(text)
    }
}
