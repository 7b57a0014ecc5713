//! Runs requests: one store, one instance, one call, one response.

use std::fs::File;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use http::{Request, Response};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use crate::artifact::{self, Description};
use crate::body::RequestBody;
use crate::coredump::Coredumps;
use crate::crowd::Entry;
use crate::deadline::Deadline;
use crate::engine;
use crate::error::{Failure, LoadError, Reason};
use crate::grants::Grants;
use crate::guest::{Ended, Guest, GuestState, new_store, renew_store};
use crate::guest_body::GuestBody;
use crate::host::Capabilities;
use crate::instance::Pre;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::request::RequestContext;
use crate::reuse::Idle;
use crate::shared::{Member, SharedPool};
use crate::state::State;
use crate::ticker::Ticker;
use crate::world::World;

/// A component ready to serve, in one process.
///
/// Serves any number of requests at once, from any number of threads, up to
/// [`Limits::concurrency`].
pub struct Runtime {
    pre: Pre,
    world: World,
    /// Instances between requests, if they may serve several.
    idle: Option<Arc<Idle>>,
    /// Instances with several requests at once, if that is wanted.
    shared: Option<SharedPool>,
    limits: Arc<Limits>,
    grants: Grants,
    /// The directories of the grants, opened.
    directories: WasiFilesystemCtx,
    capabilities: Arc<Capabilities>,
    coredumps: Option<Arc<Coredumps>>,
    ticker: Ticker,
}

