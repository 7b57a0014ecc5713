//! One request: from the moment libunit hands it over to `request_done`,
//! which happens exactly once on every path because [`Request`] sees to it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use nxt_wasm_runtime::{
    Failure, FileBody, GuestBody, GuestLog, Reason, RequestBody, RequestContext,
};
use tokio::sync::Notify;

use crate::http::{BadRequest, Head, REQUEST_ID, TRACEPARENT, check_response, request, request_id};
use crate::response;
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
            let unit = Some(unit);
            let service = &service;
            return Exchange { service, id, unit }.fail(&failure);
        }
    };
    let is_head = head.method() == Method::HEAD;
    let mut exchange = Exchange {
        service: &service,
        id: Arc::clone(&id),
        unit: Some(unit),
    };
    let outcome = {
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
    };
    if let Err(failure) = outcome {
        exchange.fail(&failure);
    }
}

/// Answers a request that was taken, but that there is no room for.
pub fn decline(service: &Service, unit: Request, why: &Failure) {
    match translate(&unit) {
        Ok(head) => Exchange {
            service,
            id: request_id(head.headers(), made_up_id).into(),
            unit: Some(unit),
        }
        .fail(why),
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
}

impl Exchange<'_> {
    async fn serve(
        &mut self,
        request: http::Request<RequestBody>,
        is_head: bool,
    ) -> Result<(), Failure> {
        let context = RequestContext {
            id: Arc::clone(&self.id),
            log: Arc::new(self.service.app.clone()) as Arc<dyn GuestLog>,
        };
        let mut response = self.service.runtime.handle(request, context).await?;
        let framing = check_response(is_head, &mut response)
            .map_err(|e| Failure::new(Reason::InvalidResponse, e.to_string()))?;
        let (parts, mut body) = response.into_parts();
        let head = Response::from_parts(parts, ());
        let idle = self.service.settings.idle_timeout;
        if let Some(unit) = &mut self.unit {
            response::send(unit, head, &mut body, framing, is_head, idle).await?;
        }
        if let Some(unit) = self.unit.take() {
            unit.done(true);
        }
        self.after(&mut body).await;
        Ok(())
    }

    /// The client has its response; the guest may have more to do.
    async fn after(&self, body: &mut GuestBody) {
        match body.finish().await {
            Ok(usage) => {
                if let Some(fuel) = usage.fuel {
                    let text = format!(
                        "fuel={fuel} cpu={:?} memory={}",
                        usage.cpu_time, usage.memory
                    );
                    self.service.app.log_request(Level::Info, &self.id, &text);
                }
            }
            Err(failure) => self
                .service
                .app
                .log_failure(&self.id, &failure, &"complete"),
        }
    }

    /// Answers for a guest that failed.
    fn fail(&mut self, failure: &Failure) {
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
        self.service
            .app
            .log_failure(&self.id, failure, &status.as_u16());
        answer(unit, status);
    }
}

/// A request that no guest can be given.
fn refuse(service: &Service, unit: Request, error: BadRequest) {
    let id = request_id(&names(&unit), made_up_id);
    let status = StatusCode::BAD_REQUEST;
    service.app.log_refused(&id, status.as_u16(), &error);
    answer(unit, status);
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

/// A short answer of our own, that says nothing about causes.
fn answer(mut unit: Request, status: StatusCode) {
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
    if status == StatusCode::SERVICE_UNAVAILABLE {
        fields.push((RETRY_AFTER.as_str().as_bytes(), b"1"));
    }
    let is_head = unit.method() == b"HEAD";
    let content: &[u8] = if is_head { b"" } else { text.as_bytes() };
    let made = unit.respond(status.as_u16(), &fields, content, true);
    // As small as it is, it needs no shared memory.
    unit.done(made == Ok(true));
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
