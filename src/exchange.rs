//! One request: from the moment libunit hands it over to `request_done`,
//! which happens exactly once on every path because [`Request`] sees to it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use nxt_wasm_runtime::{
    Cost, Failure, FileBody, GuestBody, Reason, RequestBody, RequestContext, Trace, Usage,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::account::Account;
use crate::http::{BadRequest, Head, REQUEST_ID, TRACEPARENT, check_response, request, request_id};
use crate::response::{self, Unsent};
use crate::service::Service;
use crate::unit::{Content, Level, Request};
use crate::watchdog::Pulse;

/// The end of the drain time, for all exchanges of a context.
#[derive(Default)]
pub struct Expiry {
    over: Cell<bool>,
    notify: Notify,
}

impl Expiry {
    /// The drain time is over.
    pub fn end(&self) {
        self.over.set(true);
        self.notify.notify_waiters();
    }

    /// Returns when the drain time is over.
    async fn ended(&self) {
        let notified = self.notify.notified();
        if !self.over.get() {
            notified.await;
        }
    }
}

/// Serves one request, until `expiry` at most.
pub async fn run(service: Arc<Service>, mut unit: Request, expiry: Rc<Expiry>, pulse: Arc<Pulse>) {
    let head = match translate(&unit) {
        Ok(head) => head,
        Err(error) => return refuse(&service, unit, error),
    };
    let id: Arc<str> = request_id(head.headers(), made_up_id).into();
    let content = match unit.content() {
        Ok(Content::Memory(bytes)) => RequestBody::Bytes(bytes.into()),
        Ok(Content::File(file, length)) => RequestBody::File(FileBody::new(file, length)),
        Err(error) => {
            let text = format!("cannot read the request body: {error}");
            let failure = Failure::new(Reason::Delivery, text);
            return Exchange::declined(&service, id, unit, &failure);
        }
    };
    let is_head = head.method() == Method::HEAD;
    let mut exchange = Exchange {
        service: &service,
        id: Arc::clone(&id),
        unit: Some(unit),
        account: Some(Account::open(&service)),
    };
    let admitted = exchange.account.as_ref().is_some_and(Account::is_admitted);
    let outcome = if admitted {
        let mut serving = pin!(exchange.serve(head.map(|()| content), is_head));
        // The watchdog wants to know whose turn it is.
        let serving = poll_fn(|cx| {
            pulse.at(&id);
            serving.as_mut().poll(cx)
        });
        tokio::select! {
            biased;
            outcome = serving => outcome,
            () = expiry.ended() => Err(drained()),
        }
    } else {
        Err(Failure::new(
            Reason::Breaker,
            "too many requests before it have failed (UNIT_WASM_BREAKER)",
        ))
    };
    if let Err(failure) = outcome {
        exchange.fail(&failure);
    }
    exchange.settle();
}

/// Answers a request that was taken, but that there is no room for.
pub fn decline(service: &Service, unit: Request, why: &Failure) {
    match translate(&unit) {
        Ok(head) => {
            let id = request_id(head.headers(), made_up_id).into();
            Exchange::declined(service, id, unit, why);
        }
        Err(error) => refuse(service, unit, error),
    }
}

/// The failure of requests in flight when the drain time is over.
pub fn drained() -> Failure {
    Failure::new(
        Reason::Drain,
        "the process was told to quit and its drain time is over (UNIT_WASM_DRAIN_TIMEOUT)",
    )
}

fn translate(unit: &Request) -> Result<http::Request<()>, BadRequest> {
    request(Head {
        method: unit.method(),
        target: unit.target(),
        server_name: unit.server_name(),
        tls: unit.is_tls(),
        fields: unit.fields(),
    })
}

