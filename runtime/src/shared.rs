//! Instances of WASI 0.3 that serve several requests at once.
//!
//! Only if the operator wants it. The requests of an instance share its memory,
//! its fate and its limits, which begin anew with each request that comes in.
//! Whichever of them is polled drives the instance; between requests it stands
//! still.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::Shared;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::p3::bindings::Service;

use crate::cause::{self, Known};
use crate::crowd::{Admission, Crowd, Entry};
use crate::error::Failure;
use crate::guest::renew_store;
use crate::host::Asking;
use crate::host::event_loop::PerLoop;
use crate::host::sockets::SHARED_SOCKETS;
use crate::instance::{GuestResponse, Handler, Pre, admit_service, respond};
use crate::limits::{Limits, Reuse};
use crate::meter::Meter;
use crate::output::Severity;
use crate::request::{Cost, RequestContext};
use crate::state::State;

/// What drives an instance: ready only if it fails.
type Work = Shared<Pin<Box<dyn Future<Output = Arc<Failed>> + Send>>>;

/// An instance that has failed.
struct Failed {
    failure: Failure,
    /// Kept as long as bodies are taken out of it: without it, they would end as if
    /// they were complete.
    _store: Mutex<Store<State>>,
}

/// Turns that a guest which computes has until a request that it is to begin with goes
/// elsewhere. Most are over with the first; but on a busy machine an epoch can end at
/// any time.
const TURNS: u32 = 5;

/// The instances of one event loop.
type Home = Mutex<Vec<Arc<SharedInstance>>>;

/// The instances of a process.
pub(crate) struct SharedPool {
    reuse: Reuse,
    homes: PerLoop<Arc<Home>>,
    /// All of them.
    all: Mutex<Vec<Arc<Home>>>,
    /// Instances are for the requests that are in them, and none is kept.
    retired: AtomicBool,
}

/// An instance, and who is in it.
pub(crate) struct SharedInstance {
    reuse: Reuse,
    /// How long what is left over may go on before nobody else is let in.
    patience: Duration,
    work: Work,
    pub meter: Arc<Meter>,
    crowd: Arc<Mutex<Crowd>>,
    /// For whom its host calls act.
    asking: Arc<Asking>,
    home: Weak<Home>,
}

