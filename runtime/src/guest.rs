//! A guest at work on a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Engine, Store, UpdateDeadline};

use crate::cause::{self, Known};
use crate::coredump::Coredumps;
use crate::crowd::Entry;
use crate::error::{Failure, Reason};
use crate::grants::Grants;
use crate::host::Capabilities;
use crate::instance::{Delivery, GuestResponse, Handler};
use crate::limits::Limits;
use crate::meter::{Meter, Verdict};
use crate::output::Severity;
use crate::request::RequestContext;
use crate::reuse::{Idle, Kept};
use crate::shared::Member;
use crate::state::State;
use crate::ticker::Active;

pub(crate) fn new_store(
    engine: &Engine,
    limits: &Limits,
    grants: &Grants,
    capabilities: &Arc<Capabilities>,
    context: &RequestContext,
    meter: &Arc<Meter>,
) -> wasmtime::Result<Store<State>> {
    let state = State::new(limits, grants, capabilities, context, Arc::clone(meter))?;
    let mut store = Store::try_new(engine, state)?;
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(limits.host_call);
    store.set_max_component_handles(limits.resources);
    store.epoch_deadline_callback(|store| {
        Ok(match store.data().meter.tick() {
            Verdict::Yield => UpdateDeadline::Yield(1),
            Verdict::Stop => UpdateDeadline::Interrupt,
        })
    });
    supply(&mut store, limits)?;
    Ok(store)
}

/// Makes a store that has served a request, or still does if the new one is not
/// `alone`, ready for another one.
pub(crate) fn renew_store(
    mut store: impl AsContextMut<Data = State>,
    limits: &Limits,
    context: &RequestContext,
    meter: &Arc<Meter>,
    alone: bool,
) -> wasmtime::Result<()> {
    let mut store = store.as_context_mut();
    let meter = Arc::clone(meter);
    store.data_mut().renew(limits, context, meter, alone);
    supply(store, limits)
}

/// What a request may use up that the store counts.
fn supply(mut store: impl AsContextMut<Data = State>, limits: &Limits) -> wasmtime::Result<()> {
    let mut store = store.as_context_mut();
    if let Some(fuel) = limits.fuel {
        store.set_fuel(fuel)?;
    }
    store.set_epoch_deadline(1);
    Ok(())
}

/// What a request has used, for logs and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time spent executing the guest.
    pub cpu_time: Duration,
    /// Most bytes of memory at any one time; 0 while the guest is running.
    pub memory: usize,
    /// Fuel used, if it is metered; `None` while the guest is running.
    pub fuel: Option<u64>,
}

/// The end of a call: the handler, for further ones, or why it failed.
pub(crate) struct Ended {
    pub result: wasmtime::Result<Handler>,
    pub store: Store<State>,
}

pub(crate) enum GuestState {
    Running(Pin<Box<dyn Future<Output = Ended>>>),
    /// In an instance with others.
    Sharing(Box<Member>),
    /// The call has returned; the store is kept until the response body has
    /// been taken out of it.
    Ended(Box<Ended>),
    /// Nothing is left of it but what the log wants to know.
    Gone {
        failure: Option<Failure>,
        usage: Usage,
    },
}

/// A guest at work on a request.
pub(crate) struct Guest {
    pub state: GuestState,
    pub context: RequestContext,
    pub meter: Arc<Meter>,
    pub limits: Arc<Limits>,
    /// Epochs are needed as long as it runs.
    pub active: Option<Active>,
    /// Tells the guest what became of its response, if it can ask.
    pub delivery: Option<oneshot::Sender<Delivery>>,
    /// Tells the call that its response is over.
    pub over: Option<oneshot::Sender<()>>,
    /// Where its instance goes if it may serve further requests, and how many
    /// it has served with this one.
    pub reuse: Option<(Arc<Idle>, u32)>,
    /// Takes what it leaves if it traps.
    pub coredumps: Option<Arc<Coredumps>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.context.cost.used(&self.usage());
    }
}

