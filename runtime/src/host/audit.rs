//! `unit:wasm/audit-log`: records of what guests did, one JSON object per line.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::Mutex;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use crate::host::Asking;
use crate::host::secrets::Redactor;
use crate::output::Severity;
use crate::state::State;

/// Bytes of one record.
const RECORD: usize = 64 * 1024;

/// What a field takes beside its name and value.
const FIELD: usize = 6;

/// Records of one request.
const RECORDS: u32 = 10_000;

/// Where records go: a file that is only appended to.
#[derive(Debug)]
pub struct AuditLog {
    target: AuditTarget,
    application: String,
    /// The last record may have been written in part. Held while one is written.
    torn: Arc<Mutex<bool>>,
    redactor: Redactor,
}

/// What a log appends to.
#[derive(Debug)]
pub enum AuditTarget {
    /// A file that was opened for appending: then records of several processes
    /// do not overlap.
    File(File),
    /// The standard error of the process that serves, each record after the word
    /// `audit`.
    Stderr,
}

impl AuditTarget {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => {
                let mut file = file;
                file.write(bytes)
            }
            Self::Stderr => Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?),
        }
    }

    /// An error if nobody can ever read what has been written.
    fn is_there(&self) -> io::Result<()> {
        match self {
            Self::File(file) if rustix::fs::fstat(file)?.st_nlink == 0 => {
                let text = "the file has been removed; a restart of the application makes another";
                Err(io::Error::other(text))
            }
            Self::File(_) | Self::Stderr => Ok(()),
        }
    }
}

// Two logs are equal if they are one.
impl PartialEq for AuditLog {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for AuditLog {}

#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
struct Event {
    action: String,
    subject: String,
    outcome: Outcome,
    fields: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "guests make them")]
enum Outcome {
    #[component(name = "success")]
    Success,
    #[component(name = "failure")]
    Failure,
    #[component(name = "denied")]
    Denied,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "too-many")]
    TooMany,
    #[component(name = "unavailable")]
    Unavailable,
}

impl AuditLog {
    /// Records of `application`, appended to `target`, with what `redactor`
    /// finds blanked out.
    pub fn new(target: AuditTarget, application: &str, redactor: Redactor) -> Self {
        Self {
            target,
            application: application.to_owned(),
            torn: Arc::default(),
            redactor,
        }
    }

