//! `unit:wasm/audit-log`: records of what guests did, one JSON object per line.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};
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
    /// The last record may have been written in part.
    torn: AtomicBool,
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
            torn: AtomicBool::new(false),
            redactor,
        }
    }

    fn append(&self, asking: &Asking, event: Event) -> Result<(), Error> {
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
        self.write(record.as_bytes()).map_err(|error| {
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
        format!("{prefix}{}\n", Value::from(record))
    }

    /// In one call, so that records do not mix. A full disk can take half of
    /// one; the next then begins on a line of its own.
    fn write(&self, record: &[u8]) -> io::Result<()> {
        if self.torn.load(Ordering::Acquire) {
            self.target.write(b"\n")?;
            self.torn.store(false, Ordering::Release);
        }
        loop {
            match self.target.write(record) {
                Ok(n) if n == record.len() => return Ok(()),
                Ok(n) => {
                    self.torn.store(n > 0, Ordering::Release);
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("unit:wasm/audit-log@0.1.0")?;
    instance.func_wrap("append", |store, (event,): (Event,)| {
        let hooks = &store.data().hooks;
        let appended = match &hooks.capabilities.audit {
            Some(log) => log.append(&hooks.asking, event),
            // The trial instance at start.
            None => Err(Error::Unavailable),
        };
        Ok((appended,))
    })
}
