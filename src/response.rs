//! Sends a response through libunit: in one message if it is small and
//! complete, else as a stream that neither blocks the event loop nor piles up
//! in the router.
//!
//! Unit carries pieces of up to 1024 bytes by value, without any limit, and
//! larger ones in shared memory, which has one. So small pieces are gathered
//! while the guest goes on producing, and a stream of nothing but small ones
//! is slowed down after a while: a client that reads nothing must not fill
//! the router's memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http_body::Body;
use nxt_wasm_runtime::{Failure, GuestBody, Reason};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::http::Framing;
use crate::unit::{CHUNK, PLAIN, Request, SendError, head_size};

/// Bytes gathered before they are sent.
const GATHER: usize = 64 * 1024;

/// Pieces sent before others get their turn.
const ROUNDS: u32 = 16;

/// A guest whose pieces come one after the other, so that it never waits for
/// anything, gives way to others after this time; after so many turns, what it has
/// produced is sent.
const TURN: Duration = Duration::from_millis(1);
const TURNS: u32 = 4;

/// Messages without shared memory that a response may send at once, and the
/// time after which it may send a further one.
const PLAIN_BURST: u32 = 64;
const PLAIN_PERIOD: Duration = Duration::from_millis(10);

/// Messages without shared memory that a large body may go on with when there
/// is none, until there is: the router keeps them for its client without limit,
/// at more than four times their size.
const SPARE: u32 = 256;

/// The body of a HEAD response without length is counted at most so far.
const HEAD_COUNT: u64 = 1024 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(1);

/// A response that was not sent to its end.
#[derive(Debug)]
pub struct Unsent {
    /// Why.
    pub failure: Failure,
    /// The guest is not to blame, and can go on.
    pub by_client: bool,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            by_client: false,
        }
    }
}

impl Unsent {
    /// One that the client, or Unit, has not taken.
    pub fn by_client(failure: Failure) -> Self {
        Self {
            failure,
            by_client: true,
        }
    }
}

/// Sends the whole response. Afterwards the request is to be done.
///
/// # Errors
///
/// The guest's failure, or one of the connection to Unit. Whether anything
/// was sent before, the request knows.
pub async fn send(
    unit: &mut Request,
    head: Response<()>,
    body: &mut GuestBody,
    framing: Framing,
    is_head: bool,
    idle: Duration,
) -> Result<(), Unsent> {
    let mut stream = Stream {
        unit,
        head: Some(head),
        body,
        buffer: BytesMut::new(),
        end: false,
        produced: 0,
        framing,
        idle,
        plain: Bucket::new(),
        spare: SPARE,
    };
    if framing == Framing::None {
        stream.send_without_body(is_head).await
    } else {
        stream.send_with_body().await
    }
}

struct Stream<'a> {
    unit: &'a mut Request,
    /// Taken when it is sent.
    head: Option<Response<()>>,
    body: &'a mut GuestBody,
    /// Produced by the guest and not yet given to Unit.
    buffer: BytesMut,
    /// The guest has finished the body.
    end: bool,
    /// Bytes that the guest has produced.
    produced: u64,
    framing: Framing,
    idle: Duration,
    plain: Bucket,
    /// Pieces that may go without shared memory until there is some again.
    spare: u32,
}

