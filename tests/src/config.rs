//! Whole configurations.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::guests;
use crate::host::Host;

/// Applications, each behind a listener of its own, or what a file says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The applications.
    pub apps: Vec<App>,
    max_body_size: Option<u64>,
    access_log: Option<Value>,
    file: Option<Value>,
}

impl Config {
    /// A configuration with the host's usual limits.
    pub fn of(apps: impl IntoIterator<Item = App>) -> Self {
        Self {
            apps: apps.into_iter().collect(),
            max_body_size: None,
            access_log: None,
            file: None,
        }
    }

    /// The configuration in a file of the repository, such as that of an example,
    /// with parts of its strings replaced: where components and directories are,
    /// and peers. Its listeners get free addresses, and `127.0.0.1:PORT` in it is
    /// then the address of listener `*:PORT`.
    pub fn of_file(path: &str, replace: &[(&str, &str)]) -> Self {
        let text = fs::read_to_string(guests::root().join(path));
        let text = text.unwrap_or_else(|e| panic!("{path}: {e}"));
        for (from, _) in replace {
            assert!(text.contains(from), "{path} does not mention {from}");
        }
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let json = replaced(json, &|text| {
            replace
                .iter()
                .fold(text, |text, (from, to)| text.replace(from, to))
        });
        let applications = json["applications"].as_object().expect("applications");
        let component = |app: &Value| {
            let path = app.get("component").or_else(|| app.get("module"));
            path.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let apps = applications
            .iter()
            .map(|(name, app)| App::new(name, Path::new(&component(app))))
            .collect();
        Self {
            apps,
            max_body_size: None,
            access_log: None,
            file: Some(json),
        }
    }

    /// What [`Config::json`] needs addresses for: the names of the applications,
    /// or the listeners of the file.
    pub fn listeners(&self) -> Vec<String> {
        match &self.file {
            Some(json) => {
                let listeners = json["listeners"].as_object().expect("listeners");
                listeners.keys().cloned().collect()
            }
            None => self.apps.iter().map(|app| app.name.clone()).collect(),
        }
    }

    /// Raises the largest request body that the host takes.
    #[must_use]
    pub fn max_body_size(mut self, bytes: u64) -> Self {
        self.max_body_size = Some(bytes);
        self
    }

    /// Has Unit keep an access log.
    #[must_use]
    pub fn access_log(mut self, log: Value) -> Self {
        self.access_log = Some(log);
        self
    }

    /// The JSON, with the listeners at the given addresses.
    pub fn json(&self, host: &Host, cache: &Path, addrs: &BTreeMap<String, SocketAddr>) -> Value {
        if let Some(json) = &self.file {
            return of_file(json, cache, addrs);
        }
        let mut listeners = Map::new();
        let mut applications = Map::new();
        for app in &self.apps {
            let pass = format!("applications/{}", app.name);
            let addr = addrs[&app.name].to_string();
            listeners.insert(addr, json!({ "pass": pass }));
            applications.insert(app.name.clone(), app.json(host, cache));
        }
        // Without it, Unit answers chunked uploads with 411.
        let mut http = json!({ "chunked_transform": true });
        if let Some(bytes) = self.max_body_size {
            http["max_body_size"] = bytes.into();
        }
        let mut config = json!({
            "listeners": listeners,
            "applications": applications,
            "settings": { "http": http },
        });
        if let Some(log) = &self.access_log {
            config["access_log"] = log.clone();
        }
        config
    }
}

fn of_file(json: &Value, cache: &Path, addrs: &BTreeMap<String, SocketAddr>) -> Value {
    let mut json = json.clone();
    let applications = json["applications"].as_object_mut().expect("applications");
    for app in applications.values_mut() {
        let cache = cache.to_str().expect("a cache path in UTF-8");
        app["environment"]["UNIT_WASM_CACHE"] = cache.into();
    }
    replaced(json, &|text| match addrs.get(&text) {
        Some(addr) => addr.to_string(),
        None => addrs.iter().fold(text, |text, (listener, addr)| {
            let (_, port) = listener.rsplit_once(':').expect("a port");
            text.replace(&format!("127.0.0.1:{port}"), &addr.to_string())
        }),
    })
}

/// The same with every string, names of members included, put through `change`.
fn replaced(json: Value, change: &impl Fn(String) -> String) -> Value {
    match json {
        Value::String(text) => Value::String(change(text)),
        Value::Array(all) => all.into_iter().map(|one| replaced(one, change)).collect(),
        Value::Object(all) => all
            .into_iter()
            .map(|(name, one)| (change(name), replaced(one, change)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

impl From<App> for Config {
    fn from(app: App) -> Self {
        Self::of([app])
    }
}
