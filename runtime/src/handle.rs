//! Runs requests: one store, one instance, one call, one response.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep, timeout};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::artifact::{self, Description};
use crate::body::RequestBody;
use crate::cause::{self, Known};
use crate::engine;
use crate::error::{Failure, LoadError, Reason};
use crate::grants::Grants;
use crate::host::Capabilities;
use crate::limits::Limits;
use crate::meter::{GuestResponse, Meter, Verdict};
use crate::output::GuestLog;
use crate::state::State;
use crate::ticker::{Active, Ticker};

/// Who a request is, for the log.
#[derive(Clone)]
pub struct RequestContext {
    /// The request's id.
    pub id: Arc<str>,
    /// Where the guest's output goes.
    pub log: Arc<dyn GuestLog>,
}

/// A component ready to serve, in one process.
///
/// Serves any number of requests at once, from any number of threads, up to
/// [`Limits::concurrency`].
pub struct Runtime {
    pre: ProxyPre<State>,
    limits: Arc<Limits>,
    grants: Grants,
    capabilities: Arc<Capabilities>,
    ticker: Ticker,
}

impl Runtime {
    /// Maps the artifact in `file`, links it and sets up its instance pool.
    /// Starts one thread, the epoch ticker, so call it after the last fork.
    ///
    /// # Safety
    ///
    /// `file` must hold what [`artifact::compile`] made of a component under
    /// equal limits, unchanged, and nobody may change it as long as this
    /// process lives. `description` must be that of the same artifact.
    pub unsafe fn load(
        file: &File,
        description: &Description,
        limits: Limits,
        grants: Grants,
    ) -> Result<Self, LoadError> {
        grants.check()?;
        let engine = engine::for_serving(&limits, description)?;
        // SAFETY: passed on to the caller.
        let component = unsafe { artifact::map(&engine, file)? };
        let pre = artifact::link(&engine, &grants)?
            .instantiate_pre(&component)
            .and_then(ProxyPre::new)
            .map_err(|e| LoadError::Import(format!("{e:#}")))?;
        let ticker =
            Ticker::start(engine).map_err(|e| LoadError::Engine(format!("epoch thread: {e}")))?;
        let capabilities = Arc::new(Capabilities::new(&grants)?);
        Ok(Self {
            pre,
            limits: Arc::new(limits),
            grants,
            capabilities,
            ticker,
        })
    }

    /// Runs `request` in a fresh instance until the guest has set its
    /// response.
    ///
    /// The request's URI must have an authority, and a scheme if the guest is
    /// to see another one than `http`. Dropping the returned future, or the
    /// body of the response, ends the guest at once.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the guest ended, or was ended, without a response
    /// that can be sent.
    pub async fn handle(
        &self,
        request: Request<RequestBody>,
        context: RequestContext,
    ) -> Result<Response<GuestBody>, Failure> {
        let mut guest = self.start(request, &context)?;
        let mut deadline = Deadline::new(self.limits.timeout);
        let response = poll_fn(|cx| {
            let ended = guest.poll(cx).is_ready();
            if let Some(response) = guest.meter.take_response() {
                return Poll::Ready(Ok(response));
            }
            if ended {
                return Poll::Ready(Err(guest.end_failure(Reason::NoResponse)));
            }
            ready!(deadline.poll(cx));
            Poll::Ready(Err(Failure::new(
                Reason::Timeout,
                format!(
                    "no response after {:?} (UNIT_WASM_TIMEOUT); CPU time used: {:?}",
                    self.limits.timeout,
                    guest.meter.spent()
                ),
            )))
        })
        .await?;
        let response = response.map_err(|code| {
            Failure::new(
                Reason::InvalidResponse,
                format!("the guest answered with the error {code:?}"),
            )
        })?;
        Ok(response.map(|body| GuestBody {
            guest,
            body,
            ready: VecDeque::new(),
            end: BodyEnd::Open,
            after: Deadline::new(self.limits.timeout),
            discarded: 0,
        }))
    }

    fn start(
        &self,
        request: Request<RequestBody>,
        context: &RequestContext,
    ) -> Result<Guest, Failure> {
        let internal = |e: wasmtime::Error| Failure::new(Reason::Trap, format!("{e:#}"));
        let meter = Arc::new(Meter::new(self.limits.cpu_time));
        let mut store = new_store(
            self.pre.engine(),
            &self.limits,
            &self.grants,
            &self.capabilities,
            context,
            &meter,
        )
        .map_err(internal)?;
        let scheme = match request.uri().scheme() {
            Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
            _ => Scheme::Http,
        };
        store.data_mut().hooks.incoming = true;
        let incoming = store
            .data_mut()
            .http()
            .new_incoming_request(scheme, request);
        store.data_mut().hooks.incoming = false;
        let incoming = incoming.map_err(internal)?;
        let answer = Arc::clone(&meter);
        let outparam = store
            .data_mut()
            .http()
            .new_response_outparam_from_callback(move |response: GuestResponse| {
                answer.set_response(response);
            })
            .map_err(internal)?;

        let pre = self.pre.clone();
        let future = Box::pin(async move {
            let result = async {
                let proxy = pre.instantiate_async(&mut store).await?;
                proxy
                    .wasi_http_incoming_handler()
                    .call_handle(&mut store, incoming, outparam)
                    .await
            }
            .await;
            Ended { result, store }
        });
        Ok(Guest {
            state: GuestState::Running(future),
            meter,
            limits: Arc::clone(&self.limits),
            active: Some(self.ticker.active()),
        })
    }
}

