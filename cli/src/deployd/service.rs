//! What requests get.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use nxt_wasm_store::{Name, StoreError};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::query::Query;
use super::token::Tokens;
use super::upload::{self, UploadError};
use crate::deployer::{DeployError, Deployer, Done, Order};
use crate::list;
use crate::terminal::tell;
use crate::unit::control::ControlError;
use crate::unit::lock::LockError;

/// Deployments under way at once, each of which may compile a component.
const DEPLOYMENTS: u32 = 2;
/// Other work at once: it waits for Unit and for the store.
const OTHERS: u32 = 8;

/// What the service works with.
pub struct Config {
    /// Does the work.
    pub deployer: Arc<Deployer>,
    /// Who may ask for it.
    pub tokens: Tokens,
    /// Bytes of a component.
    pub max_size: u64,
    /// Settings that may be asked for beside limits.
    pub allowed: Vec<String>,
    /// The listener that is to be there.
    pub listener: Option<String>,
    /// What application objects begin with.
    pub base: Map<String, Value>,
}

/// Answers requests.
pub struct Service {
    config: Config,
    /// Applications that are being deployed.
    busy: Arc<Mutex<HashSet<Name>>>,
    deployments: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

/// A status and JSON.
type Answer = (StatusCode, Value);

/// An application that is being deployed, until this is dropped.
struct Busy {
    name: Name,
    all: Arc<Mutex<HashSet<Name>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.name);
    }
}

fn error(status: StatusCode, text: impl Into<String>) -> Answer {
    (status, json!({ "error": text.into() }))
}

