//! Text for people.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Writes `text` to stdout. That nobody reads it any more is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to stderr, if there is one.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Characters of a text of a file that are shown.
const SHOWN: usize = 300;

/// `text` as it may go to a terminal, whoever wrote it: without control characters,
/// and not longer than a few lines.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (number, c) in text.chars().enumerate() {
        if number == SHOWN {
            shown.push_str("...");
            break;
        }
        // Turns the direction of what follows, or is not seen.
        let misleading = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || misleading {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A number of bytes in the largest unit that leaves a whole part.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, factor)| bytes >= *factor);
    let Some((unit, factor)) = unit else {
        return format!("{bytes} B");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(*factor);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A duration in its largest unit.
pub fn age(duration: Duration) -> String {
    const UNITS: [(&str, u64); 3] = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let seconds = duration.as_secs();
    match UNITS.iter().find(|(_, factor)| seconds >= *factor) {
        Some((unit, factor)) => format!("{}{unit}", seconds / factor),
        None => format!("{seconds}s"),
    }
}

/// A line on a terminal that says how long something has taken so far; nothing
/// if stderr is something else.
pub struct Ticker {
    what: &'static str,
    told: Option<Duration>,
    is_terminal: bool,
}

impl Ticker {
    /// For something that is called `what`.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            told: None,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// It has taken `elapsed`, and goes on.
    pub fn tick(&mut self, elapsed: Duration) {
        let due = match self.told {
            None => elapsed >= Duration::from_millis(500),
            Some(told) => elapsed >= told + Duration::from_secs(1),
        };
        if self.is_terminal && due {
            self.told = Some(elapsed);
            let mut line = String::new();
            let _ = write!(line, "\r{}: {}s ", self.what, elapsed.as_secs());
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if self.told.is_some() {
            // Back to an empty line.
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3_600, "1h"), (200_000, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn nothing_of_a_file_reaches_the_terminal_as_it_is() {
        assert_eq!(shown("a\x1b[2J\n\u{202e}b"), "a\\u{1b}[2J\\n\\u{202e}b");
        assert!(shown(&"x".repeat(100_000)).len() < 400);
        assert_eq!(shown("ünïcode"), "ünïcode");
    }
}
