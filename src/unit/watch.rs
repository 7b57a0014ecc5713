//! Waiting for a port in a tokio event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context as TaskContext, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::port::Port;

/// A port registered with the event loop of the calling thread.
///
/// Waits on a duplicate of the port's descriptor, so that libunit may close
/// its own whenever it likes.
pub struct WatchedPort {
    port: Port,
    fd: AsyncFd<OwnedFd>,
}

impl WatchedPort {
    /// Registers `port`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The operating system's, if the descriptor cannot be duplicated or
    /// waited for.
    pub fn new(port: Port) -> io::Result<Self> {
        let fd = port.fd().try_clone_to_owned()?;
        // SAFETY: `OwnedFd` names the same open descriptor until it is
        // dropped, and the registration is dropped with it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { port, fd })
    }

    /// The port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Whether Unit has closed its end. There may be something to read yet.
    pub fn is_closed(&self) -> bool {
        self.look_for(libc::POLLRDHUP) & (libc::POLLHUP | libc::POLLRDHUP) != 0
    }

    /// Whether there is something to read right now.
    pub fn has_input(&self) -> bool {
        self.look_for(libc::POLLIN) & libc::POLLIN != 0
    }

    fn look_for(&self, events: i16) -> i16 {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events,
            revents: 0,
        };
        // SAFETY: one valid structure, and a timeout that makes it return at
        // once.
        match unsafe { libc::poll(&raw mut poll, 1, 0) } {
            1 => poll.revents,
            _ => 0,
        }
    }

    /// Whether the descriptor may be readable; if not, the task is woken when
    /// it is.
    pub fn poll_readable(
        &self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'_, OwnedFd>>> {
        self.fd.poll_read_ready(cx)
    }
}
