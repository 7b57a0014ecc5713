//! Checking a configuration as Unit does, for the parts that the stand-in
//! has. Messages are in the style of Unit's.

use serde_json::{Map, Value};

use crate::module::{self, Module};
use crate::router::listener;

type Checked = Result<(), String>;

/// Types a member may have.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Flag,
    Integer,
    List,
    Members,
    IntegerOrMembers,
    ListOrMembers,
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        let integer = value.is_i64() || value.is_u64();
        match self {
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Integer => integer,
            Self::List => value.is_array(),
            Self::Members => value.is_object(),
            Self::IntegerOrMembers => integer || value.is_object(),
            Self::ListOrMembers => value.is_array() || value.is_object(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Flag => "a boolean",
            Self::Integer => "an integer number",
            Self::List => "an array",
            Self::Members => "an object",
            Self::IntegerOrMembers => "either an integer number or an object",
            Self::ListOrMembers => "either an array or an object",
        }
    }
}

fn type_text(value: &Value) -> &'static str {
    match value {
        Value::Null => "a null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fractional number",
        Value::Number(_) => "an integer number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn expect(name: &str, value: &Value, wanted: Type) -> Checked {
    if wanted.fits(value) {
        return Ok(());
    }
    let (wanted, found) = (wanted.text(), type_text(value));
    Err(format!(
        "The \"{name}\" value must be {wanted}, but not {found}."
    ))
}

type Members = [(&'static str, Type)];

const ROOT: &Members = &[
    ("settings", Type::Members),
    ("listeners", Type::Members),
    ("routes", Type::ListOrMembers),
    ("applications", Type::Members),
];
const SETTINGS: &Members = &[("listen_threads", Type::Integer), ("http", Type::Members)];
const HTTP: &Members = &[
    ("header_read_timeout", Type::Integer),
    ("body_read_timeout", Type::Integer),
    ("send_timeout", Type::Integer),
    ("idle_timeout", Type::Integer),
    ("body_buffer_size", Type::Integer),
    ("max_body_size", Type::Integer),
    ("body_temp_path", Type::Text),
    ("discard_unsafe_fields", Type::Flag),
    ("chunked_transform", Type::Flag),
    ("server_version", Type::Flag),
    ("log_route", Type::Flag),
];
const LISTENER: &Members = &[
    ("pass", Type::Text),
    ("application", Type::Text),
    ("backlog", Type::Integer),
];
const STEP: &Members = &[("match", Type::Members), ("action", Type::Members)];
const ACTION: &Members = &[
    ("pass", Type::Text),
    ("return", Type::Integer),
    ("location", Type::Text),
];
const COMMON: &Members = &[
    ("type", Type::Text),
    ("limits", Type::Members),
    ("processes", Type::IntegerOrMembers),
    ("user", Type::Text),
    ("group", Type::Text),
    ("working_directory", Type::Text),
    ("environment", Type::Members),
    ("isolation", Type::Members),
    ("stdout", Type::Text),
    ("stderr", Type::Text),
    ("access", Type::Members),
];
const COMPONENT: &Members = &[("component", Type::Text)];
const WASM: &Members = &[
    ("module", Type::Text),
    ("request_handler", Type::Text),
    ("malloc_handler", Type::Text),
    ("free_handler", Type::Text),
    ("module_init_handler", Type::Text),
    ("module_end_handler", Type::Text),
    ("request_init_handler", Type::Text),
    ("request_end_handler", Type::Text),
    ("response_end_handler", Type::Text),
];
const WASM_REQUIRED: &[&str] = &[
    "module",
    "request_handler",
    "malloc_handler",
    "free_handler",
];
const LIMITS: &Members = &[
    ("timeout", Type::Integer),
    ("requests", Type::Integer),
    ("shm", Type::Integer),
];
const PROCESSES: &Members = &[
    ("spare", Type::Integer),
    ("max", Type::Integer),
    ("idle_timeout", Type::Integer),
];
const ACCESS: &Members = &[("filesystem", Type::List)];

fn check_members(members: &Map<String, Value>, known: &[&Members]) -> Checked {
    for (name, value) in members {
        let found = known
            .iter()
            .flat_map(|known| known.iter())
            .find(|(other, _)| other == name);
        match found {
            Some((_, wanted)) => expect(name, value, *wanted)?,
            None => return Err(format!("Unknown parameter \"{name}\".")),
        }
    }
    Ok(())
}

fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, String> {
    expect(name, value, Type::Members)?;
    value.as_object().ok_or_else(String::new)
}

/// The member, if there is one, as an object with only known members.
fn part<'a>(
    members: &'a Map<String, Value>,
    name: &str,
    known: &Members,
) -> Result<Option<&'a Map<String, Value>>, String> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let found = object(name, value)?;
    check_members(found, &[known])?;
    Ok(Some(found))
}

