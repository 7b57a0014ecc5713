//! What guests may reach of the world outside, beyond what WASI gives to all.
//!
//! [`Capabilities`] is made once per process, from what the operator granted.
//! Each request gets an [`Asking`] of its own, by which its host calls know for
//! whom they act and how much of what is counted per request is left.

pub(crate) mod audit;
mod config;
pub(crate) mod dns;
pub(crate) mod event_loop;
pub(crate) mod filesystem;
mod filesystem_service;
pub mod keyvalue;
mod logging;
mod lookup;
pub(crate) mod net;
pub(crate) mod outbound;
mod relay;
pub(crate) mod secrets;
pub(crate) mod sockets;
#[cfg(test)]
pub(crate) mod test_peers;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::component::{ComponentType, Linker, Lower};

use crate::error::LoadError;
use crate::grants::Grants;
use crate::host::audit::AuditLog;
use crate::host::dns::Resolver;
use crate::host::lookup::Lookups;
use crate::host::outbound::Outbound;
use crate::host::secrets::Secrets;
use crate::host::sockets::{SocketGrant, SocketRoom};
use crate::output::{Severity, shown_text};
use crate::request::{Cost, RequestContext};
use crate::state::State;
use crate::world::World;

/// What a process has to serve the host calls of all its guests.
pub(crate) struct Capabilities {
    pub environment: Vec<(String, String)>,
    pub secrets: Option<Secrets>,
    pub audit: Option<Arc<AuditLog>>,
    /// Messages of guests that matter less are not logged.
    pub log_level: Severity,
    /// Outbound HTTP.
    pub http: Option<Arc<Outbound>>,
    /// Buckets, if any are granted.
    pub keyvalue: Option<Arc<keyvalue::Keyvalue>>,
    /// Looks up names.
    pub lookups: Option<Lookups>,
    /// Which sockets are of use.
    pub sockets: Arc<SocketGrant>,
    /// For sockets.
    pub socket_room: Arc<SocketRoom>,
}

impl Capabilities {
    /// Makes what `grants` names.
    pub fn new(grants: &Grants) -> Result<Self, LoadError> {
        let resolver = Arc::new(Resolver::new(grants.dns.clone()));
        let http = grants.http.clone();
        let keyvalue = grants.keyvalue.as_ref();
        let keyvalue = keyvalue.map(|grant| keyvalue::Keyvalue::new(grant, Arc::clone(&resolver)));
        let names = &grants.sockets.names;
        let lookups = (!names.is_empty()).then(|| Lookups {
            allowed: names.clone(),
            in_flight: Arc::new(Semaphore::new(lookup::IN_FLIGHT)),
            resolver: Arc::clone(&resolver),
        });
        Ok(Self {
            http: http.map(|grant| Arc::new(Outbound::new(grant, resolver))),
            environment: grants.environment.clone(),
            secrets: grants.secrets.clone(),
            audit: grants.audit.clone(),
            log_level: grants.log_level,
            keyvalue: keyvalue.transpose()?.map(Arc::new),
            lookups,
            sockets: Arc::clone(&grants.sockets),
            socket_room: Arc::new(SocketRoom::new()),
        })
    }

    /// What a component has while it is tried out at start: nothing.
    pub fn none() -> Self {
        Self {
            environment: Vec::new(),
            secrets: None,
            audit: None,
            log_level: Severity::Info,
            http: None,
            keyvalue: None,
            lookups: None,
            sockets: Arc::default(),
            socket_room: Arc::new(SocketRoom::new()),
        }
    }
}

/// An interface of ours, and what has to be set for a component to import it.
struct Interface {
    /// Without a version.
    names: &'static [&'static str],
    settings: &'static str,
    is_granted: fn(&Grants) -> bool,
    link: fn(&mut Linker<State>) -> wasmtime::Result<()>,
}

const INTERFACES: &[Interface] = &[
    Interface {
        names: &["unit:wasm/secrets"],
        settings: "UNIT_WASM_SECRETS and UNIT_WASM_ALLOW_SECRETS",
        is_granted: |grants| grants.secrets.is_some(),
        link: link_secrets,
    },
    Interface {
        names: &["unit:wasm/audit-log"],
        settings: "UNIT_WASM_AUDIT_LOG",
        is_granted: |grants| grants.audit.is_some(),
        link: audit::link,
    },
    Interface {
        names: &[
            "wasi:keyvalue/store",
            "wasi:keyvalue/batch",
            "wasi:keyvalue/atomics",
        ],
        settings: "UNIT_WASM_KEYVALUE",
        is_granted: |grants| grants.keyvalue.is_some(),
        link: keyvalue::link,
    },
];

/// Adds the interfaces of `grants` to what a component of `world` may import,
/// beside WASI, which `linker` has already.
pub(crate) fn link(
    linker: &mut Linker<State>,
    world: World,
    grants: &Grants,
) -> wasmtime::Result<()> {
    for interface in INTERFACES.iter().filter(|i| (i.is_granted)(grants)) {
        (interface.link)(linker)?;
    }
    config::link(linker)?;
    logging::link(linker)?;
    outbound::link(linker)?;
    lookup::link(linker)?;
    sockets::link(linker)?;
    filesystem::link(linker)?;
    if world == World::Service {
        lookup::link_service(linker)?;
        sockets::link_service(linker)?;
        filesystem_service::link(linker)?;
    }
    Ok(())
}

