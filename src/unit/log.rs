//! Unit's log.

use std::cell::RefCell;
use std::ffi::c_int;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{io, mem, process, ptr};

use nxt_unit_sys as sys;

/// Severity, as Unit's log shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Needs the operator at once.
    Alert,
    /// A request or an application failed.
    Error,
    /// Something is odd, and worked all the same.
    Warn,
    /// Worth knowing once.
    Notice,
    /// Everyday news.
    Info,
    /// Only for looking for a fault.
    Debug,
}

impl Level {
    /// What the log calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The numbers of libunit and of unitd's own logger are the same.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Alert => sys::NXT_LOG_ALERT,
            Self::Error => sys::NXT_LOG_ERR,
            Self::Warn => sys::NXT_LOG_WARN,
            Self::Notice => sys::NXT_LOG_NOTICE,
            Self::Info => sys::NXT_LOG_INFO,
            Self::Debug => sys::NXT_LOG_DEBUG,
        }
    }
}

/// Longest text of one record. Unit cuts records at 2048 bytes, of which its
/// own prefix takes up to 80.
pub(super) const RECORD: usize = 1900;

/// Writes `text` to the log of this application process, `prefix` before each
/// line of it. Lines that are too long for one record become several.
///
/// May be called on any thread, and before libunit is initialised: with no
/// context, `nxt_unit_log` formats on its stack and writes to descriptor 2,
/// which is Unit's log in every application process.
pub fn log(level: Level, prefix: &str, text: &str) {
    flush_log();
    for record in records(prefix, text) {
        let length = c_int::try_from(record.len()).unwrap_or(0);
        // SAFETY: a null context is allowed; the format takes an int and a
        // pointer to at least as many bytes, which `record` is.
        unsafe {
            sys::nxt_unit_log(
                ptr::null_mut(),
                c_int::try_from(level.number()).unwrap_or(0),
                c"%.*s".as_ptr(),
                length,
                record.as_ptr(),
            );
        }
    }
}

/// Lines of a thread that are to be written together, and what begins each of
/// them in the current second.
#[derive(Default)]
struct Batch {
    lines: String,
    second: i64,
    time: String,
    thread: String,
}

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::default();
}

/// Bytes in a batch that are written at once.
const FULL: usize = 16 * 1024;

/// Adds a line to those that [`flush_log`] will write, for news of every request:
/// a system call for each of them costs as much as a small guest does. The line
/// looks like those of `nxt_unit_log`.
///
/// Lines keep their order with those of [`log`] on this thread. If the process is
/// killed before, they are lost.
pub fn log_later(level: Level, line: fmt::Arguments<'_>) {
    with_batch(|batch| {
        batch.begin(level);
        let start = batch.lines.len();
        // A string takes everything.
        let _ = batch.lines.write_fmt(line);
        let end = batch.lines.floor_char_boundary(start + RECORD);
        batch.lines.truncate(end);
        batch.lines.push('\n');
        if batch.lines.len() >= FULL {
            batch.write();
        }
    });
}

/// The same of a text, as [`log`] makes lines of it.
pub fn log_lines_later(level: Level, prefix: &str, text: &str) {
    for record in records(prefix, text) {
        log_later(level, format_args!("{record}"));
    }
}

/// Writes what [`log_later`] has left.
pub fn flush_log() {
    with_batch(Batch::write);
}

/// Does nothing on a thread that is as good as gone, or from within itself: what
/// writes to the log must not panic.
fn with_batch(work: impl FnOnce(&mut Batch)) {
    let _ = BATCH.try_with(|batch| batch.try_borrow_mut().map(|mut batch| work(&mut batch)));
}

impl Batch {
    /// Begins a line as libunit would.
    fn begin(&mut self, level: Level) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = now.map_or(0, |now| now.as_secs().cast_signed());
        if self.second != second || self.time.is_empty() {
            self.second = second;
            self.time = local_time(second);
        }
        if self.thread.is_empty() {
            // SAFETY: takes nothing, and cannot fail.
            let thread = unsafe { libc::gettid() };
            self.thread = format!("{}#{thread} [unit] ", process::id());
        }
        let Self { time, thread, .. } = self;
        let _ = write!(self.lines, "{time} [{}] {thread}", level.name());
    }

    fn write(&mut self) {
        let mut rest = self.lines.as_bytes();
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(whole_lines(rest));
            // Descriptor 2 is Unit's log. When it takes nothing there is nobody
            // to tell.
            let _ = io::stderr().write_all(piece);
            rest = left;
        }
        self.lines.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.write();
    }
}

