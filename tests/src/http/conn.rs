//! A client connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::response::parse_head;
use super::{Error, Head, PATIENCE, Request, Response, find};

/// Largest response head that is read.
const MAX_HEAD: usize = 4 << 20;

/// Longest line between chunks.
const MAX_LINE: usize = 100;

/// How the body under way is delimited.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Nothing,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    UntilClose,
}

trait Transport: Read + Write + Send {
    fn set_patience(&self, patience: Duration) -> io::Result<()>;
}

impl Transport for TcpStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

impl Transport for UnixStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

/// One client connection.
pub struct Conn {
    stream: Box<dyn Transport>,
    buffer: Vec<u8>,
    /// Start of what is not consumed yet in `buffer`.
    at: usize,
    framing: Framing,
    got: usize,
    piece: usize,
}

impl Conn {
    /// Connects to a listener.
    pub fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).unwrap_or_else(|error| panic!("connecting to {addr}: {error}"))
    }

    /// Connects to a listener that may refuse.
    pub fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        Self::over(Box::new(stream))
    }

    /// Connects with a small receive buffer, so that a client that does not
    /// read is felt by the server soon. Two segments of the loopback device, of
    /// 64 KiB, fit into it: with less, the kernel may send one per 200 ms, its
    /// shortest time of retransmission.
    pub fn open_narrow(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("connect");
        let size: libc::c_int = 128 << 10;
        // SAFETY: the descriptor is open for as long as `stream` lives, and
        // the option value is a c_int of the length given.
        let rc = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        assert_eq!(rc, 0, "SO_RCVBUF: {}", io::Error::last_os_error());
        Self::over(Box::new(stream)).expect("socket options")
    }

    /// Connects to a Unix socket.
    pub fn open_unix(path: &Path) -> io::Result<Self> {
        Self::over(Box::new(UnixStream::connect(path)?))
    }

    fn over(stream: Box<dyn Transport>) -> io::Result<Self> {
        stream.set_patience(PATIENCE)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            at: 0,
            framing: Framing::Nothing,
            got: 0,
            piece: 64 << 10,
        })
    }

    /// Sets how long one read or write may take.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_patience(patience).expect("socket timeout");
    }

    /// Sets how many bytes one read takes from the socket at most.
    pub fn set_piece(&mut self, piece: usize) {
        self.piece = piece;
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout,
                _ => Error::Io(error),
            })
    }

    /// Sends a request and reads its whole response.
    pub fn exchange(&mut self, request: &Request) -> Result<Response, Error> {
        // A server may answer and close before it has read all of a body;
        // its answer counts more than the failed write.
        let sent = self.send(&request.bytes());
        match (self.read_response(request.is_head()), sent) {
            (Err(Error::Closed), Err(error)) => Err(error),
            (response, _) => response,
        }
    }

    /// Sends a request and reads the head of its response.
    pub fn start(&mut self, request: &Request) -> Result<Head, Error> {
        self.send(&request.bytes())?;
        self.read_head(request.is_head())
    }

    /// Reads a whole response.
    pub fn read_response(&mut self, to_head: bool) -> Result<Response, Error> {
        let head = self.read_head(to_head)?;
        let body = self.read_body()?;
        Ok(Response { head, body })
    }

    /// Reads a response head; the body is then read by [`Conn::read_some`].
    pub fn read_head(&mut self, to_head: bool) -> Result<Head, Error> {
        self.got = 0;
        let end = loop {
            if let Some(at) = find(self.pending(), b"\r\n\r\n") {
                break at;
            }
            if self.pending().len() > MAX_HEAD {
                return Err(Error::Malformed("endless head".into()));
            }
            let empty = self.pending().is_empty();
            if self.fill()? == 0 {
                let broken = Error::Truncated { got: 0 };
                return Err(if empty { Error::Closed } else { broken });
            }
        };
        let bytes = self.consume(end + 4);
        let head = parse_head(&bytes[..end]).map_err(Error::Malformed)?;
        self.framing = framing(&head, to_head).map_err(Error::Malformed)?;
        Ok(head)
    }

    /// The next piece of the body, as it arrives; none at its proper end.
    pub fn read_some(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            match self.framing {
                Framing::Nothing | Framing::Length(0) => return Ok(None),
                Framing::Length(left) => {
                    let piece = self.take(left)?;
                    self.framing = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::UntilClose => {
                    if self.pending().is_empty() && self.fill()? == 0 {
                        self.framing = Framing::Nothing;
                        return Ok(None);
                    }
                    let size = self.pending().len();
                    return Ok(Some(self.consume_body(size)));
                }
                // Unit sends the line end of a chunk together with the next one,
                // so it is read only when more is asked for.
                Framing::ChunkEnd => {
                    if !self.line()?.is_empty() {
                        return Err(Error::Malformed("chunk too long".into()));
                    }
                    self.framing = Framing::ChunkSize;
                }
                Framing::ChunkSize => {
                    let line = self.line()?;
                    let size = chunk_size(&line).map_err(Error::Malformed)?;
                    if size > 0 {
                        self.framing = Framing::ChunkData(size);
                        continue;
                    }
                    if !self.line()?.is_empty() {
                        return Err(Error::Malformed("trailer".into()));
                    }
                    self.framing = Framing::Nothing;
                }
                Framing::ChunkData(left) => {
                    let piece = self.take(left)?;
                    let left = left - piece.len() as u64;
                    self.framing = match left {
                        0 => Framing::ChunkEnd,
                        left => Framing::ChunkData(left),
                    };
                    return Ok(Some(piece));
                }
            }
        }
    }

    /// The rest of the body.
    pub fn read_body(&mut self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.read_some()? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Waits until the server closes; anything that still arrives is an error.
    pub fn expect_close(&mut self) -> Result<(), Error> {
        while self.fill()? > 0 {}
        if self.pending().is_empty() {
            return Ok(());
        }
        let stray = String::from_utf8_lossy(self.pending()).into_owned();
        let why = format!("bytes after the response: {stray:?}");
        Err(Error::Malformed(why))
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn consume(&mut self, size: usize) -> Vec<u8> {
        let piece = self.pending()[..size].to_vec();
        self.at += size;
        piece
    }

    fn consume_body(&mut self, size: usize) -> Vec<u8> {
        self.got += size;
        self.consume(size)
    }

    fn take(&mut self, most: u64) -> Result<Vec<u8>, Error> {
        if self.pending().is_empty() && self.fill()? == 0 {
            return Err(Error::Truncated { got: self.got });
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let size = most.min(self.pending().len());
        Ok(self.consume_body(size))
    }

    fn line(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            let start = self.pending();
            let start = &start[..start.len().min(MAX_LINE)];
            if let Some(at) = find(start, b"\r\n") {
                let mut line = self.consume(at + 2);
                line.truncate(at);
                return Ok(line);
            }
            if start.len() == MAX_LINE {
                return Err(Error::Malformed("endless chunk size".into()));
            }
            if self.fill()? == 0 {
                return Err(Error::Truncated { got: self.got });
            }
        }
    }

    fn fill(&mut self) -> Result<usize, Error> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let start = self.buffer.len();
        self.buffer.resize(start + self.piece, 0);
        let result = self.stream.read(&mut self.buffer[start..]);
        self.buffer.truncate(start + *result.as_ref().unwrap_or(&0));
        result.or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Error::Timeout),
            // A close with unread input on the other side arrives as a reset.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(0),
            _ => Err(Error::Io(error)),
        })
    }
}

fn framing(head: &Head, to_head: bool) -> Result<Framing, String> {
    let lengths = head.all("content-length");
    let codings = head.all("transfer-encoding");
    if lengths.len() + codings.len() > 1 {
        return Err(format!("contradicting framing: {lengths:?} {codings:?}"));
    }
    if to_head || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::Nothing);
    }
    if let Some(coding) = codings.first() {
        return match coding.as_slice() {
            b"chunked" => Ok(Framing::ChunkSize),
            other => Err(format!("transfer-encoding {other:?}")),
        };
    }
    let Some(length) = lengths.first() else {
        return Ok(Framing::UntilClose);
    };
    let digits = std::str::from_utf8(length).ok();
    let length = digits.and_then(|digits| digits.parse().ok());
    Ok(Framing::Length(length.ok_or("content-length")?))
}

fn chunk_size(line: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(line).into_owned();
    u64::from_str_radix(&text, 16).map_err(|_| format!("chunk size {text:?}"))
}
