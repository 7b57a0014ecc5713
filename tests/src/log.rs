//! The host's log.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::wait::wait_for;

/// How long a line may take to appear after what it reports.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a log says when something is wrong with the host or the module itself.
const ALARMS: [&str; 4] = ["[alert]", "[emerg]", "[crit]", "Sanitizer"];

/// What unitd itself says at the level of an alert when nothing is wrong: while
/// it stops, its processes tell each other which ones have exited, and find
/// that the receiver has too. A C program on libunit that answers 200 and no
/// more leaves the same lines. Only these errnos of this call are let through.
///
/// Two more are of Unit's own making: libunit of FreeUnit says at this level
/// that the router has gone, with messages unread or not (1.35 says so as a
/// warning), and a process may be woken for a signal that was read already.
/// That the router has gone before its time is found by other checks. So is a
/// response that found no shared memory, of which libunit writes an alert (see
/// docs/architecture.md): it goes on later, and is checked. And so is a
/// process that ends when libunit takes what unitd's processes tell each other at
/// a stop for too many messages.
fn is_harmless(line: &str) -> bool {
    let unitd = [
        ") failed (32: Broken pipe)",
        ") failed (104: Connection reset by peer)",
    ];
    let unitd = line.contains(" sendmsg(") && unitd.iter().any(|errno| line.ends_with(errno));
    let gone = [
        ") failed: Broken pipe (32)",
        ") failed: Connection reset by peer (104)",
    ];
    let libunit =
        line.contains("[unit] sendmsg(") && gone.iter().any(|errno| line.ends_with(errno));
    let signal = line.contains(" read signalfd(")
        && line.ends_with(") failed (11: Resource temporarily unavailable)");
    let stop = line.ends_with("[unit] too many port socket messages")
        || line.ends_with("nxt_unit_process_port_msg failed on the read port");
    let exhausted = line.ends_with("response_buf_alloc: failed to get out buf");
    line.contains("[alert]") && (unitd || libunit || signal || stop || exhausted)
}

/// What the log says when the module panicked. In a line about a request it is
/// the guest that did, or that says so.
const PANIC: &str = "panicked at";
const OF_REQUEST: &str = " request=";

/// A log file that is being written.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
}

/// The line that the module writes when a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the application.
    pub app: String,
    /// Id of the request.
    pub id: String,
    /// Why it failed.
    pub reason: String,
    /// What the client was answered.
    pub status: String,
    /// The rest of the line.
    pub detail: String,
    /// The whole line.
    pub line: String,
}

impl Log {
    /// The log at `path`, which need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The whole lines written so far: of one that is being written, a part may be seen.
    pub fn text(&self) -> String {
        let mut bytes = self.bytes();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |end| end + 1));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything written so far, as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap_or_default()
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    /// The last lines, for a person to read.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The lines that satisfy a condition.
    pub fn matching(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| wanted(line));
        lines.map(str::to_owned).collect()
    }

    /// Waits for a line that contains all the given parts.
    #[track_caller]
    pub fn expect(&self, parts: &[&str]) -> String {
        let wanted = |line: &str| parts.iter().all(|part| line.contains(part));
        let found = wait_for(PATIENCE, || self.matching(wanted).into_iter().next());
        found.unwrap_or_else(|| panic!("no line with {parts:?} in the log:\n{}", self.tail(40)))
    }

    /// All request failures so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.text().lines().filter_map(parse_failure).collect()
    }

    /// Waits for the one failure line of a request.
    #[track_caller]
    pub fn expect_failure(&self, id: &str) -> Failure {
        let of_request = || self.failures().into_iter().filter(|found| found.id == id);
        if wait_for(PATIENCE, || of_request().next()).is_none() {
            panic!("no failure of request {id} in the log:\n{}", self.tail(40));
        }
        let all: Vec<Failure> = of_request().collect();
        assert_eq!(all.len(), 1, "one failure, one line: {all:#?}");
        all.into_iter().next().expect("just counted")
    }

    /// Lines of alarm, but for those that contain an expected part.
    pub fn alarms(&self, expected: &[String]) -> Vec<String> {
        self.matching(|line| {
            let marked = ALARMS.iter().any(|mark| line.contains(mark));
            let panic = line.contains(PANIC) && !line.contains(OF_REQUEST);
            (marked || panic)
                && !is_harmless(line)
                && !expected.iter().any(|part| line.contains(part))
        })
    }
}

/// Reads `... wasm "APP" request=ID reason=REASON status=STATUS DETAIL`.
fn parse_failure(line: &str) -> Option<Failure> {
    let (_, rest) = line.split_once(" wasm \"")?;
    let (app, rest) = rest.split_once("\" request=")?;
    let (id, rest) = rest.split_once(" reason=")?;
    let (reason, rest) = rest.split_once(" status=")?;
    let (status, detail) = rest.split_once(' ').unwrap_or((rest, ""));
    // Guest output may contain anything, look-alikes of this line included.
    if id.contains(' ') {
        return None;
    }
    Some(Failure {
        app: app.to_owned(),
        id: id.to_owned(),
        reason: reason.to_owned(),
        status: status.to_owned(),
        detail: detail.to_owned(),
        line: line.to_owned(),
    })
}
