//! The keys that are settings: the forms of their values, and how a value is
//! taken over.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use nxt_wasm_runtime::Severity;
use nxt_wasm_runtime::keyvalue::KeyvalueGrant;

use super::{Cache, Settings, observe, outbound};
use crate::buckets;
use crate::files::Audit;
use crate::units;

/// A setting: its key, the form of its values, and how a value is applied.
pub(super) struct Setting {
    pub key: &'static str,
    pub form: &'static str,
    pub apply: Apply,
}

/// Takes a value over into the settings, or says no.
pub(super) enum Apply {
    /// To a value that does not have the setting's form.
    Value(fn(&mut Settings, &str) -> Option<()>),
    /// And which part of the value is wrong, and how.
    Parts(fn(&mut Settings, &str) -> Result<(), String>),
}

/// The entries of a list, which commas or white space separate. None is a list too.
pub(super) fn entries<T: FromStr<Err: Display>>(list: &str) -> Result<Vec<T>, String> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            entry
                .parse()
                .map_err(|problem| format!("entry \"{entry}\": {problem}"))
        })
        .collect()
}

/// What is set of buckets. [`Settings::read`] leaves it out again if there are
/// none.
fn keyvalue(settings: &mut Settings) -> &mut KeyvalueGrant {
    settings.grants.keyvalue.get_or_insert_default()
}

/// Takes more than its form says.
pub(super) const REUSE_CONCURRENT: &str = "UNIT_WASM_REUSE_CONCURRENT";

/// Makes no sense for a file that must not change.
pub(super) const WATCH: &str = "UNIT_WASM_WATCH";

const SIZE: &str = "a size in bytes with an optional unit: 67108864, 512KiB, 64MiB, 1GiB";
const SOCKETS: &str = "addresses: 10.0.0.5:5432, 127.0.0.0/8:6379, listen:127.0.0.1:*";
pub(super) const DURATION: &str = "a duration: 500ms, 10s, 2m";

/// All settings.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    let more = outbound::SETTINGS.iter().chain(observe::SETTINGS);
    SETTINGS.iter().chain(more)
}

