//! Unit's application object, read into what the module needs.
//!
//! Unit accepts no members of our own in the application object, so settings
//! are keys of `environment` that begin with `UNIT_WASM_`. All other keys
//! there are the guest's environment.

mod keys;
mod observe;
mod outbound;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use nxt_wasm_runtime::{Access, Grants, Limits, Preopen};

use crate::application::{Application, Value};
use crate::files::Files;
use keys::{Apply, REUSE_CONCURRENT, WATCH};

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
    /// A value of which a part is wrong, or that leads to something that is.
    #[error("{key}: bad value \"{value}\": {problem}")]
    Part {
        /// The setting.
        key: &'static str,
        /// The value as configured.
        value: String,
        /// Which part, and what is wrong with it.
        problem: String,
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

/// When an application is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// So many failures,
    pub failures: usize,
    /// among so many requests, or as many as there were,
    pub window: usize,
    /// for so long.
    pub pause: Duration,
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
    /// Files that are read before the application starts.
    pub files: Files,
    /// Longest silence of a response in progress.
    pub idle_timeout: Duration,
    /// Longest time for the whole of a response, if it is bounded.
    pub response_timeout: Option<Duration>,
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
    /// Whether a component from another machine may be any.
    pub any_component: bool,
    /// Whether a component that takes this one's place in its file is to be
    /// served, without a restart.
    pub watch: bool,
    /// Where metrics can be read.
    pub metrics: Option<SocketAddr>,
    /// Whether each request leaves a line that says what it has cost.
    pub cost_log: bool,
    /// The field of responses that says so.
    pub cost_header: Option<HeaderName>,
    /// Whether outbound requests are part of the trace that a request is part of.
    pub trace: bool,
    /// When to refuse requests as too many have failed.
    pub breaker: Option<BreakerSettings>,
    /// Several processes take requests from the same queue.
    pub shares_queue: bool,
    /// The root directory of application processes, if they get their own.
    pub rootfs: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings of an application. `member` is the one that names the
    /// component's file, which the application's type decides.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn read(application: &Application, member: &str) -> Result<Self, SettingsError> {
        let object = &application.object;
        let component = match object.member(member) {
            Some(Value::String(path)) if !path.is_empty() => PathBuf::from(path),
            other => return Err(wrong_kind(member, "the path of a component", other)),
        };
        let mut settings = Self {
            component,
            limits: Limits::default(),
            grants: Grants::default(),
            files: Files::default(),
            idle_timeout: Duration::from_secs(60),
            response_timeout: None,
            drain_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(10),
            watchdog: Duration::from_secs(60),
            threads: 1,
            cache: Cache::Default,
            cache_size: 1 << 30,
            sha256: None,
            any_component: false,
            watch: false,
            metrics: None,
            cost_log: false,
            cost_header: None,
            trace: true,
            breaker: None,
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
        let reuse = settings.limits.reuse;
        if reuse.concurrent > 1 && reuse.requests == 1 {
            return Err(SettingsError::Part {
                key: REUSE_CONCURRENT,
                value: reuse.concurrent.to_string(),
                problem: "it takes UNIT_WASM_REUSE, which says how many requests an instance \
                          may serve in all"
                    .to_owned(),
            });
        }
        if settings.watch && settings.sha256.is_some() {
            return Err(SettingsError::Part {
                key: WATCH,
                value: "on".to_owned(),
                problem: "UNIT_WASM_SHA256 allows only one component, so no other could be \
                          swapped in: leave out one of the two"
                    .to_owned(),
            });
        }
        let coredumps = &mut settings.grants.coredumps;
        coredumps.take_if(|coredumps| coredumps.directory.as_os_str().is_empty());
        settings.grants.http.take_if(|http| http.rules.is_empty());
        let keyvalue = &mut settings.grants.keyvalue;
        keyvalue.take_if(|keyvalue| keyvalue.buckets.is_empty());
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
        let Some(setting) = keys::all().find(|s| s.key == key) else {
            return Err(SettingsError::Unknown {
                key: key.to_owned(),
                value: without_passwords(value),
                nearest: nearest(key),
            });
        };
        match setting.apply {
            Apply::Value(apply) => apply(self, value.trim()).ok_or_else(|| SettingsError::Value {
                key: setting.key,
                value: without_passwords(value),
                form: setting.form,
            }),
            Apply::Parts(apply) => {
                apply(self, value.trim()).map_err(|problem| SettingsError::Part {
                    key: setting.key,
                    value: without_passwords(value),
                    problem: without_entrys_password(&problem),
                })
            }
        }
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

/// A value as it may be logged: what URLs in it have before an `@` is left out.
/// Passwords may have any character that somebody forgot to escape, so more is
/// left out than need be where there is an `@` further on.
fn without_passwords(value: &str) -> String {
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            let before = value.get(..scheme + 3).unwrap_or_default();
            let after = value.get(at..).unwrap_or_default();
            format!("{before}...{after}")
        }
        _ => value.to_owned(),
    }
}

/// The same for a text of ours about one entry of the value, which ends at white
/// space.
fn without_entrys_password(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let (start, end) = (word.find("://"), word.rfind('@'));
        match (start, end) {
            (Some(start), Some(end)) if start < end => {
                let before = word.get(..start + 3).unwrap_or_default();
                format!("{before}...{}", word.get(end..).unwrap_or_default())
            }
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The known key with the fewest edits between it and `key`.
fn nearest(key: &str) -> &'static str {
    keys::all()
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
