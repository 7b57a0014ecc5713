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
use wasmtime::component::{Accessor, Linker, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets as p3;

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

/// A name being looked up. Ends when it is dropped.
struct Lookup(JoinHandle<Result<Vec<IpAddr>, ResolveError>>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lookup {
    async fn end(&mut self) -> Result<Vec<IpAddr>, Code> {
        match (&mut self.0).await {
            Ok(answer) => answer.map_err(|error| Code::from(&error)),
            // The event loop is ending.
            Err(_) => Err(Code::Temporary),
        }
    }
}

/// Why there is no answer, as both versions of WASI have it.
#[derive(Clone, Copy)]
enum Code {
    InvalidArgument,
    AccessDenied,
    Unresolvable,
    Temporary,
    Permanent,
}

impl From<&ResolveError> for Code {
    fn from(error: &ResolveError) -> Self {
        match error {
            ResolveError::NotAName(_) => Self::InvalidArgument,
            ResolveError::NoAddress | ResolveError::Refused("NXDOMAIN") => Self::Unresolvable,
            ResolveError::Timeout | ResolveError::Refused("SERVFAIL") => Self::Temporary,
            ResolveError::Refused(_) | ResolveError::Failed(_) => Self::Permanent,
        }
    }
}

impl From<Code> for ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::AccessDenied => Self::AccessDenied,
            Code::Unresolvable => Self::NameUnresolvable,
            Code::Temporary => Self::TemporaryResolverFailure,
            Code::Permanent => Self::PermanentResolverFailure,
        }
    }
}

impl From<Code> for p3::ip_name_lookup::ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::AccessDenied => Self::AccessDenied,
            Code::Unresolvable => Self::NameUnresolvable,
            Code::Temporary => Self::TemporaryResolverFailure,
            Code::Permanent => Self::PermanentResolverFailure,
        }
    }
}

/// Begins to look `name` up for a guest, if it may.
fn begin(state: &State, name: String) -> Result<Lookup, Code> {
    let hooks = &state.hooks;
    let lookups = hooks.capabilities.lookups.as_ref();
    let allowed = |lookups: &&Lookups| {
        // An address is its own name; what becomes of it is checked later.
        name.parse::<IpAddr>().is_ok() || lookups.allowed.iter().any(|rule| rule.matches(&name))
    };
    if name.parse::<IpAddr>().is_err() && host_name(&name).is_err() {
        return Err(Code::InvalidArgument);
    }
    let Some(lookups) = lookups.filter(allowed) else {
        let text = format!("looking up {name:?} refused: UNIT_WASM_ALLOW_DNS would need {name}");
        hooks.asking.notice(Severity::Warn, &text);
        return Err(Code::AccessDenied);
    };
    if !Asking::count(&hooks.asking.lookups, LOOKUPS) {
        let text = format!("looking up {name} refused: {LOOKUPS} names have been (fixed)");
        hooks.asking.notice(Severity::Warn, &text);
        return Err(Code::Temporary);
    }
    let (resolver, in_flight) = (
        Arc::clone(&lookups.resolver),
        Arc::clone(&lookups.in_flight),
    );
    Ok(Lookup(tokio::spawn(async move {
        // It is never closed; without a permit the lookup would only be early.
        let _permit = in_flight.acquire().await;
        resolver.lookup(&name).await
    })))
}

/// One name that was asked for.
enum Answer {
    Waiting(Lookup),
    There(Result<vec::IntoIter<IpAddr>, Code>),
}

#[wasmtime_wasi::async_trait]
impl Pollable for Answer {
    async fn ready(&mut self) {
        if let Self::Waiting(lookup) = self {
            *self = Self::There(lookup.end().await.map(Vec::into_iter));
        }
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
    match begin(state, name) {
        Ok(lookup) => {
            let answer = WasiView::ctx(state).table.push(Answer::Waiting(lookup))?;
            Ok((Ok(answer),))
        }
        Err(code) => Ok((Err(code.into()),)),
    }
}

fn resolve_next_address(
    mut store: StoreContextMut<'_, State>,
    (answer,): (Resource<Answer>,),
) -> Outcome<Option<IpAddress>> {
    let next = match WasiView::ctx(store.data_mut()).table.get_mut(&answer)? {
        Answer::Waiting(_) => Err(ErrorCode::WouldBlock),
        Answer::There(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
        Answer::There(Err(code)) => Err((*code).into()),
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

/// The same for WASI 0.3.
pub(super) fn link_service(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker
        .instance("wasi:sockets/ip-name-lookup@0.3.0")?
        .func_wrap_concurrent(
            "resolve-addresses",
            |accessor: &Accessor<State>, (name,): (String,)| {
                Box::pin(async move { Ok((resolve(accessor, name).await,)) })
            },
        )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn resolve(
    accessor: &Accessor<State>,
    name: String,
) -> Result<Vec<p3::types::IpAddress>, p3::ip_name_lookup::ErrorCode> {
    let mut lookup = accessor.with(|mut access| begin(access.data_mut(), name))?;
    let addresses = lookup.end().await?;
    Ok(addresses.into_iter().map(Into::into).collect())
}
