//! Reading from a client connection.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::head::{Head, Parser, Refused};

/// The first buffer for a head.
const FIRST: usize = 2048;
/// The further ones, and how many there may be.
const LARGE: usize = 8192;
const LARGE_BUFFERS: usize = 4;

/// Bytes that were read and not yet used.
#[derive(Default)]
pub struct Input {
    bytes: BytesMut,
}

/// Why there is no request.
#[derive(Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The client is gone, or has kept silent for too long.
    Closed,
    /// It is answered with this status.
    Refused(Refused),
}

impl Input {
    /// Reads more; false at the end.
    async fn fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<bool> {
        self.bytes.reserve(most);
        let mut limited = stream.take(most as u64);
        Ok(limited.read_buf(&mut self.bytes).await? != 0)
    }

    /// The next request's head. `idle` is how long a client may be silent
    /// before it begins, `slow` how long between pieces.
    pub async fn head(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        keep_unsafe: bool,
        idle: Duration,
        slow: Duration,
    ) -> Result<Head, NoHead> {
        let mut parser = Parser::new(keep_unsafe);
        // The buffers of Unit: what has been parsed stays in the one that is
        // full, the rest moves to the next.
        let (mut room, mut buffers) = (FIRST, 0);
        let mut counted = 0;
        loop {
            let begun = counted != 0;
            let fresh = self.bytes.len().saturating_sub(counted);
            counted += fresh;
            room = room.saturating_sub(fresh);
            let (consumed, head) = parser.feed(&self.bytes).map_err(NoHead::Refused)?;
            let _ = self.bytes.split_to(consumed);
            counted -= consumed;
            if let Some(head) = head {
                return Ok(head);
            }
            if room == 0 {
                let moved = counted - parser.name_length(&self.bytes);
                if moved >= LARGE || buffers >= LARGE_BUFFERS {
                    return Err(NoHead::Refused(431));
                }
                buffers += 1;
                room = LARGE - moved;
            }
            let wait = if begun || counted != 0 || consumed != 0 {
                slow
            } else {
                idle
            };
            match timeout(wait, self.fill(stream, room)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false) | Err(_)) => return Err(NoHead::Closed),
                Err(_) if wait == slow && wait != idle => return Err(NoHead::Refused(408)),
                Err(_) => return Err(NoHead::Closed),
            }
        }
    }

    /// Up to `most` bytes of the body; empty at the end.
    pub async fn some(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<BytesMut> {
        if self.bytes.is_empty() {
            self.fill(stream, 64 << 10).await?;
        }
        let count = self.bytes.len().min(most);
        Ok(self.bytes.split_to(count))
    }

    /// One line without its CRLF; longer than `most` is an error.
    pub async fn line(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<BytesMut> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let mut line = self.bytes.split_to(end + 1);
                line.truncate(end);
                if !line.ends_with(b"\r") {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                line.truncate(end - 1);
                return Ok(line);
            }
            if self.bytes.len() > most || !self.fill(stream, most).await? {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(text: &[u8]) -> Result<Head, NoHead> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut stream = text;
        let second = Duration::from_secs(1);
        runtime.block_on(Input::default().head(&mut stream, false, second, second))
    }

    fn with_fields(count: usize, size: usize) -> Vec<u8> {
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        for index in 0..count {
            text.extend_from_slice(format!("X-{index}: {}\r\n", "v".repeat(size)).as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    #[test]
    fn heads_are_limited() {
        assert!(head_of(&with_fields(1, 8000)).is_ok());
        assert_eq!(head_of(&with_fields(1, 8200)), Err(NoHead::Refused(431)));
        assert!(head_of(&with_fields(30, 1000)).is_ok());
        assert_eq!(head_of(&with_fields(40, 1000)), Err(NoHead::Refused(431)));
        assert_eq!(head_of(b"GET / HT"), Err(NoHead::Closed));
    }
}
