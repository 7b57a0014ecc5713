//! The event loop of one libunit context.
//!
//! One thread, one context, one tokio runtime. The loop is a single task that
//! takes messages from Unit's ports and drives every exchange itself: libunit
//! is only ever called from here, and a guest that spins gives way to its
//! neighbours at each epoch.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::{FutureExt, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use nxt_wasm_runtime::{Failure, Reason};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::exchange::{self, Expiry};
use crate::service::{Service, Sibling, Slot, woken};
use crate::unit::{Context, Level, Port, Processed, Request, WatchedPort};
use crate::watchdog::Pulse;

/// Requests taken in one turn of the loop before timers and sockets get
/// theirs.
const BURST: usize = 16;

/// Looks for a further message on the read port in one turn, after libunit has
/// said that there is none.
const LOOKS: u32 = 64;

/// Messages that may fail in a row before a port counts as broken.
const FAILURES: u32 = 100;

/// Several processes wait for the same queue, and the one that is told of a
/// request may have no room for it: the others look by themselves this often.
const QUEUE_CHECK: Duration = Duration::from_millis(100);

/// How long a context that has quit stays after its last answer. The router
/// hears of the end of a process by another way than of its answers; when it
/// was faster, it would answer by itself, with an error (seen on 1.35 and 1.36
/// with more work than processors).
const LINGER: Duration = Duration::from_millis(50);

/// How often a context looks whether there is still a router. One that is started
/// while unitd stops can miss that it is told to quit, or not be told, and
/// unitd then waits for it (seen on 1.35). Twice in a row, as being told to quit
/// follows the end of the shared port otherwise.
const ORPHAN_CHECK: Duration = Duration::from_secs(2);

/// A write that found no shared memory is tried again after this time even if
/// no acknowledgement arrives: libunit may have taken it for another write.
const WRITER_CHECK: Duration = Duration::from_millis(100);

/// The runtime of a worker thread.
///
/// # Errors
///
/// The operating system's, if there can be no epoll instance.
pub fn event_loop() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        // Each turn of our task is a long one: look at timers and sockets
        // after each.
        .event_interval(1)
        .max_blocking_threads(8)
        .thread_name("wasm-blocking")
        .build_local(LocalOptions::default())
}

/// Serves requests until Unit tells the context to quit and all requests in
/// flight have been answered, or the drain time is over. `on_ready` is called
/// when Unit knows the context.
///
/// # Errors
///
/// Why the context cannot go on; the process should end.
pub fn serve(
    event_loop: LocalRuntime,
    context: &Rc<Context>,
    service: &Arc<Service>,
    on_ready: impl FnOnce() + 'static,
) -> Result<(), String> {
    let mut worker = Worker::new(Rc::clone(context), Arc::clone(service));
    worker.on_ready = Some(Box::new(on_ready));
    let ended = event_loop.block_on(async {
        // As a task of its own: the root future of a runtime pays a system
        // call for every wake-up.
        // Without tokio's budget, which our one task would use up for all its
        // exchanges, and its timers would then not be due: guests that run
        // long give way at each epoch, streams after some pieces.
        tokio::task::spawn_local(tokio::task::unconstrained(worker)).await
    });
    context.events().drop_requests();
    service.siblings.drain(!matches!(ended, Ok(Ok(()))));
    // Takes descriptors out of epoll before libunit closes them.
    // Not waiting for file operations that may hang.
    event_loop.shutdown_background();
    ended.map_err(|e| e.to_string()).and_then(|ended| ended)
}

/// Runs on `timer` until its time has come, then starts it anew.
fn poll_every(
    timer: &mut Option<Pin<Box<Sleep>>>,
    period: Duration,
    cx: &mut TaskContext<'_>,
) -> bool {
    let due = timer
        .get_or_insert_with(|| Box::pin(sleep(period)))
        .as_mut()
        .poll(cx)
        .is_ready();
    if due {
        *timer = None;
    }
    due
}

struct Worker {
    context: Rc<Context>,
    service: Arc<Service>,
    me: Arc<Sibling>,
    read_port: Option<WatchedPort>,
    shared_port: Option<WatchedPort>,
    /// There may be a request, whatever the descriptor says: libunit has
    /// queues of its own.
    try_shared: bool,
    was_ready: bool,
    on_ready: Option<Box<dyn FnOnce()>>,
    exchanges: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// Tells exchanges that the drain time is over.
    expiry: Rc<Expiry>,
    drain_timer: Option<Pin<Box<Sleep>>>,
    /// When the last request was answered.
    answered: Option<Instant>,
    linger_timer: Option<Pin<Box<Sleep>>>,
    gave_up: bool,
    pulse: Arc<Pulse>,
    /// Runs while a request waits that there is no room for.
    full_timer: Option<Pin<Box<Sleep>>>,
    /// Its time is over: what waits is refused.
    refusing: bool,
    /// Messages of the shared port that could not be processed, in a row.
    failed: u32,
    queue_timer: Option<Pin<Box<Sleep>>>,
    orphan_timer: Option<Pin<Box<Sleep>>>,
    /// The last look found no router.
    orphan: bool,
    writer_timer: Option<Pin<Box<Sleep>>>,
    wake: Pin<Box<dyn Future<Output = ()>>>,
}

