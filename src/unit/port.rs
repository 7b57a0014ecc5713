//! Ports of libunit, and receiving from them.
//!
//! The module receives the messages of libunit itself, by the callback that
//! libunit has for this. That is what keeps libunit from waiting for shared
//! memory: a call that finds none would receive until some is given back, with
//! the event loop standing still, and here it is told that it cannot.
//!
//! Sending stays libunit's, on blocking sockets: while the router takes nothing
//! at all, neither does the event loop.

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use nxt_unit_sys as sys;

use super::context::{self, Context};
use super::guard::guard;
use super::log::{Level, log};

/// A port as libunit knows it. Valid as long as its context.
#[derive(Clone, Copy)]
pub(super) struct RawPort {
    pub raw: NonNull<sys::nxt_unit_port_t>,
    pub fd: RawFd,
}

/// A port of libunit with a descriptor to wait on. Keeps its context.
pub struct Port {
    raw: RawPort,
    context: Rc<Context>,
}

impl Port {
    /// `raw` must be a port of `context`.
    pub(super) fn new(raw: RawPort, context: &Rc<Context>) -> Self {
        Self {
            raw,
            context: Rc::clone(context),
        }
    }

    pub(super) fn is_of(&self, context: &Context) -> bool {
        ptr::eq(Rc::as_ptr(&self.context), context)
    }

    pub(super) fn raw(&self) -> RawPort {
        self.raw
    }

    /// Whether a message is next that only announces others.
    pub fn has_announcement(&self) -> bool {
        self.raw.has_announcement()
    }

    /// Becomes readable when [`Context::process`] is worth calling.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libunit keeps the port's descriptor open as long as the
        // context, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw(self.raw.fd) }
    }
}

/// What became of one attempt to process a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// A message was processed; there may be more.
    Message,
    /// What was received only announced messages that the descriptor knows
    /// nothing of: there may be more.
    Announcement,
    /// There is none, and the process is to quit.
    Quit,
    /// There is none.
    Nothing,
    /// The port is broken.
    Failed,
}

/// What libunit may do when it wants to receive a message, and what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing: it was called for something else, and would be waiting.
    #[default]
    Closed,
    /// It has tried all the same.
    Refused,
    /// Take one if there is one.
    Open,
    /// It has found none.
    Empty,
}

/// Whether libunit may receive messages of one context, and the kind of the last
/// one.
#[derive(Default)]
pub(super) struct Gate(Cell<State>, Cell<Option<u32>>);

impl Gate {
    /// Forgets what was refused before.
    pub fn reset(&self) {
        self.0.set(State::Closed);
    }

    /// Whether libunit has tried to wait since the last [`Gate::reset`].
    pub fn has_refused(&self) -> bool {
        self.0.get() == State::Refused
    }

    fn open(&self) {
        self.1.set(None);
        self.0.set(State::Open);
    }

    /// Closes it. True if it was found that there is no message.
    fn close(&self) -> bool {
        self.0.replace(State::Closed) == State::Empty
    }
}

/// Receives and processes one message of `port`, if there is one.
///
/// # Safety
///
/// `ctx` must be a live context of the calling thread with this `gate`, and
/// `port` one of its ports.
pub(super) unsafe fn process(
    ctx: *mut sys::nxt_unit_ctx_t,
    port: RawPort,
    gate: &Gate,
) -> Processed {
    gate.open();
    // SAFETY: by contract; libunit keeps its ports until `nxt_unit_done`.
    let rc = unsafe { sys::nxt_unit_process_port_msg(ctx, port.raw.as_ptr()) };
    let empty = gate.close();
    match u32::try_from(rc) {
        Ok(sys::NXT_UNIT_OK) => Processed::Message,
        Ok(sys::NXT_UNIT_AGAIN) => match gate.1.get() {
            Some(sys::_NXT_PORT_MSG_READ_QUEUE) => Processed::Announcement,
            // libunit keeps what nothing has announced until something does.
            // Processes of unitd send this when they stop, and it is the last.
            Some(sys::_NXT_PORT_MSG_QUIT) => Processed::Quit,
            _ => Processed::Nothing,
        },
        // The callback has no other way to say that there is nothing.
        _ if empty => Processed::Nothing,
        _ => Processed::Failed,
    }
}

