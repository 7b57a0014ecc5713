//! Bodies on their way: what keeps a request's clocks, counts and ends right.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::{Error, WasiBody};

use super::exchange::FIELDS;
use super::pool::Stream;
use super::{InFlight, error};

/// Whether the store of a guest is still there.
///
/// A body whose store is dropped looks as if the guest had finished it; what it
/// was sending would arrive short, but complete.
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<AtomicBool>);

impl Life {
    fn is_over(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

/// Belongs into a store: its [`Life`] ends with it.
pub(crate) struct LifeGuard(Life);

impl LifeGuard {
    pub fn new() -> Self {
        Self(Life(Arc::new(AtomicBool::new(true))))
    }

    pub fn life(&self) -> Life {
        self.0.clone()
    }
}

impl Drop for LifeGuard {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// When something of a request was last sent.
pub(super) struct Progress {
    begin: Instant,
    /// Microseconds after that.
    last: AtomicU64,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            begin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    pub fn made(&self) {
        let after = u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(after, Ordering::Relaxed);
    }

    pub fn last(&self) -> Instant {
        self.begin + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }

    /// Waits until nothing has been sent for `most`.
    pub async fn silence(&self, most: Duration) {
        loop {
            let end = self.last() + most;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// What a request takes up. Both of its bodies have it: an answer that is over does
/// not end the connection, or the stream, that the guest still sends through.
#[derive(Clone)]
pub(super) struct Held {
    #[expect(dead_code, reason = "it counts until it is dropped")]
    pub in_flight: Arc<InFlight>,
    /// In a connection that others use too.
    pub stream: Option<Arc<Stream>>,
}

/// The body of a guest's request. Connections drop it when it has been sent, or
/// cannot be.
pub(super) struct Upload {
    pub body: WasiBody,
    pub life: Life,
    pub progress: Arc<Progress>,
    pub held: Held,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.life.is_over() {
            return Poll::Ready(Some(Err(Error::HttpProtocolError)));
        }
        self.progress.made();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of the response to it.
pub(super) struct Download {
    /// `None` after its end, whichever.
    body: Option<Incoming>,
    progress: Arc<Progress>,
    between_bytes: Duration,
    /// Since when nothing has come that was waited for.
    waiting: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What is taken up until the end.
    held: Option<Held>,
}

impl Download {
    pub fn new(
        body: Incoming,
        progress: Arc<Progress>,
        between_bytes: Duration,
        held: Held,
    ) -> Self {
        let ended = body.is_end_stream();
        Self {
            body: Some(body),
            progress,
            between_bytes,
            waiting: None,
            timer: None,
            held: (!ended).then_some(held),
        }
    }

    fn end(&mut self) {
        self.body = None;
        self.timer = None;
        self.held = None;
    }

    /// Ready when there has been silence for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        loop {
            // A guest that is still sending may be what the server waits for.
            let end = since.max(self.progress.last()) + self.between_bytes;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            let polled = Pin::new(body).poll_frame(cx);
            if polled.is_ready() {
                this.waiting = None;
            }
            return match polled {
                Poll::Pending => {
                    ready!(this.poll_silence(cx));
                    this.end();
                    Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
                }
                // Guests may take a read of nothing for the end.
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {
                    continue;
                }
                // HTTP/2 bounds their bytes only.
                Poll::Ready(Some(Ok(frame)))
                    if frame.trailers_ref().is_some_and(|t| t.len() > FIELDS) =>
                {
                    this.end();
                    Poll::Ready(Some(Err(Error::HttpProtocolError)))
                }
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(error))) => {
                    this.end();
                    Poll::Ready(Some(Err(error::from_body(&error))))
                }
                Poll::Ready(None) => {
                    this.end();
                    Poll::Ready(None)
                }
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