impl Guest {
    /// Lets the guest run until it waits, yields or ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let future = match &mut self.state {
            GuestState::Running(future) => future,
            GuestState::Sharing(member) => {
                ready!(member.poll(cx));
                self.active = None;
                return Poll::Ready(());
            }
            GuestState::Ended(_) | GuestState::Gone { .. } => return Poll::Ready(()),
        };
        self.meter.enter();
        let polled = future.as_mut().poll(cx);
        self.meter.leave();
        let mut ended = ready!(polled);
        if let (Some(coredumps), Err(error)) = (&self.coredumps, &ended.result) {
            coredumps.take(error, &mut ended.store, &self.context);
        }
        self.state = GuestState::Ended(Box::new(ended));
        self.active = None;
        Poll::Ready(())
    }

    pub fn has_ended(&self) -> bool {
        match &self.state {
            GuestState::Running(_) => false,
            GuestState::Sharing(member) => member.has_ended(),
            GuestState::Ended(_) | GuestState::Gone { .. } => true,
        }
    }

    /// Why the guest ended, if it did so by failing.
    pub fn failure(&self) -> Option<Failure> {
        match &self.state {
            GuestState::Running(_) => None,
            GuestState::Sharing(member) => member.failure().cloned(),
            GuestState::Ended(ended) => {
                let error = ended.result.as_ref().err()?;
                let exceeded = self.meter.exceeded();
                let known = Known {
                    limits: &self.limits,
                    memory: &ended.store.data().memory,
                    interrupted_after: exceeded.then(|| self.meter.spent()),
                };
                Some(cause::failure(error, &known))
            }
            GuestState::Gone { failure, .. } => failure.clone(),
        }
    }

    /// Whether the guest has nothing more to do, though it may not have ended: what
    /// it has passed on may still come.
    pub fn is_at_rest(&self) -> bool {
        match &self.state {
            GuestState::Running(_) => self.meter.is_at_rest(),
            GuestState::Sharing(member) => member.is_at_rest(),
            GuestState::Ended(_) | GuestState::Gone { .. } => true,
        }
    }

    /// There is nothing more to come of the response: a guest at rest ends.
    pub fn end_response(&mut self) {
        if let Some(over) = self.over.take() {
            // The call may have ended by itself.
            let _ = over.send(());
        }
        if let GuestState::Sharing(member) = &mut self.state {
            member.end_response();
        }
    }

    /// Gives the instance and its memory back before the client has read
    /// everything; to serve a further request, if it `may` and that is wanted.
    pub fn release(&mut self, may: bool) {
        match &mut self.state {
            GuestState::Ended(_) => {}
            GuestState::Sharing(member) => {
                if may {
                    member.finish();
                }
            }
            GuestState::Running(_) | GuestState::Gone { .. } => return,
        }
        let gone = GuestState::Gone {
            failure: self.failure(),
            usage: self.usage(),
        };
        let GuestState::Ended(ended) = std::mem::replace(&mut self.state, gone) else {
            return;
        };
        let Ended { result, store } = *ended;
        // Sockets of 0.3 can live on in streams, where they are not found again.
        let leaves_sockets = matches!(&result, Ok(Handler::Service(_)))
            && store.data().hooks.asking.sockets.load(Ordering::Relaxed) > 0;
        if may
            && !leaves_sockets
            && let Ok(handler) = result
            && let Some((idle, served)) = self.reuse.take()
        {
            store.data().output.end();
            idle.put(Kept {
                store,
                handler,
                served,
            });
        }
    }

    /// The response, when there is one.
    pub fn take_response(&mut self) -> Option<GuestResponse> {
        match &mut self.state {
            GuestState::Sharing(member) => member.take_response(),
            _ => self.meter.take_response(),
        }
    }

    /// Whether others are in its instance, who go on with what it still does.
    pub fn has_company(&self) -> bool {
        matches!(&self.state, GuestState::Sharing(member) if member.has_company())
    }

    /// Whether what it still does can be another request's doing.
    pub fn has_left_over(&self) -> bool {
        matches!(&self.state, GuestState::Sharing(member) if member.has_left_over())
    }

    /// Tells the operator that it ends, `time` after its response.
    pub fn notice_left_over(&self, time: Duration) {
        if let GuestState::Sharing(member) = &self.state {
            member.notice_left_over(time);
        }
    }

    /// Takes the request back from an instance that has others to do first.
    pub fn take_back(&mut self) -> Option<Entry> {
        match &mut self.state {
            GuestState::Sharing(member) => member.take_back(),
            _ => None,
        }
    }

    /// [`Guest::failure`], or `otherwise` if the call returned normally.
    pub fn end_failure(&self, otherwise: Reason) -> Failure {
        self.failure().unwrap_or_else(|| {
            Failure::new(
                otherwise,
                match otherwise {
                    Reason::NoResponse => "the guest returned without setting a response",
                    _ => "the guest returned without finishing its response body",
                },
            )
        })
    }

    /// Tells the guest what became of its response.
    pub fn delivered(&mut self, delivery: Delivery) {
        if let Some(sender) = self.delivery.take() {
            // A guest that has ended does not want to know.
            let _ = sender.send(delivery);
        }
    }

    /// Tells the operator that there were trailers, which Unit has no way to send.
    pub fn notice_trailers(&self) {
        let text = "trailers of the response are dropped: Unit cannot send any";
        let RequestContext { id, log, .. } = &self.context;
        log.notice(id, Severity::Debug, text);
    }

    pub fn usage(&self) -> Usage {
        let cpu_time = self.meter.spent();
        match &self.state {
            GuestState::Ended(ended) => Usage {
                cpu_time,
                memory: ended.store.data().memory.peak(),
                fuel: self
                    .limits
                    .fuel
                    .zip(ended.store.get_fuel().ok())
                    .map(|(limit, left)| limit.saturating_sub(left)),
            },
            GuestState::Running(_) | GuestState::Sharing(_) => Usage {
                cpu_time,
                ..Usage::default()
            },
            GuestState::Gone { usage, .. } => *usage,
        }
    }
}