impl Worker {
    fn new(context: Rc<Context>, service: Arc<Service>) -> Self {
        let me = service.siblings.join();
        Self {
            pulse: service.watchdog.watch_me(),
            full_timer: None,
            refusing: false,
            failed: 0,
            wake: woken(Arc::clone(&me)),
            me,
            context,
            service,
            read_port: None,
            shared_port: None,
            try_shared: true,
            was_ready: false,
            on_ready: None,
            exchanges: FuturesUnordered::new(),
            expiry: Rc::default(),
            drain_timer: None,
            answered: None,
            linger_timer: None,
            gave_up: false,
            queue_timer: None,
            orphan_timer: None,
            orphan: false,
            writer_timer: None,
        }
    }

    /// Messages for this context: configuration, acknowledgements, quit.
    fn poll_read_port(&mut self, cx: &mut TaskContext<'_>) -> Result<(), String> {
        let events = self.context.events();
        if self.read_port.is_none() {
            let port = self.context.read_port();
            let port = port.ok_or("libunit has given no read port")?;
            self.read_port = Some(watch(port)?);
        }
        let Some(watched) = &self.read_port else {
            return Ok(());
        };
        // libunit's port has a queue that the descriptor knows nothing of, so
        // it is asked at every turn, and until it says that there is nothing.
        let mut looks = 0;
        loop {
            // Once told to quit, only acknowledgements of shared memory are of
            // use, and what belongs to requests yet to come. It is better to
            // leave the rest unread: unitd's main process
            // may tell a process that has just died to quit, and does not exit
            // itself if that fails (seen in 1.35 and 1.36). With an unread
            // message in the queue it does not even try.
            let wanted = events.has_memory_waiters() || events.has_held_requests();
            if events.has_quit() && !wanted {
                return Ok(());
            }
            let readable = watched.poll_readable(cx);
            if readable.is_pending() && !self.try_shared {
                return Ok(());
            }
            if readable.is_ready() {
                self.take_leftovers();
            }
            match self.context.process(watched.port()) {
                Processed::Message => {}
                // libunit receives one message at most, and when that only
                // announced its queue, it says that there is nothing. The next
                // can be there already, with the file of a body or the port to
                // answer on, and the descriptor would not become readable once
                // more for it.
                Processed::Announcement if looks < LOOKS => looks += 1,
                Processed::Announcement | Processed::Quit | Processed::Nothing => match readable {
                    // It keeps a message that nothing has announced until
                    // something does. A second one it must not be given: that
                    // is an error, and those that unitd's processes send to each
                    // other while they start and stop are of this kind.
                    Poll::Ready(Ok(_)) if looks < LOOKS && watched.port().has_announcement() => {
                        looks += 1;
                    }
                    Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                    Poll::Ready(Err(e)) => return Err(format!("event loop: {e}")),
                    Poll::Pending => return Ok(()),
                },
                Processed::Failed => {
                    return Err("nxt_unit_process_port_msg failed on the read port".to_owned());
                }
            }
        }
    }

    /// Takes what is left in the queue of a shared port that Unit has closed,
    /// as it does first when it restarts the application: nobody else will.
    /// Afterwards it tells this context to quit, and then nothing can be taken.
    fn take_leftovers(&self) {
        let Some(watched) = &self.shared_port else {
            return;
        };
        if self.context.events().is_draining() || !watched.is_closed() {
            return;
        }
        while self.context.process(watched.port()) == Processed::Message {}
    }

