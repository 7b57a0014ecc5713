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
        let peers_there: Vec<Who> = [Who::Ours, Who::Native, Who::Module]
            .into_iter()
            .filter(|who| peers.server(*who, app).is_some())
            .collect();
        let mut all: Vec<Result<Vec<f64>, String>> = peers_there
            .iter()
            .map(|who| warm_up(peers, *who, app).map(|()| Vec::new()))
            .collect();
        for _ in 0..options.rounds {
            for (who, times) in peers_there.iter().zip(&mut all) {
                let time = match times {
                    Ok(_) => time(peers, *who, app),
                    Err(_) => continue,
                };
                match (time, &mut *times) {
                    (Ok(time), Ok(times)) => times.push(time),
                    (Err(why), times) => *times = Err(why),
                    (Ok(_), Err(_)) => {}
                }
            }
        }
        let mut ours = None;
        for (who, times) in peers_there.into_iter().zip(all) {
            lines.push(match times {
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

/// The very first request also starts the prototype, and may compile.
fn warm_up(peers: &Peers, who: Who, app: &str) -> Result<(), String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    wrk::ask(&server, &Load::get("/")).map(drop)
}

/// Once the process that was there has gone.
fn time(peers: &Peers, who: Who, app: &str) -> Result<f64, String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    wait_for(IDLE, || peers.processes(who, app).is_empty().then_some(()))
        .ok_or("its idle process does not end")?;
    let begin = Instant::now();
    wrk::ask(&server, &Load::get("/"))?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}
