//! libunit contexts: where requests come from.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nxt_unit_sys as sys;

use super::guard::{guard, panic_text};
use super::log::{Level, log};
use super::module::Task;
use super::port::{self, Gate, Port, Processed, RawPort};
use super::request::Request;

/// Shared memory is given back in chunks of this size, at least.
pub const CHUNK: usize = 16 * 1024;

/// How long after a large piece small responses leave shared memory alone: twice the
/// time for which the router waits, by default, for a client that takes nothing.
const REST: Duration = Duration::from_secs(60);

/// What is known of the shared memory of this process. libunit cannot be
/// asked, and writes an alert when a head finds too little.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Memory {
    /// The last write has found what it needed.
    #[default]
    Enough,
    /// It had run out; a little was given back since.
    Returned,
    /// The last write has not found what it needed.
    Exhausted,
}

/// What libunit has told a context and its event loop has not yet acted on.
///
/// Lives on the context's thread; callbacks write it, the event loop reads it.
#[derive(Default)]
pub struct Events {
    requests: RefCell<VecDeque<Request>>,
    corked: Cell<bool>,
    /// Requests that are done, but for telling Unit.
    done: RefCell<Vec<Request>>,
    read_port: Cell<Option<RawPort>>,
    shared_port: Cell<Option<RawPort>>,
    ready: Cell<bool>,
    draining: Cell<bool>,
    quit: Cell<bool>,
    memory: Cell<Memory>,
    /// When much of it was last asked for, or more than there was.
    much: Cell<Option<Instant>>,
    heads: RefCell<Vec<Waker>>,
    bodies: RefCell<Vec<Waker>>,
    gate: Gate,
    /// Requests handed over and not done.
    active: Cell<u32>,
    /// Requests that libunit had in all when it was told to quit.
    closed: Cell<u32>,
    /// Requests that libunit had when it was told to quit and has not handed
    /// over, as the rest of them has yet to come.
    held: Cell<u32>,
    is_main: bool,
    /// The context, once there is one, for its requests to keep.
    context: RefCell<Weak<Context>>,
}

impl Events {
    fn new(is_main: bool) -> Rc<Self> {
        Rc::new(Self {
            is_main,
            ..Self::default()
        })
    }

    /// The next request to serve.
    pub fn next_request(&self) -> Option<Request> {
        self.requests.borrow_mut().pop_front()
    }

    /// Whether there is a next request.
    pub fn has_requests(&self) -> bool {
        !self.requests.borrow().is_empty()
    }

    /// Tells Unit of all requests that were done meanwhile, in that order.
    pub fn uncork(&self) {
        self.corked.set(false);
        // Taken out first, as finishing them can call back.
        for request in self.done.take() {
            request.done(true);
        }
    }

    /// Whether a request that is done has to wait.
    pub(super) fn is_corked(&self) -> bool {
        self.corked.get()
    }

    /// Lets a request wait that was answered completely.
    pub(super) fn keep(&self, request: Request) {
        self.done.borrow_mut().push(request);
    }

    /// Whether a small response should go through shared memory, which it does not
    /// need: with others, so that the router is told of all at once, and if there
    /// certainly is some. What was asked for long ago has been given back, or
    /// somebody waits for it.
    pub(super) fn spends_memory(&self) -> bool {
        self.is_corked()
            && !self.is_draining()
            && self.memory.get() != Memory::Exhausted
            && self.much.get().is_none_or(|at| at.elapsed() > REST)
    }

    /// A large piece asks for shared memory, or a small one has found none: for some
    /// time, small ones leave it alone.
    pub(super) fn asks_for_much(&self) {
        self.much.set(Some(Instant::now()));
    }

    /// Fails the requests that nobody has taken, and ends those that are done.
    pub fn drop_requests(&self) {
        self.uncork();
        // Taken out first, as finishing them can call back.
        let requests = self.requests.take();
        drop(requests);
    }

    /// The router knows this context: requests may be taken.
    pub fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// No more requests will come; those in flight are to be finished.
    pub fn is_draining(&self) -> bool {
        self.draining.get() || self.quit.get()
    }

    /// libunit has no further use for this context.
    pub fn has_quit(&self) -> bool {
        self.quit.get()
    }

    /// Quits without having been told to, as there is nobody left to do it.
    pub fn quit_alone(&self) {
        self.quit.set(true);
    }

    /// Whether libunit has quit with requests that it has not handed over yet.
    /// They come with further messages.
    pub fn has_held_requests(&self) -> bool {
        self.held.get() > 0
    }

