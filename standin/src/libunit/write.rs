//! Writing content.

use std::ffi::c_void;

use super::faults::{self, Function};
use super::request::{Live, State, live};
use super::response::{LARGEST, add_content, bytes, send};
use super::window::{CHUNK, PLAIN};
use super::{ERROR, Lib, OK, unit_log};
use crate::codec::Writer;
use crate::ffi::nxt_unit_request_info_t;
use crate::log::Level;
use crate::wire::{Header, Kind};

/// Writes content without waiting, if `min_size` is 0: the count may be less
/// than `size`.
///
/// # Safety
/// `req` is a request of this thread; `start` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_unit_response_write_nb(
    req: *mut nxt_unit_request_info_t,
    start: *const c_void,
    size: usize,
    min_size: usize,
) -> isize {
    // SAFETY: the caller's promise.
    let Some((lib, live)) = (unsafe { live(req, "write_nb") }) else {
        return -(ERROR as isize);
    };
    if lib.faults.fails(&lib.birth.faults, Function::WriteNb) {
        return -(ERROR as isize);
    }
    // SAFETY: the caller's promise.
    let mut content = unsafe { bytes(start, size) };
    if let Some(most) = faults::limit(&lib.birth.faults.write_nb_max) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if let Some(part) = content.get(..most.max(min_size)) {
            content = part;
            // Whoever writes short waits for memory; let it come.
            lib.report_exhausted();
        }
    }
    match write(lib, live, content, min_size) {
        Ok(count) => count as isize,
        Err(()) => -(ERROR as isize),
    }
}

fn write(lib: &Lib, live: &Live, content: &[u8], mut min_size: usize) -> Result<usize, ()> {
    if live.state.get() == State::Start {
        unit_log(Level::Alert, "write: response not initialized yet");
        return Err(());
    }
    let mut written = 0;
    if live.state.get() != State::Sent {
        let room = live
            .response
            .borrow()
            .as_ref()
            .map_or(0, |response| response.room());
        let part = content.get(..room).unwrap_or(content);
        if add_content(live, part) != OK {
            return Err(());
        }
        send(lib, live, false)?;
        written += part.len();
        min_size = min_size.saturating_sub(part.len());
    }
    while let Some(rest) = content.get(written..).filter(|rest| !rest.is_empty()) {
        let part = rest.get(..LARGEST).unwrap_or(rest);
        let sent = if part.len() <= PLAIN {
            let header = Header::new(Kind::Data, live.number);
            lib.send_or_log(header, part).then_some(()).ok_or(())?;
            part.len()
        } else {
            let minimum = min_size.min(part.len()).min(CHUNK);
            let chunks = lib.allocate(live.context(), part.len(), minimum)?;
            if chunks.is_empty() {
                return Ok(written);
            }
            let part = part.get(..chunks.len() * CHUNK).unwrap_or(part);
            send_chunks(lib, live, part, &chunks)?;
            part.len()
        };
        written += sent;
        min_size = min_size.saturating_sub(sent);
    }
    Ok(written)
}

/// Puts content into its chunks, and tells the router where it is.
fn send_chunks(lib: &Lib, live: &Live, part: &[u8], chunks: &[u32]) -> Result<(), ()> {
    let mut message = Writer::default();
    for (chunk, bytes) in chunks.iter().zip(part.chunks(CHUNK)) {
        message.u32(*chunk);
        let at = u64::from(*chunk) * CHUNK as u64;
        if rustix::io::pwrite(&lib.memory, bytes, at) != Ok(bytes.len()) {
            unit_log(Level::Alert, "no shared memory");
            lib.release_unsent(chunks);
            return Err(());
        }
    }
    message.u32(part.len() as u32);
    lib.sent(chunks);
    let header = Header {
        chunks: chunks.len() as u32,
        ..Header::new(Kind::Data, live.number)
    };
    lib.send_or_log(header, &message.finish())
        .then_some(())
        .ok_or(())
}
