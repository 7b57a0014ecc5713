//! The text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write as _};

use nxt_wasm_runtime::Reason;

use super::board::Sum;
use super::cells::{
    CODES, FULL, GAUGES, Gauge, HISTOGRAMS, Histogram, OUTBOUND, REASONS, STATUSES, histogram_at,
};

/// The metrics of application `app`.
pub(super) fn write(app: &str, sum: &Sum) -> String {
    let mut text = Text {
        out: String::with_capacity(16 * 1024),
        app: escaped(app),
        values: &sum.values,
    };
    // A string takes everything.
    let _ = text.all(sum.processes);
    text.out
}

/// A label's value.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

struct Text<'a> {
    out: String,
    app: String,
    values: &'a [u64],
}

impl Text<'_> {
    fn value(&self, at: usize) -> u64 {
        self.values.get(at).copied().unwrap_or(0)
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
        self.head(name, kind, help)?;
        writeln!(self.out, "{name}{{app=\"{}\"}} {value}", self.app)
    }

    fn all(&mut self, processes: u64) -> fmt::Result {
        self.one(
            "nxt_wasm_processes",
            "gauge",
            "Processes that serve the application.",
            processes,
        )?;
        for (name, help, gauge) in [
            (
                "nxt_wasm_requests_in_flight",
                "Requests that have an instance.",
                Gauge::InFlight,
            ),
            (
                "nxt_wasm_slots",
                "Requests that may be in flight, in all processes.",
                Gauge::Slots,
            ),
            (
                "nxt_wasm_breakers_open",
                "Processes whose circuit breaker refuses requests.",
                Gauge::BreakerOpen,
            ),
            (
                "nxt_wasm_artifacts_from_cache",
                "Processes whose compiled component was found in the cache when they were configured.",
                Gauge::FromCache,
            ),
        ] {
            self.one(name, "gauge", help, self.value(GAUGES + gauge as usize))?;
        }
        self.codes()?;
        self.reasons()?;
        for (name, help, at) in [
            (
                "nxt_wasm_full_total",
                "Times that a request had to wait as all slots of its process were taken.",
                FULL,
            ),
            (
                "nxt_wasm_outbound_requests_total",
                "HTTP requests that guests have sent, those that were refused included.",
                OUTBOUND,
            ),
        ] {
            self.one(name, "counter", help, self.value(at))?;
        }
        for (index, histogram) in HISTOGRAMS.iter().enumerate() {
            self.histogram(histogram, histogram_at(index))?;
        }
        Ok(())
    }

    fn codes(&mut self) -> fmt::Result {
        let name = "nxt_wasm_requests_total";
        self.head(name, "counter", "Requests by the status of their response.")?;
        for (code, at) in STATUSES.zip(CODES..) {
            let value = self.value(at);
            // All of them would be many, and most never occur.
            if value > 0 || code == 200 {
                let app = &self.app;
                writeln!(self.out, "{name}{{app=\"{app}\",code=\"{code}\"}} {value}")?;
            }
        }
        Ok(())
    }

    fn reasons(&mut self) -> fmt::Result {
        let name = "nxt_wasm_failures_total";
        self.head(name, "counter", "Requests that failed, by reason.")?;
        for (reason, at) in Reason::ALL.into_iter().zip(REASONS..) {
            let (app, value) = (&self.app, self.value(at));
            writeln!(
                self.out,
                "{name}{{app=\"{app}\",reason=\"{reason}\"}} {value}"
            )?;
        }
        Ok(())
    }

    fn histogram(&mut self, histogram: &Histogram, at: usize) -> fmt::Result {
        let Histogram {
            name,
            help,
            bounds,
            scale,
        } = *histogram;
        self.head(name, "histogram", help)?;
        let scaled = |value: u64| value as f64 / scale as f64;
        let mut count = 0;
        for (bound, cell) in bounds.iter().zip(at..) {
            count += self.value(cell);
            let (app, bound) = (&self.app, scaled(*bound));
            writeln!(
                self.out,
                "{name}_bucket{{app=\"{app}\",le=\"{bound}\"}} {count}"
            )?;
        }
        count += self.value(at + bounds.len());
        let sum = scaled(self.value(at + bounds.len() + 1));
        let app = &self.app;
        writeln!(
            self.out,
            "{name}_bucket{{app=\"{app}\",le=\"+Inf\"}} {count}\n\
             {name}_sum{{app=\"{app}\"}} {sum}\n\
             {name}_count{{app=\"{app}\"}} {count}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::COUNT;
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_in_the_unit_of_their_name() {
        let mut values = vec![0; COUNT];
        let at = histogram_at(0);
        // 250 us, 500 us and beyond the last bound.
        values[at] = 2;
        values[at + 1] = 3;
        let bounds = HISTOGRAMS[0].bounds.len();
        values[at + bounds] = 1;
        values[at + bounds + 1] = 90_500_000_000;
        let sum = Sum {
            values,
            processes: 2,
        };
        let text = write("a\"b\\c", &sum);
        let app = r#"app="a\"b\\c""#;
        let name = "nxt_wasm_request_duration_seconds";
        for line in [
            format!("{name}_bucket{{{app},le=\"0.00025\"}} 2"),
            format!("{name}_bucket{{{app},le=\"0.0005\"}} 5"),
            format!("{name}_bucket{{{app},le=\"60\"}} 5"),
            format!("{name}_bucket{{{app},le=\"+Inf\"}} 6"),
            format!("{name}_sum{{{app}}} 90.5"),
            format!("{name}_count{{{app}}} 6"),
            format!("nxt_wasm_processes{{{app}}} 2"),
            format!("nxt_wasm_failures_total{{{app},reason=\"trap\"}} 0"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