/// What libunit calls to receive a message.
///
/// Returns the length of the message, with the length of its control data in
/// `oob_size`, 0 at the end of the shared port, which is to quit, or -1.
pub(super) unsafe extern "C" fn on_port_recv(
    ctx: *mut sys::nxt_unit_ctx_t,
    port: *mut sys::nxt_unit_port_t,
    buffer: *mut c_void,
    size: usize,
    oob: *mut c_void,
    oob_size: *mut usize,
) -> isize {
    guard("port_recv", -1, || {
        // SAFETY: libunit passes the room there is in `oob`, for the callback
        // to write how much it has used.
        let Some(oob_size) = (unsafe { oob_size.as_mut() }) else {
            return -1;
        };
        let room = std::mem::take(oob_size);
        // SAFETY: called with a live context of ours, and a live port.
        let (events, port) = unsafe { (context::events(ctx), port.as_ref()) };
        let (Some(events), Some(port)) = (events, port) else {
            return -1;
        };
        let gate = events.gate();
        if gate.0.get() != State::Open {
            gate.0.set(State::Refused);
            return -1;
        }
        let mut piece = libc::iovec {
            iov_base: buffer,
            iov_len: size,
        };
        // SAFETY: all zeroes is a valid message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = oob;
        message.msg_controllen = room as _;
        loop {
            // SAFETY: `buffer` has `size` bytes and `oob` has `room`, as
            // libunit says; the descriptor belongs to the live port.
            let received =
                unsafe { libc::recvmsg(port.in_fd, &raw mut message, libc::MSG_DONTWAIT) };
            if received == 0 && u32::from(port.id.id) != context::SHARED_PORT_ID {
                // The end of a read port: its other end has gone, as at a stop.
                // libunit would take it for a message that came too early.
                gate.0.set(State::Empty);
                return -1;
            }
            if received >= 0 {
                *oob_size = message.msg_controllen as _;
                let length = usize::try_from(received).unwrap_or(0);
                // SAFETY: so many bytes have been written to `buffer`.
                let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) };
                gate.1.set(kind(bytes));
                return received;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    gate.0.set(State::Empty);
                    return -1;
                }
                _ => {
                    let text = format!("cannot receive from a port of Unit: {error}");
                    log(Level::Alert, "wasm: ", &text);
                    return -1;
                }
            }
        }
    })
}

/// The kind of a message, a `nxt_port_msg_type_t`.
fn kind(bytes: &[u8]) -> Option<u32> {
    if bytes.len() < size_of::<sys::nxt_port_msg_t>() {
        return None;
    }
    let at = std::mem::offset_of!(sys::nxt_port_msg_t, type_);
    bytes.get(at).copied().map(u32::from)
}

impl RawPort {
    /// Whether the next message only announces others.
    fn has_announcement(self) -> bool {
        let mut bytes = [0_u8; 64];
        // SAFETY: `bytes` is ours and as long as said; the descriptor belongs
        // to a port of a live context. Nothing is taken from it.
        let found = unsafe {
            libc::recv(
                self.fd,
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_PEEK,
            )
        };
        let found = usize::try_from(found).ok();
        let found = found.and_then(|length| kind(bytes.get(..length)?));
        found == Some(sys::_NXT_PORT_MSG_READ_QUEUE)
    }
}

/// Empties the socket of a read port that is about to be closed. What is in
/// there would make its senders fail with a reset connection, which unitd
/// reports as an alert of its own. The port's queue stays as it is.
pub(super) fn discard(fd: RawFd) {
    let mut bytes = [0_u8; 64];
    loop {
        // SAFETY: `bytes` is ours and as long as said. Descriptors that came
        // with a message are closed by the kernel, as no room is given.
        let read = unsafe {
            libc::recv(
                fd,
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if read <= 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_tells_what_was_tried() {
        let gate = Gate::default();
        assert!(!gate.has_refused());
        gate.0.set(State::Refused);
        assert!(gate.has_refused());
        gate.reset();
        assert!(!gate.has_refused());
        gate.open();
        assert!(!gate.close());
        gate.open();
        gate.0.set(State::Empty);
        assert!(gate.close());
    }
}
