//! As much of a Redis client as it takes: one command to a connection, and
//! replies that are numbers or texts.
//!
//! It uses wasi:sockets itself, as the standard library has no timeouts for the
//! sockets of WASI.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::io::poll::{Pollable, poll};
use wasi::io::streams::{InputStream, OutputStream, StreamError};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::tcp_create_socket::create_tcp_socket;

/// Longest line and longest text that is read.
const LONGEST: usize = 1024;

#[derive(Debug, PartialEq)]
pub enum Reply {
    Integer(i64),
    Text(String),
    Nothing,
}

#[derive(Debug, PartialEq)]
pub enum Error {
    /// No connection, none any more, or no reply in time.
    Away(String),
    /// Redis refuses the command.
    Refused(String),
    /// This is no Redis, or it says more than we read.
    Senseless,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "{why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Senseless => write!(f, "the reply makes no sense"),
        }
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Self::Away(code.name().into())
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        Self::Away(match error {
            StreamError::Closed => "the connection was closed".into(),
            StreamError::LastOperationFailed(error) => error.to_debug_string(),
        })
    }
}

/// Runs a command on the server at `IP:PORT`. All of it may take `patience`.
pub fn command(address: &str, patience: Duration, words: &[&str]) -> Result<Reply, Error> {
    let address = address
        .parse()
        .map_err(|_| Error::Away(format!("{address:?} is not IP:PORT")))?;
    let deadline = subscribe_duration(patience.as_nanos() as u64);
    let (_socket, input, output) = connect(address, &deadline)?;

    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    // So little never waits on a new connection.
    output.blocking_write_and_flush(command.as_bytes())?;

    let mut bytes = Vec::new();
    loop {
        if let Some(reply) = parse(&bytes)? {
            return Ok(reply);
        }
        let ready = input.subscribe();
        wait(&ready, &deadline)?;
        bytes.extend(input.read(LONGEST as u64)?);
    }
}

/// The socket comes first, as it has to be dropped last.
fn connect(
    address: SocketAddr,
    deadline: &Pollable,
) -> Result<(TcpSocket, InputStream, OutputStream), Error> {
    let socket = create_tcp_socket(match address {
        SocketAddr::V4(_) => IpAddressFamily::Ipv4,
        SocketAddr::V6(_) => IpAddressFamily::Ipv6,
    })?;
    socket.start_connect(&instance_network(), of_wasi(address))?;
    let ready = socket.subscribe();
    loop {
        match socket.finish_connect() {
            Ok((input, output)) => {
                drop(ready);
                return Ok((socket, input, output));
            }
            Err(ErrorCode::WouldBlock) => wait(&ready, deadline)?,
            Err(code) => return Err(code.into()),
        }
    }
}

fn wait(ready: &Pollable, deadline: &Pollable) -> Result<(), Error> {
    poll(&[ready, deadline]);
    match ready.ready() {
        true => Ok(()),
        false => Err(Error::Away("no answer in time".into())),
    }
}

fn of_wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) => IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port,
            address: v4.ip().octets().into(),
        }),
        SocketAddr::V6(v6) => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port,
            flow_info: v6.flowinfo(),
            address: v6.ip().segments().into(),
            scope_id: v6.scope_id(),
        }),
    }
}

/// The reply that `bytes` are, or none if there is more to come.
fn parse(bytes: &[u8]) -> Result<Option<Reply>, Error> {
    let Some((line, rest)) = split_line(bytes) else {
        return more(bytes.len());
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let number = |bytes: &[u8]| text(bytes).parse::<i64>().map_err(|_| Error::Senseless);
    let (kind, line) = line.split_first().ok_or(Error::Senseless)?;
    match (kind, line) {
        (b'+', line) => Ok(Some(Reply::Text(text(line)))),
        (b'-', line) => Err(Error::Refused(text(line))),
        (b':', line) => Ok(Some(Reply::Integer(number(line)?))),
        (b'$', b"-1") => Ok(Some(Reply::Nothing)),
        (b'$', line) => {
            let length = usize::try_from(number(line)?).map_err(|_| Error::Senseless)?;
            match rest.get(..length) {
                Some(value) => Ok(Some(Reply::Text(text(value)))),
                None => more(length),
            }
        }
        _ => Err(Error::Senseless),
    }
}

/// Whether so many bytes are few enough to wait for.
fn more(length: usize) -> Result<Option<Reply>, Error> {
    match length <= LONGEST {
        true => Ok(None),
        false => Err(Error::Senseless),
    }
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}
