//! What requests are answered from: one applied configuration.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::app::App;

/// An applied configuration and its applications.
pub struct Site {
    /// As it was put.
    pub config: Value,
    /// By name.
    pub apps: HashMap<String, Rc<App>>,
    /// `settings.http`.
    pub http: Http,
}

impl Default for Site {
    fn default() -> Self {
        let config = json!({"listeners": {}, "routes": [], "applications": {}});
        Self {
            http: Http::of(&config),
            config,
            apps: HashMap::new(),
        }
    }
}

/// Limits of the HTTP front.
pub struct Http {
    /// `max_body_size`.
    pub max_body_size: u64,
    /// `body_buffer_size`.
    pub body_buffer_size: u64,
    /// `header_read_timeout`.
    pub header_read_timeout: Duration,
    /// `body_read_timeout`.
    pub body_read_timeout: Duration,
    /// `send_timeout`.
    pub send_timeout: Duration,
    /// `idle_timeout`.
    pub idle_timeout: Duration,
    /// The opposite of `discard_unsafe_fields`.
    pub keep_unsafe_fields: bool,
    /// `chunked_transform`.
    pub chunked: bool,
}

/// What is read into memory travels in one message, which is limited.
const MOST_IN_MEMORY: u64 = 64 << 10;

impl Http {
    /// From a validated configuration.
    pub fn of(config: &Value) -> Self {
        let member = |name: &str| config.pointer(&format!("/settings/http/{name}"));
        let number = |name: &str, default| member(name).and_then(Value::as_u64).unwrap_or(default);
        let seconds = |name: &str, default| Duration::from_secs(number(name, default));
        let flag = |name: &str| member(name).and_then(Value::as_bool);
        Self {
            max_body_size: number("max_body_size", 8 << 20),
            body_buffer_size: number("body_buffer_size", 16 << 10).min(MOST_IN_MEMORY),
            header_read_timeout: seconds("header_read_timeout", 30),
            body_read_timeout: seconds("body_read_timeout", 30),
            send_timeout: seconds("send_timeout", 30),
            idle_timeout: seconds("idle_timeout", 180),
            keep_unsafe_fields: flag("discard_unsafe_fields") == Some(false),
            chunked: flag("chunked_transform").unwrap_or(false),
        }
    }
}

/// Who answers a request.
pub enum Target {
    /// An application.
    App(Rc<App>),
    /// The router: status and `Location`.
    Return(u16, Option<String>),
}

/// The parts of a request that routes look at.
pub struct Routed<'a> {
    /// Decoded.
    pub path: &'a [u8],
    /// As sent.
    pub method: &'a [u8],
    /// Lower-case.
    pub host: &'a [u8],
}

impl Site {
    /// Finds out who answers on that listener.
    pub fn resolve(&self, listener: &str, request: &Routed<'_>) -> Target {
        let pass = self.config.get("listeners").and_then(|all| {
            let listener = all.get(listener)?;
            let pass = listener.get("pass").and_then(Value::as_str);
            let old = listener.get("application").and_then(Value::as_str);
            pass.map(str::to_owned)
                .or_else(|| old.map(|name| format!("applications/{name}")))
        });
        self.follow(pass.as_deref().unwrap_or_default(), request, 0)
    }

    fn follow(&self, pass: &str, request: &Routed<'_>, depth: usize) -> Target {
        const DEPTH: usize = 16;
        if let Some(name) = pass.strip_prefix("applications/") {
            return match self.apps.get(name) {
                Some(app) => Target::App(Rc::clone(app)),
                None => Target::Return(503, None),
            };
        }
        let routes = self.config.get("routes");
        let steps = match pass.strip_prefix("routes/") {
            Some(name) => routes.and_then(|routes| routes.get(name)),
            None => routes,
        };
        let matching = steps.and_then(Value::as_array).and_then(|steps| {
            steps.iter().find(|step| {
                step.get("match")
                    .is_none_or(|conditions| matches(conditions, request))
            })
        });
        let Some(action) = matching.and_then(|step| step.get("action")) else {
            return Target::Return(404, None);
        };
        if let Some(status) = action.get("return").and_then(Value::as_u64) {
            let location = action.get("location").and_then(Value::as_str);
            return Target::Return(status as u16, location.map(str::to_owned));
        }
        match action.get("pass").and_then(Value::as_str) {
            Some(pass) if depth < DEPTH => self.follow(pass, request, depth + 1),
            _ => Target::Return(500, None),
        }
    }
}

fn matches(conditions: &Value, request: &Routed<'_>) -> bool {
    let Some(conditions) = conditions.as_object() else {
        return false;
    };
    conditions.iter().all(|(name, patterns)| {
        let text = match name.as_str() {
            "uri" => request.path,
            "method" => request.method,
            "host" => request.host,
            _ => return false,
        };
        match patterns {
            Value::String(pattern) => fits(pattern, text),
            Value::Array(patterns) => any_fits(patterns, text),
            _ => false,
        }
    })
}

/// One of the plain patterns must fit, and none of the negated ones.
fn any_fits(patterns: &[Value], text: &[u8]) -> bool {
    let (negated, plain): (Vec<&str>, Vec<&str>) = patterns
        .iter()
        .filter_map(Value::as_str)
        .partition(|pattern| pattern.starts_with('!'));
    negated.iter().all(|pattern| fits(pattern, text))
        && (plain.is_empty() || plain.iter().any(|pattern| fits(pattern, text)))
}

fn fits(pattern: &str, text: &[u8]) -> bool {
    if let Some(pattern) = pattern.strip_prefix('!') {
        return !fits(pattern, text);
    }
    let mut parts = pattern.as_bytes().split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&[u8]> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let found = (0..=rest.len()).find_map(|at| rest.get(at..)?.strip_prefix(part));
        match found {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_stars_and_negation() {
        for (pattern, text, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/ab", true),
            ("*.php", "/x.php", true),
            ("/a*/c", "/a/b/c", true),
            ("/a*b*c", "/axxc", false),
            ("/aa*a", "/aa", false),
            ("!/a*", "/ab", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn routes_are_tried_in_order() {
        let config = json!({
            "listeners": {"*:1": {"pass": "routes"}, "*:2": {"pass": "routes/named"}},
            "routes": [
                {"match": {"uri": "/old/*"}, "action": {"return": 301, "location": "/new"}},
                {"match": {"uri": ["/a", "/b"], "method": "GET"}, "action": {"return": 200}},
            ],
        });
        let site = Site {
            http: Http::of(&config),
            config,
            apps: HashMap::new(),
        };
        let status = |listener, path: &str| {
            let (path, method, host) = (path.as_bytes(), &b"GET"[..], &b"h"[..]);
            match site.resolve(listener, &Routed { path, method, host }) {
                Target::Return(status, _) => status,
                Target::App(_) => 0,
            }
        };
        assert_eq!(status("*:1", "/old/x"), 301);
        assert_eq!(status("*:1", "/b"), 200);
        assert_eq!(status("*:1", "/c"), 404);
        assert_eq!(status("*:2", "/c"), 404);
    }
}
