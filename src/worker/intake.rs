//! How requests are taken from the queue of the application.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::FutureExt;
use nxt_wasm_runtime::{Failure, Reason};
use tokio::time::{Instant, sleep};

use super::{Worker, watch};
use crate::exchange;
use crate::service::Slot;
use crate::unit::{Level, Processed, Request};

/// Requests taken in one turn of the loop before timers and sockets get
/// theirs.
const BURST: usize = 16;

/// Requests taken at once, where nobody else could serve them, as long as they
/// are over quickly.
const BATCH: usize = 8;

/// A request that takes its event loop for longer is not over quickly, and a
/// response of a batch waits for the others no longer than this and the turn of
/// one more request.
const QUICK: Duration = Duration::from_millis(1);

/// Requests in a row that were over quickly before they are taken in batches.
const IN_A_ROW: u32 = 16;

/// Messages that may fail in a row before a port counts as broken.
const FAILURES: u32 = 100;

/// Whether requests are over so quickly that they may be taken in batches.
///
/// Each message to the router is a system call and wakes it up, unless it has
/// messages that it has not seen yet. So a batch of acknowledgements and a batch of
/// responses cost much less than one of each at a time.
#[derive(Default)]
pub(super) struct Pace {
    quick: u32,
}

impl Pace {
    /// A request has had the event loop for so long.
    fn note(&mut self, took: Duration) {
        self.quick = if took > QUICK {
            0
        } else {
            self.quick.saturating_add(1)
        };
    }

    fn is_quick(&self) -> bool {
        self.quick >= IN_A_ROW
    }
}

