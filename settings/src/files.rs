//! Files that settings name.
//!
//! They are opened once, in the prototype: it sees the whole file system, with
//! the rights of unitd, while the processes that serve may have another user
//! and a root directory of their own. What is read goes into [`Settings`] as
//! plain data, which forked processes inherit, as they do open files.

mod network;

pub use network::read_file;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nxt_wasm_runtime::keyvalue::{CredentialsError, KeyvalueGrant};
use nxt_wasm_runtime::{AuditLog, AuditTarget, Redactor, Secrets};

use crate::settings::{Settings, SettingsError};

/// Bytes of a file of secrets.
const SECRETS: u64 = 1 << 20;

/// Files that are yet to be opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Secrets by name, one per line.
    pub secrets: Option<PathBuf>,
    /// Those that guests may ask for.
    pub allow_secrets: Option<Vec<SecretName>>,
    /// Where audit records go.
    pub audit: Option<Audit>,
    /// Certificate authorities beside those that this machine trusts.
    pub http_ca: Option<PathBuf>,
    /// The name server to ask instead of those of this machine.
    pub dns_server: Option<SocketAddr>,
}

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// To Unit's log.
    Log,
    /// To the end of this file.
    File(PathBuf),
}

/// The name of a secret: letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName(String);

impl std::str::FromStr for SecretName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=128).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a name has 1 to 128 letters, digits, '.', '_' and '-'")
        }
    }
}

/// Opens and reads what `settings` name into them, for the application called
/// `name`. Returns what is to be kept out of the log.
///
/// # Errors
///
/// The first file that cannot be used, with the setting that names it.
pub fn open(settings: &mut Settings, name: &str) -> Result<Redactor, SettingsError> {
    let files = settings.files.clone();
    let all = match &files.secrets {
        Some(path) => {
            read_secrets(path).map_err(|problem| bad("UNIT_WASM_SECRETS", path, problem))?
        }
        None => BTreeMap::new(),
    };
    let mut used = BTreeMap::new();
    if let Some(names) = &files.allow_secrets {
        for SecretName(name) in names {
            used.insert(name.clone(), secret(&files, &all, name)?.to_owned());
        }
        settings.grants.secrets = Some(Secrets::new(used.clone()));
    }
    let mut credentials = Vec::new();
    if let Some(keyvalue) = &mut settings.grants.keyvalue {
        credentials.extend(keyvalue.credentials().map(str::to_owned));
        open_buckets(keyvalue, &files, &all, &mut used)?;
    }
    let redactor = Redactor::new(hidden(&used, &credentials));
    let target = match &files.audit {
        None => None,
        Some(Audit::Log) => Some(AuditTarget::Stderr),
        Some(Audit::File(path)) => {
            Some(AuditTarget::File(open_audit(path).map_err(|problem| {
                bad("UNIT_WASM_AUDIT_LOG", path, problem.to_string())
            })?))
        }
    };
    settings.grants.audit =
        target.map(|target| Arc::new(AuditLog::new(target, name, redactor.clone())));
    if let Some(coredumps) = &mut settings.grants.coredumps {
        name.clone_into(&mut coredumps.app);
    }
    network::open(settings, &files)?;
    Ok(redactor)
}

/// What is to be kept out of the log: values and, of `credentials`, also what is
/// secret in them. After `KEYID:` or `user:`, that is what follows, whole and in
/// pieces.
fn hidden<'a>(
    used: &'a BTreeMap<String, String>,
    credentials: &'a [String],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let whole = used.iter().map(|(name, value)| (&**name, &**value));
    let parts = credentials.iter().filter_map(|name| {
        let (_, secret) = used.get(name)?.split_once(':')?;
        let parts = std::iter::once(secret).chain(secret.split(':'));
        Some(parts.map(|part| (&**name, part)))
    });
    whole.chain(parts.flatten())
}

/// Credentials of buckets, which `used` has then too: guests do not get them,
/// but they have no place in the log either.
fn open_buckets(
    keyvalue: &mut KeyvalueGrant,
    files: &Files,
    all: &BTreeMap<String, String>,
    used: &mut BTreeMap<String, String>,
) -> Result<(), SettingsError> {
    let key = "UNIT_WASM_KEYVALUE";
    let problem = |error: CredentialsError| {
        let hint = match (&error, &files.secrets) {
            (CredentialsError::Form { .. }, _) => String::new(),
            (_, None) => ": UNIT_WASM_SECRETS is not set, which names the file of secrets".into(),
            (_, Some(path)) => format!(" in {}", path.display()),
        };
        bad(key, Path::new("credentials"), format!("{error}{hint}"))
    };
    let names = keyvalue.credentials();
    used.extend(names.filter_map(|name| Some((name.to_owned(), all.get(name)?.clone()))));
    keyvalue
        .resolve(|name| all.get(name).cloned())
        .map_err(problem)
}

/// The value of the secret `name`, which a setting asks for.
fn secret<'a>(
    files: &Files,
    all: &'a BTreeMap<String, String>,
    name: &str,
) -> Result<&'a str, SettingsError> {
    let problem = match &files.secrets {
        None => "UNIT_WASM_SECRETS is not set, which names the file of secrets".to_owned(),
        Some(path) => format!("{} has no secret of that name", path.display()),
    };
    let value = all.get(name).map(String::as_str);
    value.ok_or_else(|| bad("UNIT_WASM_ALLOW_SECRETS", Path::new(name), problem))
}

fn bad(key: &'static str, value: &Path, problem: String) -> SettingsError {
    SettingsError::Part {
        key,
        value: value.display().to_string(),
        problem,
    }
}