impl Service {
    /// A service with nothing under way.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            busy: Arc::default(),
            deployments: semaphore(DEPLOYMENTS),
            others: semaphore(OTHERS),
        }
    }

    /// Waits until no work is under way, and lets no other begin.
    pub async fn finish(&self) {
        for (places, all) in [(&self.deployments, DEPLOYMENTS), (&self.others, OTHERS)] {
            if let Ok(all) = places.acquire_many(all).await {
                all.forget();
            }
        }
    }

    /// Answers a request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let given = head.headers.get(AUTHORIZATION);
        let allowed = self.config.tokens.allow(given.map(HeaderValue::as_bytes));
        let (status, json) = match allowed {
            true => self.route(&head, &mut body).await,
            false => error(
                StatusCode::UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN",
            ),
        };
        // Who waits to be told that it may send, is not told.
        if !body.is_end_stream() && !head.headers.contains_key(EXPECT) {
            upload::drain(&mut body).await;
        }
        let mut response = Response::new(Full::from(format!("{json:#}\n")));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                // The body has not been read.
                fields.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                fields.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }

    async fn route(self: Arc<Self>, head: &Parts, body: &mut Incoming) -> Answer {
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(problem) => return error(StatusCode::BAD_REQUEST, problem),
        };
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
        let (first, name, last) = (parts.next(), parts.next(), parts.next());
        let is_longer = parts.next().is_some();
        let name = match name.map(str::parse::<Name>).transpose() {
            Ok(name) => name,
            Err(problem) => return error(StatusCode::BAD_REQUEST, problem.to_string()),
        };
        match (first, name, last, &head.method) {
            _ if is_longer => not_found(),
            (Some("deploy"), Some(name), None, &Method::POST | &Method::PUT) => {
                self.deploy(name, query, body).await
            }
            (Some("apps"), None, None, &Method::GET) => self.work(|this| this.list()).await,
            (Some("apps"), Some(name), None, &Method::GET) => {
                self.work(move |this| this.show(&name)).await
            }
            (Some("apps"), Some(name), None, &Method::DELETE) => self.remove(name).await,
            (Some("apps"), Some(name), Some("rollback"), &Method::POST) => {
                self.rollback(name, query).await
            }
            (Some("restore"), None, None, &Method::POST) => self.work(|this| this.restore()).await,
            (Some("deploy"), Some(_), None, _)
            | (Some("apps"), Some(_), Some("rollback"), _)
            | (Some("apps"), _, None, _)
            | (Some("restore"), None, None, _) => {
                error(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
            }
            _ => not_found(),
        }
    }

    /// Does what blocks, when there is a place for it.
    async fn work(self: Arc<Self>, work: impl FnOnce(&Self) -> Answer + Send + 'static) -> Answer {
        let place = Arc::clone(&self.others).acquire_owned().await;
        self.work_at(place.ok(), work).await
    }

    /// Does what blocks, on a thread for that.
    async fn work_at(
        self: Arc<Self>,
        place: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&Self) -> Answer + Send + 'static,
    ) -> Answer {
        let this = Arc::clone(&self);
        let done = tokio::task::spawn_blocking(move || {
            // Until it is done, even if the client does not wait for that.
            let _place = place;
            work(&this)
        });
        let done = done.await;
        done.unwrap_or_else(|_| error(StatusCode::INTERNAL_SERVER_ERROR, "it has failed"))
    }

    /// Marks an application as being deployed, unless it is.
    fn busy(&self, name: &Name) -> Option<Busy> {
        let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone()).then(|| Busy {
            name: name.clone(),
            all: Arc::clone(&self.busy),
        })
    }

    async fn deploy(self: Arc<Self>, name: Name, query: Query, body: &mut Incoming) -> Answer {
        let config = &self.config;
        let listener = config.listener.as_deref();
        let asked = query.deployment(&config.allowed, listener, &config.base);
        let (wish, ask, sha256) = match asked {
            Ok(asked) => asked,
            Err(problem) => return error(StatusCode::BAD_REQUEST, problem),
        };
        let Some(busy) = self.busy(&name) else {
            return under_way(&name);
        };
        let folder: PathBuf = config.deployer.writing_folder();
        let upload = match upload::receive(body, &folder, config.max_size).await {
            Ok(upload) => upload,
            Err(problem) => return error(upload_status(&problem), problem.to_string()),
        };
        let place = Arc::clone(&self.deployments).acquire_owned().await;
        let this = Arc::clone(&self);
        this.work_at(place.ok(), move |this| {
            let _busy = busy;
            let order = Order {
                name: &name,
                file: upload.path(),
                sha256,
                wish: &wish,
                ask,
                take_over: false,
            };
            told(&name, this.config.deployer.deploy(&order))
        })
        .await
    }

    async fn rollback(self: Arc<Self>, name: Name, query: Query) -> Answer {
        let (to, ask) = match query.rollback() {
            Ok(asked) => asked,
            Err(problem) => return error(StatusCode::BAD_REQUEST, problem),
        };
        let Some(busy) = self.busy(&name) else {
            return under_way(&name);
        };
        self.work(move |this| {
            let _busy = busy;
            let deployer = &this.config.deployer;
            let done = deployer.rollback(&name, to.as_deref(), ask.as_ref());
            told(&name, done)
        })
        .await
    }

    async fn remove(self: Arc<Self>, name: Name) -> Answer {
        let Some(busy) = self.busy(&name) else {
            return under_way(&name);
        };
        self.work(move |this| {
            let _busy = busy;
            match this.config.deployer.remove(&name) {
                Ok(note) => {
                    tell(&format!("nxt-wasm deployd: {name}: removed"));
                    let notes = Vec::from_iter(note);
                    let json = json!({ "name": name, "removed": true, "notes": notes });
                    (StatusCode::OK, json)
                }
                Err(problem) => refused(&name, &problem),
            }
        })
        .await
    }

    fn list(&self) -> Answer {
        let names = match self.config.deployer.store.names() {
            Ok(names) => names,
            Err(problem) => {
                return error(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string());
            }
        };
        let config = self.config.deployer.control.config().ok();
        let app = |name: Name| match self.app(&name, config.as_ref()) {
            Ok(app) => app,
            Err(problem) => Some(json!({ "name": name, "error": problem.to_string() })),
        };
        let apps: Vec<Value> = names.into_iter().filter_map(app).collect();
        (StatusCode::OK, json!({ "apps": apps }))
    }

    fn show(&self, name: &Name) -> Answer {
        let config = self.config.deployer.control.config().ok();
        match self.app(name, config.as_ref()) {
            Ok(Some(app)) => (StatusCode::OK, app),
            Ok(None) => {
                let problem = DeployError::Unknown(name.clone()).to_string();
                error(StatusCode::NOT_FOUND, problem)
            }
            Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()),
        }
    }

    /// What is known of an application, and whether it is in Unit's configuration.
    fn app(&self, name: &Name, config: Option<&Value>) -> Result<Option<Value>, StoreError> {
        let deployer = &self.config.deployer;
        let Some(record) = deployer.store.record(name)? else {
            return Ok(None);
        };
        let state = record.current().map(|now| {
            let state = config.map(|config| deployer.state(config, name, now));
            match state {
                Some(Ok(state)) => state.name(),
                Some(Err(_)) | None => "unknown",
            }
        });
        let mut app = list::app(&record);
        if let Some(app) = app.as_object_mut() {
            app.insert("state".to_owned(), json!(state));
        }
        Ok(Some(app))
    }

    fn restore(&self) -> Answer {
        let restored = match self.config.deployer.restore_all(None) {
            Ok(restored) => restored,
            Err(problem) => return error(status(&problem), problem.to_string()),
        };
        let mut failed = Vec::new();
        let mut apps = Map::new();
        let left = restored.left;
        for (name, result) in restored.outcomes {
            let (status, json) = told(&name, result);
            if status != StatusCode::OK {
                failed.push(name.to_string());
            }
            apps.insert(name.to_string(), json);
        }
        if failed.is_empty() {
            return (StatusCode::OK, json!({ "apps": apps, "left": left }));
        }
        let problem = format!("not brought up: {}", failed.join(", "));
        let answer = json!({ "error": problem, "apps": apps, "left": left });
        (StatusCode::BAD_GATEWAY, answer)
    }
}