fn new_store(
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
    if let Some(fuel) = limits.fuel {
        store.set_fuel(fuel)?;
    }
    store.epoch_deadline_callback(|store| {
        Ok(match store.data().meter.tick() {
            Verdict::Yield => UpdateDeadline::Yield(1),
            Verdict::Stop => UpdateDeadline::Interrupt,
        })
    });
    store.set_epoch_deadline(1);
    Ok(store)
}

/// Makes one instance outside of any request; returns the bytes of memory it
/// has then.
pub(crate) fn try_instantiate(
    engine: &Engine,
    pre: &ProxyPre<State>,
    handler: &str,
    limits: &Limits,
) -> Result<u64, LoadError> {
    let engine_error = |e: &dyn std::fmt::Display| LoadError::Engine(format!("{e:#}"));
    let ticker = Ticker::start(engine.clone()).map_err(|e| engine_error(&e))?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| engine_error(&e))?;
    let meter = Arc::new(Meter::new(limits.cpu_time));
    let context = RequestContext {
        id: "start".into(),
        log: Arc::new(Silent),
    };
    let (grants, capabilities) = (Grants::default(), Arc::new(Capabilities::none()));
    let mut store = new_store(engine, limits, &grants, &capabilities, &context, &meter)
        .map_err(|e| engine_error(&e))?;
    let _active = ticker.active();
    meter.enter();
    // Start code can wait for ever without using any CPU time.
    let instance = pre.instance_pre().instantiate_async(&mut store);
    let result = tokio.block_on(async { timeout(limits.timeout, instance).await });
    meter.leave();
    let result = result.unwrap_or_else(|_| {
        Err(wasmtime::format_err!(
            "it is not done after {:?} (UNIT_WASM_TIMEOUT)",
            limits.timeout
        ))
    });
    let memory = &store.data().memory;
    let (peak, refused) = (memory.peak() as u64, memory.refused());
    match (result, refused) {
        (Ok(instance), _) => {
            Proxy::new(&mut store, &instance).map_err(|e| LoadError::Handler {
                name: handler.to_owned(),
                problem: format!("{e:#}"),
            })?;
            Ok(peak)
        }
        (Err(_), _) if meter.exceeded() => Err(LoadError::Start(format!(
            "its start code has used {:?} of CPU time, limit {:?} (UNIT_WASM_CPU_TIME)",
            meter.spent(),
            limits.cpu_time
        ))),
        (Err(_), Some(needed)) => Err(LoadError::Memory {
            needed: needed as u64,
            limit: limits.memory as u64,
        }),
        (Err(error), None) => Err(LoadError::Start(error.root_cause().to_string())),
    }
}

struct Silent;

impl GuestLog for Silent {
    fn line(&self, _: &str, _: crate::OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: crate::Severity, _: &str) {}
    fn notice(&self, _: &str, _: crate::Severity, _: &str) {}
}

/// A timer that is made only when it is first waited for: most requests are
/// answered in their first poll and never need one.
struct Deadline {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self { after, timer: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        self.timer
            .get_or_insert_with(|| Box::pin(sleep(after)))
            .as_mut()
            .poll(cx)
    }
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

struct Ended {
    result: wasmtime::Result<()>,
    store: Store<State>,
}

enum GuestState {
    Running(Pin<Box<dyn Future<Output = Ended>>>),
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
struct Guest {
    state: GuestState,
    meter: Arc<Meter>,
    limits: Arc<Limits>,
    /// Epochs are needed as long as it runs.
    active: Option<Active>,
}

impl Guest {
    /// Lets the guest run until it waits, yields or ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let GuestState::Running(future) = &mut self.state else {
            return Poll::Ready(());
        };
        self.meter.enter();
        let polled = future.as_mut().poll(cx);
        self.meter.leave();
        self.state = GuestState::Ended(Box::new(ready!(polled)));
        self.active = None;
        Poll::Ready(())
    }

    fn has_ended(&self) -> bool {
        !matches!(self.state, GuestState::Running(_))
    }

