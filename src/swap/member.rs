//! A process of the application: it serves what its watcher says.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nxt_wasm_runtime::{LoadError, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::channel::Channel;
use super::message::{JOIN, Order, Reply, Version};
use crate::report::App;
use crate::service::Service;
use crate::unit::{Level, flush_log, guard, panic_text};

/// How long the watcher may take to answer. It does so at once, whatever else it
/// has to do, unless it hangs.
const ANSWER: Duration = Duration::from_secs(10);

/// How often the process looks whether a runtime that was replaced has become
/// free.
const RETIRED_CHECK: Duration = Duration::from_millis(250);

/// Membership of a process.
pub struct Membership {
    channel: Channel,
    /// What to begin with, if it is not what was there when the application
    /// started.
    pub begin_with: Option<Version>,
    /// The watcher has not answered yet. What it says when it does is followed.
    pub is_late: bool,
}

/// Tells the watcher behind `door` of this process, and learns what to serve.
///
/// # Errors
///
/// Why it cannot, for the operator.
pub fn join(door: &Channel) -> Result<Membership, String> {
    join_within(door, ANSWER)
}

fn join_within(door: &Channel, limit: Duration) -> Result<Membership, String> {
    let failed = |error: std::io::Error| format!("the watcher cannot be reached: {error}");
    let (channel, far) = Channel::pair().map_err(failed)?;
    door.send(JOIN, Some(far.as_fd())).map_err(failed)?;
    // Its end is the watcher's alone now.
    drop(far);
    if !is_readable(&channel, Some(limit)) {
        // A process that does not start would be worse than one that begins with
        // what the others have left behind.
        return Ok(Membership {
            channel,
            begin_with: None,
            is_late: true,
        });
    }
    let answer = channel.receive().map_err(failed)?;
    let begin_with = match answer.and_then(Order::of) {
        Some(Order::Begin) => None,
        Some(Order::BeginWith(version)) => Some(version),
        _ => return Err("the watcher has ended".to_owned()),
    };
    Ok(Membership {
        channel,
        begin_with,
        is_late: false,
    })
}

/// For a process to take leave of its watcher.
pub struct Farewell(Arc<Channel>);

impl Farewell {
    /// The process serves nothing any more. One that is gone without a word has been
    /// ended by something: by what it was loading, perhaps.
    pub fn say(&self) {
        // A watcher that has ended has nothing to wait for.
        let _ = Reply::Leaving.send(&self.0);
    }
}

/// Serves what the watcher says, from now on. `load` makes a runtime that can take
/// the place of another one.
///
/// # Errors
///
/// The operating system's, if there can be no thread.
pub fn follow(
    membership: Membership,
    service: &Arc<Service>,
    load: impl Fn(&Runtime, &Version) -> Result<Runtime, LoadError> + Send + 'static,
) -> std::io::Result<Farewell> {
    let app = service.app.clone();
    let service = Arc::downgrade(service);
    let channel = Arc::new(membership.channel);
    let farewell = Farewell(Arc::clone(&channel));
    let follower = Follower {
        channel,
        app,
        service,
        load,
        candidate: None,
        retired: Vec::new(),
    };
    thread::Builder::new()
        .name("wasm-swap".into())
        .spawn(move || guard("swap", (), || follower.run()))
        .map(|_| farewell)
}

/// The thread that does it: loading takes its time, and letting go of an instance
/// pool too, which no event loop should spend.
struct Follower<L> {
    channel: Arc<Channel>,
    app: App,
    service: Weak<Service>,
    load: L,
    /// What was loaded, but is not served yet.
    candidate: Option<(u64, Arc<Runtime>)>,
    /// What is not served any more, except to requests that began with it.
    retired: Vec<Arc<Runtime>>,
}