/// Checks a whole configuration.
pub fn validate(config: &Value, modules: &[Module]) -> Checked {
    let Some(root) = config.as_object() else {
        let found = type_text(config);
        return Err(format!(
            "The configuration must be an object, but not {found}."
        ));
    };
    check_members(root, &[ROOT])?;
    if let Some(settings) = part(root, "settings", SETTINGS)? {
        part(settings, "http", HTTP)?;
    }
    let each = |name: &str| {
        root.get(name)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::iter)
    };
    for (name, value) in each("applications") {
        application(object(name, value)?, modules)?;
    }
    for (name, value) in each("listeners") {
        check_listener(name, object(name, value)?, root)?;
    }
    match root.get("routes") {
        Some(Value::Array(steps)) => routes(steps, root),
        Some(Value::Object(named)) => named.iter().try_for_each(|(name, value)| {
            expect(name, value, Type::List)?;
            routes(value.as_array().map_or(&[], Vec::as_slice), root)
        }),
        _ => Ok(()),
    }
}

fn check_listener(name: &str, members: &Map<String, Value>, root: &Map<String, Value>) -> Checked {
    let address = listener::address(name);
    if address.parse::<std::net::SocketAddr>().is_err() {
        return Err(format!("The listener address \"{name}\" is invalid."));
    }
    check_members(members, &[LISTENER])?;
    if let Some(pass) = members.get("pass").and_then(Value::as_str) {
        check_pass(pass, root)?;
    }
    if let Some(name) = members.get("application").and_then(Value::as_str) {
        check_pass(&format!("applications/{name}"), root)?;
    }
    Ok(())
}

fn check_pass(pass: &str, root: &Map<String, Value>) -> Checked {
    let exists = match pass.split_once('/') {
        None => pass == "routes" && root.get("routes").is_some_and(Value::is_array),
        Some((group @ ("applications" | "routes"), name)) => root
            .get(group)
            .and_then(Value::as_object)
            .is_some_and(|members| members.contains_key(name)),
        Some(_) => false,
    };
    if exists {
        Ok(())
    } else {
        Err(format!(
            "Request \"pass\" points to invalid location \"{pass}\"."
        ))
    }
}

fn routes(steps: &[Value], root: &Map<String, Value>) -> Checked {
    for step in steps {
        let members = object("routes", step)?;
        check_members(members, &[STEP])?;
        if let Some(conditions) = members.get("match").and_then(Value::as_object) {
            for (name, patterns) in conditions {
                check_patterns(name, patterns)?;
            }
        }
        let Some(action) = part(members, "action", ACTION)? else {
            return Err("Required parameter \"action\" is missing.".into());
        };
        match (
            action.get("pass").and_then(Value::as_str),
            action.get("return"),
        ) {
            (Some(pass), None) => check_pass(pass, root)?,
            (None, Some(status)) if status.as_u64().is_some_and(|status| status <= 999) => {}
            (None, Some(_)) => return Err("The \"return\" value is out of range 0-999.".into()),
            _ => return Err("An action must have either \"pass\" or \"return\".".into()),
        }
    }
    Ok(())
}

fn check_patterns(name: &str, patterns: &Value) -> Checked {
    if !["uri", "method", "host"].contains(&name) {
        return Err(format!("Unknown parameter \"{name}\"."));
    }
    let good = match patterns {
        Value::Array(patterns) => patterns.iter().all(Value::is_string),
        pattern => pattern.is_string(),
    };
    good.then_some(())
        .ok_or_else(|| format!("The \"match\" patterns for \"{name}\" must be strings."))
}

fn application(members: &Map<String, Value>, modules: &[Module]) -> Checked {
    let Some(kind) = members.get("type") else {
        return Err("Application must have the \"type\" property set.".into());
    };
    expect("type", kind, Type::Text)?;
    let kind = kind.as_str().unwrap_or_default();
    let Some(module) = module::find(modules, kind) else {
        return Err(format!(
            "The module to run \"{kind}\" is not found among the available application modules."
        ));
    };
    let (own, required): (&Members, &[&str]) = match module.kind.as_str() {
        "wasm" => (WASM, WASM_REQUIRED),
        _ => (COMPONENT, &["component"]),
    };
    for name in required {
        if !members.contains_key(*name) {
            return Err(format!("Required parameter \"{name}\" is missing."));
        }
    }
    check_members(members, &[own, COMMON])?;
    part(members, "limits", LIMITS)?;
    part(members, "access", ACCESS)?;
    if members.get("processes").is_some_and(Value::is_object) {
        part(members, "processes", PROCESSES)?;
    }
    processes(members.get("processes"))?;
    match members.get("environment").and_then(Value::as_object) {
        Some(variables) => environment(variables),
        None => Ok(()),
    }
}

