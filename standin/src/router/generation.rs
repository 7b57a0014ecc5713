//! The processes of an application that share one queue of requests: those
//! between two restarts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_local;

use super::app::{App, Event, Piece};
use super::link::Receiver;
use super::process::{Credit, Process};
use super::terms::Terms;
use crate::log::{Level, log};
use crate::options;
use crate::prototype::Plan;
use crate::sys::net::{self, Wait};
use crate::sys::shared::{QueueWords, Shared};
use crate::wire::{self, Frame, Header, Kind};

/// The sending ends of the shared port.
struct Port {
    data: AsyncFd<OwnedFd>,
    notify: OwnedFd,
}

/// A prototype that is running.
struct Prototype {
    stream: OwnedFd,
    pid: Option<u32>,
    prepared: Cell<bool>,
}

/// One generation.
pub struct Generation {
    /// Counts up with each restart.
    pub number: u64,
    port: RefCell<Option<Rc<Port>>>,
    shared_data: OwnedFd,
    shared_notify: OwnedFd,
    words: Shared<QueueWords>,
    queue: RefCell<VecDeque<u32>>,
    waits_for_room: Cell<bool>,
    prototype: RefCell<Option<Prototype>>,
    processes: RefCell<Vec<Rc<Process>>>,
    /// Processes that were asked for and are not ready.
    pending: Cell<usize>,
}

impl Generation {
    /// Without processes yet.
    pub fn new(number: u64) -> io::Result<Self> {
        let (data_in, data_out) = net::packet_pair()?;
        let (notify_in, notify_out) = net::packet_pair()?;
        let port = Port {
            data: net::watch(data_out, Interest::WRITABLE)?,
            notify: notify_out,
        };
        Ok(Self {
            number,
            port: RefCell::new(Some(Rc::new(port))),
            shared_data: data_in,
            shared_notify: notify_in,
            words: Shared::create()?,
            queue: RefCell::default(),
            waits_for_room: Cell::new(false),
            prototype: RefCell::default(),
            processes: RefCell::default(),
            pending: Cell::new(0),
        })
    }

    /// Whether another process is to be started.
    pub fn wants_more(&self, terms: &Terms, active: usize) -> bool {
        let (running, pending, idle) = self.counts();
        let contexts: usize = self.processes.borrow().iter().map(|p| p.contexts()).sum();
        let open = self.port.borrow().is_some();
        let can_start = running + pending < terms.max && pending < terms.spare.max(1);
        open && can_start && (active > contexts + pending || terms.spare > idle + pending)
    }

    /// Processes that run, that start, and that are idle.
    pub fn counts(&self) -> (usize, usize, usize) {
        let processes = self.processes.borrow();
        let running = processes
            .iter()
            .filter(|process| process.is_ready() && !process.quitting.get());
        let idle = processes.iter().filter(|process| process.is_idle());
        (running.count(), self.pending.get(), idle.count())
    }

    /// Processes that have said that they are ready.
    pub fn ready(&self) -> usize {
        self.counts().0
    }

    /// Whether there are processes, or will be.
    pub fn has_processes(&self) -> bool {
        self.pending.get() != 0 || !self.processes.borrow().is_empty()
    }

    /// Whether it is closed and its last process is gone.
    pub fn is_gone(&self) -> bool {
        self.port.borrow().is_none()
            && self.prototype.borrow().is_none()
            && self.processes.borrow().is_empty()
    }

    /// Adds a request at the end of the queue.
    pub fn enqueue(&self, number: u32) {
        self.queue.borrow_mut().push_back(number);
    }

    /// The request to be sent next.
    pub fn first_queued(&self) -> Option<u32> {
        self.queue.borrow().front().copied()
    }

    /// It has been dealt with.
    pub fn pop_queued(&self) {
        self.queue.borrow_mut().pop_front();
    }

    /// All requests that were not sent.
    pub fn take_queue(&self) -> VecDeque<u32> {
        self.queue.take()
    }

    /// Forgets them.
    pub fn clear_queue(&self) {
        self.queue.borrow_mut().clear();
    }

