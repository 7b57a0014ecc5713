//! The libunit functions, in the application process.
//!
//! A process has one [`Lib`]. Each context belongs to the thread that first
//! processes its port; everything in [`context::Context`] and
//! [`request::Live`] is touched on that thread only, so plain cells do. The
//! functions check what libunit does not: a call for a request that is done,
//! or from a foreign thread, is logged at alert level.

mod context;
mod faults;
pub mod port;
mod request;
mod response;
mod window;
mod write;

use std::cell::UnsafeCell;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::ffi::{
    self, nxt_common_app_conf_t, nxt_int_t, nxt_task_t, nxt_unit_callbacks_t, nxt_unit_ctx_t,
    nxt_unit_init_t, nxt_unit_port_id_s, nxt_unit_port_t, nxt_unit_t,
};
use crate::log::{Level, write_line};
use crate::sys::net::Wait;
use crate::sys::shared::{FaultWords, ProcessWords, QueueWords, Shared};
use crate::wire::{self, Header};

use context::Context;
use port::Sender;

/// What an application process is born with.
pub struct Birth {
    /// The stream to the router.
    pub router: OwnedFd,
    /// Process id of the router.
    pub router_pid: i32,
    /// Requests.
    pub shared_data: OwnedFd,
    /// Notifications of requests; its end means that no more will come.
    pub shared_notify: OwnedFd,
    /// Whether a notification is on its way.
    pub queue: Shared<QueueWords>,
    /// Faults to produce.
    pub faults: Shared<FaultWords>,
    /// Chunks of the window.
    pub window: u64,
    /// `limits.requests`, 0 for none.
    pub requests: u32,
}

static BIRTH: OnceLock<Birth> = OnceLock::new();
static LIB: OnceLock<Lib> = OnceLock::new();

/// The state shared by all contexts of the process.
struct Lib {
    birth: &'static Birth,
    unit: UnsafeCell<nxt_unit_t>,
    callbacks: nxt_unit_callbacks_t,
    words: Shared<ProcessWords>,
    /// The window itself.
    memory: OwnedFd,
    /// Held while chunks are taken.
    taking: Mutex<()>,
    /// Held while a frame is written.
    writing: Mutex<()>,
    router_port: *mut nxt_unit_port_t,
    shared_port: *mut nxt_unit_port_t,
    response_port: *mut nxt_unit_port_t,
    response_port_added: AtomicBool,
    main_ready: AtomicBool,
    main_quits_gracefully: AtomicBool,
    next_context: AtomicU32,
    /// Contexts that are not done.
    contexts: AtomicU32,
    peers: Mutex<Vec<Sender>>,
    /// Requests taken, for `limits.requests`.
    taken: AtomicU32,
    /// Chunks allocated and not yet sent.
    unsent: AtomicI64,
    /// Addresses of requests that are not done.
    live: Mutex<HashSet<usize>>,
    faults: faults::Calls,
}

// SAFETY: the raw pointers name ports that are never freed, and the module
// decides what it keeps in their `data`; `unit` is only handed out as an
// address; the rest is atomics and mutexes.
unsafe impl Send for Lib {}
// SAFETY: as above.
unsafe impl Sync for Lib {}

/// What libunit answers when something failed.
const ERROR: i32 = ffi::NXT_UNIT_ERROR as i32;
const OK: i32 = ffi::NXT_UNIT_OK as i32;
const AGAIN: i32 = ffi::NXT_UNIT_AGAIN as i32;

/// Puts down what `nxt_unit_init` will need; called before start().
pub fn set_birth(birth: Birth) {
    let _ = BIRTH.set(birth);
}

fn lib() -> Option<&'static Lib> {
    LIB.get()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unit_log(level: Level, message: &str) {
    write_line(level, "[unit] ", message.as_bytes());
}

impl Lib {
    /// Sends a frame to the router; any thread may.
    fn send(&self, header: Header, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = locked(&self.writing);
        wire::send(&self.birth.router, header, payload, fds, Wait::AsDescriptor)
    }

