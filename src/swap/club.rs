//! The processes of an application, as its watcher knows them.
//!
//! They switch together: each loads a version first, and only when all have it
//! are they told to serve it. If one cannot, none does. One that is gone without a
//! word while it loads may have been ended by that: then another one has to have
//! loaded it.

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::channel::Channel;
use super::message::{JOIN, Order, Reply, Version};
use crate::unit::Level;

/// How long processes may take to load a version.
const LOAD: Duration = Duration::from_secs(60);

/// And to serve it then, which takes no time.
const SWITCH: Duration = Duration::from_secs(10);

/// Processes that end while they load a version until that is taken to be the reason.
const ENDS: usize = 3;

type Log = Box<dyn Fn(Level, &str)>;

/// Where processes come to, and those that have come.
pub struct Club {
    /// Where the log is when nobody is there.
    log: Log,
    door: Channel,
    members: Vec<Member>,
    /// What is served; nothing if that is what was there at the start.
    current: Option<Version>,
    /// What is being loaded.
    offered: Option<Version>,
    /// Why somebody could not.
    failed: Option<String>,
    /// How many have ended while it was offered.
    ended: usize,
    /// How long they may take to load it.
    patience: Duration,
    over: bool,
}

/// One of them.
struct Member {
    channel: Channel,
    state: State,
    /// It did not answer in time, and has not said anything since.
    late: bool,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is nothing to do for it.
    Idle,
    /// It has yet to answer.
    Awaited,
    /// It has loaded what is offered.
    Loaded,
    /// It is about to end.
    Leaving,
}

impl Member {
    fn tell(&mut self, order: &Order<&Version>) {
        // It has ended, or stands still for good. Its end of the channel is
        // closed with ours, and it says so.
        self.gone |= order.send(&self.channel).is_err();
    }

    /// The same of an order that it has to answer.
    fn ask(&mut self, order: &Order<&Version>) {
        self.tell(order);
        self.state = match self.gone {
            true => State::Idle,
            false => State::Awaited,
        };
    }
}

impl Club {
    pub fn new(door: Channel, log: impl Fn(Level, &str) + 'static) -> Self {
        Self {
            log: Box::new(log),
            door,
            members: Vec::new(),
            current: None,
            offered: None,
            failed: None,
            ended: 0,
            patience: LOAD,
            over: false,
        }
    }

    /// Tells the prototype that there is a watcher.
    pub fn greet(&self, text: &str) -> io::Result<()> {
        self.door.send(text, None)
    }

    /// Whether the application has ended: nobody is left who could come.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Does what there is to do with processes, for so long.
    pub fn wait(&mut self, time: Duration) -> ControlFlow<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.turn(left);
            if self.over {
                return ControlFlow::Break(());
            }
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Lets all processes serve `version`, and says how many there are; or why
    /// none does.
    pub fn switch(&mut self, version: Version) -> Result<usize, String> {
        let number = version.number;
        self.failed = None;
        for member in self.staying() {
            member.ask(&Order::Load(&version));
        }
        self.offered = Some(version);
        let answered = self.all_answer(self.patience);
        let offered = self.offered.take();
        self.ended = 0;
        if let Err(why) = answered {
            for member in self.staying() {
                member.state = State::Idle;
                member.tell(&Order::Forget(number));
            }
            return Err(why);
        }
        self.current = offered;
        for member in self.staying() {
            member.ask(&Order::Switch(number));
        }
        if let Err(why) = self.all_answer(SWITCH) {
            self.staying().for_each(|member| member.state = State::Idle);
            // It will, as it has been told to.
            self.log(Level::Warn, &why);
        }
        Ok(self.staying().count())
    }

    /// Those that are not about to end.
    fn staying(&mut self) -> impl Iterator<Item = &mut Member> {
        let all = self.members.iter_mut();
        all.filter(|member| !member.gone && member.state != State::Leaving)
    }

