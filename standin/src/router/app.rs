//! An application: one version of its object, and the requests it has.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::generation::Generation;
use super::process::{Credit, Process};
use super::terms::Terms;
use crate::log::{Level, log};
use crate::request::Request;
use crate::sys::shared::{FaultWords, Shared};

/// What happens to a request.
pub enum Event {
    /// A process has taken it.
    Taken,
    /// Status, fields and perhaps content.
    Head(Piece),
    /// Content.
    Data(Piece),
    /// The application has given up, its process is gone, or none could be
    /// started.
    Failed,
}

/// A part of a response.
pub struct Piece {
    /// The bytes; of content in chunks, only its length.
    pub payload: Bytes,
    /// Whether the content is in chunks.
    pub in_chunks: bool,
    /// Whether the response ends with it.
    pub last: bool,
    /// The chunks that it occupies.
    pub credit: Credit,
}

/// Where a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the queue of the current generation.
    Queued,
    /// In the socket of the generation with this number.
    Sent(u64),
    /// With the process of this id.
    Taken(u32),
}

/// A request that is not done.
struct InFlight {
    place: Cell<Place>,
    message: Vec<u8>,
    body: Option<OwnedFd>,
    events: mpsc::UnboundedSender<Event>,
}

/// One version of an application.
pub struct App {
    /// Its name.
    pub name: String,
    /// Its object.
    pub object: Value,
    /// What that says.
    pub terms: Terms,
    /// The module's file.
    pub file: PathBuf,
    /// Its faults.
    pub faults: Rc<Shared<FaultWords>>,
    current: RefCell<Rc<Generation>>,
    generations: RefCell<Vec<Rc<Generation>>>,
    requests: RefCell<HashMap<u32, Rc<InFlight>>>,
    next_request: Cell<u32>,
    removed: Cell<bool>,
    /// Something about its processes has changed.
    pub changed: Notify,
    /// How often a process could not be started.
    pub failures: Cell<u64>,
}

impl App {
    /// Without processes yet.
    pub fn new(
        name: &str,
        object: &Value,
        file: PathBuf,
        faults: Rc<Shared<FaultWords>>,
    ) -> io::Result<Rc<Self>> {
        let first = Rc::new(Generation::new(1)?);
        Ok(Rc::new(Self {
            name: name.to_owned(),
            object: object.clone(),
            terms: Terms::of(object),
            file,
            faults,
            current: RefCell::new(Rc::clone(&first)),
            generations: RefCell::new(vec![first]),
            requests: RefCell::default(),
            next_request: Cell::new(0),
            removed: Cell::new(false),
            changed: Notify::new(),
            failures: Cell::new(0),
        }))
    }

    /// The generation that takes requests.
    pub fn current(&self) -> Rc<Generation> {
        Rc::clone(&self.current.borrow())
    }

    /// Requests that are not done.
    pub fn active(&self) -> usize {
        self.requests.borrow().len()
    }

    /// Starts the spare processes; false if one does not start.
    pub async fn start(self: &Rc<Self>) -> bool {
        let failures = self.failures.get();
        self.ensure();
        loop {
            let changed = self.changed.notified();
            if self.failures.get() != failures {
                return false;
            }
            if self.current().ready() >= self.terms.spare {
                return true;
            }
            changed.await;
        }
    }

    /// Starts processes as they are needed.
    pub fn ensure(self: &Rc<Self>) {
        let generation = self.current();
        while !self.removed.get() && generation.wants_more(&self.terms, self.active()) {
            if let Err(error) = generation.spawn(self) {
                log(
                    Level::Alert,
                    format!("\"{}\": cannot start a process: {error}", self.name),
                );
                self.start_failed(&generation);
                return;
            }
        }
    }

    /// Hands a request over.
    pub fn submit(
        self: &Rc<Self>,
        request: &Request,
        body: Option<OwnedFd>,
    ) -> mpsc::UnboundedReceiver<Event> {
        let (events, receiver) = mpsc::unbounded_channel();
        let number = self.next_request.get().wrapping_add(1);
        self.next_request.set(number);
        let made = InFlight {
            place: Cell::new(Place::Queued),
            message: request.encode(number),
            body,
            events,
        };
        self.requests.borrow_mut().insert(number, Rc::new(made));
        let generation = self.current();
        generation.enqueue(number);
        self.ensure();
        self.feed(&generation);
        receiver
    }

    /// Puts queued requests into the shared port while there is room.
    pub fn feed(self: &Rc<Self>, generation: &Rc<Generation>) {
        while let Some(number) = generation.first_queued() {
            let request = self.requests.borrow().get(&number).cloned();
            if let Some(request) = request {
                match generation.send(&request.message, request.body.as_ref()) {
                    Ok(true) => request.place.set(Place::Sent(generation.number)),
                    Ok(false) => {
                        generation.feed_when_writable(self);
                        return;
                    }
                    Err(error) => {
                        let text = format!("\"{}\": request not sent: {error}", self.name);
                        log(Level::Alert, text);
                        self.fail(number);
                    }
                }
            }
            generation.pop_queued();
        }
    }

    fn fail(self: &Rc<Self>, number: u32) {
        let request = self.requests.borrow_mut().remove(&number);
        if let Some(request) = request {
            let _ = request.events.send(Event::Failed);
        }
        self.check_removed();
    }

    /// A process has taken a request.
    pub fn taken(&self, process: &Process, number: u32) {
        if let Some(request) = self.requests.borrow().get(&number) {
            request.place.set(Place::Taken(process.pid));
            process.active.set(process.active.get() + 1);
            let _ = request.events.send(Event::Taken);
        }
    }

