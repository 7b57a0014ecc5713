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

use futures::FutureExt;
use futures::future::Shared;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Request;
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::p3::bindings::Service;

use crate::body::RequestBody;
use crate::cause::{self, Known};
use crate::error::Failure;
use crate::guest::renew_store;
use crate::host::event_loop::PerLoop;
use crate::instance::{Delivery, GuestResponse, Handler, Pre, admit_service, respond};
use crate::limits::{Limits, Reuse};
use crate::meter::Meter;
use crate::request::RequestContext;
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

/// The instances of one event loop.
type Home = Mutex<Vec<Arc<SharedInstance>>>;

/// Names of requests in a line of the log, if it can be of several.
const NAMES: usize = 3;

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
    calls: mpsc::UnboundedSender<Admission>,
    work: Work,
    pub meter: Arc<Meter>,
    crowd: Arc<Mutex<Crowd>>,
    home: Weak<Home>,
}

#[derive(Default)]
struct Crowd {
    /// Ids of the requests in it.
    ids: Vec<Arc<str>>,
    /// Of them, those that it has not begun with.
    waiting: u32,
    served: u32,
    /// It takes no further request.
    retired: bool,
    /// Somebody has left it with work undone, which goes on in there.
    left_over: bool,
}

/// A request on its way into an instance.
struct Admission {
    request: Request<RequestBody>,
    context: RequestContext,
    reply: oneshot::Sender<GuestResponse>,
    delivery: oneshot::Receiver<Delivery>,
    rest: oneshot::Sender<()>,
}

/// A request in a shared instance.
pub(crate) struct Member {
    instance: Arc<SharedInstance>,
    work: Work,
    id: Arc<str>,
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
        request: Request<RequestBody>,
        context: &RequestContext,
        delivery: oneshot::Receiver<Delivery>,
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
        let found = locked(&home)
            .iter()
            .find(|instance| instance.has_room(self.reuse))
            .cloned();
        let instance = match found {
            Some(instance) => instance,
            None => {
                let meter = Arc::new(Meter::new(limits.cpu_time));
                let store = make(&meter)?;
                let instance = SharedInstance::new(pre, store, limits, meter, &home);
                let instance = Arc::new(instance);
                locked(&home).push(Arc::clone(&instance));
                if self.retired.load(Ordering::SeqCst) {
                    instance.retire();
                }
                instance
            }
        };
        Ok(Some(SharedInstance::admit(
            instance, self.reuse, request, context, delivery,
        )))
    }
}

impl SharedInstance {
    fn new(
        pre: &Pre,
        store: Store<State>,
        limits: &Arc<Limits>,
        meter: Arc<Meter>,
        home: &Arc<Home>,
    ) -> Self {
        let (calls, admissions) = mpsc::unbounded_channel();
        let crowd = Arc::new(Mutex::new(Crowd::default()));
        let instance = Instance {
            store,
            limits: Arc::clone(limits),
            meter: Arc::clone(&meter),
            crowd: Arc::clone(&crowd),
        };
        let work: Pin<Box<dyn Future<Output = Arc<Failed>> + Send>> =
            Box::pin(instance.run(pre.clone(), admissions));
        Self {
            calls,
            work: work.shared(),
            meter,
            crowd,
            home: Arc::downgrade(home),
        }
    }

    fn has_room(&self, reuse: Reuse) -> bool {
        let crowd = locked(&self.crowd);
        let inside = u32::try_from(crowd.ids.len()).unwrap_or(u32::MAX);
        // While one waits to be begun with, the instance is busy with another.
        let has_failed = self.work.peek().is_some();
        !has_failed && !crowd.retired && crowd.waiting == 0 && inside < reuse.concurrent
    }

