//! What differs between the worlds of a component: how its handler is found in
//! an instance, and how it is called.

use std::future::poll_fn;
use std::sync::Arc;

use http::{Request, Response, uri};
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, Instance, InstancePre, Resource};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::http::types::{IncomingRequest, ResponseOutparam, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView};

use crate::body::RequestBody;
use crate::meter::Meter;
use crate::state::State;
use crate::world::World;

/// What a guest hands over as its response. If that is an error, its text.
pub(crate) type GuestResponse = Result<Response<WasiBody>, String>;

/// What became of a response: a guest of WASI 0.3 can wait for it.
pub(crate) type Delivery = Result<(), HttpError>;

/// A component that instances can be made of.
#[derive(Clone)]
pub(crate) enum Pre {
    Proxy(ProxyPre<State>),
    Service(ServicePre<State>),
}

impl Pre {
    /// # Errors
    ///
    /// If the component does not have the handler of `world`.
    pub fn new(world: World, component: InstancePre<State>) -> wasmtime::Result<Self> {
        Ok(match world {
            World::Proxy => Self::Proxy(ProxyPre::new(component)?),
            World::Service => Self::Service(ServicePre::new(component)?),
        })
    }

    pub fn engine(&self) -> &Engine {
        match self {
            Self::Proxy(pre) => pre.engine(),
            Self::Service(pre) => pre.engine(),
        }
    }

    /// Makes an instance in `store` and finds its handler.
    pub async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Handler> {
        Ok(match self {
            Self::Proxy(pre) => Handler::Proxy(pre.instantiate_async(store).await?),
            Self::Service(pre) => Handler::Service(pre.instantiate_async(store).await?),
        })
    }

    /// Makes an instance, whatever is in it.
    pub async fn instantiate_only(&self, store: &mut Store<State>) -> wasmtime::Result<Instance> {
        match self {
            Self::Proxy(pre) => pre.instance_pre().instantiate_async(store).await,
            Self::Service(pre) => pre.instance_pre().instantiate_async(store).await,
        }
    }

    /// Finds the handler of such an instance.
    pub fn find_handler(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Handler> {
        Ok(match self {
            Self::Proxy(_) => Handler::Proxy(Proxy::new(store, instance)?),
            Self::Service(_) => Handler::Service(Service::new(store, instance)?),
        })
    }

    /// Puts a request into `store`. A guest of WASI 0.2 sets its response in
    /// `meter`; when one of 0.3 wants to know what became of its response, it
    /// is told what comes by `delivery`.
    pub fn admit(
        &self,
        store: &mut Store<State>,
        request: Request<RequestBody>,
        meter: &Arc<Meter>,
        delivery: Option<oneshot::Receiver<Delivery>>,
    ) -> wasmtime::Result<Call> {
        let state = store.data_mut();
        match self {
            Self::Proxy(_) => {
                let scheme = match request.uri().scheme() {
                    Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
                    _ => Scheme::Http,
                };
                state.hooks.incoming = true;
                let incoming = state.http().new_incoming_request(scheme, request);
                state.hooks.incoming = false;
                let answer = Arc::clone(meter);
                let set = move |response: Result<_, _>| {
                    answer.set_response(response.map_err(|code| format!("{code:?}")));
                };
                Ok(Call::Proxy {
                    request: incoming?,
                    outparam: state.http().new_response_outparam_from_callback(set)?,
                })
            }
            Self::Service(_) => Ok(Call::Service {
                request: admit_service(state, request)?,
                delivery,
            }),
        }
    }
}

/// Puts a request into the store of a guest of WASI 0.3.
pub(crate) fn admit_service(
    state: &mut State,
    request: Request<RequestBody>,
) -> wasmtime::Result<Resource<p3::Request>> {
    state.hooks.incoming = true;
    let view = state.http();
    // What the guest thinks of the request's body concerns nobody here.
    let (request, _) = p3::Request::from_http(view.hooks, request);
    let pushed = view.table.push(request);
    state.hooks.incoming = false;
    Ok(pushed?)
}

/// A request in a store, to call a handler with.
pub(crate) enum Call {
    Proxy {
        request: Resource<IncomingRequest>,
        outparam: Resource<ResponseOutparam>,
    },
    Service {
        request: Resource<p3::Request>,
        delivery: Option<oneshot::Receiver<Delivery>>,
    },
}

/// The handler of an instance.
pub(crate) enum Handler {
    Proxy(Proxy),
    Service(Service),
}

impl Handler {
    /// Calls it and lets the guest do all it wants to do for the request. Its
    /// response is set in `meter` as soon as there is one.
    ///
    /// A guest of WASI 0.3 can be at rest while what it has passed on is not: the
    /// stream of a file, say, is moved by the store. So this returns when the guest
    /// is at rest, which `meter` is told, and `over` says that the response is.
    pub async fn call(
        &self,
        store: &mut Store<State>,
        call: Call,
        meter: &Arc<Meter>,
        over: Option<oneshot::Receiver<()>>,
    ) -> wasmtime::Result<()> {
        match (self, call) {
            (Self::Proxy(proxy), Call::Proxy { request, outparam }) => {
                let handler = proxy.wasi_http_incoming_handler();
                handler.call_handle(store, request, outparam).await
            }
            (Self::Service(service), Call::Service { request, delivery }) => {
                let work = async |accessor: &Accessor<State>| {
                    let response = respond(accessor, service, request, delivery).await?;
                    meter.set_response(response);
                    at_rest(accessor).await;
                    meter.set_at_rest();
                    if let Some(over) = over {
                        // Nobody wants it any more if this fails.
                        let _ = over.await;
                    }
                    Ok(())
                };
                store.run_concurrent(work).await?
            }
            _ => Err(wasmtime::format_err!("a call of another world")),
        }
    }
}

/// Calls a handler of WASI 0.3, until it has returned its response.
pub(crate) async fn respond(
    accessor: &Accessor<State>,
    service: &Service,
    request: Resource<p3::Request>,
    delivery: Option<oneshot::Receiver<Delivery>>,
) -> wasmtime::Result<GuestResponse> {
    let handler = service.wasi_http_handler();
    let response = match handler.call_handle(accessor, request).await? {
        Ok(response) => response,
        Err(code) => return Ok(Err(format!("{code:?}"))),
    };
    let delivered = async {
        match delivery {
            Some(delivery) => delivery
                .await
                .unwrap_or(Err(HttpError::ConnectionTerminated)),
            None => Ok(()),
        }
    };
    accessor.with(|mut access| {
        let response = access.data_mut().http().table.delete(response)?;
        Ok(Ok(response.into_http(&mut access, delivered)?))
    })
}

/// Returns when no task of the guest is left.
async fn at_rest(accessor: &Accessor<State>) {
    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
}
