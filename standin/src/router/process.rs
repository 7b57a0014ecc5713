//! An application process, as the router sees it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::libunit::port::{self, Message};
use crate::sys::shared::{ContextWords, ProcessWords, Shared};

/// The sending ends of a context's read port.
struct ContextPort {
    number: u32,
    data: OwnedFd,
    notify: OwnedFd,
    words: Shared<ContextWords>,
    /// Messages for which there was no room.
    waiting: VecDeque<Message>,
}

impl ContextPort {
    fn send(&mut self, message: Message) {
        if message == Message::ShmAck && self.waiting.contains(&message) {
            return;
        }
        self.waiting.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(message) = self.waiting.front() {
            match port::send(&self.data, &self.notify, &self.words, *message) {
                Ok(None) => return,
                // A context that is gone needs no messages.
                Ok(Some(())) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
    }
}

/// A process's window of shared memory.
struct Window {
    words: Shared<ProcessWords>,
    memory: OwnedFd,
}

/// A process that was forked and is not gone.
pub struct Process {
    /// Its id.
    pub pid: u32,
    window: RefCell<Option<Window>>,
    contexts: RefCell<Vec<ContextPort>>,
    /// It has been told to end.
    pub quitting: Cell<bool>,
    /// Requests that it has taken and not finished.
    pub active: Cell<usize>,
    /// Since when that is zero.
    pub idle_since: Cell<Instant>,
}

impl Process {
    /// A process that is starting.
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            window: RefCell::default(),
            contexts: RefCell::default(),
            quitting: Cell::new(false),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        }
    }

    /// Whether it has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.window.borrow().is_some()
    }

    /// Whether requests may be expected to be served by it.
    pub fn is_idle(&self) -> bool {
        self.is_ready() && !self.quitting.get() && self.active.get() == 0
    }

    /// How many contexts take requests.
    pub fn contexts(&self) -> usize {
        if self.quitting.get() {
            return 0;
        }
        self.contexts.borrow().len()
    }

    /// A context exists; the first one brings the window. It is told that it
    /// may take requests.
    pub fn add_context(&self, number: u32, fds: Vec<OwnedFd>) -> io::Result<()> {
        let missing = || io::Error::other("context without a port");
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(missing);
        let mut added = ContextPort {
            number,
            data: next()?,
            notify: next()?,
            words: Shared::open(next()?)?,
            waiting: VecDeque::new(),
        };
        if number == 0 {
            let window = Window {
                words: Shared::open(next()?)?,
                memory: next()?,
            };
            self.window.replace(Some(window));
            self.idle_since.set(Instant::now());
        }
        added.send(Message::Ack);
        self.contexts.borrow_mut().push(added);
        Ok(())
    }

    /// A context is gone.
    pub fn remove_context(&self, number: u32) {
        let mut contexts = self.contexts.borrow_mut();
        contexts.retain(|context| context.number != number);
    }

    /// Tells the process to end; requests in flight are not waited for.
    pub fn quit(&self) {
        self.quitting.set(true);
        let mut contexts = self.contexts.borrow_mut();
        if let Some(main) = contexts.iter_mut().find(|context| context.number == 0) {
            main.send(Message::Quit);
        }
    }

    /// Sends what there was no room for.
    pub fn flush(&self) {
        for context in self.contexts.borrow_mut().iter_mut() {
            context.flush();
        }
    }

    fn broadcast_shm_ack(&self) {
        for context in self.contexts.borrow_mut().iter_mut() {
            context.send(Message::ShmAck);
        }
    }

    /// The process has found its window exhausted; perhaps it no longer is.
    pub fn exhausted(&self) {
        let free = self.window.borrow().as_ref().is_some_and(|window| {
            let used = window.words.used.load(Ordering::Acquire);
            used < window.words.limit.load(Ordering::Acquire)
        });
        if free {
            self.broadcast_shm_ack();
        }
    }

    /// The process may have more memory than it knows: its faults changed.
    pub fn window_changed(&self) {
        if self.is_ready() {
            self.broadcast_shm_ack();
        }
    }

    fn give_back(&self, chunks: &[u32]) {
        if chunks.is_empty() {
            return;
        }
        let wanted = self.window.borrow().as_ref().is_some_and(|window| {
            window.words.give_back(chunks);
            window.words.oosm.swap(0, Ordering::AcqRel) != 0
        });
        if wanted {
            self.broadcast_shm_ack();
        }
    }
}

/// Bytes of a chunk.
const CHUNK: usize = 16 << 10;

/// Chunks of a process's window; they are given back when this is dropped.
pub struct Credit {
    process: Rc<Process>,
    chunks: Vec<u32>,
    /// Those whose content was read last, and may not have been sent yet.
    reading: Vec<u32>,
}

impl Credit {
    /// These chunks of that process.
    pub fn new(process: &Rc<Process>, chunks: Vec<u32>) -> Self {
        Self {
            process: Rc::clone(process),
            chunks,
            reading: Vec::new(),
        }
    }

    /// Reads the content of the next few chunks, of `left` bytes that there
    /// are in all. Those of the last time have been sent, and are given back.
    pub fn read(&mut self, left: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        const AT_ONCE: usize = 4;
        buffer.clear();
        self.process.give_back(&self.reading);
        let count = self.chunks.len().min(AT_ONCE);
        self.reading = self.chunks.drain(..count).collect();
        for chunk in &self.reading {
            let start = buffer.len();
            buffer.resize(start + CHUNK.min(left.saturating_sub(start)), 0);
            let at = u64::from(*chunk) * CHUNK as u64;
            let window = self.process.window.borrow();
            if let (Some(window), Some(place)) = (&*window, buffer.get_mut(start..)) {
                let wanted = place.len();
                if rustix::io::pread(&window.memory, place, at)? != wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.process.give_back(&self.reading);
        self.process.give_back(&self.chunks);
    }
}