    /// As `send`; a failure is logged, as the router is gone.
    fn send_or_log(&self, header: Header, payload: &[u8]) -> bool {
        match self.send(header, payload, &[]) {
            Ok(()) => true,
            Err(error) => {
                unit_log(Level::Warn, &format!("send to router failed: {error}"));
                false
            }
        }
    }

    fn add_port(&self, ctx: *mut nxt_unit_ctx_t, port: *mut nxt_unit_port_t) {
        if let Some(callback) = self.callbacks.add_port {
            // SAFETY: the module's callback, with a context and a port of ours.
            unsafe { callback(ctx, port) };
        }
    }

    fn remove_port(&self, ctx: *mut nxt_unit_ctx_t, port: *mut nxt_unit_port_t) {
        if let Some(callback) = self.callbacks.remove_port {
            // SAFETY: as in `add_port`; `ctx` may be null by contract.
            unsafe { callback(self.unit.get(), ctx, port) };
        }
    }
}

impl Lib {
    /// A context is done; with the last one go the ports that are no
    /// context's own.
    fn context_done(&self) {
        if self.contexts.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        self.remove_port(ptr::null_mut(), self.router_port);
        if self.response_port_added.load(Ordering::Acquire) {
            self.remove_port(ptr::null_mut(), self.response_port);
        }
        self.remove_port(ptr::null_mut(), self.shared_port);
    }
}

/// A port that lives as long as the process.
fn new_port(pid: i32, id: u16, in_fd: i32) -> *mut nxt_unit_port_t {
    Box::into_raw(Box::new(nxt_unit_port_t {
        id: nxt_unit_port_id_s { pid, id },
        in_fd,
        data: ptr::null_mut(),
    }))
}

/// Prepares `init`; what it lacks is found by `nxt_unit_init`.
///
/// # Safety
/// `init` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_default_init(
    _task: *mut nxt_task_t,
    init: *mut nxt_unit_init_t,
    _conf: *mut nxt_common_app_conf_t,
) -> nxt_int_t {
    if BIRTH.get().is_none() {
        return ffi::NXT_ERROR as nxt_int_t;
    }
    // SAFETY: the caller's promise; all-zero is a valid `nxt_unit_init_t`.
    unsafe { init.write_bytes(0, 1) };
    ffi::NXT_OK as nxt_int_t
}

/// Makes the main context; null if that fails.
///
/// # Safety
/// `init` is filled in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_init(init: *mut nxt_unit_init_t) -> *mut nxt_unit_ctx_t {
    // SAFETY: the caller's promise.
    let (Some(birth), Some(init)) = (BIRTH.get(), unsafe { init.as_ref() }) else {
        unit_log(Level::Alert, "init outside of an application process");
        return ptr::null_mut();
    };
    match start(birth, init) {
        Ok(ctx) => ctx,
        Err(error) => {
            unit_log(Level::Alert, &format!("init failed: {error}"));
            ptr::null_mut()
        }
    }
}