    /// A part of a response has come; `None` stands for failure.
    pub fn respond(self: &Rc<Self>, process: &Rc<Process>, number: u32, last: bool, event: Event) {
        // Nobody may be listening any more; the event is dropped then, and
        // its chunks are given back.
        if let Some(request) = self.requests.borrow().get(&number) {
            let _ = request.events.send(event);
        }
        if last && self.requests.borrow_mut().remove(&number).is_some() {
            process.active.set(process.active.get().saturating_sub(1));
            process.idle_since.set(std::time::Instant::now());
            self.check_removed();
        }
    }

    /// A process could not be started.
    pub fn start_failed(self: &Rc<Self>, generation: &Rc<Generation>) {
        self.failures.set(self.failures.get() + 1);
        if generation.has_processes() || generation.number != self.current().number {
            self.changed.notify_waiters();
            return;
        }
        // Nobody is there to serve these, and nobody is about to be.
        let waiting: Vec<u32> = self
            .requests
            .borrow()
            .iter()
            .filter(|(_, request)| !matches!(request.place.get(), Place::Taken(_)))
            .map(|(number, _)| *number)
            .collect();
        if waiting.is_empty() {
            self.changed.notify_waiters();
            return;
        }
        generation.clear_queue();
        if self.renew().is_err() {
            log(Level::Alert, "no new queue");
        }
        for number in waiting {
            self.fail(number);
        }
        self.changed.notify_waiters();
    }

    /// A process is gone.
    pub fn process_gone(self: &Rc<Self>, generation: &Rc<Generation>, process: &Process) {
        let failed: Vec<u32> = self
            .requests
            .borrow()
            .iter()
            .filter(|(_, request)| request.place.get() == Place::Taken(process.pid))
            .map(|(number, _)| *number)
            .collect();
        for number in failed {
            self.fail(number);
        }
        if !process.is_ready() {
            self.start_failed(generation);
        } else {
            self.recover(generation);
            self.ensure();
        }
        self.changed.notify_waiters();
        self.check_removed();
    }

    /// Saves requests that were sent to a generation and will not be taken:
    /// those that a process took with it into its death are past saving.
    fn recover(self: &Rc<Self>, generation: &Rc<Generation>) {
        if generation.has_processes() {
            return;
        }
        let current = self.current();
        let stranded: Vec<u32> = self
            .requests
            .borrow()
            .iter()
            .filter(|(_, request)| request.place.get() == Place::Sent(generation.number))
            .map(|(number, _)| *number)
            .collect();
        if current.number != generation.number {
            for number in stranded {
                self.requeue(number, &current);
            }
            self.feed(&current);
            return;
        }
        let first_waiting = generation.first_in_socket();
        for number in stranded {
            let lost = first_waiting.is_none_or(|first| number.wrapping_sub(first) > u32::MAX / 2);
            if lost {
                self.fail(number);
            }
        }
    }

    fn requeue(&self, number: u32, generation: &Generation) {
        if let Some(request) = self.requests.borrow().get(&number) {
            request.place.set(Place::Queued);
            generation.enqueue(number);
        }
    }

    /// Replaces the generation, without telling the old one.
    fn renew(self: &Rc<Self>) -> io::Result<Rc<Generation>> {
        let old = self.current();
        let new = Rc::new(Generation::new(old.number + 1)?);
        self.current.replace(Rc::clone(&new));
        self.generations.borrow_mut().push(Rc::clone(&new));
        for number in old.take_queue() {
            new.enqueue(number);
        }
        old.close();
        Ok(new)
    }

    /// New processes take over; old ones are told to end.
    pub fn restart(self: &Rc<Self>) -> io::Result<()> {
        let new = self.renew()?;
        self.ensure();
        self.feed(&new);
        Ok(())
    }

    /// No more requests come. The processes end when the last one is done.
    pub fn remove(self: &Rc<Self>) {
        self.removed.set(true);
        self.check_removed();
    }

    /// The processes are told to end now.
    pub fn stop(&self) {
        self.removed.set(true);
        self.current().close();
    }

    fn check_removed(&self) {
        if self.removed.get() && self.active() == 0 {
            self.current().close();
        }
    }

    /// Whether no process is left.
    pub fn is_gone(&self) -> bool {
        let mut generations = self.generations.borrow_mut();
        let current = self.current().number;
        generations.retain(|generation| generation.number == current || !generation.is_gone());
        self.removed.get() && generations.iter().all(|generation| generation.is_gone())
    }

    /// Kills what is left; how many processes that are.
    pub fn kill(&self) -> usize {
        let generations = self.generations.borrow();
        generations.iter().map(|generation| generation.kill()).sum()
    }

    /// Ends processes that have been idle for too long.
    pub fn tick(&self) {
        let generations: Vec<_> = self.generations.borrow().clone();
        for generation in generations {
            generation.flush();
        }
        self.current()
            .end_idle(self.terms.spare, self.terms.idle_timeout);
        self.is_gone();
    }

    /// Limits of memory have changed.
    pub fn window_changed(&self) {
        for generation in self.generations.borrow().iter() {
            generation.window_changed();
        }
    }

    /// What the status shows.
    pub fn status(&self) -> Value {
        let (running, starting, idle) = self.current().counts();
        json!({
            "processes": {"running": running, "starting": starting, "idle": idle},
            "requests": {"active": self.active()},
        })
    }
}