const SETTINGS: &[Setting] = &[
    Setting {
        key: "UNIT_WASM_MEMORY",
        form: "a size from 64KiB to 4GiB, for example 64MiB",
        apply: Apply::Value(|s, v| {
            s.limits.memory = units::size(v).filter(|n| (64 << 10..=4 << 30).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_FUEL",
        form: "a number of at least 1, or off",
        apply: Apply::Value(|s, v| {
            s.limits.fuel = match v {
                "off" => None,
                _ => Some(v.parse().ok().filter(|&n: &u64| n > 0)?),
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_CPU_TIME",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            s.limits.cpu_time = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            s.limits.timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_IDLE_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            s.idle_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_RESPONSE_TIMEOUT",
        form: "a duration, for example 10m, or off",
        apply: Apply::Value(|s, v| {
            s.response_timeout = match v {
                "off" => None,
                _ => Some(units::duration(v)?),
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_STACK",
        form: "a size from 64KiB to 64MiB, for example 512KiB",
        apply: Apply::Value(|s, v| {
            s.limits.stack = units::size(v).filter(|n| (64 << 10..=64 << 20).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_OUTPUT",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            s.limits.output = units::size(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_CONCURRENCY",
        form: "a number from 1 to 10000",
        apply: Apply::Value(|s, v| {
            s.limits.concurrency = v.parse().ok().filter(|n| (1..=10_000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_THREADS",
        form: "a number from 1 to 64",
        apply: Apply::Value(|s, v| {
            s.threads = v.parse().ok().filter(|n| (1..=64).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_REUSE",
        form: "a number of requests from 1 (a fresh instance for each) to 1000000",
        apply: Apply::Value(|s, v| {
            let requests = v.parse().ok().filter(|n| (1..=1_000_000).contains(n))?;
            s.limits.reuse.requests = requests;
            Some(())
        }),
    },
    Setting {
        key: REUSE_CONCURRENT,
        form: "a number of requests from 1 to 1000",
        apply: Apply::Value(|s, v| {
            let concurrent = v.parse().ok().filter(|n| (1..=1000).contains(n))?;
            s.limits.reuse.concurrent = concurrent;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_DRAIN_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            s.drain_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_QUEUE_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            s.queue_timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_WATCHDOG",
        form: "a duration of at least 1s: 90s, 2m",
        apply: Apply::Value(|s, v| {
            s.watchdog = units::duration(v).filter(|d| d.as_secs() >= 1)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_CACHE",
        form: "an absolute path of a directory, or off",
        apply: Apply::Value(|s, v| {
            s.cache = match v {
                "off" => Cache::Off,
                _ => Cache::Directory(Some(PathBuf::from(v)).filter(|p| p.is_absolute())?),
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_CACHE_SIZE",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            s.cache_size = u64::try_from(units::size(v)?).ok()?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_SHA256",
        form: "64 hexadecimal digits, or any",
        apply: Apply::Value(|s, v| {
            s.any_component = v == "any";
            if s.any_component {
                s.sha256 = None;
                return Some(());
            }
            let hex = v.len() == 64 && v.bytes().all(|b| b.is_ascii_hexdigit());
            s.sha256 = Some(hex.then(|| v.to_ascii_lowercase())?);
            Some(())
        }),
    },
    Setting {
        key: WATCH,
        form: "on or off",
        apply: Apply::Value(|s, v| {
            s.watch = match v {
                "on" => true,
                "off" => false,
                _ => return None,
            };
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_ALLOW_TCP",
        form: SOCKETS,
        apply: Apply::Parts(|s, v| {
            Arc::make_mut(&mut s.grants.sockets).tcp = entries(v)?;
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_ALLOW_UDP",
        form: SOCKETS,
        apply: Apply::Parts(|s, v| {
            Arc::make_mut(&mut s.grants.sockets).udp = entries(v)?;
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_ALLOW_DNS",
        form: "names: db.example.com, *.example.com",
        apply: Apply::Parts(|s, v| {
            Arc::make_mut(&mut s.grants.sockets).names = entries(v)?;
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_WRITE_QUOTA",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            s.grants.write_quota = u64::try_from(units::size(v)?).ok()?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_SECRETS",
        form: "the absolute path of a file",
        apply: Apply::Value(|s, v| {
            s.files.secrets = Some(Some(PathBuf::from(v)).filter(|p| p.is_absolute())?);
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_ALLOW_SECRETS",
        form: "names of secrets",
        apply: Apply::Parts(|s, v| {
            s.files.allow_secrets = Some(entries(v)?);
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_AUDIT_LOG",
        form: "the absolute path of a file, or log",
        apply: Apply::Value(|s, v| {
            s.files.audit = Some(match v {
                "log" => Audit::Log,
                _ => Audit::File(Some(PathBuf::from(v)).filter(|p| p.is_absolute())?),
            });
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_LOG_LEVEL",
        form: "debug, info, warn, error or alert",
        apply: Apply::Value(|s, v| {
            s.grants.log_level = Severity::from_name(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE",
        form: "URLs with names: sessions=redis://127.0.0.1:6379/0 files=fs:/srv/values",
        apply: Apply::Parts(|s, v| {
            keyvalue(s).buckets = buckets::read(v)?;
            Ok(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_OPEN",
        form: "a number from 1 to 1000",
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.opened = v.parse().ok().filter(|n| (1..=1000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_OPERATIONS",
        form: "a number from 1 to 1000000",
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.operations =
                v.parse().ok().filter(|n| (1..=1_000_000).contains(n))?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_BYTES_READ",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.bytes_read = u64::try_from(units::size(v)?).ok()?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_BYTES_WRITTEN",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.bytes_written = u64::try_from(units::size(v)?).ok()?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_TIMEOUT",
        form: DURATION,
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.timeout = units::duration(v)?;
            Some(())
        }),
    },
    Setting {
        key: "UNIT_WASM_KEYVALUE_MEMORY",
        form: SIZE,
        apply: Apply::Value(|s, v| {
            keyvalue(s).limits.memory = units::size(v)?;
            Some(())
        }),
    },
];