    /// Writes on a thread where it may wait for the disk.
    async fn append(self: Arc<Self>, asking: Arc<Asking>, event: Event) -> Result<(), Error> {
        let size = event.action.len()
            + event.subject.len()
            + event
                .fields
                .iter()
                .map(|(n, v)| n.len() + v.len() + FIELD)
                .sum::<usize>();
        if size > RECORD {
            return Err(Error::TooLarge);
        }
        if !Asking::count(&asking.audit_records, RECORDS) {
            return Err(Error::TooMany);
        }
        let record = self.record(&asking.who().id, event);
        // Control characters take six times their room.
        if record.len() > RECORD {
            return Err(Error::TooLarge);
        }
        // One thread at a time: others have use for the rest, and who waits here can
        // still give up.
        let mut torn = Arc::clone(&self.torn).lock_owned().await;
        let written = tokio::task::spawn_blocking(move || self.write(record.as_bytes(), &mut torn));
        // The event loop is ending if it is not begun.
        let written = written.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|error| {
            let text = format!("audit record could not be written (UNIT_WASM_AUDIT_LOG): {error}");
            asking.notice(Severity::Error, &text);
            Error::Unavailable
        })
    }

    fn record(&self, request: &str, event: Event) -> String {
        let text = |text: &str| Value::String(self.redactor.redact(text).into_owned());
        let mut fields = Map::new();
        for (name, value) in &event.fields {
            let name = self.redactor.redact(name).into_owned();
            match fields.get_mut(&name) {
                None => drop(fields.insert(name, text(value))),
                // Nothing gets lost because a name comes twice.
                Some(Value::Array(values)) => values.push(text(value)),
                Some(first) => *first = Value::Array(vec![first.take(), text(value)]),
            }
        }
        let mut record = Map::new();
        record.insert("time".into(), jiff::Timestamp::now().to_string().into());
        record.insert("application".into(), self.application.as_str().into());
        record.insert("request".into(), request.into());
        record.insert("action".into(), text(&event.action));
        record.insert("subject".into(), text(&event.subject));
        record.insert("outcome".into(), event.outcome.as_str().into());
        record.insert("fields".into(), fields.into());
        let prefix = match self.target {
            AuditTarget::File(_) => "",
            AuditTarget::Stderr => "audit ",
        };
        format!("{prefix}{}\n", plain(&Value::from(record).to_string()))
    }

    /// In one call, so that records do not mix. A full disk can take half of
    /// one; the next then begins on a line of its own.
    fn write(&self, record: &[u8], torn: &mut bool) -> io::Result<()> {
        if *torn {
            self.target.write(b"\n")?;
            *torn = false;
        }
        loop {
            match self.target.write(record) {
                // Afterwards, as it may be removed at any time before.
                Ok(n) if n == record.len() => return self.target.is_there(),
                Ok(n) => {
                    *torn = n > 0;
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The same JSON without what a terminal obeys or a reader takes for the end of a
/// line: DEL, C1 controls and separators, which are in strings only. JSON itself
/// escapes the rest.
fn plain(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("unit:wasm/audit-log@0.1.0")?;
    instance.func_wrap_async(
        "append",
        |store: StoreContextMut<'_, State>, (event,): (Event,)| {
            let hooks = &store.data().hooks;
            let (log, asking) = (hooks.capabilities.audit.clone(), Arc::clone(&hooks.asking));
            Box::new(async move {
                let appended = match log {
                    Some(log) => log.append(asking, event).await,
                    // The trial instance at start.
                    None => Err(Error::Unavailable),
                };
                Ok((appended,))
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{GuestLog, OutputStreamKind};

    #[derive(Default)]
    struct Notices(std::sync::Mutex<Vec<String>>);

    impl GuestLog for Notices {
        fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
        fn message(&self, _: &str, _: Severity, _: &str) {}
        fn notice(&self, _: &str, severity: Severity, text: &str) {
            self.0.lock().unwrap().push(format!("{severity:?} {text}"));
        }
    }

    fn event(action: &str) -> Event {
        Event {
            action: action.to_owned(),
            subject: String::new(),
            outcome: Outcome::Success,
            fields: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_record_in_a_removed_file_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("audit"), dir.path().join("audit.1"));
        let file = File::options().append(true).create(true).open(&path);
        let target = AuditTarget::File(file.unwrap());
        let log = Arc::new(AuditLog::new(target, "app", Redactor::default()));
        let notices = Arc::<Notices>::default();
        let asking = Arc::new(Asking::alone("r1", Arc::clone(&notices) as _));
        let append = |action| Arc::clone(&log).append(Arc::clone(&asking), event(action));

        assert_eq!(append("one").await, Ok(()));
        // By another name it is still there.
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(append("two").await, Ok(()));
        let text = std::fs::read_to_string(&moved).unwrap();
        assert!(text.contains("one") && text.contains("two"), "{text}");
        assert!(notices.0.lock().unwrap().is_empty());
        std::fs::remove_file(&moved).unwrap();
        assert_eq!(append("three").await, Err(Error::Unavailable));
        let told = notices.0.lock().unwrap().concat();
        assert!(told.starts_with("Error audit record could not"), "{told}");
        assert!(told.contains("UNIT_WASM_AUDIT_LOG"), "{told}");
        assert!(told.contains("the file has been removed"), "{told}");
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_read_back_as_it_was() {
        let odd = "\u{7f}\u{80}\u{85}\u{9b}31m\u{2028}\u{2029}\u{1b}\n \u{a0}\u{20ac}\"\\";
        let log = AuditLog::new(AuditTarget::Stderr, "app", Redactor::default());
        let fields = vec![(odd.to_owned(), odd.to_owned())];
        let event = Event {
            fields,
            ..event(odd)
        };
        let line = log.record("r1", event);
        let json = line.strip_prefix("audit ").unwrap().strip_suffix('\n');
        let json = json.unwrap();
        let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!json.contains(bad), "{json:?}");
        assert!(json.contains("\\u007f\\u0080\\u0085\\u009b31m\\u2028\\u2029"));
        let record: Value = serde_json::from_str(json).unwrap();
        assert_eq!(record["action"], odd);
        assert_eq!(record["fields"][odd], odd);
    }
}
