//! Rows of throughput and latency.

use std::time::Duration;

use harness::Conn;
use harness::http::Request;

use crate::options::Options;
use crate::peers::Peers;
use crate::server::Server;
use crate::table::Line;
use crate::wrk::{self, Figures, Load};

/// How the body of an answer is known to be right.
#[derive(Clone)]
enum Expect {
    /// The request's description, as the example gives it.
    Hello,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes at least.
    AtLeast(usize),
}

/// One peer in a row.
struct Cell {
    server: Server,
    load: Load,
    expect: Expect,
    /// Guests that spin while it is measured.
    spinners: usize,
}

impl Cell {
    fn new(server: Server, load: &Load, expect: &Expect) -> Self {
        Self {
            server,
            load: load.clone(),
            expect: expect.clone(),
            spinners: 0,
        }
    }
}

/// A row: ratios are those of the first peer to the others.
struct Row {
    name: &'static str,
    cells: Vec<Cell>,
}

/// Measures every row that is wanted.
pub fn measure(options: &Options, peers: &Peers) -> Vec<Line> {
    let wanted = rows(peers)
        .into_iter()
        .filter(|row| options.wants(row.name) && !row.cells.is_empty());
    wanted.flat_map(|row| row.measure(options)).collect()
}

fn rows(peers: &Peers) -> Vec<Row> {
    let hello = Load::get("/hello");
    let row = |name, servers: Vec<Server>, load: &Load, expect: &Expect| Row {
        name,
        cells: servers
            .into_iter()
            .map(|server| Cell::new(server, load, expect))
            .collect(),
    };
    let hellos = |name, app| row(name, peers.all(app), &hello, &Expect::Hello);

    let mut first = hellos("hello", "hello");
    if let Some(server) = peers.called("ok", "return 200") {
        let nothing = Expect::Bytes(Vec::new());
        first.cells.push(Cell::new(server, &hello, &nothing));
    }
    let echo = Load {
        post: 10 * 1024,
        ..Load::get("/echo?length=1")
    };
    let echoed = Expect::Bytes(vec![b'x'; echo.post]);
    let download = Load::get("/download?bytes=1048576&length=1");
    let mut pattern = harness::guests::Download::default();
    let pattern = Expect::Bytes(pattern.bytes(1 << 20));
    let events: String = (0..100).map(|i| format!("data: {i}\n\n")).collect();
    let events = Expect::Bytes(events.into_bytes());

    let named = |pairs: &[(&str, &str)]| -> Vec<Server> {
        let servers = pairs.iter();
        servers
            .filter_map(|(app, name)| peers.called(app, name))
            .collect()
    };
    let limits = named(&[
        ("limits", "every limit and fuel"),
        ("fuel", "with fuel"),
        ("hello", "as configured by default"),
    ]);
    let worlds = named(&[
        ("lab3", "WASI 0.3"),
        ("lab3-reuse", "0.3, reuse 1000"),
        ("lab3-shared", "the same, 16 at once"),
        ("lab", "WASI 0.2"),
        ("lab-reuse", "0.2, reuse 1000"),
    ]);
    let lab = Expect::Bytes(b"lab\n".to_vec());
    let threads = named(&[("threads-2", "2 threads"), ("hello", "1 thread")]);
    let python = peers.python.then(|| hellos_of_python(peers));
    let mut all = vec![
        first,
        row("echo 10 KB", peers.all("lab"), &echo, &echoed),
        row("download 1 MB", peers.all("lab"), &download, &pattern),
        row(
            "100 events",
            peers.all("lab"),
            &Load::get("/sse?events=100"),
            &events,
        ),
        hellos("2 processes", "hello-2"),
        hellos("4 processes", "hello-4"),
        row("threads", threads, &hello, &Expect::Hello),
        row("limits", limits, &hello, &Expect::Hello),
        row("0.3 and reuse", worlds, &Load::get("/"), &lab),
        neighbours(peers),
    ];
    all.extend(python);
    all
}

