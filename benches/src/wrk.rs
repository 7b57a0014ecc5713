//! One run of wrk against one server.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::http::{self, Request};

use crate::server::Server;

/// What a run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Requests per second.
    pub rate: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99: f64,
    /// CPU time of the application's processes per request, in microseconds.
    pub cpu: Option<f64>,
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Load {
    /// Path and query.
    pub target: String,
    /// Bytes to POST; 0 is a GET.
    pub post: usize,
    /// Concurrent connections.
    pub connections: u32,
}

impl Load {
    /// GET over 32 connections.
    pub fn get(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            post: 0,
            connections: 32,
        }
    }

    fn request(&self) -> Request {
        match self.post {
            0 => Request::get(&self.target),
            size => Request::post(&self.target, vec![b'x'; size])
                .header("content-type", "application/octet-stream"),
        }
    }
}

/// Says whether wrk is there.
pub fn check() -> Result<(), String> {
    let found = Command::new("wrk").arg("-v").output();
    found.map(|_| ()).map_err(|error| {
        format!("wrk: {error}; install it, with `apt-get install wrk` on Debian and Ubuntu")
    })
}

/// One request, whose answer has to be 200; returns the body.
pub fn ask(server: &Server, load: &Load) -> Result<Vec<u8>, String> {
    let load = server.adapt(load);
    let response = http::fetch(server.addr, &load.request()).map_err(|e| e.to_string())?;
    match response.status() {
        200 => Ok(response.body),
        status => Err(format!("status {status}: {:.100}", response.text())),
    }
}

/// Loads a server whose answers are known to have bodies of `size` bytes.
/// A run in which anything failed has no figures.
pub fn run(server: &Server, load: &Load, size: usize, time: Duration) -> Result<Figures, String> {
    let load = server.adapt(load);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/report.lua");
    let before = server.cpu_time();
    let output = Command::new("wrk")
        .arg("-t1")
        .arg(format!("-c{}", load.connections))
        .arg(format!("-d{}s", time.as_secs()))
        .args(["--timeout", "10s", "-s"])
        .arg(script)
        .arg(format!("http://{}{}", server.addr, load.target))
        .arg("--")
        .arg(load.post.to_string())
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text
        .lines()
        .find_map(|line| line.strip_prefix("report "))
        .ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("wrk has not reported: {text} {errors}")
        })?;
    let mut figures = judge(&load, size, report)?;
    let spent = before.zip(server.cpu_time()).map(|(a, b)| b - a);
    figures.cpu = spent.map(|spent| spent / (figures.rate * time.as_secs_f64()));
    Ok(figures)
}

fn judge(load: &Load, size: usize, report: &str) -> Result<Figures, String> {
    let fields: BTreeMap<&str, f64> = report
        .split_whitespace()
        .filter_map(|field| field.split_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let field = |name: &str| {
        let value = fields.get(name).copied();
        value.ok_or_else(|| format!("wrk's report lacks {name}: {report}"))
    };
    let mut faults = Vec::new();
    for kind in ["connect", "read", "write", "status", "timeout"] {
        let count = field(kind)?;
        if count > 0.0 {
            faults.push(format!("{count} {kind} errors"));
        }
    }
    if !faults.is_empty() {
        return Err(faults.join(", "));
    }
    let requests = field("requests")?;
    if requests < 1.0 {
        return Err("no request was answered".into());
    }
    // wrk takes any 2xx and 3xx; the amount tells an answer from another.
    let bytes = field("bytes")?;
    let under_way = requests + f64::from(load.connections);
    let most = under_way * (2 * size + 1024) as f64;
    if bytes < requests * size as f64 || bytes > most {
        return Err(format!(
            "{} bytes per answer, {size} and a head expected",
            (bytes / requests).round()
        ));
    }
    Ok(Figures {
        rate: requests / (field("micros")? / 1e6),
        p50: field("p50")?,
        p99: field("p99")?,
        cpu: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(what: &str) -> Result<Figures, String> {
        judge(&Load::get("/"), 100, what)
    }

    #[test]
    fn a_clean_run_has_figures() {
        let figures = report(
            "requests=1000 micros=2000000 bytes=200000 connect=0 read=0 write=0 status=0 \
             timeout=0 p50=900 p99=2000",
        )
        .unwrap();
        assert!((figures.rate - 500.0).abs() < 1e-9);
        assert!((figures.p99 - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_with_failures_has_none() {
        for (fault, told) in [
            ("read=1 write=0 status=0", "1 read errors"),
            ("read=0 write=0 status=7", "7 status errors"),
        ] {
            let why = report(&format!(
                "requests=1000 micros=2000000 bytes=200000 connect=0 {fault} timeout=0 p50=9 p99=9"
            ));
            assert_eq!(why.unwrap_err(), told);
        }
        for (bytes, requests) in [(90_000, 1000), (9_000_000, 1000), (0, 0)] {
            let why = report(&format!(
                "requests={requests} micros=2000000 bytes={bytes} connect=0 read=0 write=0 \
                 status=0 timeout=0 p50=9 p99=9"
            ));
            assert!(why.is_err(), "{bytes}");
        }
        assert!(report("requests=5").is_err());
    }
}
