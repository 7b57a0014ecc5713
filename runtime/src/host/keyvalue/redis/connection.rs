//! One connection to the server for each event loop, made anew when it breaks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, ProtocolVersion, RedisConnectionInfo,
    RedisError, RedisResult, Value, cmd, from_redis_value,
};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::host::event_loop::PerLoop;
use crate::host::keyvalue::dial::{Address, Dialer};

/// A connection that has not been used for so long is tried out first, before
/// something is sent over it that must not be sent twice.
const IDLE: Duration = Duration::from_secs(1);

/// What to do when a connection breaks while something is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Nobody knows whether it has been done: say so.
    Once,
    /// Make another connection and send it again.
    Twice,
}

/// The connections of a process to one database.
pub(super) struct Connections {
    address: Address,
    info: RedisConnectionInfo,
    dialer: Dialer,
    patience: Duration,
    /// The task behind a connection is on the event loop that has made it.
    slots: PerLoop<Slot>,
}

/// Locked while a connection is made, so that it is made once.
type Slot = Mutex<Option<Connection>>;

#[derive(Clone)]
struct Connection {
    commands: MultiplexedConnection,
    driver: Arc<Driver>,
    used: Instant,
}

/// The task that reads and writes. It ends with the last user of the
/// connection, whatever the server does.
struct Driver {
    task: JoinHandle<()>,
    /// The connection is of no more use. Who is still on it keeps it until the
    /// end of what is under way.
    broken: AtomicBool,
    /// An answer that takes longer is a bad sign.
    patience: Duration,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Driver {
    fn usable(&self) -> bool {
        !self.task.is_finished() && !self.broken.load(Ordering::Relaxed)
    }
}

/// What can be sent.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    Command(&'a Cmd),
    Transaction(&'a Pipeline),
}

impl Connection {
    /// Sends, and gives the connection up if it is of no more use.
    async fn send(&self, what: What<'_>) -> RedisResult<Value> {
        let mut commands = self.commands.clone();
        let mut under_way = UnderWay {
            driver: &self.driver,
            since: Instant::now(),
            answered: false,
        };
        let answer = match what {
            What::Command(command) => command.query_async(&mut commands).await,
            What::Transaction(transaction) => transaction.query_async(&mut commands).await,
        };
        under_way.answered = true;
        if answer
            .as_ref()
            .is_err_and(RedisError::is_unrecoverable_error)
        {
            self.driver.broken.store(true, Ordering::Relaxed);
        }
        answer
    }
}

/// Something under way. If it is dropped after a while without an answer, a
/// server that hangs may be why.
struct UnderWay<'a> {
    driver: &'a Driver,
    since: Instant,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() > self.driver.patience {
            self.driver.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Connections {
    pub fn new(
        address: Address,
        database: i64,
        login: Option<(Option<String>, String)>,
        dialer: Dialer,
        patience: Duration,
    ) -> Self {
        let mut info = RedisConnectionInfo::default()
            .set_db(database)
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if let Some((user, password)) = login {
            info = info.set_password(password);
            if let Some(user) = user {
                info = info.set_username(user);
            }
        }
        Self {
            address,
            info,
            dialer,
            patience,
            slots: PerLoop::default(),
        }
    }

    /// Sends something over this event loop's connection.
    pub async fn run<T: FromRedisValue>(&self, attempt: Attempt, what: What<'_>) -> RedisResult<T> {
        let slot = self.slots.get(|| Some(Slot::default()));
        let slot = slot.ok_or_else(|| io::Error::other("there is no event loop"))?;
        let mut connection = self.connection(&slot).await?;
        if attempt == Attempt::Once && connection.used.elapsed() > IDLE {
            let alive = connection.send(What::Command(&cmd("PING"))).await;
            if alive.is_err() {
                connection = self.connection(&slot).await?;
            }
        }
        let value = match connection.send(what).await {
            Err(error) if error.is_unrecoverable_error() && attempt == Attempt::Twice => {
                connection = self.connection(&slot).await?;
                connection.send(what).await?
            }
            answered => answered?,
        };
        Ok(from_redis_value(value)?)
    }

    async fn connection(&self, slot: &Slot) -> RedisResult<Connection> {
        let mut slot = slot.lock().await;
        match &mut *slot {
            Some(connection) if connection.driver.usable() => {
                let current = connection.clone();
                connection.used = Instant::now();
                Ok(current)
            }
            _ => {
                let new = timeout(self.patience, self.connect())
                    .await
                    .unwrap_or_else(|_| Err(self.failed(&io::ErrorKind::TimedOut.into())))?;
                Ok(slot.insert(new).clone())
            }
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let stream = self.dialer.dial(&self.address).await;
        let stream = stream.map_err(|e| self.failed(&e))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (commands, driver) =
            MultiplexedConnection::new_with_config(&self.info, stream, config).await?;
        Ok(Connection {
            commands,
            driver: Arc::new(Driver {
                task: tokio::spawn(driver),
                broken: AtomicBool::new(false),
                patience: IDLE.min(self.patience / 2),
            }),
            used: Instant::now(),
        })
    }

    fn failed(&self, error: &io::Error) -> RedisError {
        let Address { host, port, .. } = &self.address;
        let text = format!("connecting to {host}:{port}: {error}");
        io::Error::new(error.kind(), text).into()
    }
}
