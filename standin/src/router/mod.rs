//! The main process: applications, their processes, and the configuration.
//! Everything runs on one thread.

pub mod app;
pub mod apply;
pub mod generation;
pub mod link;
pub mod listener;
pub mod process;
pub mod site;
pub mod terms;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::module::Module;
use crate::sys::shared::{FaultWords, Shared};

use listener::Listener;
use site::Site;

/// The state of the main process.
pub struct Router {
    /// What was found at start.
    pub modules: Vec<Module>,
    /// For request bodies.
    pub tmp: PathBuf,
    /// Where the configuration is kept.
    pub state: Option<PathBuf>,
    /// What requests are answered from.
    pub site: RefCell<Rc<Site>>,
    /// Open listeners by name.
    pub listeners: RefCell<HashMap<String, Listener>>,
    /// Faults by application.
    pub faults: RefCell<HashMap<String, Faults>>,
    /// Versions of applications that still have processes.
    pub leaving: RefCell<Vec<Rc<app::App>>>,
    /// One reconfiguration at a time.
    pub applying: tokio::sync::Mutex<()>,
    /// Counts for the status.
    pub counts: Counts,
}

/// Faults of one application.
pub struct Faults {
    /// As they were put.
    pub object: Value,
    /// As processes see them.
    pub words: Rc<Shared<FaultWords>>,
}

/// Counts since the start.
#[derive(Default)]
pub struct Counts {
    /// Requests.
    pub requests: Cell<u64>,
    /// Connections.
    pub accepted: Cell<u64>,
    /// Connections that ended.
    pub closed: Cell<u64>,
}

/// Adds one.
pub fn bump(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl Router {
    /// The words of an application's faults, which outlive its versions.
    pub fn fault_words(&self, name: &str) -> std::io::Result<Rc<Shared<FaultWords>>> {
        let mut faults = self.faults.borrow_mut();
        if let Some(known) = faults.get(name) {
            return Ok(Rc::clone(&known.words));
        }
        let words = Rc::new(Shared::create()?);
        let known = Faults {
            object: json!({}),
            words: Rc::clone(&words),
        };
        faults.insert(name.to_owned(), known);
        Ok(words)
    }

    /// Drops the empty faults of applications that do not exist.
    pub fn forget_faults(&self) {
        let site = self.site.borrow();
        let mut faults = self.faults.borrow_mut();
        faults.retain(|name, known| known.object != json!({}) || site.apps.contains_key(name));
    }

    /// What `GET /status` shows.
    pub fn status(&self) -> Value {
        let site = self.site.borrow();
        let applications: serde_json::Map<String, Value> = site
            .apps
            .iter()
            .map(|(name, app)| (name.clone(), app.status()))
            .collect();
        let modules: serde_json::Map<String, Value> = self
            .modules
            .iter()
            .map(|module| {
                let file = module.file.to_string_lossy();
                let shown = json!({"version": module.version, "lib": file});
                (module.kind.clone(), shown)
            })
            .collect();
        let (accepted, closed) = (self.counts.accepted.get(), self.counts.closed.get());
        json!({
            "modules": modules,
            "connections": {
                "accepted": accepted,
                "active": accepted - closed,
                "idle": 0,
                "closed": closed,
            },
            "requests": {"total": self.counts.requests.get()},
            "applications": applications,
        })
    }

    /// Called ten times a second.
    pub fn tick(&self) {
        for app in self.site.borrow().apps.values() {
            app.tick();
        }
        self.leaving.borrow_mut().retain(|app| !app.is_gone());
    }
}