    fn admit(
        this: Arc<Self>,
        reuse: Reuse,
        request: Request<RequestBody>,
        context: &RequestContext,
        delivery: oneshot::Receiver<Delivery>,
    ) -> Member {
        let (reply, replied) = oneshot::channel();
        let (rest, rests) = oneshot::channel();
        let is_last = {
            let mut crowd = locked(&this.crowd);
            crowd.ids.push(Arc::clone(&context.id));
            crowd.waiting += 1;
            crowd.served = crowd.served.saturating_add(1);
            crowd.served >= reuse.requests
        };
        if is_last {
            this.retire();
        }
        // If it has just failed, its work says so.
        let _ = this.calls.send(Admission {
            request,
            context: context.clone(),
            reply,
            delivery,
            rest,
        });
        Member {
            id: Arc::clone(&context.id),
            work: this.work.clone(),
            instance: this,
            reply: Some(replied),
            response: None,
            rest: rests,
            at_rest: false,
            over: false,
            failure: None,
            finished: false,
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

    /// A request has gone. Of the instances of an event loop that nobody is in,
    /// one is kept.
    fn leave(self: &Arc<Self>, id: &Arc<str>, finished: bool) {
        let is_empty = {
            let mut crowd = locked(&self.crowd);
            if let Some(at) = crowd.ids.iter().position(|other| Arc::ptr_eq(other, id)) {
                crowd.ids.remove(at);
            }
            crowd.ids.is_empty()
        };
        if !finished || !is_empty {
            locked(&self.crowd).left_over = true;
        }
        if !finished {
            return self.retire();
        }
        let others_idle = |home: Arc<Home>| {
            locked(&home)
                .iter()
                .any(|other| !Arc::ptr_eq(other, self) && locked(&other.crowd).ids.is_empty())
        };
        if is_empty && self.home.upgrade().is_some_and(others_idle) {
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
    pub fn has_company(&self) -> bool {
        locked(&self.instance.crowd).ids.len() > 1
    }

    /// Whether what the guest still does can be another's doing.
    pub fn has_left_over(&self) -> bool {
        locked(&self.instance.crowd).left_over
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
        self.instance.leave(&self.id, self.finished);
    }
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
    async fn run(
        mut self,
        pre: Pre,
        mut admissions: mpsc::UnboundedReceiver<Admission>,
    ) -> Arc<Failed> {
        let Self {
            store,
            limits,
            meter,
            crowd,
        } = &mut self;
        let result: wasmtime::Result<()> = async {
            let Handler::Service(service) = pre.instantiate(store).await? else {
                return Err(wasmtime::format_err!("an instance of WASI 0.2"));
            };
            let (limits, meter, crowd) = (&**limits, &*meter, &**crowd);
            let work = async |accessor: &Accessor<State>| {
                let mut calls = FuturesUnordered::new();
                let mut resting = Vec::new();
                poll_fn(|cx| {
                    while let Poll::Ready(Some(admission)) = admissions.poll_recv(cx) {
                        calls.push(serve(accessor, &service, admission, limits, meter, crowd));
                    }
                    while let Poll::Ready(Some(rest)) = calls.poll_next_unpin(cx) {
                        match rest {
                            Ok(rest) => resting.push(rest),
                            Err(error) => return Poll::Ready(Err(error)),
                        }
                    }
                    if calls.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready() {
                        locked(crowd).left_over = false;
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

/// One call, up to its response.
async fn serve(
    accessor: &Accessor<State>,
    service: &Service,
    admission: Admission,
    limits: &Limits,
    meter: &Arc<Meter>,
    crowd: &Mutex<Crowd>,
) -> wasmtime::Result<oneshot::Sender<()>> {
    let context = {
        let mut crowd = locked(crowd);
        crowd.waiting = crowd.waiting.saturating_sub(1);
        // What several have used and sent together is nobody's.
        RequestContext::new(names(&crowd.ids), admission.context.log)
    };
    if admission.reply.is_closed() {
        // It has gone meanwhile.
        return Ok(admission.rest);
    }
    let request = accessor.with(|mut access| {
        meter.renew();
        renew_store(access.as_context_mut(), limits, &context, meter, false)?;
        admit_service(access.data_mut(), admission.request)
    });
    let request = match request {
        Ok(request) => request,
        // What others have left in the instance is in the way of this one only.
        Err(error) => {
            let _ = admission.reply.send(Err(format!("{error:#}")));
            return Ok(admission.rest);
        }
    };
    let response = respond(accessor, service, request, Some(admission.delivery)).await?;
    // One that has gone does not want it.
    let _ = admission.reply.send(response);
    Ok(admission.rest)
}

/// Whose a line of output can be.
fn names(ids: &[Arc<str>]) -> Arc<str> {
    match ids {
        [id] => Arc::clone(id),
        ids => {
            let mut names = ids.iter().rev().take(NAMES).map(AsRef::as_ref);
            let mut text = names.by_ref().collect::<Vec<_>>().join("+");
            if ids.len() > NAMES {
                text.push_str("+...");
            }
            text.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_the_latest_requests_first() {
        let ids: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Into::into).to_vec();
        assert_eq!(&*names(&ids[..1]), "a");
        assert_eq!(&*names(&ids[..2]), "b+a");
        assert_eq!(&*names(&ids), "d+c+b+...");
    }
}
