//! Unit's application object, read into what the module needs.
//!
//! Unit accepts no members of our own in the application object, so settings
//! are keys of `environment` that begin with `UNIT_WASM_`. All other keys
//! there are the guest's environment.

use std::path::PathBuf;
use std::time::Duration;

use nxt_wasm_runtime::{Access, Grants, Limits, Preopen};

use crate::unit::{Application, Value};
use crate::units;

/// Keys of the guest's environment that begin so are settings.
const PREFIX: &str = "UNIT_WASM_";

/// Where artifacts are kept when unitd runs as root and nothing else is said.
const DEFAULT_CACHE: &str = "/var/cache/nxt-wasmtime";

/// A configuration that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A member that must be there is not, or is of the wrong kind.
    #[error("member \"{member}\": {problem}")]
    Member {
        /// Its path in the application object.
        member: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that no setting has.
    #[error("unknown setting {key} = \"{value}\": the nearest known one is {nearest}")]
    Unknown {
        /// The key as configured.
        key: String,
        /// Its value.
        value: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
    /// A value that the setting cannot have.
    #[error("{key}: bad value \"{value}\": it takes {form}")]
    Value {
        /// The setting.
        key: &'static str,
        /// The value as configured.
        value: String,
        /// The values it can have.
        form: &'static str,
    },
}

/// Where compiled components are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cache {
    /// The default directory if unitd runs as root, else nowhere.
    Default,
    /// Nowhere: every start of the application compiles.
    Off,
    /// In this directory.
    Directory(PathBuf),
}

impl Cache {
    /// The directory to use for a process that is root or is not.
    pub fn directory(&self, root: bool) -> Option<PathBuf> {
        match self {
            Self::Default if root => Some(PathBuf::from(DEFAULT_CACHE)),
            Self::Default | Self::Off => None,
            Self::Directory(path) => Some(path.clone()),
        }
    }
}

/// Everything an application configures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The component's file, as configured.
    pub component: PathBuf,
    /// What one request may use up.
    pub limits: Limits,
    /// What a guest may reach.
    pub grants: Grants,
    /// Longest silence of a response in progress.
    pub idle_timeout: Duration,
    /// For requests in flight when the process is told to quit.
    pub drain_timeout: Duration,
    /// How long all slots may be taken before waiting requests are refused.
    pub queue_timeout: Duration,
    /// How long a call into the host may keep an event loop.
    pub watchdog: Duration,
    /// libunit contexts per process.
    pub threads: usize,
    /// The artifact cache.
    pub cache: Cache,
    /// Bytes that it may have.
    pub cache_size: u64,
    /// The only component to accept: SHA-256 in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Several processes take requests from the same queue.
    pub shares_queue: bool,
    /// The root directory of application processes, if they get their own.
    pub rootfs: Option<PathBuf>,
}

/// A setting: its key, the form of its values, and how a value is applied.
struct Setting {
    key: &'static str,
    form: &'static str,
    apply: fn(&mut Settings, &str) -> Option<()>,
}

const SIZE: &str = "a size in bytes with an optional unit: 67108864, 512KiB, 64MiB, 1GiB";
const DURATION: &str = "a duration: 500ms, 10s, 2m";

