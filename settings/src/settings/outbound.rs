//! Settings of outbound HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nxt_wasm_runtime::HttpGrant;

use super::Settings;
use super::keys::{Apply, DURATION, Setting, entries};
use crate::units;

/// What is set so far. [`Settings::read`] leaves it out again if no host is
/// granted.
fn http(settings: &mut Settings) -> &mut HttpGrant {
    settings.grants.http.get_or_insert_default()
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "UNIT_WASM_ALLOW_HTTP",
        form: "hosts: https://api.example.com, *.example.com:8443, http://10.0.0.0/8:8080",
        apply: Apply::Parts(|s, v| {
            http(s).rules = entries(v)?;
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_CA",
        form: "the absolute path of a PEM file",
        apply: Apply::Value(|s, v| {
            s.files.http_ca = Some(Some(PathBuf::from(v)).filter(|p| p.is_absolute())?);
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_CONNECT_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            http(s).connect_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_FIRST_BYTE_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            http(s).first_byte_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_BETWEEN_BYTES_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            http(s).between_bytes_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_KEEP_ALIVE",
        form: "a duration, or off: 500ms, 10s, 2m",
        apply: Apply::Value(|s, v| {
            http(s).keep_alive = match v {
                "off" => Duration::ZERO,
                _ => units::duration(v)?,
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_REQUESTS",
        form: "a number from 1 to 1000000",
        apply: Apply::Value(|s, v| {
            http(s).requests = v.parse().ok().filter(|n| (1..=1_000_000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_HTTP_CONCURRENCY",
        form: "a number from 1 to 100000",
        apply: Apply::Value(|s, v| {
            http(s).concurrency = v.parse().ok().filter(|n| (1..=100_000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_DNS_SERVER",
        form: "an address with an optional port: 10.0.0.53, 127.0.0.1:5353, [fd00::53]:53",
        apply: Apply::Value(|s, v| {
            let ip = v.trim_start_matches('[').trim_end_matches(']');
            let server = v.parse().ok();
            let server = server.or_else(|| Some(SocketAddr::new(ip.parse().ok()?, 53)));
            s.files.dns_server = Some(server.filter(|server| server.port() > 0)?);
            Some(())
        }),
    },
];