/// What a runtime and its successor have in common.
struct Shared {
    limits: Arc<Limits>,
    grants: Grants,
    /// The directories of the grants, opened.
    directories: WasiFilesystemCtx,
    capabilities: Arc<Capabilities>,
    coredumps: Option<Arc<Coredumps>>,
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
        let capabilities = Arc::new(Capabilities::new(&grants)?);
        let coredumps = grants.coredumps.clone();
        let directories = grants.open_directories()?;
        let shared = Shared {
            limits: Arc::new(limits),
            grants,
            directories,
            capabilities,
            coredumps: coredumps.map(|grant| Arc::new(Coredumps::new(grant))),
        };
        // SAFETY: passed on to the caller.
        unsafe { Self::with(file, description, shared) }
    }

    /// Loads another component to serve in place of this one: under the same limits
    /// and grants, with the same connections and buckets. Both can serve at the same
    /// time, each with an instance pool of its own.
    ///
    /// # Safety
    ///
    /// As for [`Runtime::load`].
    pub unsafe fn successor(
        &self,
        file: &File,
        description: &Description,
    ) -> Result<Self, LoadError> {
        self.grants.check()?;
        let shared = Shared {
            limits: Arc::clone(&self.limits),
            grants: self.grants.clone(),
            directories: self.directories.clone(),
            capabilities: Arc::clone(&self.capabilities),
            coredumps: self.coredumps.clone(),
        };
        // SAFETY: passed on to the caller.
        unsafe { Self::with(file, description, shared) }
    }

    /// # Safety
    ///
    /// As for [`Runtime::load`].
    unsafe fn with(
        file: &File,
        description: &Description,
        shared: Shared,
    ) -> Result<Self, LoadError> {
        let Shared {
            limits,
            grants,
            directories,
            capabilities,
            coredumps,
        } = shared;
        let engine = engine::for_serving(&limits, description, grants.coredumps.is_some())?;
        // SAFETY: passed on to the caller.
        let component = unsafe { artifact::map(&engine, file)? };
        let world = description.world;
        let pre = artifact::link(world, &engine, &grants)?
            .instantiate_pre(&component)
            .and_then(|component| Pre::new(world, component))
            .map_err(|e| LoadError::Import(format!("{e:#}")))?;
        let ticker =
            Ticker::start(engine).map_err(|e| LoadError::Engine(format!("epoch thread: {e}")))?;
        let reuse = limits.reuse;
        let shares = reuse.concurrent > 1 && world == World::Service;
        Ok(Self {
            pre,
            world,
            idle: (reuse.requests > 1 && !shares).then(|| Arc::new(Idle::new(reuse.requests))),
            shared: shares.then(|| SharedPool::new(reuse)),
            coredumps,
            limits,
            grants,
            directories,
            capabilities,
            ticker,
        })
    }

    /// Another one has taken its place: instances that only wait for further requests
    /// end, at once or when the request that they are at work on has. Their memory
    /// is given back by the calling thread.
    pub fn retire(&self) {
        if let Some(idle) = &self.idle {
            idle.retire();
        }
        if let Some(pool) = &self.shared {
            pool.retire();
        }
    }

    /// Runs `request` until the guest has set its response, in a fresh instance
    /// unless [`Limits::reuse`] says otherwise.
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
        let mut guest = self.start(request, context)?;
        let mut deadline = Deadline::new(self.limits.timeout);
        let response = poll_fn(|cx| {
            let mut ended = guest.poll(cx).is_ready();
            while let Some(entry) = guest.take_back() {
                if let Err(failure) = self.share_again(&mut guest, entry) {
                    return Poll::Ready(Err(failure));
                }
                ended = guest.poll(cx).is_ready();
            }
            if let Some(response) = guest.take_response() {
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
                format!("the guest answered with the error {code}"),
            )
        })?;
        let after = self.limits.timeout;
        Ok(response.map(|body| GuestBody::new(guest, self.world, body, after)))
    }

    fn start(
        &self,
        request: Request<RequestBody>,
        context: RequestContext,
    ) -> Result<Guest, Failure> {
        let internal = |e: wasmtime::Error| Failure::new(Reason::Trap, format!("{e:#}"));
        if let Some(pool) = &self.shared {
            return self.share(pool, request, context);
        }
        let meter = Arc::new(Meter::new(self.limits.cpu_time));
        let kept = self.idle.as_ref().and_then(|idle| idle.take());
        let (mut store, handler, served) = match kept {
            Some(mut kept) => {
                renew_store(&mut kept.store, &self.limits, &context, &meter, true)
                    .map_err(internal)?;
                (kept.store, Some(kept.handler), kept.served)
            }
            None => {
                let store = self.new_store(&context, &meter);
                (store.map_err(|e| no_store(&e))?, None, 0)
            }
        };
        let is_service = self.world == World::Service;
        let (delivery, told) = is_service.then(oneshot::channel).unzip();
        let (over, told_over) = is_service.then(oneshot::channel).unzip();
        let call = self
            .pre
            .admit(&mut store, request, &meter, told)
            .map_err(internal)?;
        let (pre, answer) = (self.pre.clone(), Arc::clone(&meter));
        let cost = Arc::clone(&context.cost);
        let future = Box::pin(async move {
            let result = async {
                let handler = match handler {
                    Some(handler) => handler,
                    None => {
                        let begin = Instant::now();
                        let handler = pre.instantiate(&mut store).await?;
                        cost.instantiated(begin.elapsed());
                        handler
                    }
                };
                handler.call(&mut store, call, &answer, told_over).await?;
                Ok(handler)
            }
            .await;
            Ended { result, store }
        });
        Ok(Guest {
            state: GuestState::Running(future),
            context,
            meter,
            limits: Arc::clone(&self.limits),
            active: Some(self.ticker.active()),
            delivery,
            over,
            reuse: self.idle.clone().map(|idle| (idle, served + 1)),
            coredumps: self.coredumps.clone(),
        })
    }

    fn new_store(
        &self,
        context: &RequestContext,
        meter: &Arc<Meter>,
    ) -> wasmtime::Result<Store<State>> {
        let Self {
            pre,
            limits,
            grants,
            capabilities,
            ..
        } = self;
        let store = new_store(pre.engine(), limits, grants, capabilities, context, meter);
        store.map(|mut store| {
            // The descriptors are those of the process: nothing is opened.
            *store.data_mut().ctx().ctx.filesystem() = self.directories.clone();
            store
        })
    }

    /// The store of a request that nobody has asked for: for benchmarks.
    ///
    /// # Errors
    ///
    /// Wasmtime's.
    #[doc(hidden)]
    pub fn empty_store(&self, context: &RequestContext) -> wasmtime::Result<EmptyStore> {
        let meter = Arc::new(Meter::new(self.limits.cpu_time));
        self.new_store(context, &meter).map(EmptyStore)
    }

    /// Makes an instance in such a store.
    ///
    /// # Errors
    ///
    /// Wasmtime's.
    #[doc(hidden)]
    pub async fn fill_store(&self, store: &mut EmptyStore) -> wasmtime::Result<()> {
        self.pre.instantiate(&mut store.0).await.map(drop)
    }

    /// Lets the request into an instance that others may be in.
    fn share(
        &self,
        pool: &SharedPool,
        request: Request<RequestBody>,
        context: RequestContext,
    ) -> Result<Guest, Failure> {
        let (delivery, told) = oneshot::channel();
        let entry = Entry {
            request,
            delivery: told,
        };
        let member = self.enter(pool, entry, &context)?;
        Ok(Guest {
            meter: Arc::clone(member.meter()),
            state: GuestState::Sharing(Box::new(member)),
            context,
            limits: Arc::clone(&self.limits),
            active: Some(self.ticker.active()),
            delivery: Some(delivery),
            over: None,
            reuse: None,
            // Those who share an instance share its end: nobody's store is at hand.
            coredumps: None,
        })
    }

    /// The same for one that another instance has given back.
    fn share_again(&self, guest: &mut Guest, entry: Entry) -> Result<(), Failure> {
        if let Some(pool) = &self.shared {
            let member = self.enter(pool, entry, &guest.context)?;
            guest.meter = Arc::clone(member.meter());
            guest.state = GuestState::Sharing(Box::new(member));
            guest.active = Some(self.ticker.active());
        }
        Ok(())
    }

    fn enter(
        &self,
        pool: &SharedPool,
        entry: Entry,
        context: &RequestContext,
    ) -> Result<Member, Failure> {
        let make = |meter: &Arc<Meter>| self.new_store(context, meter);
        pool.enter(&self.pre, &self.limits, entry, context, make)
            .and_then(|member| member.ok_or_else(|| wasmtime::format_err!("no event loop")))
            .map_err(|e| no_store(&e))
    }
}

/// The guest has not been asked for anything yet.
fn no_store(error: &wasmtime::Error) -> Failure {
    Failure::new(Reason::Overload, format!("no store can be made: {error:#}"))
}

/// See [`Runtime::empty_store`].
#[doc(hidden)]
pub struct EmptyStore(Store<State>);