struct Exchange<'a> {
    service: &'a Service,
    id: Arc<str>,
    /// Taken when the request is done.
    unit: Option<Request>,
    /// Taken when it is settled.
    account: Option<Account>,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        // Of one that was broken off, by a panic of the host or at its end, nobody
        // knows what became.
        if let Some(mut account) = self.account.take() {
            account.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
            account.is_unknown();
            account.settle(self.service, &self.id);
        }
    }
}

impl<'a> Exchange<'a> {
    /// Answers a request that no guest is given.
    fn declined(service: &'a Service, id: Arc<str>, unit: Request, why: &Failure) {
        let mut exchange = Self {
            service,
            id,
            unit: Some(unit),
            account: Some(Account::declined()),
        };
        exchange.fail(why);
        exchange.settle();
    }

    /// The end of it.
    fn settle(mut self) {
        if let Some(account) = self.account.take() {
            account.settle(self.service, &self.id);
        }
    }

    /// Notes something of it.
    fn note(&mut self, note: impl FnOnce(&mut Account)) {
        if let Some(account) = &mut self.account {
            note(account);
        }
    }

    async fn serve(
        &mut self,
        request: http::Request<RequestBody>,
        is_head: bool,
    ) -> Result<(), Failure> {
        let cost = self.account.as_ref().map(|a| Arc::clone(&a.cost));
        let cost = cost.unwrap_or_default();
        let trace = match self.service.settings.trace {
            true => Trace::of(request.headers()).map(Arc::new),
            false => None,
        };
        let context = RequestContext {
            id: Arc::clone(&self.id),
            log: Arc::clone(&self.service.guest_log),
            cost: Arc::clone(&cost),
            trace,
        };
        let runtime = self.service.runtime.get();
        let mut response = runtime.handle(request, context).await?;
        let framing = check_response(is_head, &mut response)
            .map_err(|e| Failure::new(Reason::InvalidResponse, e.to_string()))?;
        let (parts, mut body) = response.into_parts();
        let mut head = Response::from_parts(parts, ());
        self.note(|account| account.answer(head.status().as_u16()));
        if let Some(name) = &self.service.settings.cost_header {
            let value = cost_so_far(&body.usage(), &cost);
            head.headers_mut().insert(name.clone(), value);
        }
        let idle = self.service.settings.idle_timeout;
        let sent = match &mut self.unit {
            Some(unit) => {
                let sending = response::send(unit, head, &mut body, framing, is_head, idle);
                bounded(self.service.settings.response_timeout, sending).await
            }
            None => Ok(()),
        };
        match sent {
            Ok(()) => {
                if let Some(unit) = self.unit.take() {
                    unit.done(true);
                }
                self.after(&mut body).await;
            }
            // A guest that can learn of it may tidy up. The request has failed already.
            Err(unsent) if unsent.by_client && body.abandon() => {
                self.note(|account| account.tells = false);
                self.fail(&unsent.failure);
                if let Err(failure) = body.finish().await {
                    let text = format!("and after that: {failure}");
                    self.service.app.log_request(Level::Info, &self.id, &text);
                }
            }
            Err(unsent) => {
                self.note(|account| account.tells &= !unsent.by_client);
                return Err(unsent.failure);
            }
        }
        Ok(())
    }

    /// The client has its response; the guest may have more to do.
    async fn after(&mut self, body: &mut GuestBody) {
        match body.finish().await {
            Ok(_) => {}
            Err(failure) => {
                self.note(|account| account.reason = Some(failure.reason));
                let app = &self.service.app;
                app.log_failure(&self.id, &failure, &"complete");
            }
        }
    }

