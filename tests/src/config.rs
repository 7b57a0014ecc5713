//! Whole configurations.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::host::ModuleType;

/// Applications, each behind a listener of its own.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The applications.
    pub apps: Vec<App>,
    max_body_size: Option<u64>,
}

impl Config {
    /// A configuration with the host's usual limits.
    pub fn of(apps: impl IntoIterator<Item = App>) -> Self {
        Self {
            apps: apps.into_iter().collect(),
            max_body_size: None,
        }
    }

    /// Raises the largest request body that the host takes.
    #[must_use]
    pub fn max_body_size(mut self, bytes: u64) -> Self {
        self.max_body_size = Some(bytes);
        self
    }

    /// The JSON, with the listeners at the given addresses.
    pub fn json(
        &self,
        module_type: ModuleType,
        cache: &Path,
        addrs: &BTreeMap<String, SocketAddr>,
    ) -> Value {
        let mut listeners = Map::new();
        let mut applications = Map::new();
        for app in &self.apps {
            let pass = format!("applications/{}", app.name);
            let addr = addrs[&app.name].to_string();
            listeners.insert(addr, json!({ "pass": pass }));
            applications.insert(app.name.clone(), app.json(module_type, cache));
        }
        // Without it, Unit answers chunked uploads with 411.
        let mut http = json!({ "chunked_transform": true });
        if let Some(bytes) = self.max_body_size {
            http["max_body_size"] = bytes.into();
        }
        json!({
            "listeners": listeners,
            "applications": applications,
            "settings": { "http": http },
        })
    }
}

impl From<App> for Config {
    fn from(app: App) -> Self {
        Self::of([app])
    }
}
