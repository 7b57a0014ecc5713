//! Connections.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::service::Service;
use crate::terminal::tell;

/// Connections at once; more wait.
const CONNECTIONS: usize = 64;
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(15);
/// For what is under way when it is told to end.
const DRAIN: Duration = Duration::from_secs(60);
/// Before accepting again, when that has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "an address is needed: 127.0.0.1:8089, [::1]:8089 or unix:/run/deployd.sock";
        match text.strip_prefix("unix:") {
            Some("") => Err(wrong),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text.parse().map(Self::Tcp).map_err(|_| wrong),
        }
    }
}

/// A socket that nothing is accepted from yet.
pub enum Socket {
    /// A port.
    Tcp(std::net::TcpListener),
    /// In the file system, and where.
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Listen {
    /// Refuses what other machines reach, unless that is wanted.
    pub fn check(&self, allow_remote: bool) -> Result<(), String> {
        match self {
            Self::Tcp(address) if !address.ip().is_loopback() && !allow_remote => Err(format!(
                "--listen {address}: other machines reach that, and tokens would go there \
                 unencrypted: listen on 127.0.0.1 behind a server with TLS, or say --allow-remote"
            )),
            _ => Ok(()),
        }
    }

    /// Binds the address.
    pub fn bind(&self) -> Result<Socket, String> {
        let failed = |e: io::Error| match self {
            Self::Tcp(address) => format!("--listen {address}: {e}"),
            Self::Unix(path) => format!("--listen unix:{}: {e}", path.display()),
        };
        match self {
            Self::Tcp(address) => {
                let socket = std::net::TcpListener::bind(address).map_err(failed)?;
                let address = socket.local_addr().map_err(failed)?;
                tell(&format!("nxt-wasm deployd: listens on {address}"));
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(path) => {
                remove_stale(path).map_err(failed)?;
                let socket = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
                // Tokens keep others away, but so does this.
                fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)?;
                tell(&format!("nxt-wasm deployd: listens on {}", path.display()));
                Ok(Socket::Unix(socket, path.clone()))
            }
        }
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &PathBuf) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let stale = std::os::unix::net::UnixStream::connect(path).is_err_and(refused);
    match is_socket && stale {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Serves until SIGTERM or SIGINT, and then what is under way.
pub fn serve(socket: Socket, service: Service) -> io::Result<()> {
    let event_loop = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let served = event_loop.block_on(accept_all(socket, Arc::new(service)));
    // What is left has had its time.
    event_loop.shutdown_timeout(Duration::from_secs(1));
    served
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Listener {
    fn new(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Self::Tcp)
            }
            Socket::Unix(socket, _) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn accept_all(socket: Socket, service: Arc<Service>) -> io::Result<()> {
    let path = match &socket {
        Socket::Tcp(_) => None,
        Socket::Unix(_, path) => Some(path.clone()),
    };
    let listener = Listener::new(socket)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (ending, ended) = watch::channel(false);
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let next = async { (place.await, listener.accept().await) };
        tokio::select! {
            (place, stream) = next => match (place, stream) {
                (Ok(place), Ok(stream)) => {
                    let work = connection(stream, Arc::clone(&service), ended.clone(), place);
                    tokio::spawn(work);
                }
                (_, Err(error)) => {
                    tell(&format!("nxt-wasm deployd: accepting a connection: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
                (Err(_), _) => break,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    if let Some(path) = path {
        // As long as we listen, it is ours: later, it may be that of another daemon.
        let _ = fs::remove_file(path);
    }
    drop(listener);
    let _ = ending.send(true);
    tell("nxt-wasm deployd: ends");
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let done = async {
        let _ = places.acquire_many(all).await;
        // What clients have not waited for.
        service.finish().await;
    };
    if tokio::time::timeout(DRAIN, done).await.is_err() {
        tell("nxt-wasm deployd: what is under way is given up");
    }
    Ok(())
}

async fn connection(
    stream: Box<dyn Io>,
    service: Arc<Service>,
    mut ended: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    // The answer to what is under way.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_have_to_be_wanted() {
        for local in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "unix:/run/x"] {
            assert_eq!(
                local.parse::<Listen>().unwrap().check(false),
                Ok(()),
                "{local}"
            );
        }
        for remote in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let listen: Listen = remote.parse().unwrap();
            assert!(listen.check(false).is_err(), "{remote}");
            assert_eq!(listen.check(true), Ok(()));
        }
        for bad in ["", "unix:", "localhost:1", "127.0.0.1"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_is_taken_over_when_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(dir.path().join("socket"));
        let first = listen.bind().unwrap();
        assert!(listen.bind().is_err(), "somebody listens");
        drop(first);
        listen.bind().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(Listen::Unix(dir.path().join("file")).bind().is_err());
    }
}