/// The secrets of a file by name, as of `UNIT_WASM_SECRETS`.
///
/// # Errors
///
/// Why the file cannot be used. No message has a value in it.
pub fn read_secrets(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let file = network::open_file(path)?;
    let found = file.metadata().map_err(|e| e.to_string())?;
    let me = rustix::process::geteuid().as_raw();
    if !found.is_file() {
        return Err("not a regular file".to_owned());
    }
    if found.uid() != 0 && found.uid() != me {
        return Err(format!(
            "it belongs to user {}, and has to belong to root or to unitd's user",
            found.uid()
        ));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!(
            "others can read or change it (mode {:03o}): chmod 600",
            found.mode() & 0o777
        ));
    }
    if found.len() > SECRETS {
        return Err(format!("it has more than {SECRETS} bytes"));
    }
    let mut text = String::new();
    file.take(SECRETS)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    parse_secrets(&text)
}

/// `name = value` on each line; `#` begins a comment. A value that begins with a
/// quotation mark is a JSON string, for values with line feeds or spaces at
/// their ends. No message has a value in it.
fn parse_secrets(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut secrets = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem: &str| format!("line {number}: {problem}");
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("name = value is needed"))?;
        let SecretName(name) = name.trim().parse().map_err(wrong)?;
        let value = match value.trim() {
            "" => return Err(wrong("there is no value")),
            quoted if quoted.starts_with('"') => serde_json::from_str(quoted)
                .map_err(|_| wrong("what begins with a quotation mark has to be a JSON string"))?,
            plain => plain.to_owned(),
        };
        if secrets.insert(name.clone(), value).is_some() {
            return Err(wrong(&format!("there is a \"{name}\" already")));
        }
    }
    Ok(secrets)
}

fn open_audit(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // Not waiting for a reader, should it be a pipe.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_name() {
        let text = "# passwords\n\ndb-password = hunter2 \nkey=\"-----\\nabc\\n\"\nurl=a=b\n";
        let secrets = parse_secrets(text).unwrap();
        let expected = [
            ("db-password", "hunter2"),
            ("key", "-----\nabc\n"),
            ("url", "a=b"),
        ];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(secrets, BTreeMap::from(expected));
    }

    #[test]
    fn bad_lines_are_named_without_their_values() {
        for (text, problem) in [
            ("ok = 1\nhunter2", "line 2: name = value is needed"),
            ("a b = hunter2", "line 1: a name has 1 to 128 letters"),
            ("a =", "line 1: there is no value"),
            ("a = \"hunter2", "has to be a JSON string"),
            ("a = 1\na = hunter2", "line 2: there is a \"a\" already"),
        ] {
            let error = parse_secrets(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_secret_in_credentials_is_kept_out_of_the_log_by_itself() {
        let pairs = [
            ("keys", "AKIDTEST:s3cr3t/+key:s3ssi0n-token"),
            ("login", "alice:hunter2:hunter3"),
            ("url", "https://api.example"),
        ];
        let used = BTreeMap::from(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let credentials = ["keys".to_owned(), "login".to_owned()];
        let redactor = Redactor::new(hidden(&used, &credentials));
        for (text, expected) in [
            ("AKIDTEST:s3cr3t/+key:s3ssi0n-token", "[secret keys]"),
            ("AKIDTEST s3cr3t/+key", "AKIDTEST [secret keys]"),
            ("token s3ssi0n-token", "token [secret keys]"),
            ("alice hunter2:hunter3", "alice [secret login]"),
            ("AUTH alice hunter2", "AUTH alice [secret login]"),
            // Guests are given this one, and what is secret in it is not known.
            ("https://api.example", "[secret url]"),
            ("//api.example", "//api.example"),
        ] {
            assert_eq!(redactor.redact(text), expected);
        }
    }

    #[test]
    fn a_pipe_is_no_file_of_secrets_and_is_not_waited_for() {
        let name = format!("nxt-secrets-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let pipe = path.clone();
        // Not by the test itself, which would hang.
        std::thread::spawn(move || send.send(read_secrets(&pipe)));
        let read = receive.recv_timeout(std::time::Duration::from_secs(30));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), Err("not a regular file".to_owned()));
    }

    #[test]
    fn credentials_of_buckets_are_found_and_kept_out_of_the_log() {
        let secrets = BTreeMap::from([("login".to_owned(), "hunter2".to_owned())]);
        let path = |path: Option<&str>| Files {
            secrets: path.map(PathBuf::from),
            ..Files::default()
        };
        let open = |list: &str, files: &Files| {
            let mut keyvalue = KeyvalueGrant {
                buckets: crate::buckets::read(list).unwrap(),
                ..KeyvalueGrant::default()
            };
            let mut used = BTreeMap::new();
            open_buckets(&mut keyvalue, files, &secrets, &mut used).map(|()| (keyvalue, used))
        };
        let file = path(Some("/etc/secrets"));
        let (keyvalue, used) = open("redis://h/0?credentials=login", &file).unwrap();
        assert_eq!(keyvalue.credentials().count(), 0);
        assert_eq!(used, secrets);
        assert!(!format!("{keyvalue:?}").contains("hunter2"));

        let text = |list, files: &Files| open(list, files).unwrap_err().to_string();
        let missing = text("b=redis://h/0?credentials=other", &file);
        assert!(missing.contains("bucket `b`: there is no secret `other` in /etc/secrets"));
        let unset = text("redis://h/0?credentials=other", &path(None));
        assert!(unset.contains("UNIT_WASM_SECRETS is not set"), "{unset}");
        let form = text("s3://b?region=r&credentials=login", &file);
        assert!(form.contains("another form than KEYID:SECRET"), "{form}");
        assert!(!form.contains("hunter2"), "{form}");
    }
}