    /// A request is done.
    pub(super) fn request_done(&self) {
        self.active.set(self.active.get().saturating_sub(1));
    }

    /// Whether a head that needs `bytes` of shared memory in one piece will
    /// probably find them.
    ///
    /// More than a chunk may not be there in one piece though there is plenty.
    pub fn may_ask_for_memory(&self, bytes: usize) -> bool {
        match self.memory.get() {
            Memory::Enough => true,
            Memory::Returned => bytes <= CHUNK,
            Memory::Exhausted => false,
        }
    }

    /// An attempt to use shared memory has found what it needed, or not. In the
    /// second case libunit has asked the router for an acknowledgement.
    pub(super) fn wrote(&self, whole: bool) {
        self.memory.set(if whole {
            Memory::Enough
        } else {
            Memory::Exhausted
        });
    }

    /// `waker` is woken when it may be worth asking for shared memory again.
    /// Heads go first: they need little, and may only ask right after some was
    /// given back, while bodies may always try.
    pub fn wait_for_memory(&self, waker: &Waker, head: bool) {
        let waiting = if head { &self.heads } else { &self.bodies };
        let mut waiting = waiting.borrow_mut();
        if !waiting.iter().any(|w| w.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Shared memory was given back, or it is time to look whether it was.
    pub fn memory_returned(&self) {
        if self.memory.get() == Memory::Exhausted {
            self.memory.set(Memory::Returned);
        }
        for waiting in [&self.heads, &self.bodies] {
            let wakers = waiting.take();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Lets those that wait for shared memory look for it themselves, in case
    /// an acknowledgement was lost. Bodies can do so in silence; heads have to
    /// trust them, unless there are none.
    pub fn look_for_memory(&self) {
        if self.bodies.borrow().is_empty() {
            return self.memory_returned();
        }
        let bodies = self.bodies.take();
        bodies.into_iter().for_each(Waker::wake);
    }

    /// Whether anything waits for shared memory.
    pub fn has_memory_waiters(&self) -> bool {
        !self.heads.borrow().is_empty() || !self.bodies.borrow().is_empty()
    }

    /// Whether libunit may receive messages of this context.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}

/// A libunit context, to be used on the thread that made it. It lasts until
/// the last of its ports and requests is dropped.
pub struct Context {
    raw: NonNull<sys::nxt_unit_ctx_t>,
    events: Rc<Events>,
    /// Those with further contexts, which share state with this one.
    threads: RefCell<Vec<JoinHandle<()>>>,
}

/// Names the main context to a thread that allocates its own from it.
struct Main(NonNull<sys::nxt_unit_ctx_t>);

// SAFETY: the pointer is only ever passed to `nxt_unit_ctx_alloc`, which
// touches only state of the library that libunit guards with a mutex: Unit's
// own modules for threaded languages call it on such threads too.
unsafe impl Send for Main {}

impl Context {
    /// Initialises libunit for the application in `task` and makes its main
    /// context. Says READY to Unit, so everything else must be set up.
    ///
    /// # Errors
    ///
    /// The name of the libunit function that failed; libunit logs why.
    pub fn init(task: &Task<'_>) -> Result<Rc<Self>, &'static str> {
        let events = Events::new(true);
        let mut init = MaybeUninit::<sys::nxt_unit_init_t>::zeroed();
        // SAFETY: the task and its configuration are live while `task` is;
        // `init` is ours and may hold anything before.
        let rc = unsafe { sys::nxt_unit_default_init(task.task(), init.as_mut_ptr(), task.conf()) };
        if rc != super::module::OK {
            return Err("nxt_unit_default_init");
        }
        // SAFETY: `nxt_unit_default_init` has cleared and filled it.
        let mut init = unsafe { init.assume_init() };
        init.ctx_data = Rc::as_ptr(&events).cast_mut().cast();
        init.callbacks.request_handler = Some(on_request);
        init.callbacks.add_port = Some(on_add_port);
        init.callbacks.remove_port = Some(on_remove_port);
        init.callbacks.ready_handler = Some(on_ready);
        init.callbacks.quit = Some(on_quit);
        init.callbacks.shm_ack_handler = Some(on_shm_ack);
        init.callbacks.port_recv = Some(port::on_port_recv);
        // Its presence keeps libunit from finishing requests on its own when
        // it quits: they are ours to answer within the drain time.
        init.callbacks.close_handler = Some(on_close);
        // SAFETY: `init` is complete. The context keeps `ctx_data`, which
        // `events` keeps alive until after `nxt_unit_done`.
        let raw = unsafe { sys::nxt_unit_init(&raw mut init) };
        let raw = NonNull::new(raw).ok_or("nxt_unit_init")?;
        Ok(Self::new(raw, events))
    }

    /// A further context of this process, for the calling thread.
    fn alloc(main: Main) -> Result<Rc<Self>, &'static str> {
        let events = Events::new(false);
        let data = Rc::as_ptr(&events).cast_mut().cast();
        // SAFETY: the main context waits for this thread before it ends
        // (`drop`); `data` is kept alive until after `nxt_unit_done`.
        let raw = unsafe { sys::nxt_unit_ctx_alloc(main.0.as_ptr(), data) };
        let raw = NonNull::new(raw).ok_or("nxt_unit_ctx_alloc")?;
        Ok(Self::new(raw, events))
    }

    fn new(raw: NonNull<sys::nxt_unit_ctx_t>, events: Rc<Events>) -> Rc<Self> {
        let context = Rc::new(Self {
            raw,
            events,
            threads: RefCell::default(),
        });
        context.events.context.replace(Rc::downgrade(&context));
        context
    }

    /// Runs `work` on a thread with a further context of this process, or with
    /// the name of the libunit function that failed to make one; libunit logs
    /// why. To be called on the main context, which waits for the thread
    /// before it ends.
    ///
    /// # Errors
    ///
    /// The operating system's, if there can be no thread.
    pub fn spawn(
        &self,
        name: String,
        work: impl FnOnce(Result<Rc<Self>, &'static str>) + Send + 'static,
    ) -> io::Result<()> {
        let main = Main(self.raw);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || work(Self::alloc(main)))?;
        self.threads.borrow_mut().push(thread);
        Ok(())
    }

    /// What libunit has reported.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The port on which this context alone is spoken to.
    pub fn read_port(self: &Rc<Self>) -> Option<Port> {
        Some(Port::new(self.events.read_port.get()?, self))
    }

    /// The port on which requests for the application arrive. Before this is
    /// some and [`Events::is_ready`], taking from it does nothing.
    pub fn shared_port(self: &Rc<Self>) -> Option<Port> {
        Some(Port::new(self.events.shared_port.get()?, self))
    }

    /// From now on requests that are done, and their responses if these are of one
    /// message, wait for [`Events::uncork`]. Several messages in a row cost the
    /// router, and this process, little more than one.
    pub fn cork(self: &Rc<Self>) {
        self.events.corked.set(true);
        if self.events.spends_memory() {
            self.empty_read_port();
        }
    }

    /// Processes what there is on the read port. When libunit wants to wait for
    /// shared memory, it takes what it finds there and keeps it until the next
    /// message comes; a body that a request waits for may be among it.
    pub(super) fn empty_read_port(self: &Rc<Self>) {
        let Some(port) = self.read_port() else {
            return;
        };
        let more = [Processed::Message, Processed::Announcement];
        while more.contains(&self.process(&port)) {}
    }

    /// Receives and processes one message of `port`, a port of this context,
    /// if there is one.
    pub fn process(&self, port: &Port) -> Processed {
        if !port.is_of(self) {
            return Processed::Failed;
        }
        // SAFETY: the context is live, this is its thread, the port is its own,
        // and libunit keeps its ports until `nxt_unit_done`.
        let processed = unsafe { port::process(self.raw.as_ptr(), port.raw(), &self.events.gate) };
        if processed == Processed::Quit {
            self.events.draining.set(true);
            self.events.quit.set(true);
            return Processed::Nothing;
        }
        processed
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        for thread in self.threads.take() {
            if let Err(panic) = thread.join() {
                let text = panic_text(&*panic);
                log(
                    Level::Alert,
                    "wasm: ",
                    &format!("panic in a thread: {text}"),
                );
            }
        }
        if let Some(port) = self.events.read_port.get() {
            port::discard(port.fd);
        }
        // SAFETY: made by `init` or `alloc`, on this thread, and not used
        // after: whoever has a request or a port of it keeps it. `events`,
        // which callbacks may still write, is dropped later.
        unsafe { sys::nxt_unit_done(self.raw.as_ptr()) };
    }
}

/// The events of the context that a callback is called for.
///
/// # Safety
///
/// `ctx` must be null or a live context made by this module.
pub(super) unsafe fn events<'a>(ctx: *mut sys::nxt_unit_ctx_t) -> Option<&'a Events> {
    let ctx = NonNull::new(ctx)?;
    // SAFETY: live by contract.
    let data = unsafe { ctx.as_ref() }.data.cast::<Events>();
    // SAFETY: `init` and `alloc` set `data` to events that outlive the
    // context, and callbacks run on the context's thread.
    unsafe { data.as_ref() }
}

unsafe extern "C" fn on_request(raw: *mut sys::nxt_unit_request_info_t) {
    guard("request_handler", (), || {
        let Some(info) = NonNull::new(raw) else {
            return;
        };
        // SAFETY: libunit passes a live request, which is only read, of a live
        // context of ours.
        let events = unsafe { events(info.as_ref().ctx) };
        // Requests come while messages are processed, by a live `Context`.
        let context = events.and_then(|events| events.context.borrow().upgrade());
        if let (Some(events), Some(context)) = (events, context) {
            // SAFETY: it is new, so nobody else has it, and this is the thread
            // of its context.
            let request = unsafe { Request::adopt(info, context) };
            events.active.set(events.active.get() + 1);
            events.held.set(events.held.get().saturating_sub(1));
            events.requests.borrow_mut().push_back(request);
        }
    });
}

unsafe extern "C" fn on_add_port(
    ctx: *mut sys::nxt_unit_ctx_t,
    raw: *mut sys::nxt_unit_port_t,
) -> c_int {
    guard("add_port", (), || {
        // SAFETY: called with a live context of ours.
        let events = unsafe { events(ctx) };
        let (Some(events), Some(raw)) = (events, NonNull::new(raw)) else {
            return;
        };
        // SAFETY: live for the call, and only read.
        let port = unsafe { raw.as_ref() };
        // The router's port and ports to answer on have nothing to receive.
        if port.in_fd < 0 {
            return;
        }
        let known = RawPort {
            raw,
            fd: port.in_fd,
        };
        if u32::from(port.id.id) == SHARED_PORT_ID {
            events.shared_port.set(Some(known));
            // The main context hears from `ready_handler`, which nobody else
            // does, that the router has acknowledged it; the others are given
            // the shared port only then.
            if !events.is_main {
                events.ready.set(true);
            }
        } else {
            events.read_port.set(Some(known));
        }
    });
    OK
}

unsafe extern "C" fn on_remove_port(
    _unit: *mut sys::nxt_unit_t,
    ctx: *mut sys::nxt_unit_ctx_t,
    raw: *mut sys::nxt_unit_port_t,
) {
    guard("remove_port", (), || {
        // SAFETY: called with null or a live context of ours.
        let Some(events) = (unsafe { events(ctx) }) else {
            return;
        };
        let is_shared = events
            .shared_port
            .get()
            .is_some_and(|port| ptr::eq(port.raw.as_ptr(), raw));
        // The removal of the shared port is how a drain begins. The read
        // port stays usable until `nxt_unit_done`, for acknowledgements.
        if is_shared {
            events.draining.set(true);
        }
    });
}

unsafe extern "C" fn on_ready(ctx: *mut sys::nxt_unit_ctx_t) -> c_int {
    guard("ready_handler", (), || {
        // SAFETY: called with the live main context.
        if let Some(events) = unsafe { events(ctx) } {
            events.ready.set(true);
        }
    });
    OK
}

unsafe extern "C" fn on_quit(ctx: *mut sys::nxt_unit_ctx_t) {
    guard("quit", (), || {
        // SAFETY: called with a live context of ours.
        if let Some(events) = unsafe { events(ctx) } {
            events.quit.set(true);
        }
    });
}

unsafe extern "C" fn on_shm_ack(ctx: *mut sys::nxt_unit_ctx_t) {
    guard("shm_ack_handler", (), || {
        // SAFETY: called with a live context of ours.
        if let Some(events) = unsafe { events(ctx) } {
            events.memory_returned();
            if events.bodies.borrow().is_empty() {
                // Nobody else will tell whether a large head finds its place.
                events.memory.set(Memory::Enough);
            }
        }
    });
}

/// Called for every request that libunit has when it quits. They stay ours, to
/// be answered or failed when the process has drained, and those that were not
/// handed over yet will be.
unsafe extern "C" fn on_close(request: *mut sys::nxt_unit_request_info_t) {
    guard("close_handler", (), || {
        let Some(request) = NonNull::new(request) else {
            return;
        };
        // SAFETY: called with a live request, which is only read, of a live
        // context of ours.
        if let Some(events) = unsafe { events(request.as_ref().ctx) } {
            let closed = events.closed.get() + 1;
            events.closed.set(closed);
            events.held.set(closed.saturating_sub(events.active.get()));
        }
    });
}

const OK: c_int = sys::NXT_UNIT_OK as c_int;

/// `NXT_UNIT_SHARED_PORT_ID`, which is a cast in Unit's header.
pub(super) const SHARED_PORT_ID: u32 = 0xffff;
