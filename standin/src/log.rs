//! Log lines in Unit's form, written to descriptor 2 of every process: the
//! main process puts the log file there.

use std::fmt::Display;

use crate::sys::time::log_stamp;

/// How grave an event is.
#[derive(Clone, Copy)]
pub enum Level {
    /// Something that must not happen.
    Alert,
    /// A failure.
    Error,
    /// Worth a look.
    Warn,
    /// What an operator wants to see.
    Notice,
    /// More of it.
    Info,
    /// For those who work on the stand-in.
    Debug,
}

impl Level {
    /// The level that a module passed by number.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Alert,
            1 => Self::Error,
            2 => Self::Warn,
            3 => Self::Notice,
            4 => Self::Info,
            _ => Self::Debug,
        }
    }

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
}

/// Writes one line.
pub fn log(level: Level, message: impl Display) {
    write_line(level, "", message.to_string().as_bytes());
}

/// Writes one line, with what a module gave: bytes in any encoding.
pub fn write_line(level: Level, prefix: &str, message: &[u8]) {
    let mut line = format!(
        "{} [{}] {}#{} {prefix}",
        log_stamp(),
        level.name(),
        std::process::id(),
        rustix::thread::gettid().as_raw_nonzero(),
    )
    .into_bytes();
    line.extend_from_slice(message);
    line.push(b'\n');
    // One write, so that lines of several processes do not mix.
    let _ = rustix::io::write(rustix::stdio::stderr(), &line);
}