    /// The number of the request that will be taken next from the socket.
    pub fn first_in_socket(&self) -> Option<u32> {
        use rustix::net::{RecvFlags, recv};
        let mut number = [0u8; 4];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.shared_data, &mut number, flags) {
            Ok((4, _)) => Some(u32::from_ne_bytes(number)),
            _ => None,
        }
    }

    /// Puts a request into the shared port; false if it is full.
    pub fn send(&self, message: &[u8], body: Option<&OwnedFd>) -> io::Result<bool> {
        let port = self.port.borrow().clone();
        let Some(port) = port else { return Ok(false) };
        let fds: Vec<_> = body.iter().map(|fd| fd.as_fd()).collect();
        let sent = net::send(
            port.data.get_ref(),
            &[IoSlice::new(message)],
            &fds,
            Wait::Never,
        );
        if net::or_nothing(sent)?.is_none() {
            return Ok(false);
        }
        if self.words.notified.swap(1, Ordering::AcqRel) == 0 {
            net::send(&port.notify, &[IoSlice::new(&[0])], &[], Wait::Never)?;
        }
        Ok(true)
    }

    /// Feeds the port again when it has room.
    pub fn feed_when_writable(self: &Rc<Self>, app: &Rc<App>) {
        let port = self.port.borrow().clone();
        let Some(port) = port else { return };
        if self.waits_for_room.replace(true) {
            return;
        }
        let (this, app) = (Rc::clone(self), Rc::clone(app));
        spawn_local(async move {
            if let Ok(mut ready) = port.data.writable().await {
                ready.clear_ready();
            }
            drop(port);
            this.waits_for_room.set(false);
            app.feed(&this);
        });
    }

    /// Starts a process, and the prototype first if there is none.
    pub fn spawn(self: &Rc<Self>, app: &Rc<App>) -> io::Result<()> {
        if self.prototype.borrow().is_none() {
            self.start_prototype(app)?;
        }
        if let Some(prototype) = &*self.prototype.borrow() {
            let header = Header::new(Kind::Spawn, 0);
            wire::send(&prototype.stream, header, &[], &[], Wait::Never)?;
            self.pending.set(self.pending.get() + 1);
        }
        Ok(())
    }

    fn start_prototype(self: &Rc<Self>, app: &Rc<App>) -> io::Result<()> {
        let (near, far) = net::stream_pair()?;
        let title = format!("nxt-standin: \"{}\" prototype", app.name);
        let mut command = std::process::Command::new("/proc/self/exe");
        // Room for the titles of the prototype and of its children.
        command
            .arg0(format!("{title}{}", " ".repeat(16)))
            .arg(options::PROTOTYPE)
            .stdin(far);
        let child = tokio::process::Command::from(command).spawn()?;
        let plan = Plan {
            name: app.name.clone(),
            file: app.file.to_string_lossy().into_owned(),
            object: app.object.clone(),
            window: app.terms.window,
            requests: app.terms.requests,
            router_pid: std::process::id() as i32,
        };
        let fds = [
            self.shared_data.as_fd(),
            self.shared_notify.as_fd(),
            self.words.as_fd(),
            app.faults.as_fd(),
        ];
        let header = Header::new(Kind::Configure, 0);
        wire::send(&near, header, &plan.encode(), &fds, Wait::AsDescriptor)?;
        let started = Prototype {
            stream: near.try_clone()?,
            pid: child.id(),
            prepared: Cell::new(false),
        };
        let receiver = Receiver::new(near)?;
        self.prototype.replace(Some(started));
        spawn_local(Rc::clone(self).follow_prototype(Rc::clone(app), receiver, child));
        Ok(())
    }

    async fn follow_prototype(
        self: Rc<Self>,
        app: Rc<App>,
        mut receiver: Receiver,
        mut child: tokio::process::Child,
    ) {
        loop {
            match receiver.next().await {
                Ok(Some(frame)) => self.heard_from_prototype(&app, frame),
                Ok(None) => break,
                Err(error) => {
                    log(Level::Alert, format!("\"{}\" prototype: {error}", app.name));
                    let _ = child.start_kill();
                    break;
                }
            }
        }
        let status = child.wait().await;
        if !matches!(&status, Ok(status) if status.success()) {
            let text = format!("\"{}\" prototype failed: {status:?}", app.name);
            log(Level::Warn, text);
        }
        let gone = self.prototype.take();
        if self.pending.replace(0) != 0 {
            app.start_failed(&self);
        }
        if gone.is_some_and(|gone| gone.prepared.get()) {
            // It has been killed; another may do better.
            app.ensure();
        }
        app.changed.notify_waiters();
    }

    fn heard_from_prototype(self: &Rc<Self>, app: &Rc<App>, frame: Frame) {
        let pid = frame.header.number;
        match frame.header.kind {
            Kind::Spawned => {
                let receiver = frame.fds.into_iter().next().map(Receiver::new);
                let Some(Ok(receiver)) = receiver else {
                    log(Level::Alert, format!("app process {pid} without a stream"));
                    return;
                };
                let process = Rc::new(Process::new(pid));
                self.processes.borrow_mut().push(Rc::clone(&process));
                spawn_local(Rc::clone(self).follow_process(Rc::clone(app), process, receiver));
            }
            Kind::Exited => {
                // Its stream ends by itself, after all that it still holds;
                // unless a child of the process keeps it open.
                let (this, app) = (Rc::downgrade(self), Rc::downgrade(app));
                spawn_local(async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    if let (Some(this), Some(app)) = (this.upgrade(), app.upgrade())
                        && let Some(process) = this.find(pid)
                    {
                        this.process_gone(&app, &process);
                    }
                });
            }
            Kind::Prepared => {
                if let Some(prototype) = &*self.prototype.borrow() {
                    prototype.prepared.set(true);
                }
            }
            _ => log(Level::Alert, "unexpected frame of a prototype"),
        }
    }

    fn find(&self, pid: u32) -> Option<Rc<Process>> {
        let processes = self.processes.borrow();
        processes.iter().find(|process| process.pid == pid).cloned()
    }

    async fn follow_process(
        self: Rc<Self>,
        app: Rc<App>,
        process: Rc<Process>,
        mut from: Receiver,
    ) {
        loop {
            match from.next().await {
                Ok(Some(frame)) => self.heard_from_process(&app, &process, frame),
                Ok(None) => break,
                Err(error) => {
                    // A killed process may leave a reset behind.
                    log(Level::Info, format!("app process {}: {error}", process.pid));
                    break;
                }
            }
        }
        self.process_gone(&app, &process);
    }

    fn heard_from_process(self: &Rc<Self>, app: &Rc<App>, process: &Rc<Process>, frame: Frame) {
        let Header {
            kind,
            last,
            number,
            chunks,
        } = frame.header;
        let piece = || {
            let mut payload = frame.payload.clone();
            let ids = payload.split_to(payload.len().min(chunks as usize * 4));
            let (ids, _) = ids.as_chunks::<4>();
            let ids = ids.iter().map(|id| u32::from_ne_bytes(*id)).collect();
            Piece {
                payload,
                in_chunks: kind == Kind::Data && chunks != 0,
                last,
                credit: Credit::new(process, ids),
            }
        };
        match kind {
            Kind::Taken => {
                app.taken(process, number);
                app.ensure();
            }
            Kind::Head => app.respond(process, number, last, Event::Head(piece())),
            Kind::Data => app.respond(process, number, last, Event::Data(piece())),
            Kind::Failed => app.respond(process, number, true, Event::Failed),
            Kind::Exhausted => process.exhausted(),
            Kind::Context => {
                let was_ready = process.is_ready();
                if let Err(error) = process.add_context(number, frame.fds) {
                    log(
                        Level::Alert,
                        format!("app process {}: {error}", process.pid),
                    );
                }
                if !was_ready && process.is_ready() {
                    self.pending.set(self.pending.get().saturating_sub(1));
                }
                if self.port.borrow().is_none() {
                    process.quit();
                }
                app.changed.notify_waiters();
                app.ensure();
            }
            Kind::ContextGone => process.remove_context(number),
            _ => log(Level::Alert, "unexpected frame of an application process"),
        }
    }

    fn process_gone(self: &Rc<Self>, app: &Rc<App>, process: &Rc<Process>) {
        let known = self.find(process.pid).is_some();
        let mut processes = self.processes.borrow_mut();
        processes.retain(|other| other.pid != process.pid);
        drop(processes);
        if known {
            if !process.is_ready() {
                self.pending.set(self.pending.get().saturating_sub(1));
            }
            app.process_gone(self, process);
        }
    }

    /// Takes no more requests; the processes are told to end, and the
    /// prototype after them.
    pub fn close(&self) {
        if self.port.take().is_none() {
            return;
        }
        for process in self.processes.borrow().iter() {
            process.quit();
        }
        if let Some(prototype) = &*self.prototype.borrow() {
            let header = Header::new(Kind::Quit, 0);
            let _ = wire::send(&prototype.stream, header, &[], &[], Wait::Never);
        }
    }

    /// Kills the prototype, and with it the processes; how many of them.
    pub fn kill(&self) -> usize {
        let processes = self.processes.borrow();
        let pids = processes.iter().map(|process| process.pid);
        let prototype = self.prototype.borrow();
        let prototype = prototype.as_ref().and_then(|prototype| prototype.pid);
        for pid in pids.chain(prototype) {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        processes.len()
    }

    /// Sends messages for which there was no room.
    pub fn flush(&self) {
        for process in self.processes.borrow().iter() {
            process.flush();
        }
    }

    /// Limits of memory have changed.
    pub fn window_changed(&self) {
        for process in self.processes.borrow().iter() {
            process.window_changed();
        }
    }

    /// Tells processes to end that have been idle for too long.
    pub fn end_idle(&self, spare: usize, timeout: Duration) {
        let mut idle: Vec<_> = self.processes.borrow().clone();
        idle.retain(|process| process.is_idle());
        idle.sort_by_key(|process| process.idle_since.get());
        let surplus = idle.len().saturating_sub(spare);
        let now = Instant::now();
        for process in idle.iter().take(surplus) {
            if now.duration_since(process.idle_since.get()) >= timeout {
                process.quit();
            }
        }
    }
}
