//! The body of a guest's response, which drives the guest.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use tokio::task::unconstrained;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::deadline::Deadline;
use crate::error::{Failure, Reason};
use crate::guest::{Guest, Usage};
use crate::instance::Delivery;
use crate::world::World;

enum BodyEnd {
    /// More may come.
    Open,
    /// Ended as the guest wanted it to.
    Complete,
    /// Cannot be completed.
    Broken(Failure),
}

/// The body of a guest's response.
///
/// Polling it lets the guest run. It ends with an error unless the guest has
/// finished it: a guest that dies half-way never looks like a short but
/// complete answer. When it has ended, call [`GuestBody::finish`] to let the
/// guest do what it may want to do after its response.
pub struct GuestBody {
    guest: Guest,
    world: World,
    body: WasiBody,
    /// Pieces that were under way when the guest ended.
    ready: VecDeque<Bytes>,
    end: BodyEnd,
    after: Deadline,
    /// Bytes thrown away after the response.
    discarded: usize,
    /// It was not wanted to its end, or has none.
    is_abandoned: bool,
}

/// What a guest may write of a body that is not sent (as to HEAD) before its
/// stream is closed.
const DISCARD: usize = 1024 * 1024;

/// More pieces than a guest of WASI 0.3 can have written without one having been
/// taken: where there are more, they come from elsewhere.
const WRITTEN: usize = 4;

impl GuestBody {
    pub(crate) fn new(guest: Guest, world: World, body: WasiBody, after: Duration) -> Self {
        Self {
            guest,
            world,
            body,
            ready: VecDeque::new(),
            end: BodyEnd::Open,
            after: Deadline::new(after),
            discarded: 0,
            is_abandoned: false,
        }
    }

    /// Whether the guest has done all it will ever do for this request.
    pub fn guest_has_ended(&self) -> bool {
        self.guest.has_ended()
    }

    /// What the request has used up to now.
    pub fn usage(&self) -> Usage {
        self.guest.usage()
    }

    /// Nobody wants the rest of the response. A guest of WASI 0.3 finds its stream
    /// closed, and [`GuestBody::finish`] lets it react to that; returns false for
    /// one of 0.2, which has no use for it.
    pub fn abandon(&mut self) -> bool {
        self.over(Err(HttpError::ConnectionTerminated));
        self.close();
        self.is_abandoned = true;
        self.world == World::Service
    }

    /// Lets the guest go on after its response, until it returns, fails or
    /// has taken the time limit once more.
    ///
    /// # Errors
    ///
    /// The guest's failure. The response may have been complete all the same.
    pub async fn finish(&mut self) -> Result<Usage, Failure> {
        poll_fn(|cx| {
            self.discard(cx);
            match self.end {
                BodyEnd::Open => {}
                BodyEnd::Complete => self.over(Ok(())),
                BodyEnd::Broken(_) => self.over(Err(HttpError::ConnectionTerminated)),
            }
            let over = !matches!(self.end, BodyEnd::Open);
            if self.guest.poll(cx).is_ready() || (over && self.guest.has_company()) {
                let failure = self.guest.failure();
                self.release();
                return Poll::Ready(match failure {
                    Some(failure) => Err(failure),
                    None => Ok(self.guest.usage()),
                });
            }
            ready!(self.after.poll(cx));
            if over && self.guest.has_left_over() {
                self.guest.notice_left_over(self.after.after());
                return Poll::Ready(Ok(self.guest.usage()));
            }
            Poll::Ready(Err(Failure::new(
                Reason::Timeout,
                format!(
                    "still running {:?} after its response (UNIT_WASM_TIMEOUT)",
                    self.after.after()
                ),
            )))
        })
        .await
    }

    /// There is nothing more to come of the response, and this became of it.
    fn over(&mut self, delivery: Delivery) {
        self.guest.delivered(delivery);
        self.guest.end_response();
    }

    /// Throws away what nobody wants any more, so that the guest can end. A
    /// guest that goes on writing after that finds its stream closed.
    fn discard(&mut self, cx: &mut Context<'_>) {
        self.ready.clear();
        while self.discarded < DISCARD && matches!(self.end, BodyEnd::Open) {
            match self.poll_written(cx) {
                Poll::Ready(Some(data)) => self.discarded += data.len(),
                Poll::Ready(None) => return,
                Poll::Pending if self.guest.has_ended() => return,
                Poll::Pending if self.guest.poll(cx).is_ready() => return,
                Poll::Pending => match self.poll_written(cx) {
                    Poll::Ready(Some(data)) => self.discarded += data.len(),
                    _ => return,
                },
            }
        }
        if matches!(self.end, BodyEnd::Open) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.ready.clear();
        self.end = BodyEnd::Complete;
        self.body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    }

    /// Takes what the ended guest had written out of its store. Nothing can
    /// be added to it any more, so this decides how the body ends.
    fn drain(&mut self, cx: &mut Context<'_>) {
        loop {
            let piece = match self.world == World::Service && self.ready.len() >= WRITTEN {
                // What a guest that has failed has passed on is not followed.
                true => Poll::Pending,
                false => self.poll_written(cx),
            };
            match piece {
                Poll::Ready(Some(data)) => self.ready.push_back(data),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    self.end = BodyEnd::Broken(self.guest.end_failure(Reason::InvalidResponse));
                    break;
                }
            }
        }
        self.release();
    }

    /// Takes what a guest at rest has written, so that it can end before the client
    /// has read everything. What it has passed on stays where it comes from, and
    /// the guest with it.
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.ready.len() < WRITTEN {
            match self.poll_written(cx) {
                Poll::Ready(Some(data)) => self.ready.push_back(data),
                Poll::Ready(None) => {
                    self.guest.end_response();
                    if self.guest.poll(cx).is_ready() {
                        self.release();
                    }
                    return Poll::Ready(None);
                }
                Poll::Pending if self.ready.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(None)
    }

    fn release(&mut self) {
        let complete = matches!(self.end, BodyEnd::Complete);
        self.guest.release(complete && !self.is_abandoned);
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        self.guest.failure().unwrap_or_else(|| {
            Failure::new(
                Reason::InvalidResponse,
                format!("the guest's response body failed: {error}"),
            )
        })
    }

    /// The next piece that the guest has written.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            // Outside of tokio's budget of a task: that nothing is there has
            // to mean it, or a finished body could be taken for a broken one.
            let body = &mut self.body;
            let frame = unconstrained(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
            match ready!(pin!(frame).poll(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(data)),
                    Ok(_) => {}
                    Err(_) => self.guest.notice_trailers(),
                },
                Some(Err(error)) => {
                    self.end = BodyEnd::Broken(self.broken(&error));
                    return Poll::Ready(None);
                }
                None => {
                    self.end = BodyEnd::Complete;
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// The next piece, or `None` if something else has changed.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(piece) = self.poll_written(cx) {
            return Poll::Ready(piece);
        }
        if self.guest.poll(cx).is_ready() {
            self.drain(cx);
            return Poll::Ready(None);
        }
        match self.guest.is_at_rest() {
            true => self.settle(cx),
            false => self.poll_written(cx),
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let piece = match &this.end {
                BodyEnd::Open => ready!(this.poll_open(cx)),
                BodyEnd::Complete => return Poll::Ready(None),
                BodyEnd::Broken(failure) => {
                    let failure = failure.clone();
                    this.end = BodyEnd::Complete;
                    this.is_abandoned = true;
                    return Poll::Ready(Some(Err(failure)));
                }
            };
            if let Some(data) = piece {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }
}