impl Worker {
    /// Takes requests and lets each run as far as it can.
    pub(super) fn poll_requests(&mut self, cx: &mut TaskContext<'_>) -> Result<(), String> {
        // Not before each request: those that spin would have a turn each time.
        self.run_exchanges(cx);
        let mut held = 0;
        let mut left = BURST;
        while left > 0 {
            let most = self.batch().min(left);
            left -= most;
            let mut taken = Vec::with_capacity(most);
            let more = self.take(most, &mut taken, &mut held, cx);
            let any = !taken.is_empty();
            self.admit_all(taken, cx);
            if !more? {
                // Answering them may have brought the rest of one that was held
                // back, and taken the announcement of it.
                if any && self.context.events().has_requests() {
                    cx.waker().wake_by_ref();
                }
                return Ok(());
            }
        }
        // There may be more; let timers and sockets have their turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// How many requests to take before the first of them runs: one, so that idle
    /// siblings get theirs, unless there are none. Not more than there is room for: a
    /// further one may find some when those before it have run.
    fn batch(&self) -> usize {
        let settings = &self.service.settings;
        let alone = !settings.shares_queue && settings.threads == 1;
        if !alone || !self.pace.is_quick() {
            return 1;
        }
        let taken = self.service.in_flight.load(Ordering::Relaxed);
        let room = settings.limits.concurrency.saturating_sub(taken);
        usize::try_from(room).unwrap_or(BATCH).clamp(1, BATCH)
    }

    /// Takes up to `most` requests that there is room for. False if there are no
    /// more, and the task will be woken when there are.
    fn take(
        &mut self,
        most: usize,
        taken: &mut Vec<(Request, Slot)>,
        held: &mut u32,
        cx: &mut TaskContext<'_>,
    ) -> Result<bool, String> {
        for _ in 0..most {
            if self.gave_up {
                self.decline_all();
                return Ok(false);
            }
            let slot = Slot::take(&self.service);
            if slot.is_some() {
                self.full_timer = None;
                self.refusing = false;
            } else if !self.has_waited(cx) {
                return Ok(false);
            }
            let Some(request) = self.next_request(held, cx)? else {
                self.full_timer = None;
                self.refusing = false;
                return Ok(false);
            };
            match slot {
                Some(slot) => taken.push((request, slot.fill())),
                None => {
                    exchange::decline(&self.service, request, &self.overload());
                    self.answered = Some(Instant::now());
                }
            }
        }
        Ok(true)
    }

    /// Lets new requests run, one after the other, and sends the responses of
    /// those that are over at once together.
    fn admit_all(&mut self, taken: Vec<(Request, Slot)>, cx: &mut TaskContext<'_>) {
        let context = Rc::clone(&self.context);
        let mut corked = taken.len() > 1;
        if corked {
            context.cork();
        }
        let mut since = Instant::now();
        let mut last = since;
        for (request, slot) in taken {
            self.admit(request, slot, cx);
            let now = Instant::now();
            self.pace.note(now - last);
            last = now;
            if corked && now - since > QUICK {
                context.events().uncork();
                corked = self.pace.is_quick();
                if corked {
                    context.cork();
                }
                since = now;
            }
        }
        context.events().uncork();
    }

    /// Answers requests that libunit has handed over and that are too late.
    pub(super) fn decline_all(&mut self) {
        while let Some(request) = self.context.events().next_request() {
            exchange::decline(&self.service, request, &exchange::drained());
            self.answered = Some(Instant::now());
        }
    }

    /// Whether requests have waited for room for so long that they are to be
    /// refused, all that wait.
    fn has_waited(&mut self, cx: &mut TaskContext<'_>) -> bool {
        if self.refusing {
            return true;
        }
        if !self.something_waits(cx) {
            self.full_timer = None;
            return false;
        }
        if self.full_timer.is_none()
            && let Some(metrics) = &self.service.metrics
        {
            metrics.full();
        }
        let timeout = self.service.settings.queue_timeout;
        self.refusing = self
            .full_timer
            .get_or_insert_with(|| Box::pin(sleep(timeout)))
            .as_mut()
            .poll(cx)
            .is_ready();
        self.refusing
    }

    /// Whether the queue seems to have a request, as far as can be told
    /// without taking it; if not, the task is woken when it has.
    fn something_waits(&self, cx: &mut TaskContext<'_>) -> bool {
        // libunit can take a request and hand it over later, when it has learned
        // where to answer it.
        if self.context.events().has_requests() {
            return true;
        }
        let Some(watched) = &self.shared_port else {
            return false;
        };
        // With other processes at the same queue, what was left in it when
        // this one last looked is theirs to take.
        if self.try_shared && !self.service.settings.shares_queue {
            return true;
        }
        if watched.has_input() {
            return true;
        }
        if let Poll::Ready(Ok(mut guard)) = watched.poll_readable(cx) {
            guard.clear_ready();
            // Registers the task; what has come meanwhile will wake it.
            let _ = watched.poll_readable(cx);
        }
        false
    }

    fn overload(&self) -> Failure {
        let settings = &self.service.settings;
        Failure::new(
            Reason::Overload,
            format!(
                "all {} slots (UNIT_WASM_CONCURRENCY) have been taken for {:?} \
                 (UNIT_WASM_QUEUE_TIMEOUT)",
                settings.limits.concurrency, settings.queue_timeout
            ),
        )
    }

    /// The next request, if there is one. `held` counts those taken in this
    /// turn that libunit holds back until the rest of them has come.
    fn next_request(
        &mut self,
        held: &mut u32,
        cx: &mut TaskContext<'_>,
    ) -> Result<Option<Request>, String> {
        loop {
            // A message can bring several, when libunit had held them back.
            let request = self.context.events().next_request();
            if request.is_some() || self.is_draining() {
                return Ok(request);
            }
            // Uploads that nobody serves yet must not be taken away from other
            // processes. The next turn begins with the read port, where the
            // rest of them arrives.
            let taken = self.service.in_flight.load(Ordering::Acquire);
            if taken.saturating_add(*held) > self.service.settings.limits.concurrency {
                cx.waker().wake_by_ref();
                return Ok(None);
            }
            if !self.take_message(cx)? {
                return Ok(None);
            }
            if !self.context.events().has_requests() {
                *held += 1;
            }
        }
    }

    /// Processes one message of the shared port. False if there is none and
    /// the task will be woken when there is.
    fn take_message(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, String> {
        let events = self.context.events();
        if self.shared_port.is_none() {
            let Some(port) = self.context.shared_port() else {
                return Ok(false);
            };
            self.shared_port = Some(watch(port)?);
        }
        let Some(watched) = &self.shared_port else {
            return Ok(false);
        };
        if !events.is_ready() {
            // Asking now would lose the descriptor's readiness for good.
            return Ok(false);
        }
        if !self.was_ready {
            self.was_ready = true;
            self.try_shared = true;
        }
        // libunit takes the notification of a request, says so to the router by
        // a plain store, and looks into the queue. The processor may do the
        // look first: then a request that comes right between is neither seen
        // nor notified (seen on 1.35 and 1.36, about once in 7,500 requests of
        // a single client). A second look, after a system call, sees it.
        let mut looked = false;
        loop {
            let readable = watched.poll_readable(cx);
            if readable.is_pending() && !self.try_shared && !looked {
                return Ok(false);
            }
            match self.context.process(watched.port()) {
                Processed::Message => {
                    self.try_shared = true;
                    self.failed = 0;
                    return Ok(true);
                }
                Processed::Announcement | Processed::Quit | Processed::Nothing => {
                    self.try_shared = false;
                    match readable {
                        Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                        Poll::Ready(Err(e)) => return Err(format!("event loop: {e}")),
                        Poll::Pending if looked => return Ok(false),
                        Poll::Pending => {}
                    }
                    looked = true;
                }
                Processed::Failed => {
                    // It can be a single bad message, with good ones behind it.
                    self.failed += 1;
                    if self.failed > FAILURES {
                        return Err(
                            "nxt_unit_process_port_msg keeps failing on the shared port".to_owned()
                        );
                    }
                    self.try_shared = true;
                    cx.waker().wake_by_ref();
                    return Ok(false);
                }
            }
        }
    }

    /// Lets a new request run as far as it can.
    fn admit(&mut self, request: Request, slot: Slot, cx: &mut TaskContext<'_>) {
        self.service.siblings.wake_idle(&self.me);
        let app = self.service.app.clone();
        let exchange = exchange::run(
            Arc::clone(&self.service),
            request,
            Rc::clone(&self.expiry),
            Arc::clone(&self.pulse),
        );
        // A panic of the host ends one exchange, whose request is failed when
        // it is dropped.
        let guarded = AssertUnwindSafe(exchange).catch_unwind().map(move |ended| {
            drop(slot);
            if let Err(panic) = ended {
                let text = crate::unit::panic_text(&*panic);
                app.log(Level::Alert, &format!("panic in an exchange: {text}"));
            }
        });
        let mut exchange = guarded.boxed_local();
        // What it waits for wakes this task, which then polls all that are new.
        match exchange.poll_unpin(cx) {
            Poll::Ready(()) => self.answered = Some(Instant::now()),
            Poll::Pending => self.exchanges.push(exchange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_request_ends_a_row_of_quick_ones() {
        let mut pace = Pace::default();
        for _ in 0..IN_A_ROW {
            assert!(!pace.is_quick());
            pace.note(QUICK);
        }
        assert!(pace.is_quick());
        pace.note(QUICK * 2);
        assert!(!pace.is_quick());
        for _ in 0..IN_A_ROW {
            pace.note(Duration::ZERO);
        }
        assert!(pace.is_quick());
    }
}
