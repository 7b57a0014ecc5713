//! Requests: their form in memory, reading the body, ending them.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use super::context::Context;
use super::faults::Function;
use super::response::{self, Response};
use super::{ERROR, Lib, OK, lib, locked, unit_log};
use crate::ffi::{nxt_unit_field_t, nxt_unit_request_info_t, nxt_unit_request_t, nxt_unit_sptr_t};
use crate::log::Level;
use crate::request::Request;
use crate::wire::{Header, Kind};

/// How far the response is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Start,
    Initialised,
    HasContent,
    Sent,
}

/// A request that is not done; modules see its first member.
#[repr(C)]
pub struct Live {
    info: UnsafeCell<nxt_unit_request_info_t>,
    pub context: *const Context,
    pub number: u32,
    pub state: Cell<State>,
    pub response: RefCell<Option<Response>>,
    preread: RefCell<(Vec<u8>, usize)>,
    /// What `info.request` points to.
    _form: Vec<u64>,
}

impl Live {
    /// Makes a request; it lives until it is done.
    pub fn create(
        context: &Context,
        number: u32,
        request: &Request,
        body: Option<OwnedFd>,
    ) -> *const Self {
        let mut form = form(request);
        let info = nxt_unit_request_info_t {
            ctx: context.public(),
            request: form.as_mut_ptr().cast(),
            content_length: request.content_length,
            content_fd: body.map_or(-1, IntoRawFd::into_raw_fd),
            data: ptr::null_mut(),
        };
        Box::into_raw(Box::new(Self {
            info: UnsafeCell::new(info),
            context,
            number,
            state: Cell::new(State::Start),
            response: RefCell::default(),
            preread: RefCell::new((request.preread.clone(), 0)),
            _form: form,
        }))
    }

    /// The context, which outlives its requests.
    pub fn context(&self) -> &Context {
        // SAFETY: `nxt_unit_done` ends all requests of the context first.
        unsafe { &*self.context }
    }

    fn content_fd(&self) -> i32 {
        // SAFETY: written on this thread only, by the module or by `close`.
        unsafe { (*self.info.get()).content_fd }
    }

    fn close(&self) {
        let fd = self.content_fd();
        if fd != -1 {
            // SAFETY: this thread only; `info` is not borrowed.
            unsafe { (*self.info.get()).content_fd = -1 };
            // SAFETY: the request owns the descriptor, and has forgotten it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    fn consumed(&self, count: usize) {
        // SAFETY: this thread only; `info` is not borrowed.
        let left = unsafe { &mut (*self.info.get()).content_length };
        *left = left.saturating_sub(count as u64);
    }
}

/// The request that a module names, if it is not done; else that is logged.
///
/// # Safety
/// Called on the thread of the request's context.
pub unsafe fn live<'a>(
    req: *mut nxt_unit_request_info_t,
    call: &str,
) -> Option<(&'static Lib, &'a Live)> {
    let lib = lib()?;
    if !locked(&lib.live).contains(&req.addr()) {
        unit_log(
            Level::Alert,
            &format!("{call}: no such request: it is done"),
        );
        return None;
    }
    // SAFETY: the address is one of a `Live` that has not been freed: it is
    // taken from the set first. Only shared borrows are ever made.
    let live = unsafe { &*req.cast_const().cast::<Live>() };
    live.context().check_thread(call);
    Some((lib, live))
}

/// `NXT_UNIT_NONE_FIELD`.
const NONE_FIELD: usize = u32::MAX as usize;