const SETTINGS: &[Setting] = &[
    Setting {
        key: "UNIT_WASM_MEMORY",
        form: "a size from 64KiB to 4GiB, for example 64MiB",
        apply: |s, v| {
            s.limits.memory = units::size(v).filter(|n| (64 << 10..=4 << 30).contains(n))?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_FUEL",
        form: "a number of at least 1, or off",
        apply: |s, v| {
            s.limits.fuel = match v {
                "off" => None,
                _ => Some(v.parse().ok().filter(|&n: &u64| n > 0)?),
            };
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_CPU_TIME",
        form: DURATION,
        apply: |s, v| {
            s.limits.cpu_time = units::duration(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_TIMEOUT",
        form: DURATION,
        apply: |s, v| {
            s.limits.timeout = units::duration(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_IDLE_TIMEOUT",
        form: DURATION,
        apply: |s, v| {
            s.idle_timeout = units::duration(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_STACK",
        form: "a size from 64KiB to 64MiB, for example 512KiB",
        apply: |s, v| {
            s.limits.stack = units::size(v).filter(|n| (64 << 10..=64 << 20).contains(n))?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_OUTPUT",
        form: SIZE,
        apply: |s, v| {
            s.limits.output = units::size(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_CONCURRENCY",
        form: "a number from 1 to 10000",
        apply: |s, v| {
            s.limits.concurrency = v.parse().ok().filter(|n| (1..=10_000).contains(n))?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_THREADS",
        form: "a number from 1 to 64",
        apply: |s, v| {
            s.threads = v.parse().ok().filter(|n| (1..=64).contains(n))?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_DRAIN_TIMEOUT",
        form: DURATION,
        apply: |s, v| {
            s.drain_timeout = units::duration(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_QUEUE_TIMEOUT",
        form: DURATION,
        apply: |s, v| {
            s.queue_timeout = units::duration(v)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_WATCHDOG",
        form: "a duration of at least 1s: 90s, 2m",
        apply: |s, v| {
            s.watchdog = units::duration(v).filter(|d| d.as_secs() >= 1)?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_CACHE",
        form: "an absolute path of a directory, or off",
        apply: |s, v| {
            s.cache = match v {
                "off" => Cache::Off,
                _ => Cache::Directory(Some(PathBuf::from(v)).filter(|p| p.is_absolute())?),
            };
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_CACHE_SIZE",
        form: SIZE,
        apply: |s, v| {
            s.cache_size = u64::try_from(units::size(v)?).ok()?;
            Some(())
        },
    },
    Setting {
        key: "UNIT_WASM_SHA256",
        form: "64 hexadecimal digits",
        apply: |s, v| {
            let hex = v.len() == 64 && v.bytes().all(|b| b.is_ascii_hexdigit());
            s.sha256 = Some(hex.then(|| v.to_ascii_lowercase())?);
            Some(())
        },
    },
];

/// The member that names the component's file.
#[cfg(not(feature = "type-wasm"))]
const COMPONENT: &str = "component";
#[cfg(feature = "type-wasm")]
const COMPONENT: &str = "module";

impl Settings {
    /// Reads the settings of an application.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn read(application: &Application) -> Result<Self, SettingsError> {
        let object = &application.object;
        let component = match object.member(COMPONENT) {
            Some(Value::String(path)) if !path.is_empty() => PathBuf::from(path),
            other => return Err(wrong_kind(COMPONENT, "the path of a component", other)),
        };
        let mut settings = Self {
            component,
            limits: Limits::default(),
            grants: Grants::default(),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(10),
            watchdog: Duration::from_secs(60),
            threads: 1,
            cache: Cache::Default,
            cache_size: 1 << 30,
            sha256: None,
            shares_queue: shares_queue(object.member("processes")),
            rootfs: match object.member("isolation").and_then(|i| i.member("rootfs")) {
                Some(Value::String(path)) => Some(PathBuf::from(path)),
                _ => None,
            },
        };
        if let Some(access) = object.member("access") {
            settings.grants.directories = directories(access)?;
        }
        match object.member("environment") {
            None => {}
            Some(Value::Object(members)) => {
                for (key, value) in members {
                    settings.read_variable(key, value)?;
                }
            }
            other => return Err(wrong_kind("environment", "an object of strings", other)),
        }
        Ok(settings)
    }

    fn read_variable(&mut self, key: &str, value: &Value) -> Result<(), SettingsError> {
        let Value::String(value) = value else {
            let member = format!("environment/{key}");
            return Err(wrong_kind(&member, "a string", Some(value)));
        };
        if !key.starts_with(PREFIX) {
            let variable = (key.to_owned(), value.clone());
            self.grants.environment.push(variable);
            return Ok(());
        }
        let Some(setting) = SETTINGS.iter().find(|s| s.key == key) else {
            return Err(SettingsError::Unknown {
                key: key.to_owned(),
                value: value.clone(),
                nearest: nearest(key),
            });
        };
        (setting.apply)(self, value.trim()).ok_or_else(|| SettingsError::Value {
            key: setting.key,
            value: value.clone(),
            form: setting.form,
        })
    }
}

fn wrong_kind(member: &str, wanted: &str, found: Option<&Value>) -> SettingsError {
    SettingsError::Member {
        member: member.to_owned(),
        problem: format!(
            "{wanted} is needed, found {}",
            found.map_or("nothing", Value::kind)
        ),
    }
}

/// The known key with the fewest edits between it and `key`.
fn nearest(key: &str) -> &'static str {
    SETTINGS
        .iter()
        .map(|s| s.key)
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .unwrap_or(PREFIX)
}

/// Whether more than one process may serve the application.
fn shares_queue(processes: Option<&Value>) -> bool {
    let more_than_one = |v: &Value| matches!(v, Value::Number(n) if *n > 1.0);
    processes.is_some_and(|p| more_than_one(p) || p.member("max").is_some_and(more_than_one))
}

/// The directories of `access.filesystem`.
fn directories(access: &Value) -> Result<Vec<Preopen>, SettingsError> {
    const LIST: &str = "access/filesystem";
    let list = match access.member("filesystem") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        other => return Err(wrong_kind(LIST, "an array", other)),
    };
    let read = |(i, value): (usize, &Value)| match value {
        // As Unit's own module takes them.
        Value::String(path) if !path.is_empty() => Ok(Preopen {
            host: PathBuf::from(path),
            guest: path.clone(),
            access: Access::ReadWrite,
        }),
        Value::Object(members) => directory(&format!("{LIST}/{i}"), value, members),
        other => Err(wrong_kind(
            &format!("{LIST}/{i}"),
            "a path, or an object with host, guest and mode,",
            Some(other),
        )),
    };
    list.iter().enumerate().map(read).collect()
}

fn directory(
    at: &str,
    value: &Value,
    members: &[(String, Value)],
) -> Result<Preopen, SettingsError> {
    let known = ["host", "guest", "mode"];
    if let Some((name, _)) = members.iter().find(|(n, _)| !known.contains(&n.as_str())) {
        return Err(SettingsError::Member {
            member: format!("{at}/{name}"),
            problem: "unknown; there are host, guest and mode".to_owned(),
        });
    }
    let string = |name: &str| match value.member(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        other => Err(wrong_kind(&format!("{at}/{name}"), "a string", other)),
    };
    let host = string("host")?
        .ok_or_else(|| wrong_kind(&format!("{at}/host"), "the path of a directory", None))?;
    Ok(Preopen {
        guest: string("guest")?.unwrap_or_else(|| host.clone()),
        host: PathBuf::from(host),
        access: match string("mode")?.as_deref() {
            None | Some("ro") => Access::ReadOnly,
            Some("rw") => Access::ReadWrite,
            Some(other) => {
                return Err(SettingsError::Member {
                    member: format!("{at}/mode"),
                    problem: format!("\"ro\" or \"rw\" is needed, found \"{other}\""),
                });
            }
        },
    })
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