    /// Why the guest ended, if it did so by failing.
    fn failure(&self) -> Option<Failure> {
        match &self.state {
            GuestState::Running(_) => None,
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

    /// Gives the instance and its memory back before the client has read
    /// everything.
    fn release(&mut self) {
        if let GuestState::Ended(_) = self.state {
            self.state = GuestState::Gone {
                failure: self.failure(),
                usage: self.usage(),
            };
        }
    }

    /// [`Guest::failure`], or `otherwise` if the call returned normally.
    fn end_failure(&self, otherwise: Reason) -> Failure {
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

    fn usage(&self) -> Usage {
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
            GuestState::Running(_) => Usage {
                cpu_time,
                ..Usage::default()
            },
            GuestState::Gone { usage, .. } => *usage,
        }
    }
}

enum BodyEnd {
    /// More may come.
    Open,
    /// Ended as the guest wanted it to.
    Complete,
    /// Cannot be completed.
    Broken(Failure),
}

/// The body of a guest's response.
///
/// Polling it lets the guest run. It ends with an error unless the guest has
/// finished it: a guest that dies half-way never looks like a short but
/// complete answer. When it has ended, call [`GuestBody::finish`] to let the
/// guest do what it may want to do after its response.
pub struct GuestBody {
    guest: Guest,
    body: HyperOutgoingBody,
    /// Pieces that were under way when the guest ended.
    ready: VecDeque<Bytes>,
    end: BodyEnd,
    after: Deadline,
    /// Bytes thrown away after the response.
    discarded: usize,
}

/// What a guest may write of a body that is not sent (as to HEAD) before its
/// stream is closed.
const DISCARD: usize = 1024 * 1024;

impl GuestBody {
    /// Whether the guest has done all it will ever do for this request.
    pub fn guest_has_ended(&self) -> bool {
        self.guest.has_ended()
    }

    /// What the request has used up to now.
    pub fn usage(&self) -> Usage {
        self.guest.usage()
    }

    /// Lets the guest go on after its response, until it returns, fails or
    /// has taken the time limit once more.
    ///
    /// # Errors
    ///
    /// The guest's failure. The response may have been complete all the same.
    pub async fn finish(&mut self) -> Result<Usage, Failure> {
        poll_fn(|cx| {
            self.discard(cx);
            if self.guest.poll(cx).is_ready() {
                return Poll::Ready(match self.guest.failure() {
                    Some(failure) => Err(failure),
                    None => Ok(self.guest.usage()),
                });
            }
            ready!(self.after.poll(cx));
            Poll::Ready(Err(Failure::new(
                Reason::Timeout,
                format!(
                    "still running {:?} after its response (UNIT_WASM_TIMEOUT)",
                    self.after.after
                ),
            )))
        })
        .await
    }

    /// Throws away what nobody wants any more, so that the guest can end. A
    /// guest that goes on writing after that finds its stream closed.
    fn discard(&mut self, cx: &mut Context<'_>) {
        self.ready.clear();
        while self.discarded < DISCARD && matches!(self.end, BodyEnd::Open) {
            match self.poll_written(cx) {
                Poll::Ready(Some(data)) => self.discarded += data.len(),
                Poll::Ready(None) => return,
                Poll::Pending if self.guest.has_ended() => return,
                Poll::Pending if self.guest.poll(cx).is_ready() => return,
                Poll::Pending => match self.poll_written(cx) {
                    Poll::Ready(Some(data)) => self.discarded += data.len(),
                    _ => return,
                },
            }
        }
        if matches!(self.end, BodyEnd::Open) {
            self.end = BodyEnd::Complete;
            self.body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        }
    }

    /// Takes what the ended guest had written out of its store. Nothing can
    /// be added to it any more, so this decides how the body ends.
    fn drain(&mut self, cx: &mut Context<'_>) {
        loop {
            match self.poll_written(cx) {
                Poll::Ready(Some(data)) => self.ready.push_back(data),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    self.end = BodyEnd::Broken(self.guest.end_failure(Reason::InvalidResponse));
                    break;
                }
            }
        }
        self.guest.release();
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        self.guest.failure().unwrap_or_else(|| {
            Failure::new(
                Reason::InvalidResponse,
                format!("the guest's response body failed: {error}"),
            )
        })
    }

    /// The next piece that the guest has written.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            // Outside of tokio's budget of a task: that nothing is there has
            // to mean it, or a finished body could be taken for a broken one.
            let body = &mut self.body;
            let frame = unconstrained(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
            match ready!(pin!(frame).poll(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(data)),
                    // Nothing, or trailers, which Unit has no way to send.
                    _ => {}
                },
                Some(Err(error)) => {
                    self.end = BodyEnd::Broken(self.broken(&error));
                    return Poll::Ready(None);
                }
                None => {
                    self.end = BodyEnd::Complete;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(piece) = self.poll_written(cx) {
            return Poll::Ready(piece);
        }
        if self.guest.poll(cx).is_pending() {
            return self.poll_written(cx);
        }
        self.drain(cx);
        Poll::Ready(None)
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        if matches!(this.end, BodyEnd::Open)
            && let Some(data) = ready!(this.poll_open(cx))
        {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(data) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match std::mem::replace(&mut this.end, BodyEnd::Complete) {
            BodyEnd::Broken(failure) => Poll::Ready(Some(Err(failure))),
            BodyEnd::Open | BodyEnd::Complete => Poll::Ready(None),
        }
    }
}
