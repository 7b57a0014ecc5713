//! Messages between the watcher and the application's processes: texts, of which
//! some bring a file along.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Longest message. Texts that would make one longer are cut.
const LONGEST: usize = 16 * 1024;

/// One end of a connection that keeps messages apart. Its end is seen at the other
/// one when nobody has it open any more.
pub struct Channel(OwnedFd);

/// A message, with what came along.
pub struct Received {
    /// What was sent.
    pub text: String,
    /// The descriptor that came along.
    pub file: Option<OwnedFd>,
}

impl Channel {
    /// Both ends of a new one.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// The end that `fd` is.
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message that is not empty. Never waits: where nobody receives, there
    /// is no use in that.
    ///
    /// # Errors
    ///
    /// There is nobody at the other end, or too much that nobody has taken.
    pub fn send(&self, text: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = file.map(|file| [file]);
        if let Some(files) = &files
            && !control.push(SendAncillaryMessage::ScmRights(files))
        {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let text = text
            .get(..text.floor_char_boundary(LONGEST))
            .unwrap_or(text);
        let parts = [IoSlice::new(text.as_bytes())];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.0, &parts, &mut control, flags) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// Takes a message, and waits for it. `None` at the end.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = vec![0; LONGEST];
        let bytes = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                received => break received?.bytes,
            }
        };
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        buffer.truncate(bytes);
        let text = String::from_utf8_lossy(&buffer).into_owned();
        Ok((bytes > 0).then_some(Received { text, file }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Received {
    /// The file that came along.
    pub fn take_file(&mut self) -> Option<File> {
        self.file.take().map(File::from)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_stay_apart_and_bring_files() {
        let (one, other) = Channel::pair().unwrap();
        let mut file = tempfile();
        file.write_all(b"inside").unwrap();
        one.send("first\nline", None).unwrap();
        one.send("second", Some(file.as_fd())).unwrap();
        let first = other.receive().unwrap().unwrap();
        assert_eq!(
            (first.text.as_str(), first.file.is_none()),
            ("first\nline", true)
        );
        let mut second = other.receive().unwrap().unwrap();
        assert_eq!(second.text, "second");
        let mut text = String::new();
        let mut received = second.take_file().unwrap();
        std::io::Seek::rewind(&mut received).unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&"ä".repeat(LONGEST), None).unwrap();
        let text = other.receive().unwrap().unwrap().text;
        assert_eq!(text, "ä".repeat(LONGEST / 2));
    }

    fn tempfile() -> File {
        use rustix::fs::{MemfdFlags, memfd_create};
        File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap())
    }
}