fn processes(value: Option<&Value>) -> Checked {
    let within = |name: &str, number: i64, least: i64| {
        if number < least {
            Err(format!("The \"{name}\" number must be at least {least}."))
        } else if number > i64::from(i32::MAX) {
            Err(format!(
                "The \"{name}\" number must not exceed {}.",
                i32::MAX
            ))
        } else {
            Ok(())
        }
    };
    let Some(value) = value else { return Ok(()) };
    let Some(members) = value.as_object() else {
        return within("processes", value.as_i64().unwrap_or(i64::MAX), 1);
    };
    let member = |name: &str, default| members.get(name).map_or(Some(default), Value::as_i64);
    let number = |name: &str, default| member(name, default).unwrap_or(i64::MAX);
    let (spare, max) = (number("spare", 0), number("max", 1));
    within("spare", spare, 0)?;
    within("max", max, 1)?;
    within("idle_timeout", number("idle_timeout", 15), 0)?;
    if max < spare {
        return Err("The \"spare\" number must be less than or equal to \"max\".".into());
    }
    Ok(())
}

fn environment(variables: &Map<String, Value>) -> Checked {
    for (name, value) in variables {
        if name.is_empty() {
            return Err("The environment name must not be empty.".into());
        }
        if name.contains(['\0', '=']) {
            return Err("The environment name must not contain '=' or null.".into());
        }
        let Some(value) = value.as_str() else {
            return Err(format!(
                "The \"{name}\" environment value must be a string."
            ));
        };
        if value.contains('\0') {
            return Err(format!(
                "The \"{name}\" environment value must not contain null."
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(app: Value) -> Checked {
        let kinds = ["wasm-wasi-component", "wasm"];
        let modules = kinds.map(|kind| Module {
            kind: kind.into(),
            version: "48.0.1".into(),
            file: "/m".into(),
        });
        let config = json!({
            "listeners": {"*:8080": {"pass": "applications/a"}},
            "applications": {"a": app},
        });
        validate(&config, &modules)
    }

    #[test]
    fn what_unit_accepts_is_accepted() {
        let app = json!({
            "type": "wasm-wasi-component 48",
            "component": "/c.wasm",
            "access": {"filesystem": ["/tmp", {"host": "/a"}, 7]},
            "processes": {"max": 3, "spare": 0, "idle_timeout": 1},
            "limits": {"timeout": 1, "requests": 2, "shm": 3},
            "environment": {"A": "b"},
            "working_directory": "/", "user": "u", "group": "g",
            "isolation": {"namespaces": {}}, "stdout": "o", "stderr": "e",
        });
        assert_eq!(checked(app), Ok(()));
        let app = json!({
            "type": "wasm", "module": "m", "request_handler": "r",
            "malloc_handler": "m", "free_handler": "f", "processes": 2,
        });
        assert_eq!(checked(app), Ok(()));
    }

    #[test]
    fn mistakes_are_named() {
        let base = json!({"type": "wasm-wasi-component", "component": "c"});
        for (name, value, expected) in [
            ("component", json!(1), "component"),
            ("type", json!("php"), "php"),
            ("typo", json!(1), "Unknown parameter \"typo\""),
            ("limits", json!({"cpu": 1}), "cpu"),
            ("limits", json!({"shm": 1.5}), "fractional"),
            ("processes", json!(0), "processes"),
            ("processes", json!({"max": 1, "spare": 2}), "spare"),
            ("processes", json!("x"), "either"),
            ("environment", json!({"A": 1}), "\"A\""),
            ("environment", json!({"A=B": ""}), "'='"),
            ("access", json!({"filesystem": {}}), "filesystem"),
            ("access", json!({"network": []}), "network"),
        ] {
            let mut app = base.clone();
            app[name] = value;
            let error = checked(app).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let missing = checked(json!({"type": "wasm-wasi-component"})).unwrap_err();
        assert!(missing.contains("component"));
    }

    #[test]
    fn listeners_lead_somewhere() {
        for (listeners, expected) in [
            (
                json!({"*:1": {"pass": "applications/none"}}),
                "applications/none",
            ),
            (json!({"*:1": {"pass": "routes"}}), "routes"),
            (json!({"here": {}}), "\"here\""),
            (json!({"*:1": {"tls": {}}}), "tls"),
        ] {
            let error = validate(&json!({"listeners": listeners}), &[]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let routes = json!([{"action": {"return": 204}}]);
        let config = json!({"listeners": {"[::1]:1": {"pass": "routes"}}, "routes": routes});
        assert_eq!(validate(&config, &[]), Ok(()));
    }
}
