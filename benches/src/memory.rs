//! Rows of memory: what processes hold, idle, loaded and with guests in them.

use std::fs;
use std::thread;
use std::time::Duration;

use harness::Conn;
use harness::http::Request;
use harness::proc::Process;

use crate::options::Options;
use crate::peers::{Peers, Who};
use crate::table::Line;
use crate::wrk::{self, Load};

/// Guests that sleep at the same time.
const SLEEPERS: usize = 1000;

/// How long each of them sleeps: until all have been started and counted.
const SLEEP: Duration = Duration::from_secs(6);

/// When they are counted.
const COUNTED: Duration = Duration::from_secs(3);

/// Resident memory in KiB.
#[derive(Clone, Copy)]
pub struct Resident {
    /// All of it.
    pub total: u64,
    /// Without what comes from files, which processes share.
    pub private: u64,
}

/// That of a process.
pub fn resident(process: Process) -> Result<Resident, String> {
    let path = format!("/proc/{}/status", process.pid);
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let field = |name: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines
            .filter_map(|rest| rest.split_whitespace().next())
            .next();
        value
            .and_then(|kib| kib.parse().ok())
            .ok_or_else(|| format!("{path} lacks {name}"))
    };
    Ok(Resident {
        total: field("VmRSS:")?,
        private: field("RssAnon:")?,
    })
}

/// The one process of an application.
pub fn only(peers: &Peers, who: Who, app: &str) -> Result<Process, String> {
    match peers.processes(who, app).as_slice() {
        [process] => Ok(*process),
        others => Err(format!("{} processes of {app}, not one", others.len())),
    }
}

type Row = (&'static str, &'static str, Probe);

/// Measures one application; gives the figure as text and as a number.
type Probe = fn(&Options, &Peers, Who, &str) -> Result<(String, f64), String>;

/// Measures every row that is wanted.
pub fn measure(options: &Options, peers: &Peers) -> Vec<Line> {
    let rows: [Row; 6] = [
        ("RSS idle", "hello-idle", idle),
        ("RSS after load", "hello", loaded),
        ("RSS per sleeping guest", "sleep", sleepers),
        ("RSS python idle", "python-idle", idle),
        ("RSS python served", "python", served),
        ("1 GB download", "lab", crate::download::measure),
    ];
    let wanted = rows.into_iter().filter(|(row, ..)| options.wants(row));
    wanted.flat_map(|row| lines(options, peers, row)).collect()
}

fn lines(options: &Options, peers: &Peers, (row, app, probe): Row) -> Vec<Line> {
    eprintln!("{row}");
    let mut ours = None;
    let mut lines = Vec::new();
    for who in [Who::Ours, Who::Native, Who::Module] {
        if peers.server(who, app).is_none() {
            continue;
        }
        let line = match probe(options, peers, who, app) {
            Err(why) => Line::failed(row, who.name(), &why),
            Ok((figure, number)) => {
                let first = *ours.get_or_insert((who, number));
                let ratio = if first.0 == who || who == Who::Ours {
                    String::new()
                } else {
                    format!("{:.2}", first.1 / number)
                };
                Line::plain(row, who.name(), figure, ratio)
            }
        };
        lines.push(line);
    }
    lines
}

fn shown(resident: Resident) -> (String, f64) {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let text = format!(
        "{:.1} MiB, {:.1} private",
        mib(resident.total),
        mib(resident.private)
    );
    (text, resident.total as f64)
}

fn idle(_: &Options, peers: &Peers, who: Who, app: &str) -> Result<(String, f64), String> {
    resident(only(peers, who, app)?).map(shown)
}

fn loaded(options: &Options, peers: &Peers, who: Who, app: &str) -> Result<(String, f64), String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    let load = Load::get("/hello");
    let size = wrk::ask(&server, &load)?.len();
    wrk::run(&server, &load, size, options.time)?;
    resident(only(peers, who, app)?).map(shown)
}

fn served(_: &Options, peers: &Peers, who: Who, app: &str) -> Result<(String, f64), String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    for _ in 0..20 {
        wrk::ask(&server, &Load::get("/"))?;
    }
    resident(only(peers, who, app)?).map(shown)
}

fn sleepers(_: &Options, peers: &Peers, who: Who, app: &str) -> Result<(String, f64), String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    wrk::ask(&server, &Load::get("/"))?;
    let process = only(peers, who, app)?;
    let before = resident(process)?;
    let request = Request::get(format!("/sleep?ms={}", SLEEP.as_millis())).bytes();
    let mut conns = Vec::new();
    for _ in 0..SLEEPERS {
        let mut conn = Conn::try_open(server.addr).map_err(|e| e.to_string())?;
        conn.send(&request).map_err(|e| e.to_string())?;
        conns.push(conn);
    }
    thread::sleep(COUNTED);
    let during = resident(process)?;
    for mut conn in conns {
        let response = conn.read_response(false).map_err(|e| e.to_string())?;
        if response.status() != 200 {
            return Err(format!("a sleeper got {}", response.status()));
        }
    }
    let kib = during.total.saturating_sub(before.total) as f64 / SLEEPERS as f64;
    let total = during.total as f64 / 1024.0;
    Ok((format!("{kib:.0} KiB, {total:.0} MiB in all"), kib))
}
