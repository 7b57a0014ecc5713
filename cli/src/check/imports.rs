//! Imports, and the settings that they take.

use nxt_wasm_runtime::imports;
use nxt_wasm_settings::{Settings, SettingsError};
use serde_json::{Value, json};

use crate::configuration::Configured;

/// Interfaces that are always there and, without a setting, refuse everything or are
/// empty: toolchains import them whether a program uses them or not. The beginnings of
/// their names, the first that fits.
const OPTIONAL: [(&str, &[&str]); 9] = [
    ("wasi:http/outgoing-handler@0.2", &["UNIT_WASM_ALLOW_HTTP"]),
    ("wasi:http/client@0.3", &["UNIT_WASM_ALLOW_HTTP"]),
    ("wasi:sockets/tcp", &["UNIT_WASM_ALLOW_TCP"]),
    ("wasi:sockets/udp", &["UNIT_WASM_ALLOW_UDP"]),
    (
        "wasi:sockets/types@0.3",
        &["UNIT_WASM_ALLOW_TCP", "UNIT_WASM_ALLOW_UDP"],
    ),
    ("wasi:sockets/ip-name-lookup", &["UNIT_WASM_ALLOW_DNS"]),
    ("wasi:filesystem/", &["access.filesystem"]),
    ("wasi:cli/environment", &["environment"]),
    ("wasi:config/", &["environment"]),
];

/// What the host has for an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is always there.
    Always,
    /// It is there if these are set.
    Takes(Vec<&'static str>),
    /// Another component has to give it.
    Compose,
    /// It is not there, or is another.
    Missing(String),
    /// The component could not be compiled, so that nobody knows.
    Unknown,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Import {
    /// Its full name.
    pub name: String,
    /// Whether it can be had.
    pub status: Status,
    /// Settings without which it is there, but of little use.
    pub optional: &'static [&'static str],
}

impl Import {
    /// The import called `name`. `unsatisfied` has what Wasmtime says of those that it
    /// found nothing for, if it was asked.
    pub fn new(name: &str, unsatisfied: Option<&[(String, String)]>) -> Self {
        let problem = unsatisfied
            .unwrap_or_default()
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, problem)| problem.clone());
        let status = match (imports::settings(name), problem) {
            _ if imports::is_handler(name) => Status::Compose,
            (_, Some(problem)) => Status::Missing(problem),
            (Some(settings), None) => Status::Takes(settings.split(" and ").collect()),
            (None, None) if unsatisfied.is_none() => Status::Unknown,
            (None, None) => Status::Always,
        };
        let optional = match status {
            Status::Always => OPTIONAL
                .iter()
                .find(|(begin, _)| name.starts_with(begin))
                .map_or(&[] as &[&str], |(_, settings)| settings),
            _ => &[],
        };
        Self {
            name: name.to_owned(),
            status,
            optional,
        }
    }

    /// Its name without the version, and the version.
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.name.split_once('@') {
            Some((interface, version)) => (interface, Some(version)),
            None => (&self.name, None),
        }
    }

    /// The settings that it cannot be had without.
    pub fn required(&self) -> &[&'static str] {
        match &self.status {
            Status::Takes(settings) => settings,
            _ => &[],
        }
    }

    /// As it stands in the report.
    pub fn json(&self) -> Value {
        let (interface, version) = self.parts();
        let (status, problem) = match &self.status {
            Status::Always => ("always", None),
            Status::Takes(_) => ("setting", None),
            Status::Compose => ("compose", None),
            Status::Missing(problem) => ("missing", Some(problem)),
            Status::Unknown => ("unknown", None),
        };
        json!({
            "name": self.name,
            "interface": interface,
            "version": version,
            "status": status,
            "required_settings": self.required(),
            "optional_settings": self.optional,
            "problem": problem,
        })
    }
}

/// Whether `setting` has effect in an application.
pub fn is_set(setting: &str, application: &Configured, settings: &Settings) -> bool {
    match setting {
        "access.filesystem" => !settings.grants.directories.is_empty(),
        "environment" => !settings.grants.environment.is_empty(),
        _ => application.has(setting),
    }
}

/// What the module says of an import without its settings.
pub fn not_granted(import: &Import, missing: &[&str]) -> String {
    format!(
        "it imports `{}`, which is not granted: that takes {}",
        import.name,
        missing.join(" and ")
    )
}

/// As the module words what is wrong with the value of a setting.
pub fn bad_value(key: &'static str, value: String, problem: String) -> SettingsError {
    SettingsError::Part {
        key,
        value,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_import_has_one_status() {
        let unsatisfied = [("wasi:http/types@0.2.99".to_owned(), "gone".to_owned())];
        let status = |name: &str| Import::new(name, Some(&unsatisfied)).status;
        assert_eq!(status("wasi:cli/environment@0.2.0"), Status::Always);
        assert_eq!(
            status("unit:wasm/secrets@0.1.0"),
            Status::Takes(vec!["UNIT_WASM_SECRETS", "UNIT_WASM_ALLOW_SECRETS"])
        );
        assert_eq!(status("wasi:http/handler@0.3.0"), Status::Compose);
        assert_eq!(
            status("wasi:http/types@0.2.99"),
            Status::Missing("gone".into())
        );
        let unknown = Import::new("wasi:cli/environment@0.2.0", None);
        assert_eq!(unknown.status, Status::Unknown);
        let client = Import::new("wasi:http/outgoing-handler@0.2.3", Some(&[]));
        assert_eq!(client.optional, ["UNIT_WASM_ALLOW_HTTP"]);
        assert_eq!(client.parts().1, Some("0.2.3"));
    }
}
