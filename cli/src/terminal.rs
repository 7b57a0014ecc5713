//! Text for people.

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

/// Characters between the ends of a bar, and of the part of it that moves.
const BAR: usize = 24;
const BLOCK: usize = 6;
/// Time until something is shown, and for one step of a bar.
const SOON: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(100);
/// Between two lines, where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Display {
    /// As a bar that is drawn over itself.
    Bar,
    /// As a line from time to time.
    Lines,
    /// Not at all.
    Nothing,
}

/// Shows on stderr that something goes on, and for how long: on a terminal as a bar. How
/// much is left is not known, so a block moves from one end of it to the other.
pub struct Progress {
    what: String,
    told: Option<Duration>,
    display: Display,
}

impl Progress {
    /// For something that is called `what`. Where there is no terminal, lines are
    /// written if that is wanted.
    pub fn new(what: String, lines: bool) -> Self {
        let display = match (io::stderr().is_terminal(), lines) {
            (true, _) => Display::Bar,
            (false, true) => Display::Lines,
            (false, false) => Display::Nothing,
        };
        let told = None;
        Self {
            what,
            told,
            display,
        }
    }

    /// It has taken `elapsed`, and goes on.
    pub fn tick(&mut self, elapsed: Duration) {
        if let Some(text) = self.next(elapsed) {
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    /// What is to be written now, if anything is.
    fn next(&mut self, elapsed: Duration) -> Option<String> {
        let (first, pause) = match self.display {
            Display::Bar => (SOON, STEP),
            Display::Lines => (LINES, LINES),
            Display::Nothing => return None,
        };
        if elapsed < self.told.map_or(first, |told| told + pause) {
            return None;
        }
        self.told = Some(elapsed);
        let (what, seconds) = (&self.what, elapsed.as_secs());
        Some(match self.display {
            Display::Bar => format!("\r{what} {} {seconds}s ", bar(elapsed)),
            _ => format!("nxt-wasm: {what}, for {seconds}s so far\n"),
        })
    }

    /// What makes the line of a bar empty again.
    fn end(&self) -> &'static str {
        match (self.display, self.told) {
            (Display::Bar, Some(_)) => "\r\x1b[K",
            _ => "",
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let _ = io::stderr().write_all(self.end().as_bytes());
    }
}

/// A bar with its block where it is after `elapsed`: to the right end and back.
fn bar(elapsed: Duration) -> String {
    let way = BAR - BLOCK;
    let steps = elapsed.as_millis() / STEP.as_millis();
    let step = usize::try_from(steps % (2 * way as u128)).unwrap_or_default();
    let at = step.min(2 * way - step);
    format!(
        "[{}{}{}]",
        " ".repeat(at),
        "=".repeat(BLOCK),
        " ".repeat(way - at)
    )
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

    fn progress(display: Display) -> Progress {
        Progress {
            what: "compiling 1.5 MiB".to_owned(),
            told: None,
            display,
        }
    }

    #[test]
    fn a_bar_moves_to_its_end_and_back() {
        let mut progress = progress(Display::Bar);
        let mut drawn = |ms: u64| progress.next(Duration::from_millis(ms));
        // What is done at once is not shown.
        assert_eq!(drawn(499), None);
        let at = |spaces: usize, seconds: u64| {
            let rest = " ".repeat(18 - spaces);
            let bar = format!("[{}======{rest}]", " ".repeat(spaces));
            Some(format!("\rcompiling 1.5 MiB {bar} {seconds}s "))
        };
        assert_eq!(drawn(500), at(5, 0));
        assert_eq!(drawn(599), None);
        assert_eq!(drawn(600), at(6, 0));
        assert_eq!(drawn(1_800), at(18, 1));
        assert_eq!(drawn(1_900), at(17, 1));
        assert_eq!(drawn(3_600), at(0, 3));
        assert_eq!(drawn(90_100), at(1, 90));
        assert_eq!(progress.end(), "\r\x1b[K");
    }

    #[test]
    fn without_a_terminal_there_are_lines_or_nothing() {
        let mut lines = progress(Display::Lines);
        let mut written = |seconds: u64| lines.next(Duration::from_secs(seconds));
        assert_eq!(written(9), None);
        let line = |seconds| {
            Some(format!(
                "nxt-wasm: compiling 1.5 MiB, for {seconds}s so far\n"
            ))
        };
        assert_eq!(written(10), line(10));
        assert_eq!(written(19), None);
        assert_eq!(written(21), line(21));
        assert_eq!(lines.end(), "");
        let mut nothing = progress(Display::Nothing);
        assert_eq!(nothing.next(Duration::from_secs(1_000)), None);
        assert_eq!((nothing.end(), progress(Display::Bar).end()), ("", ""));
    }
}