    /// Takes requests, one at a time: takes one, lets it run as far as it can,
    /// and only then looks for the next, so that idle siblings get theirs.
    fn poll_requests(&mut self, cx: &mut TaskContext<'_>) -> Result<(), String> {
        // Not before each request: those that spin would have a turn each time.
        self.run_exchanges(cx);
        let mut held = 0;
        for _ in 0..BURST {
            if self.gave_up {
                self.decline_all();
                return Ok(());
            }
            let slot = Slot::take(&self.service);
            if slot.is_some() {
                self.full_timer = None;
                self.refusing = false;
            } else if !self.has_waited(cx) {
                return Ok(());
            }
            let Some(request) = self.next_request(&mut held, cx)? else {
                self.full_timer = None;
                self.refusing = false;
                return Ok(());
            };
            match slot {
                Some(slot) => self.admit(request, slot.fill(), cx),
                None => {
                    exchange::decline(&self.service, request, &self.overload());
                    self.answered = Some(Instant::now());
                }
            }
        }
        // There may be more; let timers and sockets have their turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Answers requests that libunit has handed over and that are too late.
    fn decline_all(&mut self) {
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

    fn run_exchanges(&mut self, cx: &mut TaskContext<'_>) {
        let mut ended = false;
        while let Poll::Ready(Some(())) = self.exchanges.poll_next_unpin(cx) {
            ended = true;
        }
        if ended {
            self.answered = Some(Instant::now());
        }
    }

    /// Whether the router has had the time to take the last answer.
    fn has_lingered(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let Some(answered) = self.answered else {
            return true;
        };
        self.linger_timer
            .get_or_insert_with(|| Box::pin(sleep_until(answered + LINGER)))
            .as_mut()
            .poll(cx)
            .is_ready()
    }

    /// Quits when there is no router any more, and nobody says so.
    fn look_for_router(&mut self, cx: &mut TaskContext<'_>) {
        while !self.is_draining() && poll_every(&mut self.orphan_timer, ORPHAN_CHECK, cx) {
            let closed = self.shared_port.as_ref().is_some_and(|p| p.is_closed());
            if closed && self.orphan {
                let text = "Unit's router has gone: this process ends";
                self.service.app.log(Level::Notice, text);
                self.context.events().quit_alone();
            }
            self.orphan = closed;
        }
    }

    /// Whether this context, or another of the process, was told to quit.
    fn is_draining(&self) -> bool {
        self.context.events().is_draining() || self.service.siblings.is_draining()
    }

    /// True when the context has nothing left to do.
    fn poll_drain(&mut self, cx: &mut TaskContext<'_>) -> bool {
        if !self.is_draining() {
            return false;
        }
        let events = self.context.events();
        let waits = events.has_requests() || events.has_held_requests();
        let idle = self.exchanges.is_empty() && !waits;
        // After a failure elsewhere in the process libunit knows of no quit.
        let over = events.has_quit() || self.gave_up || self.service.siblings.has_failed();
        if idle && over {
            return self.has_lingered(cx);
        }
        let period = self.service.settings.drain_timeout;
        if !self.gave_up && poll_every(&mut self.drain_timer, period, cx) {
            self.gave_up = true;
            if !self.exchanges.is_empty() {
                self.service.app.log(
                    Level::Warn,
                    &format!(
                        "{} requests still in flight {period:?} after quit \
                         (UNIT_WASM_DRAIN_TIMEOUT): ending them",
                        self.exchanges.len()
                    ),
                );
            }
            self.expiry.end();
            self.run_exchanges(cx);
            self.decline_all();
        }
        self.exchanges.is_empty() && self.gave_up && self.has_lingered(cx)
    }
}

impl Future for Worker {
    type Output = Result<(), String>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.pulse.begin();
        let polled = this.turn(cx);
        this.pulse.end();
        polled
    }
}

impl Worker {
    /// One turn of the loop.
    fn turn(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), String>> {
        self.me.idle.store(false, Ordering::Release);
        while self.wake.as_mut().poll(cx).is_ready() {
            self.wake = woken(Arc::clone(&self.me));
            self.try_shared = true;
        }
        if self.service.settings.shares_queue && poll_every(&mut self.queue_timer, QUEUE_CHECK, cx)
        {
            self.try_shared = true;
            cx.waker().wake_by_ref();
        }
        self.look_for_router(cx);
        let step = self.poll_read_port(cx).and_then(|()| {
            if self.context.events().is_ready()
                && let Some(on_ready) = self.on_ready.take()
            {
                on_ready();
            }
            self.poll_requests(cx)?;
            // For the acknowledgements that a writer has begun to wait for.
            match self.context.events().has_quit() {
                true => self.poll_read_port(cx),
                false => Ok(()),
            }
        });
        if let Err(error) = step {
            return Poll::Ready(Err(error));
        }
        if self.context.events().has_memory_waiters() {
            if poll_every(&mut self.writer_timer, WRITER_CHECK, cx) {
                self.context.events().look_for_memory();
                cx.waker().wake_by_ref();
            }
        } else {
            self.writer_timer = None;
        }
        if self.poll_drain(cx) {
            return Poll::Ready(Ok(()));
        }
        self.me
            .idle
            .store(self.exchanges.is_empty(), Ordering::Release);
        Poll::Pending
    }
}

fn watch(port: Port) -> Result<WatchedPort, String> {
    WatchedPort::new(port).map_err(|e| format!("cannot wait for a port: {e}"))
}