fn start(birth: &'static Birth, init: &nxt_unit_init_t) -> io::Result<*mut nxt_unit_ctx_t> {
    if init.callbacks.request_handler.is_none() {
        return Err(io::Error::other("request_handler is not set"));
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    rustix::io::ioctl_fionbio(&birth.shared_notify, true)?;
    let words = Shared::<ProcessWords>::create()?;
    words.limit.store(birth.window, Ordering::Relaxed);
    let shared_id = ffi::NXT_UNIT_SHARED_PORT_ID as u16;
    let made = Lib {
        birth,
        unit: UnsafeCell::new(nxt_unit_t { data: init.data }),
        callbacks: init.callbacks,
        words,
        memory: memfd_create("nxt-standin", MemfdFlags::CLOEXEC)?,
        taking: Mutex::new(()),
        writing: Mutex::new(()),
        router_port: new_port(birth.router_pid, 0, -1),
        shared_port: new_port(pid, shared_id, birth.shared_notify.as_raw_fd()),
        response_port: new_port(birth.router_pid, 1, -1),
        response_port_added: AtomicBool::new(false),
        main_ready: AtomicBool::new(false),
        main_quits_gracefully: AtomicBool::new(false),
        next_context: AtomicU32::new(0),
        contexts: AtomicU32::new(0),
        peers: Mutex::default(),
        taken: AtomicU32::new(0),
        unsent: AtomicI64::new(0),
        live: Mutex::default(),
        faults: faults::Calls::default(),
    };
    if LIB.set(made).is_err() {
        return Err(io::Error::other("called twice"));
    }
    let lib = lib().ok_or_else(|| io::Error::other("not set"))?;

    let context = Context::create(lib, pid, init.ctx_data)?;
    let ctx = context.public();
    lib.add_port(ctx, lib.router_port);
    lib.add_port(ctx, context.read_port());
    lib.add_port(ctx, lib.shared_port);
    context.announce(lib, &[lib.words.as_fd(), lib.memory.as_fd()])?;
    Ok(ctx)
}

/// Makes another context; null if that fails.
///
/// # Safety
/// `ctx` is a context that is not done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_ctx_alloc(
    _ctx: *mut nxt_unit_ctx_t,
    data: *mut std::ffi::c_void,
) -> *mut nxt_unit_ctx_t {
    let Some(lib) = lib() else {
        return ptr::null_mut();
    };
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let made = Context::create(lib, pid, data).and_then(|context| {
        lib.add_port(context.public(), context.read_port());
        context.announce(lib, &[])?;
        Ok(context.public())
    });
    made.unwrap_or_else(|error| {
        unit_log(Level::Alert, &format!("ctx_alloc failed: {error}"));
        ptr::null_mut()
    })
}

/// What `nxt_unit_log` found in its arguments.
///
/// # Safety
/// `text` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_unit_log(level: i32, text: *const u8, length: usize) {
    let level = Level::from_number(u32::try_from(level).unwrap_or_default());
    if length != 0 {
        // SAFETY: the caller's promise.
        write_line(level, "[unit] ", unsafe {
            std::slice::from_raw_parts(text, length)
        });
    } else {
        write_line(level, "[unit] ", b"");
    }
}

/// The address of a function.
struct Export(#[expect(dead_code, reason = "only its presence matters")] *const ());

// SAFETY: never read; functions may be named by any thread.
unsafe impl Sync for Export {}

/// The functions that modules find in this executable: named here, so that
/// the linker keeps them.
#[used]
static EXPORTED: [Export; 24] = [
    Export(nxt_unit_default_init as *const ()),
    Export(nxt_unit_init as *const ()),
    Export(nxt_unit_ctx_alloc as *const ()),
    Export(ffi::nxt_unit_log as *const ()),
    Export(standin_unit_log as *const ()),
    Export(context::nxt_unit_process_port_msg as *const ()),
    Export(context::nxt_unit_done as *const ()),
    Export(request::nxt_unit_request_read as *const ()),
    Export(request::nxt_unit_request_done as *const ()),
    Export(response::nxt_unit_response_init as *const ()),
    Export(response::nxt_unit_response_add_field as *const ()),
    Export(response::nxt_unit_response_add_content as *const ()),
    Export(response::nxt_unit_response_send as *const ()),
    Export(write::nxt_unit_response_write_nb as *const ()),
    Export(crate::prototype::standin_task_log as *const ()),
    Export(crate::conf_api::nxt_conf_type as *const ()),
    Export(crate::conf_api::nxt_conf_get_string as *const ()),
    Export(crate::conf_api::nxt_conf_get_number as *const ()),
    Export(crate::conf_api::nxt_conf_get_boolean as *const ()),
    Export(crate::conf_api::nxt_conf_get_object_member as *const ()),
    Export(crate::conf_api::nxt_conf_object_members_count as *const ()),
    Export(crate::conf_api::nxt_conf_next_object_member as *const ()),
    Export(crate::conf_api::nxt_conf_array_elements_count as *const ()),
    Export(crate::conf_api::nxt_conf_get_array_element as *const ()),
];
