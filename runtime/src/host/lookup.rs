//! `wasi:sockets/ip-name-lookup`: for names of the list, by our own resolver.
//!
//! Takes the place of Wasmtime's, which knows no list, asks in a thread for each
//! name, and cannot be told which server to ask.

use std::net::IpAddr;
use std::sync::Arc;
use std::vec;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::host::Asking;
use crate::host::dns::{ResolveError, Resolver};
use crate::host::net::{NameRule, host_name};
use crate::output::Severity;
use crate::state::State;

const NAME: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// Names that one request may look up.
const LOOKUPS: u32 = 100;
/// Lookups of a process under way; more wait.
pub(crate) const IN_FLIGHT: usize = 256;

/// What looks names up for guests.
pub(crate) struct Lookups {
    pub allowed: Vec<NameRule>,
    pub resolver: Arc<Resolver>,
    /// Room for lookups under way, of all requests.
    pub in_flight: Arc<Semaphore>,
}

/// One name that was asked for.
enum Answer {
    Waiting(JoinHandle<Result<Vec<IpAddr>, ResolveError>>),
    There(Result<vec::IntoIter<IpAddr>, ErrorCode>),
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Self::Waiting(task) = self {
            task.abort();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Answer {
    async fn ready(&mut self) {
        if let Self::Waiting(task) = self {
            let answer = match task.await {
                Ok(Ok(addresses)) => Ok(addresses.into_iter()),
                Ok(Err(error)) => Err(code(&error)),
                // The event loop is ending.
                Err(_) => Err(ErrorCode::TemporaryResolverFailure),
            };
            *self = Self::There(answer);
        }
    }
}

fn code(error: &ResolveError) -> ErrorCode {
    match error {
        ResolveError::NotAName(_) => ErrorCode::InvalidArgument,
        ResolveError::NoAddress | ResolveError::Refused("NXDOMAIN") => ErrorCode::NameUnresolvable,
        ResolveError::Timeout | ResolveError::Refused("SERVFAIL") => {
            ErrorCode::TemporaryResolverFailure
        }
        ResolveError::Refused(_) | ResolveError::Failed(_) => ErrorCode::PermanentResolverFailure,
    }
}

/// What a function of the interface returns.
type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn resolve_addresses(
    mut store: StoreContextMut<'_, State>,
    (network, name): (Resource<Network>, String),
) -> Outcome<Resource<Answer>> {
    let state = store.data_mut();
    // The handle is the right to ask.
    WasiView::ctx(state).table.get(&network)?;
    let hooks = &state.hooks;
    let lookups = hooks.capabilities.lookups.as_ref();
    let allowed = |lookups: &&Lookups| {
        // An address is its own name; what becomes of it is checked later.
        name.parse::<IpAddr>().is_ok() || lookups.allowed.iter().any(|rule| rule.matches(&name))
    };
    if name.parse::<IpAddr>().is_err() && host_name(&name).is_err() {
        return Ok((Err(ErrorCode::InvalidArgument),));
    }
    let Some(lookups) = lookups.filter(allowed) else {
        let text = format!("looking up {name:?} refused: UNIT_WASM_ALLOW_DNS would need {name}");
        hooks.asking.notice(Severity::Warn, &text);
        return Ok((Err(ErrorCode::AccessDenied),));
    };
    if !Asking::count(&hooks.asking.lookups, LOOKUPS) {
        let text = format!("looking up {name} refused: {LOOKUPS} names have been (fixed)");
        hooks.asking.notice(Severity::Warn, &text);
        return Ok((Err(ErrorCode::TemporaryResolverFailure),));
    }
    let (resolver, in_flight) = (
        Arc::clone(&lookups.resolver),
        Arc::clone(&lookups.in_flight),
    );
    let task = tokio::spawn(async move {
        // It is never closed; without a permit the lookup would only be early.
        let _permit = in_flight.acquire().await;
        resolver.lookup(&name).await
    });
    let answer = WasiView::ctx(state).table.push(Answer::Waiting(task))?;
    Ok((Ok(answer),))
}

fn resolve_next_address(
    mut store: StoreContextMut<'_, State>,
    (answer,): (Resource<Answer>,),
) -> Outcome<Option<IpAddress>> {
    let next = match WasiView::ctx(store.data_mut()).table.get_mut(&answer)? {
        Answer::Waiting(_) => Err(ErrorCode::WouldBlock),
        Answer::There(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
        Answer::There(Err(code)) => Err(*code),
    };
    Ok((next,))
}

/// Puts this interface into `linker`, which has Wasmtime's already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut lookup = linker.instance(NAME)?;
    lookup.resource(
        "resolve-address-stream",
        ResourceType::host::<Answer>(),
        |mut store, rep| {
            let answer = Resource::<Answer>::new_own(rep);
            WasiView::ctx(store.data_mut()).table.delete(answer)?;
            Ok(())
        },
    )?;
    lookup.func_wrap("resolve-addresses", resolve_addresses)?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        resolve_next_address,
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, State>, (answer,): (Resource<Answer>,)| {
            let pollable = subscribe(WasiView::ctx(store.data_mut()).table, answer)?;
            Ok((pollable,)) as wasmtime::Result<(Resource<DynPollable>,)>
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
