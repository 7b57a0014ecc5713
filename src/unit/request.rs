//! One request of libunit, and the response to it.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;

use nxt_unit_sys as sys;

use super::context::{Context, Events};

/// A libunit call for a response failed; libunit has logged why. Only
/// [`Request::done`] with `false` can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} failed")]
pub struct SendError(pub &'static str);

/// The body of a request.
#[derive(Debug)]
pub enum Content {
    /// In memory, all of it.
    Memory(Vec<u8>),
    /// In a file, from its beginning; a descriptor of our own.
    File(File, u64),
}

/// A request that has not been answered to the end.
///
/// Dropping it fails it: the client gets 503 if nothing was sent, and a
/// broken response otherwise.
pub struct Request {
    raw: NonNull<sys::nxt_unit_request_info_t>,
    /// Kept, as libunit finishes the requests of a context that ends.
    context: Rc<Context>,
    /// Something of the response has gone out, or may have.
    begun: bool,
}

impl Request {
    /// Takes over a request of `context` from the handler that libunit calls.
    ///
    /// # Safety
    ///
    /// `raw` must be a live request that was just handed to the request handler
    /// of `context`, on its thread.
    pub(super) unsafe fn adopt(
        raw: NonNull<sys::nxt_unit_request_info_t>,
        context: Rc<Context>,
    ) -> Self {
        Self {
            raw,
            context,
            begun: false,
        }
    }

    /// What libunit has reported to the request's context.
    pub fn events(&self) -> &Events {
        self.context.events()
    }

    /// Whether a response head has been given to Unit, so that no other
    /// answer can be.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    fn info(&self) -> &sys::nxt_unit_request_info_t {
        // SAFETY: libunit keeps it until the request is done: by `finish`,
        // after which there is no `self`, or by `nxt_unit_done`, which waits for
        // it, as `self` keeps the context. Only libunit writes it, on this thread;
        // `head` and `content`, who alone call this, copy members out of it and
        // call nothing of libunit while they have the reference.
        unsafe { self.raw.as_ref() }
    }

    /// Not a reference: what its pointers point to lies behind it.
    fn head(&self) -> *const sys::nxt_unit_request_t {
        self.info().request
    }

    /// The method as sent.
    pub fn method(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: libunit keeps the head, with the bytes behind it, as long as
        // the request; pointer and length belong together.
        unsafe { bytes(&raw const (*head).method, u32::from((*head).method_length)) }
    }

    /// The request target as sent, with its query.
    pub fn target(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: libunit keeps the head, with the bytes behind it, as long as
        // the request; pointer and length belong together.
        unsafe { bytes(&raw const (*head).target, (*head).target_length) }
    }

    /// The host name from the Host field, lower-cased and without port, or
    /// `localhost`.
    pub fn server_name(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: libunit keeps the head, with the bytes behind it, as long as
        // the request; pointer and length belong together.
        unsafe { bytes(&raw const (*head).server_name, (*head).server_name_length) }
    }

    /// The client's address, without port.
    pub fn remote(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: libunit keeps the head, with the bytes behind it, as long as
        // the request; pointer and length belong together.
        unsafe { bytes(&raw const (*head).remote, u32::from((*head).remote_length)) }
    }

    /// Whether the client's connection is encrypted.
    pub fn is_tls(&self) -> bool {
        // SAFETY: libunit keeps the head as long as the request.
        unsafe { (*self.head()).tls != 0 }
    }

    /// Header fields in the order received, names as sent.
    pub fn fields(&self) -> Fields<'_> {
        let head = self.head();
        // SAFETY: libunit keeps the head as long as the request, and so many
        // fields follow it.
        let (first, left) = unsafe { (&raw const (*head).fields, (*head).fields_count) };
        Fields {
            next: first.cast(),
            left,
            request: PhantomData,
        }
    }

    /// The body. Reading it from memory consumes it.
    ///
    /// # Errors
    ///
    /// The operating system's, if the descriptor cannot be duplicated or the
    /// body cannot be read.
    pub fn content(&mut self) -> std::io::Result<Content> {
        let info = self.info();
        let length = info.content_length;
        if info.content_fd >= 0 {
            // SAFETY: open as long as the request is not done.
            let fd = unsafe { BorrowedFd::borrow_raw(info.content_fd) };
            return Ok(Content::File(File::from(fd.try_clone_to_owned()?), length));
        }
        let length = usize::try_from(length).unwrap_or(0);
        let mut content = vec![0_u8; length];
        let mut filled = 0;
        while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            // SAFETY: `rest` is ours and as long as said; the request is live.
            let read = unsafe {
                sys::nxt_unit_request_read(self.raw.as_ptr(), rest.as_mut_ptr().cast(), rest.len())
            };
            match usize::try_from(read) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(_) => return Err(std::io::Error::other("nxt_unit_request_read failed")),
            }
        }
        if filled < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Content::Memory(content))
    }

    /// Makes the response head, with the beginning of the body or all of it
    /// in the same message, and sends it unless `last`: then [`Request::done`]
    /// sends it together with the end of the response.
    ///
    /// More than [`PLAIN`] bytes together (see [`head_size`]) need shared memory
    /// in one piece. If there is none, libunit logs an alert, nothing is done and
    /// false is returned: better ask [`Events::may_ask_for_memory`] first, and
    /// have [`Events::wait_for_memory`] tell when to try again. Names longer
    /// than 255 bytes are refused.
    ///
    /// # Errors
    ///
    /// The libunit function that failed.
    pub fn respond(
        &mut self,
        status: u16,
        fields: &[(&[u8], &[u8])],
        content: &[u8],
        last: bool,
    ) -> Result<bool, SendError> {
        let raw = self.raw.as_ptr();
        let bytes: usize = fields.iter().map(|(n, v)| n.len() + v.len()).sum();
        let count = u32::try_from(fields.len());
        let size = u32::try_from(bytes.saturating_add(content.len()));
        let (Ok(count), Ok(size)) = (count, size) else {
            return Err(SendError(
                "a response head of that size, nxt_unit_response_init",
            ));
        };
        let small = head_size(fields, content.len()) <= PLAIN;
        if !small {
            self.context.empty_read_port();
        }
        // What is larger than that goes through shared memory.
        let spends = small && last && self.events().spends_memory();
        let spent = spends && self.init_response(status, count, SPENT).unwrap_or(false);
        if spends && !spent {
            self.events().asks_for_much();
        }
        if !spent && !self.init_response(status, count, size)? {
            return Ok(false);
        }
        // From here on only `done` can follow a failure.
        self.begun = true;
        for (name, value) in fields {
            let (Ok(name_length), Ok(value_length)) =
                (u8::try_from(name.len()), u32::try_from(value.len()))
            else {
                return Err(SendError(
                    "a field of that size, nxt_unit_response_add_field",
                ));
            };
            // SAFETY: both pointers are to as many bytes as said.
            let rc = unsafe {
                sys::nxt_unit_response_add_field(
                    raw,
                    name.as_ptr().cast::<c_char>(),
                    name_length,
                    value.as_ptr().cast::<c_char>(),
                    value_length,
                )
            };
            check(rc, "nxt_unit_response_add_field")?;
        }
        if let Ok(length @ 1..) = u32::try_from(content.len()) {
            // SAFETY: the pointer is to as many bytes as said.
            let rc =
                unsafe { sys::nxt_unit_response_add_content(raw, content.as_ptr().cast(), length) };
            check(rc, "nxt_unit_response_add_content")?;
        }
        if !last {
            // SAFETY: the response has been made above.
            let rc = unsafe { sys::nxt_unit_response_send(raw) };
            check(rc, "nxt_unit_response_send")?;
        }
        Ok(true)
    }

    /// Prepares a response of that size. False if that needs shared memory and
    /// there is none.
    fn init_response(&mut self, status: u16, fields: u32, size: u32) -> Result<bool, SendError> {
        self.events().gate().reset();
        // SAFETY: the request is live, on its thread, without a response.
        let rc = unsafe { sys::nxt_unit_response_init(self.raw.as_ptr(), status, fields, size) };
        if self.events().gate().has_refused() {
            self.events().wrote(false);
            return Ok(false);
        }
        check(rc, "nxt_unit_response_init")?;
        Ok(true)
    }

    /// Sends a piece of the body, after the head, without ever waiting.
    /// Returns how many bytes were taken: all, fewer, or none if shared memory
    /// has run out. Pieces of up to [`PLAIN`] bytes need none and are always
    /// taken.
    ///
    /// # Errors
    ///
    /// The response is broken; only [`Request::done`] with `false` can follow.
    pub fn write(&mut self, piece: &[u8]) -> Result<usize, SendError> {
        const NAME: &str = "nxt_unit_response_write_nb";
        // SAFETY: the request is live and on its thread, its head has been
        // sent, and the pointer is to as many bytes as said.
        let written = unsafe {
            sys::nxt_unit_response_write_nb(
                self.raw.as_ptr(),
                piece.as_ptr().cast(),
                piece.len(),
                0,
            )
        };
        let written = usize::try_from(written)
            .ok()
            .filter(|&written| written <= piece.len())
            .ok_or(SendError(NAME))?;
        if piece.len() > PLAIN {
            self.events().asks_for_much();
            self.events().wrote(written == piece.len());
        }
        Ok(written)
    }

    /// Finishes the request: `complete` says that the response is as the
    /// client should have it.
    pub fn done(self, complete: bool) {
        if complete && self.events().is_corked() {
            let context = Rc::clone(&self.context);
            return context.events().keep(self);
        }
        let mut this = ManuallyDrop::new(self);
        this.finish(complete);
        // SAFETY: `this` is never used or dropped again, so the count is
        // lowered once.
        unsafe { ptr::drop_in_place(&raw mut this.context) };
    }

    /// To be called once, as the last thing done with a request.
    fn finish(&mut self, complete: bool) {
        let rc = if complete {
            sys::NXT_UNIT_OK
        } else {
            sys::NXT_UNIT_ERROR
        };
        // SAFETY: the request is live and on its thread; both callers consume
        // it, so this happens once and nothing follows.
        unsafe {
            sys::nxt_unit_request_done(self.raw.as_ptr(), c_int::try_from(rc).unwrap_or(1));
        }
        self.events().request_done();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish(false);
    }
}

