//! Ports: queues beside a socket that only says that there is something.
//!
//! As in Unit, readability of a port does not mean "a message is here": a
//! notification is sent when a queue becomes non-empty, and a reader that
//! stops before it has seen "nothing there" is not called again.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sys::net::{self, Wait};
use crate::sys::shared::{ContextWords, QueueWords, Shared};

/// A message to a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The router knows the context: it may take requests.
    Ack,
    /// Chunks of the window were given back.
    ShmAck,
    /// End now; requests in flight are closed.
    Quit,
    /// End when no request is in flight.
    QuitGracefully,
}

impl Message {
    /// How it travels.
    pub fn encode(self) -> [u8; 1] {
        [match self {
            Self::Ack => 1,
            Self::ShmAck => 2,
            Self::Quit => 3,
            Self::QuitGracefully => 4,
        }]
    }

    fn decode(byte: u8) -> Option<Self> {
        [Self::Ack, Self::ShmAck, Self::Quit, Self::QuitGracefully]
            .into_iter()
            .find(|message| message.encode() == [byte])
    }
}

/// The sending ends of a context's read port.
pub struct Sender {
    /// Number of the context.
    pub context: u32,
    /// Messages.
    pub data: OwnedFd,
    /// Notifications.
    pub notify: OwnedFd,
    /// Messages that wait.
    pub words: Arc<Shared<ContextWords>>,
}

impl Sender {
    /// Sends without waiting; `None` if there is no room.
    pub fn send(&self, message: Message) -> io::Result<Option<()>> {
        send(&self.data, &self.notify, &self.words, message)
    }
}

/// Sends a message; notifies if the queue was empty.
pub fn send(
    data: impl AsFd,
    notify: impl AsFd,
    words: &ContextWords,
    message: Message,
) -> io::Result<Option<()>> {
    let sent = net::send(data, &[IoSlice::new(&message.encode())], &[], Wait::Never);
    if net::or_nothing(sent)?.is_none() {
        return Ok(None);
    }
    if words.queued.fetch_add(1, Ordering::AcqRel) == 0 {
        // At most one notification per message, and messages found room.
        net::or_nothing(net::send(notify, &[IoSlice::new(&[0])], &[], Wait::Never))?;
    }
    Ok(Some(()))
}

/// What a look into a port found.
#[derive(Debug)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

/// The receiving ends of a context's read port.
pub struct Receiver {
    data: OwnedFd,
    notify: OwnedFd,
    words: Arc<Shared<ContextWords>>,
}

/// A read port: both ends are made by the process that reads.
pub fn create(context: u32) -> io::Result<(Sender, Receiver)> {
    let (data_in, data_out) = net::packet_pair()?;
    let (notify_in, notify_out) = net::packet_pair()?;
    let words = Arc::new(Shared::create()?);
    let sender = Sender {
        context,
        data: data_out,
        notify: notify_out,
        words: Arc::clone(&words),
    };
    let receiver = Receiver {
        data: data_in,
        notify: notify_in,
        words,
    };
    Ok((sender, receiver))
}

impl Receiver {
    /// The descriptor that event loops watch; blocking, as in Unit.
    pub fn notify_fd(&self) -> i32 {
        self.notify.as_raw_fd()
    }

    fn take(&self) -> io::Result<Received<Message>> {
        let mut byte = [0];
        let received = net::receive(&self.data, &mut byte, &mut Vec::new(), Wait::Never);
        match net::or_nothing(received)? {
            None => Ok(Received::Nothing),
            Some(0) => Ok(Received::End),
            Some(_) => {
                self.words.queued.fetch_sub(1, Ordering::AcqRel);
                Message::decode(byte[0])
                    .map(Received::Message)
                    .ok_or_else(|| io::Error::other("unknown message"))
            }
        }
    }

    /// The next message. `notified` receives from the descriptor; without it
    /// the call waits if the module left the descriptor blocking.
    pub fn receive(&self, notified: Option<Notified>) -> io::Result<Received<Message>> {
        match self.take()? {
            Received::Nothing => {}
            found => return Ok(found),
        }
        let length = match notified {
            Some(notified) => notified(),
            None => {
                let mut byte = [0];
                let fds = &mut Vec::new();
                net::receive(&self.notify, &mut byte, fds, Wait::AsDescriptor)
            }
        };
        match net::or_nothing(length)? {
            None => Ok(Received::Nothing),
            Some(0) => Ok(Received::End),
            Some(_) => self.take(),
        }
    }

    /// As `receive`, but waits whatever the module made of the descriptor,
    /// unless it receives by itself.
    pub fn wait(&self, notified: Option<Notified>) -> io::Result<Received<Message>> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            match self.take()? {
                Received::Nothing => {}
                found => return Ok(found),
            }
            if let Some(notified) = notified {
                match net::or_nothing(notified())? {
                    None => return Ok(Received::Nothing),
                    Some(_) => continue,
                }
            }
            let mut watched = [PollFd::new(&self.data, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The module's own way to receive a notification: its length.
pub type Notified<'a> = &'a dyn Fn() -> io::Result<usize>;

/// A request message: its length in the buffer, and the body's file.
pub type RequestMessage = (usize, Option<OwnedFd>);

/// Takes one request from the shared port, which all contexts read.
pub fn receive_request(
    data: &OwnedFd,
    notify: &OwnedFd,
    words: &QueueWords,
    buffer: &mut [u8],
    own: Option<Notified>,
) -> io::Result<Received<RequestMessage>> {
    let take = |buffer: &mut [u8]| -> io::Result<Option<RequestMessage>> {
        let mut fds = Vec::new();
        let length = net::or_nothing(net::receive(data, buffer, &mut fds, Wait::Never))?;
        // The end of the queue shows on the notifying socket.
        Ok(length
            .filter(|length| *length != 0)
            .map(|length| (length, fds.pop())))
    };
    loop {
        if let Some(found) = take(buffer)? {
            return Ok(Received::Message(found));
        }
        let length = match own {
            Some(own) => own(),
            None => net::receive(notify, &mut [0], &mut Vec::new(), Wait::Never),
        };
        match net::or_nothing(length)? {
            None => return Ok(Received::Nothing),
            Some(0) => return Ok(Received::End),
            Some(_) => words.notified.store(0, Ordering::Release),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(fd: &OwnedFd) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut watched = [PollFd::new(fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut watched, Some(&now)).unwrap() == 1
    }

    #[test]
    fn only_the_first_message_notifies() {
        let (sender, receiver) = create(0).unwrap();
        rustix::io::ioctl_fionbio(&receiver.notify, true).unwrap();
        for message in [Message::Ack, Message::ShmAck, Message::Quit] {
            assert!(sender.send(message).unwrap().is_some());
        }
        assert!(readable(&receiver.notify));
        let mut seen = Vec::new();
        while let Received::Message(message) = receiver.receive(None).unwrap() {
            seen.push(message);
        }
        assert_eq!(seen, [Message::Ack, Message::ShmAck, Message::Quit]);
        assert!(!readable(&receiver.notify));
        sender.send(Message::Ack).unwrap();
        assert!(readable(&receiver.notify));
    }
}