fn hellos_of_python(peers: &Peers) -> Row {
    let load = Load::get("/");
    let cells = peers.all("python").into_iter();
    Row {
        name: "python hello",
        cells: cells
            .map(|server| Cell::new(server, &load, &Expect::AtLeast(1)))
            .collect(),
    }
}

/// One process, 100 connections; with and without guests that spin in it.
fn neighbours(peers: &Peers) -> Row {
    let load = Load {
        connections: 100,
        ..Load::get("/")
    };
    let cell = |name, spinners| {
        let server = peers.called("spin", name)?;
        let expect = Expect::Bytes(b"lab\n".to_vec());
        Some(Cell {
            spinners,
            ..Cell::new(server, &load, &expect)
        })
    };
    let cells = [cell("2 guests spin", 2), cell("none spins", 0)];
    Row {
        name: "neighbours, 100 conns",
        cells: cells.into_iter().flatten().collect(),
    }
}

impl Row {
    fn measure(self, options: &Options) -> Vec<Line> {
        eprintln!("{}", self.name);
        let mut results: Vec<Result<Vec<Figures>, String>> = Vec::new();
        let mut sizes = Vec::new();
        for cell in &self.cells {
            let checked = cell.check();
            sizes.push(*checked.as_ref().unwrap_or(&0));
            results.push(checked.map(|_| Vec::new()));
        }
        for round in 0..options.rounds {
            // Each peer takes each place, if there are rounds enough.
            for turn in 0..self.cells.len() {
                let index = (round + turn) % self.cells.len();
                let (Some(cell), Some(result), Some(size)) = (
                    self.cells.get(index),
                    results.get_mut(index),
                    sizes.get(index),
                ) else {
                    continue;
                };
                let Ok(runs) = result else { continue };
                match cell.run(*size, options.time) {
                    Ok(figures) => runs.push(figures),
                    Err(why) => *result = Err(why),
                }
            }
        }
        let first = results.first().and_then(|first| first.as_ref().ok());
        let pairs = self.cells.iter().zip(&results).enumerate();
        pairs
            .map(|(index, (cell, result))| match result {
                Err(why) => Line::failed(self.name, &cell.server.name, why),
                Ok(runs) => {
                    let first = first.filter(|_| index > 0).map(Vec::as_slice);
                    Line::runs(self.name, &cell.server.name, runs, first)
                }
            })
            .collect()
    }
}

impl Cell {
    /// Looks at one answer, and says how many bytes the body has.
    fn check(&self) -> Result<usize, String> {
        let body = wrk::ask(&self.server, &self.load)?;
        let right = match &self.expect {
            Expect::Hello => {
                let text = String::from_utf8_lossy(&body);
                text.starts_with(" * Welcome to the component model in Rust! *")
                    && text.contains("METHOD = GET\n")
                    && text.contains("[Request Data]\n")
            }
            Expect::Bytes(bytes) => body == *bytes,
            Expect::AtLeast(size) => body.len() >= *size,
        };
        if right {
            return Ok(body.len());
        }
        let shown = String::from_utf8_lossy(&body);
        Err(format!("wrong answer, {} bytes: {shown:.60}", body.len()))
    }

    fn run(&self, size: usize, time: Duration) -> Result<Figures, String> {
        let mut spinning = Vec::new();
        for _ in 0..self.spinners {
            let mut conn = Conn::try_open(self.server.addr).map_err(|e| e.to_string())?;
            conn.send(&Request::get("/spin").bytes())
                .map_err(|e| e.to_string())?;
            spinning.push(conn);
        }
        let figures = wrk::run(&self.server, &self.load, size, time);
        // Their CPU time is longer than the run; each ends when it is used up.
        for mut conn in spinning {
            let response = conn.read_response(false).map_err(|e| e.to_string())?;
            if response.status() != 504 {
                return Err(format!("a spinning guest got {}", response.status()));
            }
        }
        figures
    }
}