fn semaphore(places: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(1)))
}

fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "there is nothing of that name")
}

fn under_way(name: &Name) -> Answer {
    error(
        StatusCode::CONFLICT,
        format!("\"{name}\" is being deployed"),
    )
}

fn told(name: &Name, done: Result<Done, DeployError>) -> Answer {
    let done = match done {
        Ok(done) => done,
        Err(problem) => return refused(name, &problem),
    };
    let deployment = &done.deployment;
    let (number, digest) = (deployment.number, deployment.digest.short());
    tell(&format!(
        "nxt-wasm deployd: {name}: deployment {number} of {digest}"
    ));
    let answered = done.answered.map(|answered| {
        let took = u64::try_from(answered.took.as_millis()).unwrap_or(u64::MAX);
        json!({ "status": answered.status, "ms": took })
    });
    let json = json!({
        "name": name,
        "number": number,
        "digest": deployment.digest,
        "size": deployment.size,
        "time": deployment.time,
        "restores": deployment.restores,
        "changed": done.changed,
        "answered": answered,
        "notes": done.notes,
    });
    (StatusCode::OK, json)
}

fn refused(name: &Name, problem: &DeployError) -> Answer {
    tell(&format!("nxt-wasm deployd: {name}: {problem}"));
    let (status, mut answer) = error(status(problem), problem.to_string());
    if let (DeployError::Component(problems), Some(answer)) = (problem, answer.as_object_mut()) {
        answer.insert("problems".to_owned(), json!(problems));
    }
    (status, answer)
}

fn upload_status(problem: &UploadError) -> StatusCode {
    match problem {
        UploadError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        UploadError::Empty | UploadError::Broken(_) => StatusCode::BAD_REQUEST,
        UploadError::Keep(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn status(problem: &DeployError) -> StatusCode {
    match problem {
        DeployError::Settings(_) => StatusCode::BAD_REQUEST,
        DeployError::Component(_) | DeployError::Digest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        DeployError::Unknown(_) => StatusCode::NOT_FOUND,
        DeployError::NoTarget { .. }
        | DeployError::Plan(_)
        | DeployError::NoProbe(_)
        | DeployError::Busy(_)
        | DeployError::Store(StoreError::Busy(_))
        | DeployError::Unrecorded(StoreError::Busy(_)) => StatusCode::CONFLICT,
        DeployError::Store(StoreError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        DeployError::Lock(LockError::Taken(_))
        | DeployError::Control(ControlError::Client(_))
        | DeployError::Undone(ControlError::Client(_)) => StatusCode::SERVICE_UNAVAILABLE,
        DeployError::Control(_)
        | DeployError::Undone(_)
        | DeployError::Probe(_)
        | DeployError::Silent(_) => StatusCode::BAD_GATEWAY,
        DeployError::Check(_)
        | DeployError::Read(_)
        | DeployError::Store(_)
        | DeployError::Unrecorded(_)
        | DeployError::MaybeRecorded { .. }
        | DeployError::Lock(_)
        | DeployError::Stuck { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
