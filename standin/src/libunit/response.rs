//! Building and sending the head of a response.

use std::ffi::{c_char, c_void};

use super::faults::Function;
use super::request::{Live, State, live};
use super::window::{CHUNK, PLAIN};
use super::{ERROR, Lib, OK, unit_log};
use crate::codec::Writer;
use crate::ffi::nxt_unit_request_info_t;
use crate::log::Level;
use crate::wire::{Header, Kind};

/// The largest buffer that libunit gives.
pub const LARGEST: usize = 10 << 20;

/// What a response of Unit's occupies before any string.
const HEAD: usize = 24;
/// What a field occupies, besides its strings with a byte after each.
const FIELD: usize = 16;

/// A response that is being built, in a buffer of limited size.
pub struct Response {
    status: u16,
    max_fields: usize,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
    used: usize,
    capacity: usize,
    chunks: Vec<u32>,
}

impl Response {
    /// Gives chunks back that were never sent.
    pub fn discard(self, lib: &Lib) {
        lib.release_unsent(&self.chunks);
    }

    /// Room for content.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.used)
    }

    fn message(&self, chunks: &[u32]) -> Vec<u8> {
        let mut out = Writer::default();
        for chunk in chunks {
            out.u32(*chunk);
        }
        out.u16(self.status);
        out.u32(self.fields.len() as u32);
        for (name, value) in &self.fields {
            out.bytes(name);
            out.bytes(value);
        }
        out.rest(&self.content);
        out.finish()
    }
}

/// Begins a response.
pub fn init(
    lib: &Lib,
    live: &Live,
    status: u16,
    max_fields: u32,
    fields_size: u32,
) -> Result<(), ()> {
    if live.state.get() == State::Sent {
        unit_log(Level::Warn, "init: response already sent");
        return Err(());
    }
    let max_fields = max_fields as usize;
    let size = HEAD + max_fields * (FIELD + 2) + fields_size as usize;
    let mut slot = live.response.borrow_mut();
    let (mut capacity, mut chunks) = (0, Vec::new());
    if let Some(old) = slot.take() {
        if size <= old.capacity {
            (capacity, chunks) = (old.capacity, old.chunks);
        } else {
            old.discard(lib);
            live.state.set(State::Start);
        }
    }
    if capacity == 0 {
        if size > LARGEST {
            unit_log(Level::Warn, "init: response too large");
            return Err(());
        }
        capacity = size;
        if size > PLAIN {
            chunks = lib.allocate(live.context(), size, size)?;
            capacity = chunks.len() * CHUNK;
        }
    }
    *slot = Some(Response {
        status,
        max_fields,
        fields: Vec::new(),
        content: Vec::new(),
        used: HEAD + max_fields * FIELD,
        capacity,
        chunks,
    });
    live.state.set(State::Initialised);
    Ok(())
}

/// Adds a field.
pub fn add_field(live: &Live, name: &[u8], value: &[u8]) -> i32 {
    let mut slot = live.response.borrow_mut();
    let Some(response) = slot
        .as_mut()
        .filter(|_| live.state.get() == State::Initialised)
    else {
        unit_log(
            Level::Warn,
            "add_field: response not initialized or already sent",
        );
        return ERROR;
    };
    let size = name.len() + value.len() + 2;
    if response.fields.len() >= response.max_fields || size > response.room() {
        unit_log(Level::Warn, "add_field: no room");
        return ERROR;
    }
    response.used += size;
    response.fields.push((name.to_vec(), value.to_vec()));
    OK
}

/// Adds content to the head's message.
pub fn add_content(live: &Live, content: &[u8]) -> i32 {
    let mut slot = live.response.borrow_mut();
    let Some(response) = slot.as_mut().filter(|_| live.state.get() != State::Sent) else {
        unit_log(
            Level::Warn,
            "add_content: response not initialized or already sent",
        );
        return ERROR;
    };
    if content.len() > response.room() {
        unit_log(Level::Warn, "add_content: no room");
        return ERROR;
    }
    live.state.set(State::HasContent);
    response.used += content.len();
    response.content.extend_from_slice(content);
    OK
}

/// Sends what was built.
pub fn send(lib: &Lib, live: &Live, last: bool) -> Result<(), ()> {
    let taken = live
        .response
        .borrow_mut()
        .take_if(|_| live.state.get() != State::Sent);
    let Some(response) = taken else {
        unit_log(
            Level::Warn,
            "send: response not initialized or already sent",
        );
        return Err(());
    };
    live.state.set(State::Sent);
    let filled = response.used.div_ceil(CHUNK).min(response.chunks.len());
    let (chunks, empty) = response.chunks.split_at(filled);
    lib.sent(chunks);
    lib.release_unsent(empty);
    let header = Header {
        last,
        chunks: chunks.len() as u32,
        ..Header::new(Kind::Head, live.number)
    };
    lib.send_or_log(header, &response.message(chunks))
        .then_some(())
        .ok_or(())
}

/// Begins a response; beyond 1024 bytes of fields it may wait for memory.
///
/// # Safety
/// `req` is a request of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_response_init(
    req: *mut nxt_unit_request_info_t,
    status: u16,
    max_fields_count: u32,
    max_fields_size: u32,
) -> i32 {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "response_init") }) else {
        return ERROR;
    };
    if lib.faults.fails(&lib.birth.faults, Function::ResponseInit) {
        return ERROR;
    }
    init(lib, live, status, max_fields_count, max_fields_size).map_or(ERROR, |()| OK)
}

/// # Safety
/// `start` has `length` bytes.
pub unsafe fn bytes<'a>(start: *const c_void, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast(), length) }
}

/// Adds a header field.
///
/// # Safety
/// `req` is a request of this thread; name and value have those lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_response_add_field(
    req: *mut nxt_unit_request_info_t,
    name: *const c_char,
    name_length: u8,
    value: *const c_char,
    value_length: u32,
) -> i32 {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "add_field") }) else {
        return ERROR;
    };
    if lib.faults.fails(&lib.birth.faults, Function::AddField) {
        return ERROR;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { bytes(name.cast(), usize::from(name_length)) };
    // SAFETY: the caller's promise.
    let value = unsafe { bytes(value.cast(), value_length as usize) };
    add_field(live, name, value)
}

/// Adds content that goes out with the head.
///
/// # Safety
/// `req` is a request of this thread; `src` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_response_add_content(
    req: *mut nxt_unit_request_info_t,
    src: *const c_void,
    size: u32,
) -> i32 {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "add_content") }) else {
        return ERROR;
    };
    if lib.faults.fails(&lib.birth.faults, Function::AddContent) {
        return ERROR;
    }
    // SAFETY: the caller's promise.
    add_content(live, unsafe { bytes(src, size as usize) })
}

/// Sends the head.
///
/// # Safety
/// `req` is a request of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_response_send(req: *mut nxt_unit_request_info_t) -> i32 {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "response_send") }) else {
        return ERROR;
    };
    if lib.faults.fails(&lib.birth.faults, Function::ResponseSend) {
        return ERROR;
    }
    send(lib, live, false).map_or(ERROR, |()| OK)
}
