//! Non-blocking ends of the streams to children.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::net::{self, Wait};
use crate::wire::{Decoder, Frame};

/// Receives frames.
pub struct Receiver {
    stream: AsyncFd<OwnedFd>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Receiver {
    /// From this stream.
    pub fn new(stream: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stream: net::watch(stream, Interest::READABLE)?,
            decoder: Decoder::default(),
            buffer: vec![0; 256 << 10],
        })
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let (buffer, fds) = (&mut self.buffer, self.decoder.fds());
            let count = loop {
                let mut ready = self.stream.readable().await?;
                let read =
                    ready.try_io(|stream| net::receive(stream.get_ref(), buffer, fds, Wait::Never));
                if let Ok(read) = read {
                    break read?;
                }
            };
            if count == 0 {
                return Ok(None);
            }
            self.decoder
                .push(self.buffer.get(..count).unwrap_or_default());
        }
    }
}