/// Bytes of the largest message that libunit sends without shared memory.
pub const PLAIN: usize = 1024;

/// Bytes of fields and content that make libunit take shared memory for a response.
const SPENT: u32 = 1025;

/// Bytes of `nxt_unit_response_t` before its fields.
const RESPONSE: usize = 24;

/// Bytes of the message that carries a response head and the content sent
/// with it. Messages of up to [`PLAIN`] bytes need no shared memory.
///
/// From `nxt_unit_response_init`: the response structure, then per field its
/// structure and the bytes of name and value, each followed by a NUL.
pub fn head_size(fields: &[(&[u8], &[u8])], content: usize) -> usize {
    let per_field = size_of::<sys::nxt_unit_field_t>() + 2;
    fields
        .iter()
        .map(|(name, value)| per_field + name.len() + value.len())
        .fold(RESPONSE + content, usize::saturating_add)
}

fn check(rc: c_int, what: &'static str) -> Result<(), SendError> {
    if u32::try_from(rc) == Ok(sys::NXT_UNIT_OK) {
        Ok(())
    } else {
        Err(SendError(what))
    }
}

/// The bytes that a serialized pointer points to: they lie behind it, at an
/// offset from its own address.
///
/// # Safety
///
/// `pointer` and the `length` bytes must live in one buffer, as long as `'a`,
/// and `pointer` must have been made from a pointer to all of it.
unsafe fn bytes<'a>(pointer: *const sys::nxt_unit_sptr_t, length: u32) -> &'a [u8] {
    let length = usize::try_from(length).unwrap_or(0);
    if length == 0 {
        return &[];
    }
    // SAFETY: alive by contract; both members of the union are plain integers.
    let offset = unsafe { (*pointer).offset };
    let start = pointer.cast::<u8>();
    // In the same buffer, by contract.
    let start = start.wrapping_add(usize::try_from(offset).unwrap_or(0));
    // SAFETY: alive and long enough by contract.
    unsafe { slice::from_raw_parts(start, length) }
}

/// Iterator over header fields: name and value.
pub struct Fields<'a> {
    next: *const sys::nxt_unit_field_t,
    left: u32,
    request: PhantomData<&'a Request>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let field = self.next;
        self.next = field.wrapping_add(1);
        // SAFETY: one of the fields of the request, whose names and values are
        // in the same buffer; pointers and lengths belong together.
        unsafe {
            let name = bytes(&raw const (*field).name, u32::from((*field).name_length));
            let value = bytes(&raw const (*field).value, (*field).value_length);
            Some((name, value))
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(0);
        (left, Some(left))
    }
}