/// Builds the structure that modules read, strings behind it.
fn form(request: &Request) -> Vec<u64> {
    // Not the size of the structure, which can have padding after it.
    const HEAD: usize = offset_of!(nxt_unit_request_t, fields);
    const FIELD: usize = size_of::<nxt_unit_field_t>();
    let mut form = Form {
        bytes: vec![0; (HEAD + request.fields.len() * FIELD).max(size_of::<nxt_unit_request_t>())],
    };
    macro_rules! at {
        ($member:ident) => {
            offset_of!(nxt_unit_request_t, $member)
        };
    }
    let r = request;
    form.text(at!(method), &r.method);
    form.byte(at!(method_length), r.method.len());
    form.text(at!(version), &r.version);
    form.byte(at!(version_length), r.version.len());
    form.text(at!(remote), &r.remote);
    form.byte(at!(remote_length), r.remote.len());
    form.text(at!(local_addr), &r.local_addr);
    form.byte(at!(local_addr_length), r.local_addr.len());
    form.text(at!(local_port), &r.local_port);
    form.byte(at!(local_port_length), r.local_port.len());
    form.text(at!(server_name), &r.server_name);
    form.word(at!(server_name_length), r.server_name.len());
    form.text(at!(target), &r.target);
    form.word(at!(target_length), r.target.len());
    form.text(at!(path), &r.path);
    form.word(at!(path_length), r.path.len());
    if !r.query.is_empty() {
        form.text(at!(query), &r.query);
        form.word(at!(query_length), r.query.len());
    }
    form.put(at!(content_length), &r.content_length.to_ne_bytes());
    form.word(at!(fields_count), r.fields.len());
    for (member, name) in [
        (at!(content_length_field), "Content-Length"),
        (at!(content_type_field), "Content-Type"),
        (at!(cookie_field), "Cookie"),
        (at!(authorization_field), "Authorization"),
    ] {
        // The last one counts, as in Unit.
        let found = r.fields.iter().rposition(|field| field.is(name));
        form.word(member, found.unwrap_or(NONE_FIELD));
    }
    for (index, field) in r.fields.iter().enumerate() {
        let start = HEAD + index * FIELD;
        form.byte(
            start + offset_of!(nxt_unit_field_t, name_length),
            field.name.len(),
        );
        form.word(
            start + offset_of!(nxt_unit_field_t, value_length),
            field.value.len(),
        );
        form.text(start + offset_of!(nxt_unit_field_t, name), &field.name);
        form.text(start + offset_of!(nxt_unit_field_t, value), &field.value);
    }
    form.text(at!(preread_content), &r.preread);
    form.finish()
}

struct Form {
    bytes: Vec<u8>,
}

impl Form {
    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn byte(&mut self, at: usize, value: usize) {
        self.put(at, &[value as u8]);
    }

    fn word(&mut self, at: usize, value: usize) {
        self.put(at, &(value as u32).to_ne_bytes());
    }

    /// Adds a string, NUL-terminated, and the distance to it at `at`.
    fn text(&mut self, at: usize, text: &[u8]) {
        const { assert!(size_of::<nxt_unit_sptr_t>() == 4) };
        self.word(at, self.bytes.len() - at);
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
    }

    /// The bytes, aligned for the structure.
    fn finish(mut self) -> Vec<u64> {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let (words, _) = self.bytes.as_chunks::<8>();
        words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }
}

/// Reads from the body: preread bytes first, then the file.
///
/// # Safety
/// `req` is a request of this thread; `dst` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_request_read(
    req: *mut nxt_unit_request_info_t,
    dst: *mut c_void,
    size: usize,
) -> isize {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "request_read") }) else {
        return -1;
    };
    if lib.faults.fails(&lib.birth.faults, Function::RequestRead) {
        return -1;
    }
    if size == 0 {
        return 0;
    }
    let mut preread = live.preread.borrow_mut();
    let (bytes, position) = &mut *preread;
    let rest = bytes.get(*position..).unwrap_or_default();
    let copied = rest.len().min(size);
    // SAFETY: the caller's promise; `copied` is not above `size`, and the
    // source is memory of our own.
    unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), dst.cast::<u8>(), copied) };
    *position += copied;
    live.consumed(copied);
    let fd = live.content_fd();
    if copied == size || fd == -1 {
        return copied as isize;
    }
    // SAFETY: within the caller's memory, as `copied` is less than `size`.
    let rest = unsafe { dst.cast::<u8>().add(copied) };
    // SAFETY: `rest` has room for what is missing; an open descriptor.
    let read = unsafe { libc::read(fd, rest.cast(), size - copied) };
    let Ok(count) = usize::try_from(read) else {
        return read;
    };
    if count < size - copied {
        live.close();
    }
    live.consumed(count);
    (copied + count) as isize
}

