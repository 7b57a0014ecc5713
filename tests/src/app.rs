//! Applications as they stand in a configuration.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::guests;
use crate::host::{Host, ModuleType, Wasi};

/// One application object.
#[derive(Clone, Debug)]
pub struct App {
    /// Its name.
    pub name: String,
    /// The component it runs.
    pub component: PathBuf,
    /// Whether it is the lab guest, whose routes the harness may use.
    pub lab: bool,
    environment: Map<String, Value>,
    members: Map<String, Value>,
}

impl App {
    /// An application with a component of the test's own.
    pub fn new(name: &str, component: &Path) -> Self {
        Self {
            name: name.to_owned(),
            component: component.to_path_buf(),
            lab: false,
            environment: Map::new(),
            members: Map::new(),
        }
    }

    /// The lab guest, which does on request what guests do, of the version of WASI
    /// that the host is to be tested with.
    pub fn lab() -> Self {
        Self {
            lab: true,
            ..Self::new("lab", &guests::lab())
        }
    }

    /// The lab guest of WASI 0.3.
    pub fn lab3() -> Self {
        Self {
            lab: true,
            ..Self::new("lab", &guests::lab_for(Wasi::V03))
        }
    }

    /// The guest `caps-NAME`, which uses a group of capabilities.
    pub fn caps(name: &str) -> Self {
        Self::new(name, &guests::caps(name))
    }

    /// The example.
    pub fn hello() -> Self {
        Self::new("hello", &guests::hello())
    }

    /// Gives it another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds an environment variable or setting.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a member of the application object.
    #[must_use]
    pub fn member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Sets `processes`.
    #[must_use]
    pub fn processes(self, value: Value) -> Self {
        self.member("processes", value)
    }

    /// Sets `access.filesystem`.
    #[must_use]
    pub fn filesystem(self, value: Value) -> Self {
        self.member("access", json!({ "filesystem": value }))
    }

    /// The object as the configuration shape of `host`'s module has it.
    /// `cache` is the artifact directory unless the test set one itself.
    pub fn json(&self, host: &Host, cache: &Path) -> Value {
        let component = match self.component == guests::lab() {
            true => guests::lab_for(host.wasi),
            false => self.component.clone(),
        };
        let mut object = match host.module_type {
            ModuleType::Component => json!({
                "type": "wasm-wasi-component",
                "component": component,
            }),
            ModuleType::Wasm => json!({
                "type": "wasm",
                "module": component,
                "request_handler": "<unused>",
                "malloc_handler": "<unused>",
                "free_handler": "<unused>",
            }),
        };
        let mut environment = self.environment.clone();
        let cache = Value::from(cache.to_str().expect("a cache path in UTF-8"));
        environment.entry("UNIT_WASM_CACHE").or_insert(cache);
        object["environment"] = Value::Object(environment);
        for (name, value) in &self.members {
            object[name] = value.clone();
        }
        object
    }
}