    /// Answers for a guest that failed.
    fn fail(&mut self, failure: &Failure) {
        let before = self.account.as_ref().and_then(|a| a.reason);
        if self.unit.is_none() && before.is_some() {
            // It was counted as a failure already.
            let text = format!("and after that: {failure}");
            return self.service.app.log_request(Level::Info, &self.id, &text);
        }
        self.note(|account| account.reason = Some(failure.reason));
        let Some(unit) = self.unit.take() else {
            // The client had its answer; what failed came after it.
            let app = &self.service.app;
            return app.log_failure(&self.id, failure, &"complete");
        };
        if unit.has_begun() {
            let app = &self.service.app;
            app.log_failure(&self.id, failure, &"truncated");
            return unit.done(false);
        }
        let status = failure.reason.status();
        self.note(|account| account.status = status.as_u16());
        self.service
            .app
            .log_failure(&self.id, failure, &status.as_u16());
        let wait = match (failure.reason, &self.service.breaker) {
            (Reason::Breaker, Some(breaker)) => breaker.remaining(),
            _ => Duration::ZERO,
        };
        answer(unit, status, wait);
    }
}

/// Sends a response within `limit`. Unit does not tell an application that its
/// client has gone, so a guest that streams without end would go on for nobody.
async fn bounded(
    limit: Option<Duration>,
    sending: impl Future<Output = Result<(), Unsent>>,
) -> Result<(), Unsent> {
    let Some(limit) = limit else {
        return sending.await;
    };
    timeout(limit, sending).await.unwrap_or_else(|_| {
        let text = format!("the response is not over after {limit:?} (UNIT_WASM_RESPONSE_TIMEOUT)");
        Err(Unsent::by_client(Failure::new(Reason::Timeout, text)))
    })
}

/// A request that no guest can be given.
fn refuse(service: &Service, unit: Request, error: BadRequest) {
    let id = request_id(&names(&unit), made_up_id);
    let status = StatusCode::BAD_REQUEST;
    service.app.log_refused(&id, status.as_u16(), &error);
    answer(unit, status, Duration::ZERO);
    let mut account = Account::declined();
    account.status = status.as_u16();
    account.settle(service, &id);
}

/// The fields that name a request, of one whose head is not valid as a whole.
fn names(unit: &Request) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in unit.fields() {
        let name = [TRACEPARENT, REQUEST_ID]
            .into_iter()
            .find(|known| known.as_bytes().eq_ignore_ascii_case(name));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.entry(name).or_insert(value);
        }
    }
    headers
}

/// A short answer of our own, that says nothing about causes. If it is that there
/// is no service now, it also says after what time to try again.
fn answer(mut unit: Request, status: StatusCode, wait: Duration) {
    let text = format!(
        "{} {}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error")
    );
    let length = text.len().to_string();
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (CONTENT_TYPE.as_str().as_bytes(), b"text/plain"),
        (CONTENT_LENGTH.as_str().as_bytes(), length.as_bytes()),
    ];
    let seconds = wait.as_secs().saturating_add(1).to_string();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        fields.push((RETRY_AFTER.as_str().as_bytes(), seconds.as_bytes()));
    }
    let is_head = unit.method() == b"HEAD";
    let content: &[u8] = if is_head { b"" } else { text.as_bytes() };
    let made = unit.respond(status.as_u16(), &fields, content, true);
    // As small as it is, it needs no shared memory.
    unit.done(made == Ok(true));
}

/// What a request has cost when its response begins, for the access log.
fn cost_so_far(usage: &Usage, cost: &Cost) -> HeaderValue {
    let micros = |time: Duration| time.as_micros();
    let mut text = format!("cpu={}us", micros(usage.cpu_time));
    // A string takes everything.
    if usage.memory > 0 {
        let _ = write!(text, " memory={}", usage.memory);
    }
    if let Some(fuel) = usage.fuel {
        let _ = write!(text, " fuel={fuel}");
    }
    if let Some(time) = cost.instantiate_time() {
        let _ = write!(text, " instantiate={}us", micros(time));
    }
    // Letters and digits, all of which a field may have.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn made_up_id() -> String {
    // Not a secret, only different: a random start and a counter.
    use std::hash::{BuildHasher, RandomState};
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(RandomState::new().hash_one(std::process::id()));
    }
    let number = NEXT.get();
    NEXT.set(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    format!("{number:016x}")
}