/// The settings that would grant the import `name`, if it is an interface that
/// is not granted by `grants`.
pub(crate) fn missing_settings(name: &str, grants: &Grants) -> Option<&'static str> {
    let name = name.split('@').next().unwrap_or(name);
    INTERFACES
        .iter()
        .find(|i| i.names.contains(&name) && !(i.is_granted)(grants))
        .map(|interface| interface.settings)
}

#[derive(Clone, Debug, ComponentType, Lower)]
#[component(variant)]
enum SecretsError {
    #[component(name = "not-granted")]
    NotGranted,
}

fn link_secrets(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("unit:wasm/secrets@0.1.0")?;
    instance.func_wrap("get", |store, (name,): (String,)| {
        let hooks = &store.data().hooks;
        let secrets = hooks.capabilities.secrets.as_ref();
        let value = secrets.and_then(|secrets| secrets.get(&name));
        if value.is_none() {
            // Not quoted as Rust does it: it may be a value, which is to be found there.
            let text =
                format!("secret \"{name}\" refused: UNIT_WASM_ALLOW_SECRETS does not name it");
            hooks.asking.notice(Severity::Warn, &text);
        }
        Ok((value.map(str::to_owned).ok_or(SecretsError::NotGranted),))
    })?;
    instance.func_wrap("names", |store, ()| {
        let secrets = store.data().hooks.capabilities.secrets.as_ref();
        let names = secrets.into_iter().flat_map(Secrets::names);
        Ok((names.map(str::to_owned).collect::<Vec<_>>(),))
    })
}

/// Notices about one request that are logged.
const NOTICES: u32 = 50;
/// Bytes of one of them.
const NOTICE: usize = 1024;

/// One request, as its host calls see it.
pub(crate) struct Asking {
    /// Changes if one instance serves several requests.
    who: Mutex<RequestContext>,
    notices: AtomicU32,
    /// Sockets it has made, and those of all requests.
    pub sockets: AtomicU32,
    pub socket_room: Arc<SocketRoom>,
    /// Names it has looked up.
    pub lookups: AtomicU32,
    /// Outbound HTTP requests it has sent.
    pub http_requests: AtomicU32,
    /// Streams of files that it has open.
    pub file_streams: AtomicU32,
    /// Records it has put into the audit log.
    pub audit_records: AtomicU32,
    /// What it has done with buckets.
    pub keyvalue: keyvalue::Used,
}

impl Drop for Asking {
    fn drop(&mut self) {
        // They end with the request's store, which is dropped with this.
        self.socket_room.give_back(*self.sockets.get_mut());
    }
}

impl Asking {
    pub fn new(who: RequestContext, socket_room: Arc<SocketRoom>) -> Self {
        Self {
            who: Mutex::new(who),
            socket_room,
            sockets: AtomicU32::new(0),
            lookups: AtomicU32::new(0),
            http_requests: AtomicU32::new(0),
            audit_records: AtomicU32::new(0),
            file_streams: AtomicU32::new(0),
            keyvalue: keyvalue::Used::default(),
            notices: AtomicU32::new(0),
        }
    }

    /// A request of a process of its own.
    #[cfg(test)]
    pub fn alone(id: &str, log: Arc<dyn crate::output::GuestLog>) -> Self {
        let who = RequestContext::new(id, log);
        Self::new(who, Arc::new(SocketRoom::new()))
    }

    /// The request, for the log.
    pub fn who(&self) -> RequestContext {
        let who = self.who.lock();
        who.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A further request begins, for which counting starts anew. `sockets` have
    /// been left open by the ones before, if that is known.
    pub fn renew(&self, who: &RequestContext, sockets: Option<u32>) {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner) = who.clone();
        if let Some(sockets) = sockets {
            let made = self.sockets.load(Ordering::Relaxed);
            let left = sockets.min(made);
            self.sockets.store(left, Ordering::Relaxed);
            self.socket_room.give_back(made - left);
        }
        for counter in [
            &self.notices,
            &self.lookups,
            &self.http_requests,
            &self.audit_records,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.keyvalue.renew();
    }

    /// One of several requests in an instance has gone: what was counted for it is
    /// counted for another one from now on.
    pub fn hand_over(&self, gone: &Arc<Cost>, to: &Arc<Cost>) {
        let mut who = self.who.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&who.cost, gone) {
            who.cost = Arc::clone(to);
        }
    }

    /// Tells the operator something about this request, with control characters
    /// escaped and cut at a length. Equal texts are held back when there are
    /// too many, and all texts of one request after some.
    pub fn notice(&self, severity: Severity, text: &str) {
        let told = self.notices.fetch_add(1, Ordering::Relaxed);
        if told > NOTICES {
            // Far from ever beginning anew.
            self.notices.store(NOTICES + 1, Ordering::Relaxed);
            return;
        }
        let RequestContext { id, log, .. } = self.who();
        if told == NOTICES {
            let text = "further notices about this request are not logged";
            return log.notice(&id, Severity::Warn, text);
        }
        let shown = text.floor_char_boundary(NOTICE);
        let text = shown_text(text.as_bytes(), shown, shown < text.len());
        log.notice(&id, severity, &text);
    }

    /// Counts one more in `counter`. False if there have been `limit` already.
    pub fn count(counter: &AtomicU32, limit: u32) -> bool {
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then(|| n + 1)
            })
            .is_ok()
    }
}
