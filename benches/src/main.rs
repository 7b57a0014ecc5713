//! `make bench`: the module against its peers, in one table from one run.
//!
//! Peers take turns in each row, for several rounds, so that a machine that is
//! busy for a while is unfair to none of them. A ratio is the median of the
//! ratios of the rounds. docs/performance.md says how to read the table.

mod download;
mod memory;
mod native;
mod options;
mod peers;
mod rows;
mod server;
mod site;
mod start;
mod table;
mod wrk;

use std::process::ExitCode;

use options::Options;
use peers::Peers;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let options = Options::read()?;
    wrk::check()?;
    let peers = Peers::start(&options)?;
    let mut lines = rows::measure(&options, &peers);
    lines.extend(start::measure(&options, &peers));
    lines.extend(memory::measure(&options, &peers));
    let failed = lines.iter().any(table::Line::has_failed);
    println!("{}", table::render(&lines));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
