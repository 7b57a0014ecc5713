//! The event loop of one libunit context.
//!
//! One thread, one context, one tokio runtime. The loop is a single task that
//! takes messages from Unit's ports and drives every exchange itself: libunit
//! is only ever called from here, and a guest that spins gives way to its
//! neighbours at each epoch.

mod intake;

use std::os::unix::process::parent_id;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::exchange::Expiry;
use crate::service::{Service, Sibling, woken};
use crate::unit::{Context, Level, Port, Processed, WatchedPort, flush_log};
use crate::watchdog::Pulse;
use intake::Pace;

/// Looks for a further message on the read port in one turn, after libunit has
/// said that there is none.
const LOOKS: u32 = 64;

/// Several processes wait for the same queue, and the one that is told of a
/// request may have no room for it: the others look by themselves this often.
const QUEUE_CHECK: Duration = Duration::from_millis(100);

/// The same for a process that has the queue to itself. One that is killed after it has
/// received a notification and before it has said so leaves the router believing
/// that somebody has been told; its successor would wait for ever.
const LONE_QUEUE_CHECK: Duration = Duration::from_secs(1);

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

/// How long what was counted may take to be seen by the other processes.
const METRICS_DELAY: Duration = Duration::from_millis(500);

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
/// when Unit knows the context; what it begins ends when the context drains.
///
/// # Errors
///
/// Why the context cannot go on; the process should end.
pub fn serve(
    event_loop: LocalRuntime,
    context: &Rc<Context>,
    service: &Arc<Service>,
    on_ready: impl FnOnce() -> Option<AbortHandle> + 'static,
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
    on_ready: Option<Box<dyn FnOnce() -> Option<AbortHandle>>>,
    /// What goes on beside requests.
    aside: Option<AbortHandle>,
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
    pace: Pace,
    /// Messages of the shared port that could not be processed, in a row.
    failed: u32,
    queue_timer: Option<Pin<Box<Sleep>>>,
    orphan_timer: Option<Pin<Box<Sleep>>>,
    /// The last look found no router.
    orphan: bool,
    writer_timer: Option<Pin<Box<Sleep>>>,
    metrics_timer: Option<Pin<Box<Sleep>>>,
    wake: Pin<Box<dyn Future<Output = ()>>>,
}

impl Worker {
    fn new(context: Rc<Context>, service: Arc<Service>) -> Self {
        let me = service.siblings.join();
        Self {
            pulse: service.watchdog.watch_me(),
            full_timer: None,
            refusing: false,
            pace: Pace::default(),
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
            aside: None,
            metrics_timer: None,
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
            let closed = match &self.shared_port {
                Some(port) => port.is_closed(),
                // Not acknowledged yet. If the prototype has ended meanwhile, as
                // at a stop, nobody will.
                None => parent_id() != self.service.prototype,
            };
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
        if let Some(aside) = self.aside.take() {
            aside.abort();
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
        flush_log();
        this.pulse.end();
        polled
    }
}

impl Worker {
    /// Shows what was counted to those who read it, some time after.
    fn publish(&mut self, cx: &mut TaskContext<'_>) {
        let Some(metrics) = &self.service.metrics else {
            return;
        };
        let state = self.service.state();
        if metrics.has_changed(&state) && poll_every(&mut self.metrics_timer, METRICS_DELAY, cx) {
            metrics.publish(&state);
        }
    }

    /// One turn of the loop.
    fn turn(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), String>> {
        self.me.idle.store(false, Ordering::Release);
        while self.wake.as_mut().poll(cx).is_ready() {
            self.wake = woken(Arc::clone(&self.me));
            self.try_shared = true;
        }
        let shares = self.service.settings.shares_queue;
        let period = if shares {
            QUEUE_CHECK
        } else {
            LONE_QUEUE_CHECK
        };
        // A look that finds no room must not pass for a request that waits.
        let may_look = shares || self.service.has_room();
        if poll_every(&mut self.queue_timer, period, cx) && may_look {
            self.try_shared = true;
            cx.waker().wake_by_ref();
        }
        self.look_for_router(cx);
        let step = self.poll_read_port(cx).and_then(|()| {
            if self.context.events().is_ready()
                && let Some(on_ready) = self.on_ready.take()
            {
                self.aside = on_ready();
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
        self.publish(cx);
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
