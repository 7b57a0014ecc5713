//! What an application's object asks for.

use std::time::Duration;

use serde_json::Value;

use crate::sys::shared::MAX_CHUNKS;

/// What an application object says about processes and limits.
pub struct Terms {
    /// `processes.max`.
    pub max: usize,
    /// `processes.spare`.
    pub spare: usize,
    /// `processes.idle_timeout`.
    pub idle_timeout: Duration,
    /// `limits.timeout`.
    pub timeout: Option<Duration>,
    /// `limits.requests`.
    pub requests: u32,
    /// `limits.shm`, in chunks.
    pub window: u64,
}

impl Terms {
    /// From a validated object.
    pub fn of(object: &Value) -> Self {
        const SEGMENT: u64 = 10 << 20;
        const CHUNKS: u64 = SEGMENT / (16 << 10);
        let limit = |name: &str| object.pointer(&format!("/limits/{name}"))?.as_u64();
        let (max, spare, idle) = match object.get("processes") {
            Some(Value::Object(members)) => {
                let member = |name: &str, default| {
                    members.get(name).and_then(Value::as_u64).unwrap_or(default)
                };
                (
                    member("max", 1),
                    member("spare", 0),
                    member("idle_timeout", 15),
                )
            }
            Some(number) => {
                let number = number.as_u64().unwrap_or(1);
                (number, number, 15)
            }
            None => (1, 1, 15),
        };
        let shm = limit("shm").unwrap_or(100 << 20);
        Self {
            max: max as usize,
            spare: spare as usize,
            idle_timeout: Duration::from_secs(idle),
            timeout: limit("timeout")
                .filter(|seconds| *seconds != 0)
                .map(Duration::from_secs),
            requests: limit("requests").unwrap_or(0) as u32,
            window: (shm.div_ceil(SEGMENT).max(1) * CHUNKS).min(MAX_CHUNKS as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_have_the_defaults_of_unit() {
        let terms = Terms::of(&json!({}));
        assert_eq!((terms.max, terms.spare, terms.window), (1, 1, 6400));
        let terms = Terms::of(&json!({"processes": 3}));
        assert_eq!((terms.max, terms.spare), (3, 3));
        let object = json!({"processes": {"max": 2}, "limits": {"timeout": 1, "shm": 1}});
        let terms = Terms::of(&object);
        assert_eq!((terms.max, terms.spare, terms.window), (2, 0, 640));
        assert_eq!(terms.timeout, Some(Duration::from_secs(1)));
        assert_eq!(terms.idle_timeout, Duration::from_secs(15));
    }
}
