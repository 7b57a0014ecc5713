//! Application objects, as JSON: whatever stands in one, reading its settings
//! ends in settings that are within their bounds, or in an error for people.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nxt_wasm_settings::{Application, Cache, Settings, Value, units};

fuzz_target!(|text: &str| {
    sizes_and_durations(text);
    let Ok(json) = serde_json::from_str(text) else {
        return;
    };
    let application = Application {
        name: "fuzz".to_owned(),
        object: value(json),
        user: None,
        group: None,
        working_directory: None,
    };
    match Settings::read(&application, "component") {
        Ok(settings) => check(&settings, &application.object),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
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

fn check(settings: &Settings, object: &Value) {
    let limits = &settings.limits;
    assert!((64 << 10..=4 << 30).contains(&limits.memory));
    assert!((64 << 10..=64 << 20).contains(&limits.stack));
    assert!((1..=10_000).contains(&limits.concurrency));
    assert!((1..=64).contains(&settings.threads));
    assert_ne!(limits.fuel, Some(0));
    for duration in [
        limits.cpu_time,
        limits.timeout,
        settings.idle_timeout,
        settings.drain_timeout,
        settings.queue_timeout,
        settings.watchdog,
    ] {
        assert!(duration > Duration::ZERO && duration <= Duration::from_secs(86_400));
    }
    if let Cache::Directory(path) = &settings.cache {
        assert!(path.is_absolute());
    }
    if let Some(digest) = &settings.sha256 {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        assert!(digest.len() == 64 && digest.bytes().all(lower_hex));
    }
    assert!(!settings.component.as_os_str().is_empty());
    // A guest sees the environment that was configured for it, and no setting.
    let configured = match object.member("environment") {
        Some(Value::Object(members)) => members.as_slice(),
        _ => &[],
    };
    let own = configured
        .iter()
        .filter(|(key, _)| !key.starts_with("UNIT_WASM_"));
    let seen = settings.grants.environment.iter();
    assert!(own.eq_by_key_and_text(seen));
    // Nothing is granted that was not asked for.
    let asked = object.member("access").and_then(|a| a.member("filesystem"));
    let asked = match asked {
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    };
    assert_eq!(settings.grants.directories.len(), asked);
}

trait Pairs<'a>: Iterator<Item = &'a (String, Value)> + Sized {
    fn eq_by_key_and_text(self, other: impl Iterator<Item = &'a (String, String)>) -> bool {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let own = self.map(|(key, value)| (key.clone(), text(value)));
        own.eq(other.map(|(key, value)| (key.clone(), Some(value.clone()))))
    }
}

impl<'a, I: Iterator<Item = &'a (String, Value)>> Pairs<'a> for I {}

/// What has been read is what was written.
fn sizes_and_durations(text: &str) {
    if let Some(size) = units::size(text) {
        assert_eq!(units::size(&size.to_string()), Some(size));
    }
    if let Some(duration) = units::duration(text) {
        assert!(duration > Duration::ZERO && duration <= Duration::from_secs(86_400));
        let again = format!("{}ms", duration.as_millis());
        assert_eq!(units::duration(&again), Some(duration));
    }
}