impl Stream<'_> {
    async fn send_with_body(&mut self) -> Result<(), Unsent> {
        let mut rounds = 0_u32;
        loop {
            self.gather().await?;
            if self.head.is_some() {
                self.send_head().await?;
            } else if !self.buffer.is_empty() {
                self.flush().await?;
            }
            if self.end && self.buffer.is_empty() {
                return Ok(());
            }
            if !self.end && self.buffer.is_empty() {
                self.wait().await?;
            }
            // A fast guest and a fast client could go on like this for ever.
            // Not after each round: the next write is what tells whether there
            // is shared memory left, and others would not know.
            rounds += 1;
            if rounds.is_multiple_of(ROUNDS) {
                yield_now().await;
            }
        }
    }

    /// Takes what the guest produces, letting it run, until it waits for
    /// something, has finished, or enough is there.
    async fn gather(&mut self) -> Result<(), Failure> {
        let mut turns = 0;
        let mut since = Instant::now();
        while !self.end && self.buffer.len() < GATHER {
            if since.elapsed() > TURN {
                yield_now().await;
                turns += 1;
                if turns == TURNS && !self.buffer.is_empty() {
                    break;
                }
                since = Instant::now();
            }
            let body = &mut *self.body;
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
                Poll::Ready(frame) => self.accept(frame)?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Waits for the guest to produce something.
    async fn wait(&mut self) -> Result<(), Failure> {
        let body = &mut *self.body;
        let frame = timeout(self.idle, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
        let frame = frame.await.map_err(|_| {
            Failure::new(
                Reason::Timeout,
                format!(
                    "the guest has sent nothing for {:?} (UNIT_WASM_IDLE_TIMEOUT)",
                    self.idle
                ),
            )
        })?;
        self.accept(frame)
    }

    fn accept(
        &mut self,
        frame: Option<Result<http_body::Frame<bytes::Bytes>, Failure>>,
    ) -> Result<(), Failure> {
        match frame {
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    self.produced += data.len() as u64;
                    self.buffer.extend_from_slice(&data);
                }
            }
            None => self.end = true,
        }
        let Framing::Length(length) = self.framing else {
            return Ok(());
        };
        let fits = if self.end {
            self.produced == length
        } else {
            self.produced <= length
        };
        if fits {
            return Ok(());
        }
        let than = if self.end { "shorter" } else { "longer" };
        Err(Failure::new(
            Reason::InvalidResponse,
            format!(
                "the body is {than} than its content-length {length}: {} bytes",
                self.produced
            ),
        ))
    }

    /// Sends the head, with as much of the body as there is if that can be
    /// done in one message.
    async fn send_head(&mut self) -> Result<(), Unsent> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        let fields: Vec<(&[u8], &[u8])> = head
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
            .collect();
        let status = head.status().as_u16();
        let alone = head_size(&fields, 0);
        let whole = head_size(&fields, self.buffer.len());
        let deadline = Instant::now() + self.idle;
        let content = loop {
            let events = self.unit.events();
            let content: &[u8] =
                if whole <= PLAIN || whole <= CHUNK && events.may_ask_for_memory(whole) {
                    &self.buffer
                } else {
                    &[]
                };
            let size = head_size(&fields, content.len());
            if size <= PLAIN || events.may_ask_for_memory(size) {
                let last = self.end && content.len() == self.buffer.len();
                let made = self.unit.respond(status, &fields, content, last);
                if made.map_err(broken)? {
                    break content;
                }
            }
            // A small head needs no shared memory, and the next attempt is
            // without content; it may find some later.
            if alone > PLAIN {
                self.wait_for_memory(deadline, true).await?;
            }
        };
        let sent = content.len();
        self.buffer.advance(sent);
        Ok(())
    }

    /// Gives Unit what has been gathered.
    async fn flush(&mut self) -> Result<(), Unsent> {
        if self.buffer.len() <= PLAIN && !self.end && !self.plain.take() {
            // Too many small pieces: give the guest time to make a large one.
            sleep(PLAIN_PERIOD).await;
            return Ok(());
        }
        let mut deadline = Instant::now() + self.idle;
        while !self.buffer.is_empty() {
            let needs_memory = self.buffer.len() > PLAIN;
            let written = self.unit.write(&self.buffer).map_err(broken)?;
            self.buffer.advance(written);
            if written > 0 && needs_memory {
                deadline = Instant::now() + self.idle;
                self.spare = SPARE;
            }
            if written == 0 && self.spare > 0 && self.plain.take() {
                // Others have taken all shared memory, and can keep it for
                // long. This response goes on in small pieces, as far as it is
                // allowed any; that Unit takes them says nothing of the client.
                self.spare -= 1;
                let piece = self.buffer.get(..PLAIN).unwrap_or(&self.buffer);
                let written = self.unit.write(piece).map_err(broken)?;
                self.buffer.advance(written);
            } else if !self.buffer.is_empty() {
                self.wait_for_memory(deadline, false).await?;
            }
        }
        Ok(())
    }

    /// Waits until it may be worth asking for shared memory again.
    async fn wait_for_memory(&self, deadline: Instant, head: bool) -> Result<(), Unsent> {
        let mut waiting = false;
        let again = poll_fn(|cx| {
            if std::mem::replace(&mut waiting, true) {
                return Poll::Ready(());
            }
            self.unit.events().wait_for_memory(cx.waker(), head);
            Poll::Pending
        });
        timeout_at(deadline, again).await.map_err(|_| {
            let idle = self.idle;
            let text =
                format!("the client has taken nothing for {idle:?} (UNIT_WASM_IDLE_TIMEOUT)");
            Unsent::by_client(Failure::new(Reason::Timeout, text))
        })
    }

    /// Sends a head that no body may follow. What the guest produces is
    /// dropped.
    async fn send_without_body(&mut self, is_head: bool) -> Result<(), Unsent> {
        let lacks_length = |head: &Response<()>| !head.headers().contains_key(CONTENT_LENGTH);
        if is_head && self.head.as_ref().is_some_and(lacks_length) {
            // Without a length Unit would frame a body. The right one is that
            // of the body a GET would get, which the guest may be producing.
            let count = timeout(HEAD_TIME, self.count()).await;
            let length = match count {
                Ok(result) => result?,
                Err(_) => 0,
            };
            if let Some(head) = &mut self.head {
                let length = HeaderValue::from(length);
                head.headers_mut().insert(CONTENT_LENGTH, length);
            }
        }
        self.buffer.clear();
        self.end = true;
        self.send_head().await
    }

    /// The length of the body, or 0 if it is too long to be worth the wait.
    async fn count(&mut self) -> Result<u64, Failure> {
        while !self.end {
            self.wait().await?;
            self.buffer.clear();
            if self.produced > HEAD_COUNT {
                return Ok(0);
            }
        }
        Ok(self.produced)
    }
}

fn broken(error: SendError) -> Unsent {
    let text = format!("Unit has not taken the response: {error}");
    Unsent::by_client(Failure::new(Reason::Delivery, text))
}

/// Lets so many through at once, and one more per period.
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn new() -> Self {
        Self {
            left: PLAIN_BURST,
            since: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let periods = self.since.elapsed().as_millis() / PLAIN_PERIOD.as_millis();
        if periods > 0 {
            let gained = u32::try_from(periods).unwrap_or(PLAIN_BURST);
            self.left = self.left.saturating_add(gained).min(PLAIN_BURST);
            self.since = Instant::now();
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true, flavor = "current_thread")]
    async fn small_pieces_are_limited_in_number_then_in_rate() {
        let mut bucket = Bucket::new();
        for _ in 0..PLAIN_BURST {
            assert!(bucket.take());
        }
        assert!(!bucket.take());
        tokio::time::advance(PLAIN_PERIOD * 2).await;
        assert!(bucket.take());
        assert!(bucket.take());
        assert!(!bucket.take());
        tokio::time::advance(PLAIN_PERIOD * 1000).await;
        assert!((0..PLAIN_BURST).all(|_| bucket.take()));
        assert!(!bucket.take());
    }
}
