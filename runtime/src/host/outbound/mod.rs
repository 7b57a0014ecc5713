//! Outbound HTTP: what `wasi:http/outgoing-handler` does for guests.
//!
//! A request has to pass three gates. Its URL must be covered by a rule
//! ([`rule`]); each address that its name resolves to must be public or covered
//! by a rule of its own, and only such an address is connected to ([`connect`]);
//! and there must be room for it under the limits. Connections are kept for
//! other requests ([`pool`]), of whichever guest of the application: what rules
//! say depends on nothing that differs between requests.
//!
//! hyper drives the connections, in tasks of the event loop that made them.
//! The pool is our own since it has to bound unused connections of all hosts
//! together: with a rule such as `*`, the guest decides how many hosts there are.

mod body;
mod connect;
mod error;
mod exchange;
mod grant;
mod link;
mod origin;
mod pool;
mod rule;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use http::Method;
use rustls::ClientConfig;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::host::Asking;
use crate::host::dns::Resolver;
use crate::host::event_loop::PerLoop;
use crate::output::Severity;

pub(crate) use body::{Life, LifeGuard};
pub use grant::{HttpGrant, TrustError, roots};
pub(crate) use link::link;
pub use rule::{HttpRule, HttpRuleError};

use body::{Held, Progress, Upload};
use exchange::Timeouts;
use origin::{NoOrigin, Origin};
use pool::Pool;
use rule::{SETTING, Verdict, judge};

/// Sends the requests of all guests of a process.
pub(crate) struct Outbound {
    grant: HttpGrant,
    resolver: Arc<Resolver>,
    pools: PerLoop<Arc<Pool>>,
    tls: OnceLock<Option<Arc<ClientConfig>>>,
    in_flight: Arc<AtomicU32>,
}

/// What the operator is told of a request to `uri` where nothing is granted.
pub(crate) fn not_granted(uri: &http::Uri) -> String {
    match Origin::of(uri) {
        Ok(origin) => {
            format!("outbound {origin} refused: {SETTING} is not set, and would need {origin}")
        }
        Err(problem) => format!("outbound request refused: {problem}"),
    }
}

/// A request on its way.
struct Request {
    origin: Origin,
    asking: Arc<Asking>,
}

impl Outbound {
    /// A client under `grant`. Needs no event loop yet.
    pub fn new(grant: HttpGrant, resolver: Arc<Resolver>) -> Self {
        Self {
            grant,
            resolver,
            pools: PerLoop::default(),
            tls: OnceLock::new(),
            in_flight: Arc::default(),
        }
    }

    /// Sends `request` for the guest that `asking` stands for. The future yields
    /// the response as soon as its head is there; dropping it, or the body of the
    /// response, ends the request. It also ends when `life` does.
    pub fn send(
        self: &Arc<Self>,
        asking: &Arc<Asking>,
        life: Life,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> impl Future<Output = Result<http::Response<WasiBody>, Error>> + Send + use<> {
        let (outbound, asking) = (Arc::clone(self), Arc::clone(asking));
        async move {
            let (origin, in_flight) = outbound.admit(&asking, &request)?;
            let timeouts = Timeouts::new(&outbound, options.as_ref());
            let message = request.map(|body| Upload {
                body,
                life,
                progress: Arc::new(Progress::new()),
                held: Held {
                    in_flight: Arc::new(in_flight),
                    stream: None,
                },
            });
            let request = Request { origin, asking };
            exchange::exchange(outbound, request, message, timeouts).await
        }
    }

    /// Where `request` goes, if it may.
    fn admit(
        &self,
        asking: &Asking,
        request: &http::Request<WasiBody>,
    ) -> Result<(Origin, InFlight), Error> {
        let refuse = |text: &str| asking.notice(Severity::Warn, &format!("outbound {text}"));
        // Those that are refused count too: a guest can only make so much noise.
        let most = self.grant.requests;
        asking.who().cost.sent_a_request();
        if !Asking::count(&asking.http_requests, most) {
            refuse(&format!(
                "request refused: {most} have been sent (UNIT_WASM_HTTP_REQUESTS)"
            ));
            return Err(Error::ConnectionLimitReached);
        }
        let origin = Origin::of(request.uri()).map_err(|problem| {
            refuse(&format!("request refused: {problem}"));
            match problem {
                NoOrigin::Scheme => Error::HttpRequestDenied,
                _ => Error::HttpRequestUriInvalid,
            }
        })?;
        if request.method() == Method::CONNECT {
            refuse(&format!("{origin} refused: CONNECT is not supported"));
            return Err(Error::HttpRequestMethodInvalid);
        }
        match judge(&self.grant.rules, &origin) {
            Verdict::Allowed => {}
            Verdict::Denied => {
                refuse(&format!("{origin} refused: {SETTING} would need {origin}"));
                return Err(Error::HttpRequestDenied);
            }
            Verdict::Prohibited(kind) => {
                refuse(&format!(
                    "{origin} refused: the address is {kind}: {SETTING} would need {origin}"
                ));
                return Err(Error::DestinationIpProhibited);
            }
        }
        let most = self.grant.concurrency;
        let in_flight = InFlight::new(&self.in_flight, most).ok_or_else(|| {
            refuse(&format!(
                "request refused: {most} are in flight (UNIT_WASM_HTTP_CONCURRENCY)"
            ));
            Error::ConnectionLimitReached
        })?;
        Ok((origin, in_flight))
    }

    /// The connections of this event loop.
    fn pool(&self) -> Option<Arc<Pool>> {
        let keep_alive = self.grant.keep_alive;
        let pool = self.pools.get(|| Some(Arc::new(Pool::new(keep_alive))))?;
        Some(Arc::clone(&pool))
    }

    fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls
            .get_or_init(|| connect::tls_config(&self.grant.roots).ok().map(Arc::new))
            .clone()
    }
}

/// Counts one request in flight for as long as it is there.
struct InFlight(Arc<AtomicU32>);

impl InFlight {
    fn new(counter: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        Asking::count(counter, most).then(|| Self(Arc::clone(counter)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
