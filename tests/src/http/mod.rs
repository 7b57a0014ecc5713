//! A raw HTTP/1.1 client for tests.
//!
//! It sends whatever bytes it is given, and reads strictly: framing that
//! contradicts itself is an error, and a body that ends early is told from a
//! complete one. Bodies can be read piece by piece, as slowly as a test likes.

mod conn;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use conn::Conn;
pub use request::{Request, encode};
pub use response::{Head, Response};

/// How long one read or write may take before the test calls it a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a response could not be read to its end.
#[derive(Debug)]
pub enum Error {
    /// The connection ended before the first byte of a response.
    Closed,
    /// The connection ended within the head or the body.
    Truncated {
        /// Body bytes that had arrived.
        got: usize,
    },
    /// Nothing moved for the connection's patience.
    Timeout,
    /// What arrived is not HTTP.
    Malformed(String),
    /// Any other socket error.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "closed before a response"),
            Self::Truncated { got } => write!(f, "truncated after {got} bytes of body"),
            Self::Timeout => write!(f, "timed out"),
            Self::Malformed(why) => write!(f, "malformed response: {why}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// One request on a connection of its own.
pub fn fetch(addr: SocketAddr, request: &Request) -> Result<Response, Error> {
    let mut conn = Conn::try_open(addr).map_err(Error::Io)?;
    conn.exchange(request)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