    /// Waits until nobody has to answer any more. If somebody has ended instead, and
    /// nobody is left who did not, waits for another process to be started.
    fn all_answer(&mut self, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        loop {
            if let Some(why) = self.failed.take() {
                return Err(why);
            }
            if self.ended >= ENDS {
                return Err(format!("{ENDS} processes have ended while they loaded it"));
            }
            let any = |state| self.members.iter().any(|member| member.state == state);
            let awaited = any(State::Awaited);
            if !awaited && (self.ended == 0 || any(State::Loaded)) {
                // Who has loaded it may have ended since, and nobody has looked.
                let is_late = Instant::now() >= until;
                if self.ended == 0 || self.over || is_late || !self.turn(Duration::ZERO) {
                    return Ok(());
                }
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.over {
                for member in &mut self.members {
                    member.late |= member.state == State::Awaited;
                }
                return Err(match awaited {
                    true => format!("a process has not answered within {limit:?}"),
                    false => "a process has ended while it loaded it, and no other one has come \
                              to do so"
                        .to_owned(),
                });
            }
            self.turn(left);
        }
    }

    /// Waits for anything to happen, so long at most. False if nothing did.
    fn turn(&mut self, time: Duration) -> bool {
        let channels = self.members.iter().map(|member| &member.channel);
        let mut all: Vec<PollFd<'_>> = std::iter::once(&self.door)
            .chain(channels)
            .map(|channel| PollFd::new(channel, PollFlags::IN))
            .collect();
        let time = Timespec::try_from(time).ok();
        // It fails when a signal has come.
        let ready = poll(&mut all, time.as_ref()).unwrap_or(0);
        if ready == 0 {
            return false;
        }
        let mut ready = all.iter().map(|fd| !fd.revents().is_empty());
        let somebody_comes = ready.next().unwrap_or(false);
        let speaking: Vec<bool> = ready.collect();
        for (index, speaks) in speaking.into_iter().enumerate() {
            if speaks {
                self.hear(index);
            }
        }
        let is_offered = self.offered.is_some();
        self.members.retain(|member| {
            let was_asked = matches!(member.state, State::Awaited | State::Loaded);
            self.ended += usize::from(member.gone && was_asked && is_offered);
            !member.gone
        });
        if somebody_comes {
            self.open();
        }
        true
    }

    /// Takes what a process says.
    fn hear(&mut self, index: usize) {
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        let Ok(Some(message)) = member.channel.receive() else {
            member.gone = true;
            return;
        };
        member.late = false;
        let of = |version: &Option<Version>, number| {
            version.as_ref().is_some_and(|v| v.number == number)
        };
        // Of a version that is not offered any more nobody wants to know.
        match Reply::of(&message.text) {
            // Its thread may still answer what it was asked before.
            _ if member.state == State::Leaving => {}
            Some(Reply::Leaving) => member.state = State::Leaving,
            Some(Reply::Loaded(number)) if of(&self.offered, number) => {
                member.state = State::Loaded;
            }
            Some(Reply::Switched(number)) if of(&self.current, number) => {
                member.state = State::Idle;
            }
            Some(Reply::Failed(number, why)) if of(&self.offered, number) => {
                member.state = State::Idle;
                self.failed = Some(format!("a process could not load it: {why}"));
            }
            _ => {}
        }
    }

    /// Lets a process in. It waits for the answer, so that it does not serve what
    /// the others have left behind.
    fn open(&mut self) {
        let message = match self.door.receive() {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.over = true;
                return;
            }
            Err(_) => return,
        };
        let Some(fd) = message.file.filter(|_| message.text == JOIN) else {
            return;
        };
        let mut member = Member {
            channel: Channel::of(fd),
            state: State::Idle,
            late: false,
            gone: false,
        };
        match &self.current {
            None => member.tell(&Order::Begin),
            Some(version) => member.tell(&Order::BeginWith(version)),
        }
        if let Some(version) = &self.offered {
            member.ask(&Order::Load(version));
        }
        self.members.push(member);
    }

    /// Writes to the log, by a process if there is one that answers: when the log is
    /// rotated, they are told to use the new file.
    pub fn log(&mut self, level: Level, text: &str) {
        let order = Order::Log(level, text.to_owned());
        for member in self.staying().filter(|member| !member.late) {
            member.tell(&order);
            if !member.gone {
                return;
            }
        }
        (self.log)(level, text);
    }
}

#[cfg(test)]
#[path = "club_tests.rs"]
mod tests;
