//! How soon a process that did not exist answers.

use std::time::{Duration, Instant};

use harness::wait_for;

use crate::options::Options;
use crate::peers::{Peers, Who};
use crate::table::{Line, median};
use crate::wrk::{self, Load};

/// Unit ends an idle process after a second; it is not precise about it.
const IDLE: Duration = Duration::from_secs(10);

/// Measures the rows that are wanted: the time from sending a request, with no
/// process there, to the end of its answer.
pub fn measure(options: &Options, peers: &Peers) -> Vec<Line> {
    let mut lines = Vec::new();
    for (row, app) in [
        ("first response", "hello-start"),
        ("first response, python", "python-start"),
    ] {
        if !options.wants(row) {
            continue;
        }
        eprintln!("{row}");
        let mut ours = None;
        for who in [Who::Ours, Who::Native, Who::Module] {
            if peers.server(who, app).is_none() {
                continue;
            }
            lines.push(match times(options, peers, who, app) {
                Err(why) => Line::failed(row, who.name(), &why),
                Ok(times) => {
                    let middle = median(times);
                    let ratio =
                        ours.map_or_else(String::new, |o: f64| format!("{:.2}", o / middle));
                    if who == Who::Ours {
                        ours = Some(middle);
                    }
                    Line::plain(row, who.name(), format!("{middle:.1} ms"), ratio)
                }
            });
        }
    }
    lines
}

fn times(options: &Options, peers: &Peers, who: Who, app: &str) -> Result<Vec<f64>, String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    let load = Load::get("/");
    // The very first also starts the prototype, and may compile.
    wrk::ask(&server, &load)?;
    let mut times = Vec::new();
    for _ in 0..options.rounds {
        wait_for(IDLE, || peers.processes(who, app).is_empty().then_some(()))
            .ok_or("its idle process does not end")?;
        let begin = Instant::now();
        wrk::ask(&server, &load)?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}
