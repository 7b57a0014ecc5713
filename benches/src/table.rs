//! The one table that is printed.

use std::fmt::Write;

use crate::wrk::Figures;

/// A line of the table.
pub struct Line {
    row: String,
    peer: String,
    figure: String,
    spread: String,
    p50: String,
    p99: String,
    cpu: String,
    ratio: String,
    ratio_p99: String,
}

impl Line {
    /// Of a peer that has no figures, and why.
    pub fn failed(row: &str, peer: &str, why: &str) -> Self {
        Self::plain(row, peer, format!("{FAILED}{why}"), String::new())
    }

    /// A figure other than a rate; `ratio` is that of ours to this one.
    pub fn plain(row: &str, peer: &str, figure: String, ratio: String) -> Self {
        Self {
            row: row.to_owned(),
            peer: peer.to_owned(),
            figure,
            spread: String::new(),
            p50: String::new(),
            p99: String::new(),
            cpu: String::new(),
            ratio,
            ratio_p99: String::new(),
        }
    }

    /// The runs of a peer; `first` are those of the row's first peer in the
    /// same rounds, unless this is it.
    pub fn runs(row: &str, peer: &str, runs: &[Figures], first: Option<&[Figures]>) -> Self {
        let all = |of: fn(&Figures) -> f64| median(runs.iter().map(of).collect());
        let rates = || runs.iter().map(|run| run.rate);
        let rate = all(|run| run.rate);
        let least = rates().fold(f64::INFINITY, f64::min);
        let most = rates().fold(0.0, f64::max);
        // Of each round by itself: what slows the machine down for a while
        // slows down both.
        let ratio = |of: fn(&Figures) -> f64| {
            let pairs = first?.iter().zip(runs);
            Some(median(pairs.map(|(a, b)| of(a) / of(b)).collect()))
        };
        let shown = |ratio: Option<f64>| ratio.map_or_else(String::new, |r| format!("{r:.2}"));
        Self {
            row: row.to_owned(),
            peer: peer.to_owned(),
            figure: format!("{} req/s", thousands(rate)),
            spread: format!("{:.0}%", (most - least) / 2.0 / rate * 100.0),
            p50: millis(all(|run| run.p50)),
            p99: millis(all(|run| run.p99)),
            cpu: match all(|run| run.cpu.unwrap_or(f64::NAN)) {
                cpu if cpu.is_nan() => String::new(),
                cpu => format!("{cpu:.1}"),
            },
            ratio: shown(ratio(|run| run.rate)),
            ratio_p99: shown(ratio(|run| run.p99)),
        }
    }

    /// Whether it has no figure.
    pub fn has_failed(&self) -> bool {
        self.figure.starts_with(FAILED)
    }

    fn cells(&self) -> [&str; 9] {
        [
            &self.row,
            &self.peer,
            &self.figure,
            &self.spread,
            &self.p50,
            &self.p99,
            &self.cpu,
            &self.ratio,
            &self.ratio_p99,
        ]
    }
}

const FAILED: &str = "FAILED: ";

const HEADS: [&str; 9] = [
    "row",
    "peer",
    "figure",
    "+-",
    "p50 ms",
    "p99 ms",
    "cpu us",
    "ratio",
    "p99 ratio",
];

/// The table as text. A row's name stands before its first peer only.
pub fn render(lines: &[Line]) -> String {
    let mut widths = HEADS.map(str::len);
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line.cells()) {
            // Reasons of failures run into the empty columns after them.
            if !cell.starts_with(FAILED) {
                *width = (*width).max(cell.len());
            }
        }
    }
    let mut text = String::new();
    let mut put = |cells: [&str; 9]| {
        let mut line = String::new();
        for (index, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
            // Names to the left, figures to the right.
            let _ = match index {
                _ if cell.starts_with(FAILED) => write!(line, "{cell}"),
                0 | 1 => write!(line, "{cell:<width$}  "),
                _ => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(HEADS);
    let rules = widths.map(|width| "-".repeat(width));
    put(rules.each_ref().map(String::as_str));
    let mut last = "";
    for line in lines {
        let mut cells = line.cells();
        if line.row == last {
            cells[0] = "";
        }
        last = &line.row;
        put(cells);
    }
    text
}

/// The middle one of some figures, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    match figures.len() % 2 {
        0 => f64::midpoint(at(middle.wrapping_sub(1)), at(middle)),
        _ => at(middle),
    }
}

fn millis(micros: f64) -> String {
    format!("{:.2}", micros / 1000.0)
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, p99: f64) -> Figures {
        Figures {
            rate,
            p50: 1.0,
            p99,
            cpu: None,
        }
    }

    #[test]
    fn medians() {
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 3.0, 9.0]) - 3.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let ours = [run(10.0, 30.0), run(20.0, 30.0), run(30.0, 30.0)];
        let peer = [run(20.0, 10.0), run(40.0, 10.0), run(30.0, 10.0)];
        let line = Line::runs("hello", "peer", &peer, Some(&ours));
        assert_eq!(
            (line.ratio.as_str(), line.ratio_p99.as_str()),
            ("0.50", "3.00")
        );
        assert_eq!(line.figure, "30 req/s");
        assert_eq!(line.spread, "33%");
    }

    #[test]
    fn numbers() {
        assert_eq!(thousands(7.4), "7");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
