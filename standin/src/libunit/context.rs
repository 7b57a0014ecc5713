//! Contexts: taking messages from ports, and quitting.

use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread::{self, ThreadId};

use rustix::process::{Signal, getpid, kill_process};

use super::faults::{Event, Function};
use super::port::{self, Message, Received, Receiver};
use super::request::{self, Live};
use super::{AGAIN, ERROR, Lib, OK, lib, locked, new_port, unit_log};
use crate::ffi::{nxt_unit_ctx_t, nxt_unit_port_t, nxt_unit_request_info_t};
use crate::log::Level;
use crate::request::Request;
use crate::wire::{Header, Kind};

/// No request message is longer.
const MESSAGE: usize = 192 << 10;

/// A context; modules see its first member.
#[repr(C)]
pub struct Context {
    public: UnsafeCell<nxt_unit_ctx_t>,
    number: u32,
    owner: OnceCell<ThreadId>,
    port: *mut nxt_unit_port_t,
    port_removed: Cell<bool>,
    receiver: Receiver,
    ready: Cell<bool>,
    online: Cell<bool>,
    active: RefCell<Vec<*const Live>>,
    pending: RefCell<VecDeque<Message>>,
    buffer: RefCell<Vec<u8>>,
}

impl Context {
    /// Makes a context; it lives until `nxt_unit_done`.
    pub fn create(lib: &'static Lib, pid: i32, data: *mut c_void) -> io::Result<&'static Self> {
        let number = lib.next_context.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = port::create(number)?;
        let id = u16::try_from(number).map_err(|_| io::Error::other("too many contexts"))?;
        let made = Box::leak(Box::new(Self {
            public: UnsafeCell::new(nxt_unit_ctx_t {
                unit: lib.unit.get(),
                data,
            }),
            number,
            owner: OnceCell::new(),
            port: new_port(pid, id, receiver.notify_fd()),
            port_removed: Cell::new(false),
            receiver,
            ready: Cell::new(false),
            online: Cell::new(true),
            active: RefCell::default(),
            pending: RefCell::default(),
            buffer: RefCell::new(vec![0; MESSAGE]),
        }));
        locked(&lib.peers).push(sender);
        lib.contexts.fetch_add(1, Ordering::AcqRel);
        Ok(made)
    }

    /// Tells the router; the first context says that the process is ready.
    pub fn announce(&self, lib: &Lib, more: &[BorrowedFd<'_>]) -> io::Result<()> {
        let peers = locked(&lib.peers);
        let Some(sender) = peers.iter().find(|peer| peer.context == self.number) else {
            return Err(io::Error::other("no such context"));
        };
        let mut fds = vec![
            sender.data.as_fd(),
            sender.notify.as_fd(),
            sender.words.as_fd(),
        ];
        fds.extend_from_slice(more);
        lib.send(Header::new(Kind::Context, self.number), &[], &fds)
    }

    /// What modules hold.
    pub fn public(&self) -> *mut nxt_unit_ctx_t {
        self.public.get()
    }

    /// The context's own port.
    pub fn read_port(&self) -> *mut nxt_unit_port_t {
        self.port
    }

    /// # Safety
    /// `ctx` is a context that is not done.
    pub unsafe fn from_public<'a>(ctx: *mut nxt_unit_ctx_t) -> Option<&'a Self> {
        // SAFETY: the caller's promise; `public` is the first member of a
        // repr(C) struct that is only ever borrowed shared.
        unsafe { ctx.cast::<Self>().as_ref() }
    }

    fn is_main(&self) -> bool {
        self.number == 0
    }

    /// Says so if this is not the context's thread.
    pub fn check_thread(&self, call: &str) {
        let me = thread::current().id();
        if *self.owner.get_or_init(|| me) != me {
            let text = format!("{call}: called off the thread of context {}", self.number);
            unit_log(Level::Alert, &text);
        }
    }

    fn set_ready(&self, lib: &Lib, ready: bool) {
        self.ready.set(ready);
        if self.is_main() {
            lib.main_ready.store(ready, Ordering::Release);
        }
    }

    /// Forgets a request that is done; a context that drains quits then.
    pub fn forget(&self, lib: &'static Lib, request: *const Live) {
        self.active.borrow_mut().retain(|other| *other != request);
        if !self.ready.get() {
            self.quit(lib, true);
        }
    }

    fn process_shared(&self, lib: &'static Lib) -> i32 {
        if !self.ready.get() {
            return AGAIN;
        }
        let birth = lib.birth;
        let own = || self.notified(lib, lib.shared_port);
        let received = port::receive_request(
            &birth.shared_data,
            &birth.shared_notify,
            &birth.queue,
            &mut self.buffer.borrow_mut(),
            lib.callbacks.port_recv.is_some().then_some(&own),
        );
        match received {
            Ok(Received::Nothing) => AGAIN,
            Ok(Received::End) => {
                self.quit(lib, true);
                OK
            }
            Ok(Received::Message((length, body))) => self.begin(lib, length, body),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => ERROR,
            Err(error) => {
                unit_log(Level::Alert, &format!("shared port: {error}"));
                ERROR
            }
        }
    }

    fn begin(&self, lib: &'static Lib, length: usize, body: Option<OwnedFd>) -> i32 {
        let decoded = {
            let buffer = self.buffer.borrow();
            buffer.get(..length).and_then(Request::decode)
        };
        let Some((number, request)) = decoded else {
            unit_log(Level::Alert, "unreadable request");
            return ERROR;
        };
        if !lib.send_or_log(Header::new(Kind::Taken, number), &[]) {
            return ERROR;
        }
        let limit = lib.birth.requests;
        if limit != 0 && lib.taken.fetch_add(1, Ordering::AcqRel) + 1 >= limit {
            tell_main(lib, Message::QuitGracefully);
        }
        match lib.faults.request(&lib.birth.faults) {
            Event::Nothing => {}
            Event::Quit => tell_main(lib, Message::Quit),
            Event::Kill => {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
        if !lib.response_port_added.swap(true, Ordering::AcqRel) {
            lib.add_port(self.public(), lib.response_port);
        }
        let live = Live::create(self, number, &request, body);
        self.active.borrow_mut().push(live);
        locked(&lib.live).insert(live.addr());
        self.call(lib.callbacks.request_handler, live);
        OK
    }

    fn call(
        &self,
        callback: Option<unsafe extern "C" fn(*mut nxt_unit_request_info_t)>,
        live: *const Live,
    ) {
        if let Some(callback) = callback {
            // SAFETY: the module's callback, with a request that is not done.
            unsafe { callback(live.cast_mut().cast()) };
        }
    }

    fn process_read(&self, lib: &'static Lib) -> i32 {
        let own = || self.notified(lib, self.port);
        let own: Option<port::Notified> = lib.callbacks.port_recv.is_some().then_some(&own);
        match self.receiver.receive(own) {
            Ok(Received::Nothing) => AGAIN,
            Ok(Received::End) => {
                self.quit(lib, true);
                OK
            }
            Ok(Received::Message(message)) => self.handle(lib, message),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => ERROR,
            Err(error) => {
                unit_log(Level::Alert, &format!("read port: {error}"));
                ERROR
            }
        }
    }

    /// Lets the module receive a notification, if it does that itself.
    fn notified(&self, lib: &Lib, port: *mut nxt_unit_port_t) -> std::io::Result<usize> {
        // To libunit this is an error like any other, only without a log line.
        let refused = || std::io::Error::from(std::io::ErrorKind::Unsupported);
        let callback = lib.callbacks.port_recv.ok_or_else(refused)?;
        let (mut buffer, mut oob, mut oob_size) = ([0_u8; 1], [0_u64; 8], size_of::<[u64; 8]>());
        // SAFETY: the module's callback, with this context, one of its ports,
        // and buffers as long as said.
        let length = unsafe {
            callback(
                self.public(),
                port,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                oob.as_mut_ptr().cast(),
                &raw mut oob_size,
            )
        };
        usize::try_from(length).map_err(|_| refused())
    }

    fn handle(&self, lib: &'static Lib, message: Message) -> i32 {
        match message {
            Message::Ack => self.become_ready(lib),
            Message::ShmAck => {
                if let Some(callback) = lib.callbacks.shm_ack_handler {
                    // SAFETY: the module's callback, with this context.
                    unsafe { callback(self.public()) };
                }
                OK
            }
            Message::Quit => {
                self.quit(lib, false);
                OK
            }
            Message::QuitGracefully => {
                self.quit(lib, true);
                OK
            }
        }
    }

    fn become_ready(&self, lib: &'static Lib) -> i32 {
        if self.ready.get() {
            return OK;
        }
        if self.is_main() {
            self.set_ready(lib, true);
            if let Some(callback) = lib.callbacks.ready_handler {
                // SAFETY: the module's callback, with this context.
                return unsafe { callback(self.public()) };
            }
            return OK;
        }
        if !lib.main_ready.load(Ordering::Acquire) {
            let gracefully = lib.main_quits_gracefully.load(Ordering::Acquire);
            self.quit(lib, gracefully);
            return OK;
        }
        self.set_ready(lib, true);
        lib.add_port(self.public(), lib.shared_port);
        OK
    }

    /// Stops taking requests and, unless requests in flight are to be waited
    /// for, ends the context.
    pub fn quit(&self, lib: &'static Lib, gracefully: bool) {
        if !self.online.get() {
            return;
        }
        let was_ready = self.ready.get();
        if was_ready {
            self.set_ready(lib, false);
            lib.remove_port(self.public(), lib.shared_port);
        }
        let idle = self.active.borrow().is_empty() && self.pending.borrow().is_empty();
        if !gracefully && self.is_main() {
            lib.main_quits_gracefully.store(true, Ordering::Release);
        }
        if !gracefully || idle {
            self.online.set(false);
            if let Some(callback) = lib.callbacks.quit {
                // SAFETY: the module's callback, with this context.
                unsafe { callback(self.public()) };
            }
            self.close_active(lib);
            self.remove_read_port(lib, self.public());
        }
        if self.is_main() && (was_ready || !gracefully) {
            let message = if gracefully {
                Message::QuitGracefully
            } else {
                Message::Quit
            };
            for peer in locked(&lib.peers).iter().filter(|peer| peer.context != 0) {
                let _ = peer.send(message);
            }
        }
    }

    fn close_active(&self, lib: &'static Lib) {
        let active = self.active.borrow().clone();
        for live in active {
            if !locked(&lib.live).contains(&live.addr()) {
                continue;
            }
            unit_log(Level::Warn, "active request on ctx quit");
            if lib.callbacks.close_handler.is_some() {
                self.call(lib.callbacks.close_handler, live);
            } else {
                request::done(lib, live, ERROR);
            }
        }
    }

    fn remove_read_port(&self, lib: &'static Lib, ctx: *mut nxt_unit_ctx_t) {
        if !self.port_removed.replace(true) {
            lib.remove_port(ctx, self.port);
        }
    }

    fn process_pending(&self, lib: &'static Lib) -> i32 {
        loop {
            let next = self.pending.borrow_mut().pop_front();
            let Some(message) = next else { return OK };
            if self.handle(lib, message) == ERROR {
                return ERROR;
            }
        }
    }

    /// Waits until chunks were given back. Other messages are kept for later;
    /// to be told to quit is an error.
    pub fn wait_shm_ack(&self, lib: &Lib) -> Result<(), ()> {
        let own = || self.notified(lib, self.port);
        let own: Option<port::Notified> = lib.callbacks.port_recv.is_some().then_some(&own);
        loop {
            match self.receiver.wait(own) {
                Ok(Received::Message(Message::ShmAck)) => return Ok(()),
                Ok(Received::Message(message)) => {
                    self.pending.borrow_mut().push_back(message);
                    if message == Message::Quit {
                        return Err(());
                    }
                }
                Ok(Received::Nothing | Received::End) | Err(_) => return Err(()),
            }
        }
    }
}

fn tell_main(lib: &Lib, message: Message) {
    for peer in locked(&lib.peers).iter().filter(|peer| peer.context == 0) {
        let _ = peer.send(message);
    }
}

/// Takes one message from a port and acts on it; `NXT_UNIT_AGAIN` if there is
/// none.
///
/// # Safety
/// `ctx` is a context that is not done, on its own thread; `port` is one of
/// its ports.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_process_port_msg(
    ctx: *mut nxt_unit_ctx_t,
    port: *mut nxt_unit_port_t,
) -> i32 {
    // SAFETY: the caller's promise.
    let (Some(lib), Some(context)) = (lib(), unsafe { Context::from_public(ctx) }) else {
        return ERROR;
    };
    context.check_thread("process_port_msg");
    if lib
        .faults
        .fails(&lib.birth.faults, Function::ProcessPortMsg)
    {
        return ERROR;
    }
    let result = if port == lib.shared_port {
        context.process_shared(lib)
    } else if port == context.port {
        context.process_read(lib)
    } else {
        unit_log(Level::Alert, "process_port_msg: not a port of this context");
        ERROR
    };
    if result != OK {
        return result;
    }
    context.process_pending(lib)
}

/// Ends a context; requests that are not done fail.
///
/// # Safety
/// `ctx` is a context that is not done, on its own thread; it is not used any
/// more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_done(ctx: *mut nxt_unit_ctx_t) {
    // SAFETY: the caller's promise.
    let (Some(lib), Some(context)) = (lib(), unsafe { Context::from_public(ctx) }) else {
        return;
    };
    context.check_thread("done");
    let active = context.active.borrow().clone();
    context.online.set(false);
    for live in active {
        if locked(&lib.live).contains(&live.addr()) {
            unit_log(Level::Warn, "active request on ctx free");
            request::done(lib, live, ERROR);
        }
    }
    context.remove_read_port(lib, std::ptr::null_mut());
    locked(&lib.peers).retain(|peer| peer.context != context.number);
    let _ = lib.send(Header::new(Kind::ContextGone, context.number), &[], &[]);
    // SAFETY: leaked by `create`; by contract this is its last use, and no
    // borrow outlives the calls above.
    drop(unsafe { Box::from_raw(ctx.cast::<Context>()) });
    lib.context_done();
}
