//! Settings of what an operator can see, and of what happens when it looks bad.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use nxt_wasm_runtime::CoredumpGrant;

use super::keys::{Apply, Setting};
use super::{BreakerSettings, Settings};
use crate::units;

/// What is set of core dumps. [`Settings::read`] leaves it out again if there is no
/// directory for them.
fn coredumps(settings: &mut Settings) -> &mut CoredumpGrant {
    settings.grants.coredumps.get_or_insert_default()
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "UNIT_WASM_METRICS",
        form: "an address, or off: 127.0.0.1:9464, [::1]:9464",
        apply: Apply::Value(|s, v| {
            s.metrics = match v {
                "off" => None,
                _ => Some(v.parse().ok().filter(|addr: &SocketAddr| addr.port() > 0)?),
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_COST_LOG",
        form: "on or off",
        apply: Apply::Value(|s, v| {
            s.cost_log = on_or_off(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_COST_HEADER",
        form: "the name of a header field, for example x-wasm-cost",
        apply: Apply::Value(|s, v| {
            let name = HeaderName::try_from(v).ok()?;
            // What responses are made of is not for overwriting.
            s.cost_header = Some(Some(name).filter(|name| name.as_str().starts_with("x-"))?);
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_TRACE",
        form: "on or off",
        apply: Apply::Value(|s, v| {
            s.trace = on_or_off(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_BREAKER",
        form: "failures/requests and a duration, for example 20/100 30s, or off",
        apply: Apply::Value(|s, v| {
            s.breaker = match v {
                "off" => None,
                _ => Some(breaker(v)?),
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_COREDUMP",
        form: "the absolute path of a directory",
        apply: Apply::Value(|s, v| {
            coredumps(s).directory = Some(PathBuf::from(v)).filter(|p| p.is_absolute())?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_COREDUMP_COUNT",
        form: "a number from 1 to 1000",
        apply: Apply::Value(|s, v| {
            coredumps(s).count = v.parse().ok().filter(|n| (1..=1000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_COREDUMP_SIZE",
        form: "a size in bytes with an optional unit, for example 64MiB",
        apply: Apply::Value(|s, v| {
            coredumps(s).size = units::size(v)?;
            Some(())
        }),
    },
];

fn on_or_off(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// `20/100 30s`
fn breaker(value: &str) -> Option<BreakerSettings> {
    let (share, pause) = value.split_once(char::is_whitespace)?;
    let (failures, window) = share.split_once('/')?;
    let number = |text: &str| text.parse().ok().filter(|n| (1..=10_000).contains(n));
    let breaker = BreakerSettings {
        failures: number(failures)?,
        window: number(window)?,
        pause: units::duration(pause.trim())?,
    };
    let shortest = Duration::from_millis(100);
    (breaker.failures <= breaker.window && breaker.pause >= shortest).then_some(breaker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakers() {
        let read = breaker("3/10  500ms").unwrap();
        assert_eq!((read.failures, read.window), (3, 10));
        assert_eq!(read.pause, Duration::from_millis(500));
        for bad in [
            "", "3", "3/10", "11/10 1s", "0/10 1s", "3/10 0s", "3/10 1ms", "a/b 1s", "-1/3 1s",
        ] {
            assert_eq!(breaker(bad), None, "{bad}");
        }
    }
}
