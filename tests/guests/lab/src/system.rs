//! Routes about what surrounds a guest: environment, output, clocks, chance.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use wasi::cli::environment::{get_arguments, get_environment};
use wasi::cli::stdin::get_stdin;
use wasi::clocks::{monotonic_clock, wall_clock};
use wasi::io::streams::StreamError;
use wasi::random::random::get_random_bytes;

use crate::reply::Reply;
use crate::request::Request;

/// `/env`: the environment, sorted.
pub fn environment(reply: Reply) -> io::Result<()> {
    let mut lines: Vec<String> = get_environment()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    lines.sort();
    reply.text(lines.concat())
}

/// `/args`: how many arguments there are.
pub fn arguments(reply: Reply) -> io::Result<()> {
    reply.text(format!("{}\n", get_arguments().len()))
}

/// `/stdin`: how many bytes it holds.
pub fn stdin(reply: Reply) -> io::Result<()> {
    let input = get_stdin();
    let mut total = 0;
    loop {
        match input.blocking_read(4096) {
            Ok(piece) => total += piece.len(),
            Err(StreamError::Closed) => return reply.text(format!("{total}\n")),
            Err(StreamError::LastOperationFailed(error)) => {
                return reply.text(format!("error: {error}\n"));
            }
        }
    }
}

/// `/stdout?text=T&count=N` or `/stdout?bytes=N`.
pub fn stdout(request: &Request, reply: Reply) -> io::Result<()> {
    print(&mut io::stdout().lock(), request)?;
    reply.text("ok\n")
}

/// `/stderr?text=T&count=N` or `/stderr?bytes=N`.
pub fn stderr(request: &Request, reply: Reply) -> io::Result<()> {
    print(&mut io::stderr().lock(), request)?;
    reply.text("ok\n")
}

fn print(output: &mut impl Write, request: &Request) -> io::Result<()> {
    let bytes = request.number("bytes", 0) as usize;
    if bytes > 0 {
        let mut line = vec![b'x'; bytes];
        line.push(b'\n');
        output.write_all(&line)?;
    } else {
        let line = request.text("text") + "\n";
        for _ in 0..request.number("count", 1) {
            output.write_all(line.as_bytes())?;
        }
    }
    output.flush()
}

/// `/print-forever`: lines on stdout without end.
pub fn print_forever() -> ! {
    let mut i = 0u64;
    loop {
        println!("line {i} of a guest that does not stop printing");
        i += 1;
    }
}

/// `/sleep?ms=N`.
pub fn sleep(request: &Request, reply: Reply) -> io::Result<()> {
    pause(request.number("ms", 0));
    reply.text("slept\n")
}

/// Waits in the host.
pub fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        let nanoseconds = milliseconds.saturating_mul(1_000_000);
        monotonic_clock::subscribe_duration(nanoseconds).block();
    }
}

/// `/counter`: how many requests this instance has counted.
pub fn counter(reply: Reply) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    reply.text(format!("{count}\n"))
}

/// `/clock`: both clocks, in seconds and in nanoseconds.
pub fn clock(reply: Reply) -> io::Result<()> {
    let wall = wall_clock::now();
    let monotonic = monotonic_clock::now();
    reply.text(format!(
        "wall={}.{:09}\nmonotonic={monotonic}\n",
        wall.seconds, wall.nanoseconds
    ))
}

/// `/random?bytes=N`: asks for N random bytes in one call.
pub fn random(request: &Request, reply: Reply) -> io::Result<()> {
    let bytes = get_random_bytes(request.number("bytes", 16));
    reply.text(format!("{}\n", bytes.len()))
}