/// A request in a shared instance.
pub(crate) struct Member {
    instance: Arc<SharedInstance>,
    work: Work,
    context: RequestContext,
    /// The instance has begun with it.
    begun: bool,
    /// How often it has had the time to.
    turns: u32,
    /// Taken when it has come.
    reply: Option<oneshot::Receiver<GuestResponse>>,
    response: Option<GuestResponse>,
    rest: oneshot::Receiver<()>,
    /// Nothing of the guest is at work any more.
    at_rest: bool,
    /// There is nothing more to come of the response.
    over: bool,
    failure: Option<Arc<Failed>>,
    finished: bool,
    /// It has been taken back.
    gone: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedPool {
    pub fn new(reuse: Reuse) -> Self {
        Self {
            reuse,
            homes: PerLoop::default(),
            all: Mutex::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// Ends the instances that nobody is in. The others take no further request.
    pub fn retire(&self) {
        // Whoever makes one meanwhile sees this, or is seen below.
        self.retired.store(true, Ordering::SeqCst);
        let homes = locked(&self.all).clone();
        for home in homes {
            let instances = std::mem::take(&mut *locked(&home));
            for instance in &instances {
                locked(&instance.crowd).retired = true;
            }
        }
    }

    /// Lets a request into an instance of this event loop that has room, or into
    /// one in the store that `make` makes. `None` outside of any event loop.
    pub fn enter(
        &self,
        pre: &Pre,
        limits: &Arc<Limits>,
        entry: Entry,
        context: &RequestContext,
        make: impl FnOnce(&Arc<Meter>) -> wasmtime::Result<Store<State>>,
    ) -> wasmtime::Result<Option<Member>> {
        let new_home = || {
            let home = Arc::new(Home::default());
            locked(&self.all).push(Arc::clone(&home));
            Some(home)
        };
        let Some(home) = self.homes.get(new_home) else {
            return Ok(None);
        };
        let found = locked(&home).iter().find(|it| it.has_room()).cloned();
        let instance = match found {
            Some(instance) => instance,
            None => {
                let meter = Arc::new(Meter::new(limits.cpu_time));
                let store = make(&meter)?;
                let instance = Instance {
                    store,
                    limits: Arc::clone(limits),
                    meter,
                    crowd: Arc::default(),
                };
                let cost = Arc::clone(&context.cost);
                let instance = SharedInstance::new(self.reuse, pre, instance, cost, &home);
                let instance = Arc::new(instance);
                locked(&home).push(Arc::clone(&instance));
                if self.retired.load(Ordering::SeqCst) {
                    instance.retire();
                }
                instance
            }
        };
        Ok(Some(SharedInstance::admit(instance, entry, context)))
    }
}

impl SharedInstance {
    fn new(reuse: Reuse, pre: &Pre, instance: Instance, cost: Arc<Cost>, home: &Arc<Home>) -> Self {
        let patience = instance.limits.timeout;
        let meter = Arc::clone(&instance.meter);
        let crowd = Arc::clone(&instance.crowd);
        let asking = Arc::clone(&instance.store.data().hooks.asking);
        let work: Pin<Box<dyn Future<Output = Arc<Failed>> + Send>> =
            Box::pin(instance.run(pre.clone(), cost));
        Self {
            reuse,
            patience,
            work: work.shared(),
            meter,
            crowd,
            asking,
            home: Arc::downgrade(home),
        }
    }

    fn has_room(&self) -> bool {
        let crowd = locked(&self.crowd);
        let inside = u32::try_from(crowd.len()).unwrap_or(u32::MAX);
        // It has failed, will take no more, or does not look at who comes.
        let is_closed =
            self.work.peek().is_some() || crowd.retired || crowd.next.is_some() || crowd.busy;
        // Only when nobody new comes can it come to rest.
        let has_to_rest = crowd.is_overdue(self.patience);
        let is_done = crowd.served >= self.reuse.requests;
        let is_full = inside >= self.reuse.concurrent;
        !is_closed && !has_to_rest && !is_done && !is_full && !self.is_used_up()
    }

    /// Whether it has made too many sockets for a further request, which may need
    /// some as well. They are counted until the instance ends.
    fn is_used_up(&self) -> bool {
        self.asking.sockets.load(Ordering::Relaxed) >= SHARED_SOCKETS
    }

    fn admit(this: Arc<Self>, entry: Entry, context: &RequestContext) -> Member {
        let (reply, replied) = oneshot::channel();
        let (rest, rests) = oneshot::channel();
        // If it has just failed, its work says so.
        locked(&this.crowd).enter(Admission {
            entry,
            context: context.clone(),
            reply,
            rest,
        });
        Member {
            context: context.clone(),
            begun: false,
            turns: 0,
            work: this.work.clone(),
            instance: this,
            reply: Some(replied),
            response: None,
            rest: rests,
            at_rest: false,
            over: false,
            failure: None,
            finished: false,
            gone: false,
        }
    }

    /// It has begun with a request.
    fn has_begun(self: &Arc<Self>) {
        let is_last = locked(&self.crowd).served >= self.reuse.requests;
        if is_last {
            self.retire();
        }
    }

    /// Takes no further request; ends when those in it have.
    fn retire(self: &Arc<Self>) {
        locked(&self.crowd).retired = true;
        self.leave_home();
    }

    fn leave_home(self: &Arc<Self>) {
        if let Some(home) = self.home.upgrade() {
            locked(&home).retain(|other| !Arc::ptr_eq(other, self));
        }
    }

    /// A request goes. Of the instances of an event loop that nobody is in, one is
    /// kept.
    fn leave(self: &Arc<Self>, member: &Member) {
        let RequestContext { id, cost, .. } = &member.context;
        let has_failed = self.work.peek().is_some();
        let (is_empty, left_over) = {
            let mut crowd = locked(&self.crowd);
            let was_begun = !crowd.is_next(id);
            crowd.remove(id);
            if let Some(latest) = crowd.latest() {
                // What is sent from now on is for those that are still there.
                self.asking.hand_over(cost, &latest.cost);
                if !was_begun {
                    // It leaves nothing behind.
                    return;
                }
                if !member.at_rest && !has_failed {
                    crowd.leaves_work(id);
                }
                (false, None)
            } else {
                // Nobody drives any more what goes on.
                (true, crowd.take_left_over())
            }
        };
        if let Some(by) = &left_over {
            notice_end(&member.context, by);
        }
        let others_idle = |home: Arc<Home>| {
            locked(&home)
                .iter()
                .any(|other| !Arc::ptr_eq(other, self) && locked(&other.crowd).is_empty())
        };
        let has_enough = || self.is_used_up() || self.home.upgrade().is_some_and(others_idle);
        if !member.finished || left_over.is_some() || (is_empty && has_enough()) {
            self.retire();
        }
    }
}

impl Member {
    /// Lets the instance run. Ready when it has failed, or when all is done for
    /// this request.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_ended() {
            return Poll::Ready(());
        }
        self.instance.meter.enter();
        let failed = self.work.poll_unpin(cx);
        self.instance.meter.leave();
        self.turns = self.turns.saturating_add(1);
        if !self.begun && !locked(&self.instance.crowd).is_next(&self.context.id) {
            self.begun = true;
            self.instance.has_begun();
        }
        // Another one's poll may bring this one's response: this waits for both.
        if let Some(reply) = &mut self.reply
            && let Poll::Ready(response) = reply.poll_unpin(cx)
        {
            self.reply = None;
            self.response = response.ok();
        }
        if let Poll::Ready(failure) = failed {
            self.failure = Some(failure);
        } else if !self.at_rest {
            self.at_rest = self.rest.poll_unpin(cx).is_ready();
        }
        match self.has_ended() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Gives the request back if the instance does not begin with it, although it has
    /// just been polled: another one in there computes, or waits in a host call that
    /// lets nothing else go on.
    pub fn take_back(&mut self) -> Option<Entry> {
        let computes = self.failure.is_none() && self.instance.meter.has_yielded();
        if self.begun || (computes && self.turns < TURNS) {
            return None;
        }
        let instance = &self.instance;
        let mut crowd = locked(&instance.crowd);
        let entry = crowd.take_back(&self.context.id)?;
        let others = crowd.latest().map(|latest| Arc::clone(&latest.cost));
        let left_over = match others {
            Some(_) => None,
            None => crowd.take_left_over(),
        };
        drop(crowd);
        match others {
            // It may have been counted for.
            Some(cost) => instance.asking.hand_over(&self.context.cost, &cost),
            // Nobody drives any more what keeps it from beginning with this one.
            None => instance.retire(),
        }
        if let Some(by) = &left_over {
            notice_end(&self.context, by);
        }
        self.gone = true;
        Some(entry)
    }

    pub fn has_ended(&self) -> bool {
        self.failure.is_some() || (self.at_rest && self.over)
    }

    pub fn is_at_rest(&self) -> bool {
        self.at_rest
    }

    /// There is nothing more to come of the response.
    pub fn end_response(&mut self) {
        self.over = true;
    }

    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref().map(|failed| &failed.failure)
    }

    /// The response, when there is one.
    pub fn take_response(&mut self) -> Option<GuestResponse> {
        self.response.take()
    }

    /// Whether others are in the instance, who go on with what the guest still does.
    /// One that it has not begun with may yet go elsewhere.
    pub fn has_company(&self) -> bool {
        locked(&self.instance.crowd).is_company()
    }

    /// Whether what the guest still does can be another's doing.
    pub fn has_left_over(&self) -> bool {
        locked(&self.instance.crowd).has_left_over()
    }

    /// Tells the operator that what still goes on is ended after `time`.
    pub fn notice_left_over(&self, time: Duration) {
        let by = locked(&self.instance.crowd).take_left_over();
        let text = format!(
            "its instance is ended: still at work {time:?} after the response \
             (UNIT_WASM_TIMEOUT), for this request or for {} before it",
            by.as_deref().unwrap_or("one")
        );
        let RequestContext { id, log, .. } = &self.context;
        log.notice(id, Severity::Warn, &text);
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.instance.meter
    }

    /// The request has come to a good end.
    pub fn finish(&mut self) {
        self.finished = self.failure.is_none();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.gone {
            self.instance.leave(self);
        }
    }
}

/// Tells the operator that an instance ends before it has come to rest.
fn notice_end(last: &RequestContext, left_by: &str) {
    let text = format!("its instance ends, and with it what {left_by} may have left in there");
    last.log.notice(&last.id, Severity::Info, &text);
}

/// The inside of an instance.
struct Instance {
    store: Store<State>,
    limits: Arc<Limits>,
    meter: Arc<Meter>,
    crowd: Arc<Mutex<Crowd>>,
}

impl Instance {
    /// Serves all that is admitted. Returns why it cannot any more.
    async fn run(mut self, pre: Pre, cost: Arc<Cost>) -> Arc<Failed> {
        let Self {
            store,
            limits,
            meter,
            crowd,
        } = &mut self;
        let result: wasmtime::Result<()> = async {
            let begin = Instant::now();
            let Handler::Service(service) = pre.instantiate(store).await? else {
                return Err(wasmtime::format_err!("an instance of WASI 0.2"));
            };
            cost.instantiated(begin.elapsed());
            let (limits, meter, crowd) = (&**limits, &*meter, &**crowd);
            let work = async |accessor: &Accessor<State>| {
                let mut calls = FuturesUnordered::new();
                let mut resting = Vec::new();
                poll_fn(|cx| {
                    // Whoever comes has the instance polled next.
                    let next = {
                        let mut crowd = locked(crowd);
                        crowd.busy = false;
                        crowd.begin().map(|admission| (admission, crowd.names()))
                    };
                    if let Some((admission, names)) = next {
                        calls.push(serve(accessor, &service, admission, names, limits, meter));
                    }
                    while let Poll::Ready(Some(rest)) = calls.poll_next_unpin(cx) {
                        match rest {
                            Ok(rest) => resting.push(rest),
                            Err(error) => return Poll::Ready(Err(error)),
                        }
                    }
                    if calls.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready() {
                        locked(crowd).at_rest();
                        for rest in resting.drain(..) {
                            // One that has gone does not want to know.
                            let _ = oneshot::Sender::send(rest, ());
                        }
                    }
                    Poll::Pending
                })
                .await
            };
            store.run_concurrent(work).await?
        }
        .await;
        let error = match result {
            Ok(()) => wasmtime::format_err!("the instance has ended"),
            Err(error) => error,
        };
        let known = Known {
            limits,
            memory: &store.data().memory,
            interrupted_after: meter.exceeded().then(|| meter.spent()),
        };
        let failure = cause::failure(&error, &known);
        Arc::new(Failed {
            failure,
            _store: Mutex::new(self.store),
        })
    }
}

/// One call, up to its response. `names` are of all that are in the instance.
async fn serve(
    accessor: &Accessor<State>,
    service: &Service,
    admission: Admission,
    names: Arc<str>,
    limits: &Limits,
    meter: &Arc<Meter>,
) -> wasmtime::Result<oneshot::Sender<()>> {
    let Admission {
        entry,
        context: RequestContext { log, cost, .. },
        reply,
        rest,
    } = admission;
    let context = RequestContext {
        cost,
        // What several have sent together is part of nobody's trace.
        ..RequestContext::new(names, log)
    };
    if reply.is_closed() {
        // It has gone meanwhile.
        return Ok(rest);
    }
    let request = accessor.with(|mut access| {
        meter.renew();
        renew_store(access.as_context_mut(), limits, &context, meter, false)?;
        admit_service(access.data_mut(), entry.request)
    });
    let request = match request {
        Ok(request) => request,
        // What others have left in the instance is in the way of this one only.
        Err(error) => {
            let _ = reply.send(Err(format!("{error:#}")));
            return Ok(rest);
        }
    };
    let response = respond(accessor, service, request, Some(entry.delivery)).await?;
    // One that has gone does not want it.
    let _ = reply.send(response);
    Ok(rest)
}
