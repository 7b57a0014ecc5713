//! Frames on the byte streams between the main process, the prototypes and
//! the application processes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Bytes, BytesMut};

use crate::sys::net::{self, Wait};

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Main to prototype: what to run (JSON); queue descriptors.
    Configure = 1,
    /// Main to prototype: start one process.
    Spawn,
    /// Main to prototype: end when the last process has.
    Quit,
    /// Prototype: setup() succeeded.
    Prepared,
    /// Prototype: a process runs (pid); its stream.
    Spawned,
    /// Prototype: a process is gone (pid).
    Exited,
    /// Process: a context exists (number); its read port. The first one says
    /// that the process is ready and brings its window.
    Context,
    /// Process: a context is gone (number).
    ContextGone,
    /// Process: it has taken the request.
    Taken,
    /// Process: status, fields and perhaps content.
    Head,
    /// Process: content.
    Data,
    /// Process: the request failed.
    Failed,
    /// Process: its window is exhausted.
    Exhausted,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 13] = [
            Kind::Configure,
            Kind::Spawn,
            Kind::Quit,
            Kind::Prepared,
            Kind::Spawned,
            Kind::Exited,
            Kind::Context,
            Kind::ContextGone,
            Kind::Taken,
            Kind::Head,
            Kind::Data,
            Kind::Failed,
            Kind::Exhausted,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub kind: Kind,
    /// Whether the request ends with it.
    pub last: bool,
    /// The request, or the number that the kind carries.
    pub number: u32,
    /// Chunks of the window that it occupies; the payload begins with their
    /// numbers.
    pub chunks: u32,
}

impl Header {
    /// A header with a number.
    pub fn new(kind: Kind, number: u32) -> Self {
        Self {
            kind,
            last: false,
            number,
            chunks: 0,
        }
    }

    fn encode(self, fds: usize, length: usize) -> io::Result<[u8; HEADER]> {
        let too_long = |_| io::Error::other("frame too long");
        let length = u32::try_from(length).map_err(too_long)?;
        let fds = u8::try_from(fds).map_err(too_long)?;
        let mut out = [0; HEADER];
        let [a, b, c, _, rest @ ..] = &mut out;
        *a = self.kind as u8;
        *b = u8::from(self.last);
        *c = fds;
        for (place, value) in rest
            .chunks_exact_mut(4)
            .zip([self.number, self.chunks, length])
        {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(out)
    }
}

const HEADER: usize = 16;
/// No frame is longer; a longer one means that the stream is out of step.
const MAX_PAYLOAD: usize = 64 << 20;

/// A received frame.
#[derive(Debug)]
pub struct Frame {
    /// The fixed part.
    pub header: Header,
    /// The rest.
    pub payload: Bytes,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Sends one frame. With `Wait::Never` a stream that is full is an error.
pub fn send(
    stream: impl AsFd,
    header: Header,
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    let head = header.encode(fds.len(), payload.len())?;
    let mut sent = net::send(
        &stream,
        &[IoSlice::new(&head), IoSlice::new(payload)],
        fds,
        wait,
    )?;
    while sent < HEADER + payload.len() {
        let rest_of_head = head.get(sent..).unwrap_or_default();
        let rest = payload
            .get(sent.saturating_sub(HEADER)..)
            .unwrap_or_default();
        let count = net::send(
            &stream,
            &[IoSlice::new(rest_of_head), IoSlice::new(rest)],
            &[],
            wait,
        )?;
        sent += count;
    }
    Ok(())
}

/// Puts frames together from what arrives.
#[derive(Default)]
pub struct Decoder {
    bytes: BytesMut,
    fds: VecDeque<OwnedFd>,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where received descriptors go.
    pub fn fds(&mut self) -> &mut VecDeque<OwnedFd> {
        &mut self.fds
    }

    /// The next whole frame, if there is one.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((head, _)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, last, fds, _, rest @ ..] = head;
        let mut words = rest
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_ne_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let kind =
            Kind::from_byte(*kind).ok_or_else(|| io::Error::other("frame of unknown kind"))?;
        let (last, fds) = (*last != 0, usize::from(*fds));
        let header = Header {
            kind,
            last,
            number: word(),
            chunks: word(),
        };
        let length = word() as usize;
        if length > MAX_PAYLOAD {
            return Err(io::Error::other("frame too long"));
        }
        if self.bytes.len() < HEADER + length {
            self.bytes.reserve(HEADER + length - self.bytes.len());
            return Ok(None);
        }
        let mut frame = self.bytes.split_to(HEADER + length).freeze();
        let payload = frame.split_off(HEADER);
        if self.fds.len() < fds {
            return Err(io::Error::other("descriptors lost"));
        }
        Ok(Some(Frame {
            header,
            payload,
            fds: self.fds.drain(..fds).collect(),
        }))
    }
}

/// Receives frames from a blocking stream.
pub struct Reader {
    stream: OwnedFd,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Reader {
    /// Reads from this stream.
    pub fn new(stream: OwnedFd) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            buffer: vec![0; 64 << 10],
        }
    }

    /// The stream itself.
    pub fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    /// The next frame that is already here.
    pub fn buffered(&mut self) -> io::Result<Option<Frame>> {
        self.decoder.next()
    }

    /// Reads once; false at the end of the stream.
    pub fn fill(&mut self) -> io::Result<bool> {
        let count = net::receive(
            &self.stream,
            &mut self.buffer,
            self.decoder.fds(),
            Wait::AsDescriptor,
        )?;
        self.decoder
            .push(self.buffer.get(..count).unwrap_or_default());
        Ok(count != 0)
    }

    /// Waits for the next frame; `None` at the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::stream_pair;

    #[test]
    fn frames_survive_any_splitting() {
        let header = Header {
            kind: Kind::Data,
            last: true,
            number: 7,
            chunks: 3,
        };
        let mut bytes = header.encode(0, 5).unwrap().to_vec();
        bytes.extend_from_slice(b"hello");
        let mut decoder = Decoder::default();
        let (end, start) = bytes.split_last().unwrap();
        for byte in start {
            decoder.push(&[*byte]);
            assert!(decoder.next().unwrap().is_none());
        }
        decoder.push(&[*end]);
        let frame = decoder.next().unwrap().unwrap();
        assert_eq!(frame.header, header);
        assert_eq!(&frame.payload[..], b"hello");
        assert!(decoder.next().unwrap().is_none());
    }

    #[test]
    fn descriptors_stay_with_their_frames() {
        let (near, far) = stream_pair().unwrap();
        let (one, other) = stream_pair().unwrap();
        let header = |number| Header::new(Kind::Spawned, number);
        send(&near, header(1), b"", &[one.as_fd()], Wait::AsDescriptor).unwrap();
        send(&near, header(2), b"x", &[], Wait::AsDescriptor).unwrap();
        send(
            &near,
            header(3),
            b"",
            &[other.as_fd(), one.as_fd()],
            Wait::AsDescriptor,
        )
        .unwrap();
        drop(near);
        let mut reader = Reader::new(far);
        let counts: Vec<_> = std::iter::from_fn(|| reader.next().unwrap())
            .map(|frame| (frame.header.number, frame.fds.len()))
            .collect();
        assert_eq!(counts, [(1, 1), (2, 0), (3, 2)]);
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; HEADER]);
        assert!(decoder.next().is_err());
    }
}
