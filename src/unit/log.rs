//! Unit's log.

use std::ffi::c_int;
use std::ptr;

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
