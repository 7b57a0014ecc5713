//! An application of a Unit configuration, from a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nxt_wasm_settings::{Application, Settings, SettingsError, Value};
use serde_json::Value as Json;

/// Bytes of the largest configuration.
const LARGEST: u64 = 16 << 20;

/// Where the settings of an application are.
#[derive(Debug, Default, clap::Args)]
#[group(id = "configuration")]
pub struct Args {
    /// JSON file: an application object, or a whole configuration of Unit
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Application of that configuration; not needed if it has only one
    #[arg(long, value_name = "APP", requires = "config")]
    name: Option<String>,
}

/// Why no application can be found in a file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The operating system refused something.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// It is not JSON.
    #[error("{path} is not JSON: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        error: serde_json::Error,
    },
    /// Something else is wrong with it.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// An application that can be served, if its settings are right.
#[derive(Debug)]
pub struct Configured {
    application: Application,
    /// Names the component's file.
    member: &'static str,
}

impl Args {
    /// The application that is meant, if one is.
    pub fn load(&self) -> Result<Option<Configured>, ConfigurationError> {
        let Some(path) = &self.config else {
            return Ok(None);
        };
        let text = read(path).map_err(|error| ConfigurationError::Io {
            path: path.clone(),
            error,
        })?;
        let json = serde_json::from_str(&text).map_err(|error| ConfigurationError::Json {
            path: path.clone(),
            error,
        })?;
        find(json, self.name.as_deref())
            .map(Some)
            .map_err(|problem| ConfigurationError::Content {
                path: path.clone(),
                problem,
            })
    }
}

impl Configured {
    /// What an application has that configures nothing but its component.
    pub fn plain(component: &Path) -> Self {
        let path = component.display().to_string();
        let member = ("component".to_owned(), Value::String(path));
        Self {
            application: application("application", Value::Object(vec![member])),
            member: "component",
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.application.name
    }

    /// Its settings, as the module reads them.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::read(&self.application, self.member)
    }

    /// Whether it has the member `access.filesystem`, or a key of `environment`
    /// of this name.
    pub fn has(&self, setting: &str) -> bool {
        let object = &self.application.object;
        let (member, name) = setting.split_once('.').unwrap_or(("environment", setting));
        let member = object.member(member);
        member.is_some_and(|member| member.member(name).is_some())
    }

    /// Where its processes run, if that is configured.
    pub fn working_directory(&self) -> Option<&Path> {
        self.application.working_directory.as_deref()
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mut text = String::new();
    let size = file.take(LARGEST + 1).read_to_string(&mut text)?;
    if size as u64 > LARGEST {
        let problem = format!("it has more than {LARGEST} bytes");
        return Err(io::Error::other(problem));
    }
    Ok(text)
}

/// The application called `name` in what is an application, a configuration, or
/// what Unit's control socket answers.
fn find(json: Json, name: Option<&str>) -> Result<Configured, String> {
    let Json::Object(mut members) = json else {
        return Err("an object is needed: an application, or a configuration".to_owned());
    };
    if let Some(config) = members.remove("config") {
        return find(config, name);
    }
    let applications = match members.remove("applications") {
        Some(Json::Object(applications)) => applications,
        Some(_) => return Err("applications is not an object".to_owned()),
        None => return configured(name.unwrap_or("application"), Json::Object(members)),
    };
    let of_ours = || applications.iter().filter(|(_, app)| member(app).is_some());
    let (name, object) = match name {
        Some(name) => applications
            .get_key_value(name)
            .ok_or_else(|| format!("there is no application {name:?}"))?,
        None => {
            let mut all = of_ours();
            match (all.next(), all.next()) {
                (Some(one), None) => one,
                (None, _) => {
                    return Err(
                        "there is no application of type wasm-wasi-component or wasm".into(),
                    );
                }
                _ => {
                    let names: Vec<&str> = of_ours().map(|(name, _)| name.as_str()).collect();
                    return Err(format!("--name is needed, one of: {}", names.join(", ")));
                }
            }
        }
    };
    configured(name, object.clone())
}

/// The member that names the component's file, by the type of the application.
fn member(application: &Json) -> Option<&'static str> {
    // A version may follow.
    match application.get("type")?.as_str()?.split(' ').next()? {
        "wasm-wasi-component" => Some("component"),
        "wasm" => Some("module"),
        _ => None,
    }
}

/// The application called `name` with this object.
pub fn configured(name: &str, object: Json) -> Result<Configured, String> {
    let member = match (member(&object), object.get("type")) {
        (Some(member), _) => member,
        // As in examples that show a part of it.
        (None, None) if object.get("component").is_some() => "component",
        (None, None) => return Err("it is neither an application nor a configuration".into()),
        (None, Some(other)) => {
            return Err(format!(
                "application {name:?} is of type {other}, not wasm-wasi-component or wasm"
            ));
        }
    };
    Ok(Configured {
        application: application(name, value(object)),
        member,
    })
}

fn application(name: &str, object: Value) -> Application {
    let text = |member| match object.member(member) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    Application {
        name: name.to_owned(),
        user: text("user"),
        group: text("group"),
        working_directory: text("working_directory").map(PathBuf::from),
        object,
    }
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Boolean(flag),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(text),
        Json::Array(list) => Value::Array(list.into_iter().map(value).collect()),
        Json::Object(members) => {
            let own = |(name, json)| (name, value(json));
            Value::Object(members.into_iter().map(own).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(kind: &str) -> Json {
        let member = if kind == "wasm" {
            "module"
        } else {
            "component"
        };
        json!({ "type": kind, member: "/a.wasm", "environment": { "UNIT_WASM_FUEL": "5" } })
    }

    #[test]
    fn applications_are_found_where_they_are() {
        let component = app("wasm-wasi-component");
        let config = json!({ "applications": {
            "php": { "type": "php" }, "shop": app("wasm-wasi-component 48"), "x": app("wasm"),
        }});
        let one = json!({ "applications": { "php": { "type": "php" }, "one": app("wasm") } });
        for (json, name, found) in [
            (component, None, "application"),
            (config.clone(), Some("shop"), "shop"),
            (config.clone(), Some("x"), "x"),
            (json!({ "certificates": {}, "config": one }), None, "one"),
        ] {
            let configured = find(json, name).unwrap();
            assert_eq!(configured.name(), found);
            assert_eq!(configured.settings().unwrap().limits.fuel, Some(5));
            assert!(configured.has("UNIT_WASM_FUEL"));
            assert!(!configured.has("access.filesystem"));
        }
        for (json, name, problem) in [
            (config.clone(), None, "--name is needed, one of: shop, x"),
            (config.clone(), Some("y"), "there is no application \"y\""),
            (config, Some("php"), "of type \"php\", not"),
            (
                json!({ "applications": {} }),
                None,
                "there is no application of type",
            ),
            (json!({ "listeners": {} }), None, "neither an application"),
            (json!([]), None, "an object is needed"),
        ] {
            let error = find(json, name).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
