//! One HTTP request at a time, over TCP or a Unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Bytes of an answer that are read.
const LONGEST: usize = 16 << 20;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A name or an address, and a port.
    Tcp(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What a server has answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where.
        address: Address,
        /// What the operating system said.
        error: io::Error,
    },
    /// It takes too long.
    #[error("{address} has not answered within {} s", timeout.as_secs())]
    Late {
        /// Where.
        address: Address,
        /// The time it had.
        timeout: Duration,
    },
    /// It is not HTTP, or breaks off.
    #[error("{address}: {problem}")]
    Failed {
        /// Where.
        address: Address,
        /// What happened.
        problem: String,
    },
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// What the `Host` field says.
    pub host: &'a str,
    /// JSON to send.
    pub body: Option<String>,
    /// For all of it.
    pub timeout: Duration,
}

/// Asks the server at `address`. Blocks, so not to be called on an event loop.
pub fn ask(address: &Address, question: Question<'_>) -> Result<Answer, ClientError> {
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(address, &error))?;
    let timeout = question.timeout;
    let answer = async { tokio::time::timeout(timeout, exchange(address, question)).await };
    let answer = event_loop.block_on(answer);
    answer.unwrap_or_else(|_| {
        let address = address.clone();
        Err(ClientError::Late { address, timeout })
    })
}

fn failed(address: &Address, error: &dyn std::error::Error) -> ClientError {
    let mut problem = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        problem.push_str(": ");
        problem.push_str(&cause.to_string());
        next = cause.source();
    }
    ClientError::Failed {
        address: address.clone(),
        problem,
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn exchange(address: &Address, question: Question<'_>) -> Result<Answer, ClientError> {
    let stream: io::Result<Box<dyn Io>> = match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(|s| Box::new(s) as _),
        Address::Tcp(host, port) => TcpStream::connect((host.as_str(), *port))
            .await
            .map(|s| Box::new(s) as _),
    };
    let stream = stream.map_err(|error| ClientError::Connect {
        address: address.clone(),
        error,
    })?;
    let failed = |error: &dyn std::error::Error| failed(address, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(HOST, question.host);
    if question.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(question.body.unwrap_or_default()));
    let request = request.body(body).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => ClientError::Failed {
            address: address.clone(),
            problem: format!("it answers more than {LONGEST} bytes"),
        },
        None => failed(&*error),
    })?;
    let body = body.to_bytes();
    Ok(Answer { status, body })
}
