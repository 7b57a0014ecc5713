//! Routes about what surrounds a guest: time, environment, output, chance, and
//! the other requests in the same instance.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use wit_bindgen::{FutureReader, StreamReader};

use crate::bindings::wasi::cli::{environment, stderr, stdin, stdout, types};
use crate::bindings::wasi::clocks::{monotonic_clock, system_clock};
use crate::bindings::wasi::random::random::get_random_bytes;
use crate::bindings::wit_stream;
use crate::reply::{self, Answer};
use crate::request::Request;

/// Waits in the host, while others of this instance go on.
pub async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        monotonic_clock::wait_for(milliseconds.saturating_mul(1_000_000)).await;
    }
}

/// `/sleep?ms=N`.
pub async fn sleep(request: &Request) -> Answer {
    pause(request.number("ms", 0)).await;
    reply::text("slept\n")
}

/// `/sleep-sync?ms=N`: waits by a call that blocks, of WASI 0.2.
pub fn sleep_sync(request: &Request) -> Answer {
    std::thread::sleep(Duration::from_millis(request.number("ms", 0)));
    reply::text("slept\n")
}

/// `/tasks?n=N&ms=MS`: N subtasks that sleep at the same time.
pub async fn tasks(request: &Request) -> Answer {
    let n = request.number("n", 1);
    let ms = request.number("ms", 10);
    let done = join_all((0..n).map(|_| pause(ms))).await.len();
    reply::text(format!("{done}\n"))
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Counts a request from its coming to its response.
pub struct InFlight;

impl InFlight {
    pub fn enter() -> InFlight {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let now = IN_FLIGHT.fetch_add(1, Ordering::Relaxed) + 1;
        PEAK.fetch_max(now, Ordering::Relaxed);
        InFlight
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `/count`: how many requests this instance has seen, of any route.
pub fn count() -> Answer {
    reply::text(format!("{}\n", COUNT.load(Ordering::Relaxed)))
}

/// `/counter`: how many requests of this route this instance has seen.
pub fn counter() -> Answer {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed) + 1;
    reply::text(format!("{count}\n"))
}

/// `/concurrent?ms=N`: sleeps, then answers how many requests this instance has
/// had in flight at most.
pub async fn concurrent(request: &Request) -> Answer {
    pause(request.number("ms", 0)).await;
    reply::text(format!("{}\n", PEAK.load(Ordering::Relaxed)))
}

/// `/instance-state?ms=N`: sleeps, then answers what `/count` and `/concurrent`
/// do, how many are in flight, and a number that was drawn when the instance
/// was made.
pub async fn instance_state(request: &Request) -> Answer {
    pause(request.number("ms", 0)).await;
    reply::json(&json!({
        "instance": instance(),
        "count": COUNT.load(Ordering::Relaxed),
        "in-flight": IN_FLIGHT.load(Ordering::Relaxed),
        "peak": PEAK.load(Ordering::Relaxed),
    }))
}

/// A number of this instance, in hex.
fn instance() -> String {
    static INSTANCE: AtomicU64 = AtomicU64::new(0);
    if INSTANCE.load(Ordering::Relaxed) == 0 {
        let bytes = get_random_bytes(7);
        let number = bytes
            .iter()
            .fold(1, |number, byte| number << 8 | u64::from(*byte));
        INSTANCE.store(number, Ordering::Relaxed);
    }
    format!("{:x}", INSTANCE.load(Ordering::Relaxed))
}

/// `/env`: the environment, sorted. `/env?name=N`: one of it, or `none`.
pub fn env(request: &Request) -> Answer {
    let mut all = environment::get_environment();
    if request.has("name") {
        let name = request.text("name");
        let found = all.into_iter().find(|(key, _)| *key == name);
        return reply::text(found.map_or("none".into(), |(_, value)| value) + "\n");
    }
    all.sort();
    let lines = all
        .into_iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    reply::text(lines.collect::<String>())
}

/// `/args`: how many arguments there are.
pub fn args() -> Answer {
    reply::text(format!("{}\n", environment::get_arguments().len()))
}

/// `/stdin`: how many bytes it holds.
pub async fn read_stdin() -> Answer {
    let (stream, end) = stdin::read_via_stream();
    let total = stream.collect().await.len();
    match end.await {
        Ok(()) => reply::text(format!("{total}\n")),
        Err(error) => reply::error(error),
    }
}

/// `/print?out=TEXT&err=TEXT&count=N`: lines on stdout and stderr, by WASI 0.2
/// as the language's own library does.
pub fn print(request: &Request) -> Answer {
    for _ in 0..request.number("count", 1) {
        if request.has("out") {
            println!("{}", request.text("out"));
        }
        if request.has("err") {
            eprintln!("{}", request.text("err"));
        }
    }
    match std::io::stdout().flush() {
        Ok(()) => reply::text("ok\n"),
        Err(error) => reply::error(error.to_string()),
    }
}

/// `/stdout?text=T&count=N` or `/stdout?bytes=N`, as in lab.
pub fn stdout_as_lab(request: &Request) -> Answer {
    print_as_lab(&mut std::io::stdout().lock(), request)
}

/// `/stderr?text=T&count=N` or `/stderr?bytes=N`, as in lab.
pub fn stderr_as_lab(request: &Request) -> Answer {
    print_as_lab(&mut std::io::stderr().lock(), request)
}

fn print_as_lab(output: &mut impl std::io::Write, request: &Request) -> Answer {
    let bytes = request.number("bytes", 0) as usize;
    let (line, count) = match bytes {
        0 => (request.text("text") + "\n", request.number("count", 1)),
        _ => ("x".repeat(bytes) + "\n", 1),
    };
    for _ in 0..count {
        if let Err(error) = output.write_all(line.as_bytes()) {
            return reply::error(error.to_string());
        }
    }
    match output.flush() {
        Ok(()) => reply::text("ok\n"),
        Err(error) => reply::error(error.to_string()),
    }
}

/// `/print3?out=TEXT&err=TEXT&count=N`: the same by streams of WASI 0.3.
pub async fn print3(request: &Request) -> Answer {
    let count = request.number("count", 1);
    for _ in 0..count {
        for (name, write) in [
            ("out", stdout::write_via_stream as Output),
            ("err", stderr::write_via_stream),
        ] {
            if request.has(name) {
                let line = request.text(name) + "\n";
                if let Err(error) = print_line(write, line).await {
                    return reply::error(error);
                }
            }
        }
    }
    reply::text("ok\n")
}

type Output = fn(StreamReader<u8>) -> FutureReader<Result<(), types::ErrorCode>>;

async fn print_line(write: Output, line: String) -> Result<(), types::ErrorCode> {
    let (mut stream, contents) = wit_stream::new();
    let done = write(contents);
    stream.write_all(line.into_bytes()).await;
    drop(stream);
    done.await
}

/// `/print-forever`: lines on stdout without end.
pub fn print_forever() -> ! {
    let mut i = 0u64;
    loop {
        println!("line {i} of a guest that does not stop printing");
        i += 1;
    }
}

/// `/clock`: both clocks, in seconds and in nanoseconds.
pub fn clock() -> Answer {
    let wall = system_clock::now();
    let monotonic = monotonic_clock::now();
    reply::text(format!(
        "wall={}.{:09}\nmonotonic={monotonic}\n",
        wall.seconds, wall.nanoseconds
    ))
}

/// `/random?n=N`: asks for N random bytes in one call; how many it got.
pub fn random(request: &Request) -> Answer {
    let bytes = get_random_bytes(request.number_of("n", "bytes", 16));
    reply::text(format!("{}\n", bytes.len()))
}