/// Ends a request: the response, so far as not sent, goes out; with an error
/// the client sees 503, or a closed connection.
///
/// # Safety
/// `req` is a request of this thread; it is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_request_done(req: *mut nxt_unit_request_info_t, rc: i32) {
    // SAFETY: the caller's promise.
    if let Some((lib, _)) = unsafe { live(req, "request_done") } {
        done(lib, req.cast_const().cast(), rc);
    }
}

/// Ends a request that is in the set of live ones.
pub fn done(lib: &'static Lib, at: *const Live, rc: i32) {
    // SAFETY: live, as the caller has checked.
    let live = unsafe { &*at };
    let mut sent = Err(());
    if rc == OK {
        sent = finish(lib, live);
    }
    if sent.is_err() {
        let header = Header {
            last: true,
            ..Header::new(Kind::Failed, live.number)
        };
        lib.send_or_log(header, &[]);
    }
    if let Some(response) = live.response.take() {
        response.discard(lib);
    }
    live.close();
    let context = live.context;
    locked(&lib.live).remove(&at.addr());
    // SAFETY: made by `Live::create`, out of the set, so freed only once; the
    // borrow above is not used any more.
    drop(unsafe { Box::from_raw(at.cast_mut()) });
    // SAFETY: a context outlives its requests.
    unsafe { &*context }.forget(lib, at);
}

fn finish(lib: &'static Lib, live: &Live) -> Result<(), ()> {
    if live.state.get() == State::Sent {
        let header = Header {
            last: true,
            ..Header::new(Kind::Data, live.number)
        };
        return lib.send_or_log(header, &[]).then_some(()).ok_or(());
    }
    if live.state.get() == State::Start {
        response::init(lib, live, 200, 1, 22)?;
        let added = response::add_field(live, b"Content-Type", b"text/plain");
        if added == ERROR {
            return Err(());
        }
    }
    response::send(lib, live, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Field;

    /// The string at an offset-pointer of the form.
    fn text(bytes: &[u8], at: usize, length: usize) -> &[u8] {
        let offset = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        &bytes[at + offset as usize..][..length]
    }

    #[test]
    fn strings_are_found_at_their_distances() {
        let request = Request {
            method: b"GET".into(),
            target: b"/x?y".into(),
            query: b"y".into(),
            preread: b"body".into(),
            fields: vec![Field {
                name: b"Cookie".into(),
                value: b"\xff".into(),
            }],
            ..Request::default()
        };
        let words = form(&request);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(
            text(&bytes, offset_of!(nxt_unit_request_t, method), 4),
            b"GET\0"
        );
        assert_eq!(
            text(&bytes, offset_of!(nxt_unit_request_t, target), 4),
            b"/x?y"
        );
        assert_eq!(text(&bytes, offset_of!(nxt_unit_request_t, query), 1), b"y");
        assert_eq!(
            text(&bytes, offset_of!(nxt_unit_request_t, preread_content), 4),
            b"body"
        );
        let field = offset_of!(nxt_unit_request_t, fields);
        assert_eq!(bytes[field + offset_of!(nxt_unit_field_t, name_length)], 6);
        assert_eq!(
            text(&bytes, field + offset_of!(nxt_unit_field_t, value), 1),
            b"\xff"
        );
        let cookie = offset_of!(nxt_unit_request_t, cookie_field);
        assert_eq!(bytes[cookie..cookie + 4], 0u32.to_ne_bytes());
        let none = offset_of!(nxt_unit_request_t, authorization_field);
        assert_eq!(bytes[none..none + 4], [0xff; 4]);
    }
}