impl<L: Fn(&Runtime, &Version) -> Result<Runtime, LoadError>> Follower<L> {
    fn run(mut self) {
        loop {
            let pause = (!self.retired.is_empty()).then_some(RETIRED_CHECK);
            let readable = is_readable(&self.channel, pause);
            self.let_go();
            if !readable {
                continue;
            }
            let message = self.channel.receive();
            let Some(service) = self.service.upgrade() else {
                return;
            };
            match message {
                Ok(Some(message)) => {
                    if let Some(order) = Order::of(message) {
                        self.obey(order, &service);
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        self.app.log(
            Level::Warn,
            "the watcher (UNIT_WASM_WATCH) has ended: further changes of the component's file \
             take a restart of the application",
        );
        while !self.retired.is_empty() {
            thread::sleep(RETIRED_CHECK);
            self.let_go();
        }
    }

    /// Gives back what retired runtimes do not need any more: kept instances, and
    /// all of those that nobody uses.
    fn let_go(&mut self) {
        guard("letting go of a component", (), || {
            for old in &self.retired {
                old.retire();
            }
            self.retired.retain(|old| Arc::strong_count(old) > 1);
        });
        // The last lines of guests can be among it.
        flush_log();
    }

    fn load(&self, service: &Service, version: &Version) -> Result<Arc<Runtime>, String> {
        attempt(|| (self.load)(&service.runtime.get(), version)).map(Arc::new)
    }

    fn switch(&mut self, service: &Service, runtime: Arc<Runtime>) {
        self.retired.push(service.runtime.replace(runtime));
    }

    fn obey(&mut self, order: Order<Version>, service: &Service) {
        let reply = match order {
            Order::Load(version) => match self.load(service, &version) {
                Ok(runtime) => {
                    self.candidate = Some((version.number, runtime));
                    Reply::Loaded(version.number)
                }
                Err(why) => Reply::Failed(version.number, why),
            },
            Order::Switch(number) => {
                let candidate = self.candidate.take_if(|(of, _)| *of == number);
                let Some((_, runtime)) = candidate else {
                    return;
                };
                self.switch(service, runtime);
                Reply::Switched(number)
            }
            Order::Forget(number) => {
                self.candidate.take_if(|(of, _)| *of == number);
                return;
            }
            Order::Log(level, text) => return self.app.log(level, &text),
            // The watcher was late: the process has begun with what was there at the
            // start.
            Order::Begin => return,
            Order::BeginWith(version) => {
                match self.load(service, &version) {
                    Ok(runtime) => self.switch(service, runtime),
                    Err(why) => {
                        let text = format!(
                            "what other processes serve cannot be loaded: {why}: restart the \
                             application"
                        );
                        self.app.log(Level::Error, &text);
                    }
                }
                return;
            }
        };
        // If the watcher has ended, that is seen when it is waited for.
        let _ = reply.send(&self.channel);
    }
}

/// Does what can fail, be it by a panic: the process goes on with what it serves, and
/// its watcher has to know.
fn attempt<T>(load: impl FnOnce() -> Result<T, LoadError>) -> Result<T, String> {
    // Unwind safety: what `load` was making is gone, and it changes nothing else.
    match catch_unwind(AssertUnwindSafe(load)) {
        Ok(loaded) => loaded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("panic: {}", panic_text(&*panic))),
    }
}

/// Waits, so long at most or for ever, until there is something to receive.
fn is_readable(channel: &Channel, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let mut all = [PollFd::new(channel, PollFlags::IN)];
    // It fails when a signal has come.
    poll(&mut all, limit.as_ref()).unwrap_or(0) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_loading_is_a_failure() {
        assert_eq!(attempt(|| Ok(1)), Ok(1));
        let failed = attempt(|| Err::<(), _>(LoadError::CoreModule)).unwrap_err();
        assert!(failed.contains("core WebAssembly module"), "{failed}");
        let panicked = attempt::<()>(|| panic!("of a test"));
        assert_eq!(panicked, Err("panic: of a test".to_owned()));
    }

    #[test]
    fn a_watcher_that_is_late_is_heard_later() {
        let (inside, door) = Channel::pair().unwrap();
        let membership = join_within(&door, Duration::from_millis(1)).unwrap();
        assert!(membership.is_late && membership.begin_with.is_none());
        let joined = inside.receive().unwrap().unwrap();
        let channel = Channel::of(joined.file.unwrap());
        Order::Begin.send(&channel).unwrap();
        let order = membership.channel.receive().unwrap();
        assert!(matches!(order.and_then(Order::of), Some(Order::Begin)));
        // Who does not come any more is not waited for.
        drop((inside, channel));
        assert!(join_within(&door, ANSWER).is_err());
    }
}
