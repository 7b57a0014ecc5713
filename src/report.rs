//! What the operator reads: every line names the application, and the request
//! if there is one.

use std::fmt::{self, Display};
use std::sync::Arc;

use nxt_wasm_runtime::{Failure, GuestLog, OutputStreamKind, Redactor, Severity};

use crate::tally::{Suppressed, Tally};
use crate::unit::{Level, flush_log, log, log_later, log_lines_later};

/// An application, as the log names it.
#[derive(Clone)]
pub struct App {
    prefix: Arc<str>,
    tally: Arc<Tally>,
    redactor: Redactor,
}

impl App {
    /// The application called `name` in Unit's configuration.
    pub fn new(name: &str) -> Self {
        Self {
            prefix: format!("wasm {name:?}").into(),
            tally: Arc::default(),
            redactor: Redactor::default(),
        }
    }

    /// The same application, with the secrets of `redactor` blanked out of its
    /// log.
    pub fn without(self, redactor: Redactor) -> Self {
        Self { redactor, ..self }
    }

    /// `text` with the application before it.
    pub fn line(&self, text: &str) -> String {
        format!("{}: {text}", self.prefix)
    }

    /// Logs about the application as a whole.
    pub fn log(&self, level: Level, text: &str) {
        let text = self.redactor.redact(text);
        log(level, &format!("{}: ", self.prefix), &text);
    }

    /// Logs about a request, with its id on every line.
    pub fn log_request(&self, level: Level, id: &str, text: &str) {
        let text = self.redactor.redact(text);
        log(level, &format!("{} request={id} ", self.prefix), &text);
    }

    /// Logs a line about a request at the end of this turn of the event loop. It has
    /// to be one without anything of a guest's in it.
    pub fn log_later(&self, id: &str, line: fmt::Arguments<'_>) {
        let Self { prefix, .. } = self;
        log_later(Level::Info, format_args!("{prefix} request={id} {line}"));
    }

    /// Counts the failure of a request and logs it, unless there have been too
    /// many like it. `status` is what the client got: a number, `truncated` if
    /// the response had begun, or `complete`.
    pub fn log_failure(&self, id: &str, failure: &Failure, status: &dyn Display) {
        if self.tally.count(failure) {
            let Failure { reason, detail } = failure;
            let text = format!("reason={reason} status={status} {detail}");
            self.log_request(Level::Error, id, &text);
        }
    }

    /// Logs a request that no guest can be given, unless there have been too
    /// many like it. `status` is what the client got.
    pub fn log_refused(&self, id: &str, status: u16, why: &dyn Display) {
        let text = format!("status={status} {why}");
        if self.tally.refuse(&text) {
            self.log_request(Level::Info, id, &text);
        }
    }

    /// Tells of failures that were kept out of the log for a while.
    pub fn log_suppressed(&self) {
        self.tell(&self.tally.suppressed());
    }

    /// The last lines of a process: what failed in its life.
    pub fn log_totals(&self) {
        self.tell(&self.tally.suppressed_at_the_end());
        let counts = self.tally.counts();
        if !counts.is_empty() {
            let counts: Vec<String> = counts
                .iter()
                .map(|(reason, count)| format!("{reason}={count}"))
                .collect();
            let text = format!("failures of this process: {}", counts.join(" "));
            self.log(Level::Notice, &text);
        }
        flush_log();
    }

    fn tell(&self, suppressed: &[Suppressed]) {
        for Suppressed {
            reason,
            count,
            example,
        } in suppressed
        {
            let (level, what) = match reason {
                Some(_) => (Level::Error, "failures"),
                None => (Level::Warn, "refused requests or notices"),
            };
            let text = format!("{count} more {what} like this were not logged: {example}");
            self.log(level, &text);
        }
    }

    /// The text for an application that cannot start.
    pub fn cannot_start(&self, component: Option<&dyn Display>, why: &dyn Display) -> String {
        match component {
            Some(component) => {
                format!("{} cannot start: component {component}: {why}", self.prefix)
            }
            None => format!("{} cannot start: {why}", self.prefix),
        }
    }
}

impl GuestLog for App {
    fn line(&self, request: &str, stream: OutputStreamKind, text: &str) {
        let stream = stream.as_str();
        let text = self.redactor.redact(text);
        let prefix = format!("{} request={request} {stream}: ", self.prefix);
        log_lines_later(Level::Info, &prefix, &text);
    }

    fn notice(&self, request: &str, severity: Severity, text: &str) {
        if self.tally.refuse(text) {
            self.log_request(level(severity), request, text);
        }
    }

    fn message(&self, request: &str, severity: Severity, text: &str) {
        self.log_request(level(severity), request, &format!("log: {text}"));
    }
}

fn level(severity: Severity) -> Level {
    match severity {
        Severity::Alert => Level::Alert,
        Severity::Error => Level::Error,
        Severity::Warn => Level::Warn,
        Severity::Info => Level::Info,
        Severity::Debug => Level::Debug,
    }
}