/// Bytes of the first lines that may be written in one piece. Where the log is a
/// pipe, more could be torn apart by what other processes write.
fn whole_lines(lines: &[u8]) -> usize {
    let most = lines.get(..libc::PIPE_BUF).unwrap_or(lines);
    match most.iter().rposition(|&byte| byte == b'\n') {
        Some(last) => last + 1,
        // No line is that long.
        None => most.len(),
    }
}

/// A time in the form of Unit's log, in the time zone of the process.
fn local_time(second: i64) -> String {
    // SAFETY: numbers and a pointer, all of which may be zero.
    let mut tm: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both point to values of this function; `tm` is written to only.
    let done = unsafe { libc::localtime_r(&second, &raw mut tm) };
    if done.is_null() {
        // A year that does not fit.
        return String::from("0000/00/00 00:00:00");
    }
    format!(
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

/// Cuts `text` into pieces that each fit a record with `prefix` before them:
/// at line ends, and in long lines between characters. Blank lines go.
pub(super) fn records(prefix: &str, text: &str) -> impl Iterator<Item = String> {
    // A prefix is never so long that nothing else fits.
    let room = RECORD.saturating_sub(prefix.len()).max(RECORD / 4);
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .flat_map(move |line| {
            let mut rest = line;
            std::iter::from_fn(move || {
                if rest.is_empty() {
                    return None;
                }
                let (piece, tail) = rest.split_at(rest.floor_char_boundary(room));
                rest = tail;
                Some(format!("{prefix}{piece}"))
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_batch_are_complete_and_not_too_long() {
        let long = "ä".repeat(RECORD);
        let mut batch = Batch::default();
        batch.begin(Level::Info);
        let thread = format!(" [info] {}#", process::id());
        assert!(batch.lines.contains(&thread), "{}", batch.lines);
        assert!(batch.lines.ends_with(" [unit] "), "{}", batch.lines);
        log_later(Level::Info, format_args!("{long}"));
        log_later(Level::Warn, format_args!("last"));
        let lines = BATCH.with_borrow_mut(|batch| mem::take(&mut batch.lines));
        let lines: Vec<&str> = lines.lines().collect();
        let [first, last] = lines[..] else {
            panic!("{lines:?}")
        };
        assert!(first.ends_with('ä') && first.len() <= RECORD + 100);
        assert!(last.contains(" [warn] ") && last.ends_with("] last"));
    }

    #[test]
    fn what_is_written_in_one_piece_ends_with_a_line() {
        let lines = format!("{}\n", "x".repeat(999)).repeat(9);
        assert_eq!(whole_lines(lines.as_bytes()), 4000);
        assert_eq!(whole_lines(b"a\nb\n"), 4);
        assert_eq!(whole_lines(&[b'x'; 9000]), libc::PIPE_BUF);
    }

    #[test]
    fn times_are_those_of_the_log() {
        // Time zones are whole quarters of an hour.
        let time = local_time(1_700_000_000);
        assert!(time.starts_with("2023/11/1"), "{time}");
        assert!(time.ends_with(":20") && time.len() == 19, "{time}");
    }

    #[test]
    fn records_are_lines_and_never_too_long() {
        let long = "ä".repeat(RECORD);
        let text = format!("first\n\n{long}\nlast");
        let cut: Vec<String> = records("id ", &text).collect();
        assert_eq!(cut.first().map(String::as_str), Some("id first"));
        assert_eq!(cut.last().map(String::as_str), Some("id last"));
        assert_eq!(cut.len(), 5, "{} bytes make three records", long.len());
        assert!(cut.iter().all(|r| r.len() <= RECORD));
        let pieces: Vec<&str> = cut[1..4]
            .iter()
            .filter_map(|r| r.strip_prefix("id "))
            .collect();
        assert_eq!(pieces.concat(), long);
    }
}
