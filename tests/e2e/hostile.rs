//! Guests that do their worst, over and over, between requests of healthy
//! ones: each costs its own request and nothing else.
//!
//! `E2E_HOSTILE_ROUNDS` says how often each of them runs; `make hostile` runs
//! them a thousand times.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use harness::config::Config;
use harness::host::Wasi;
use harness::http::Error;
use harness::load::{self, Client, Load, Outcome, body_of};
use harness::log::Log;
use harness::proc::Process;
use harness::watch::Baseline;
use harness::{App, Host, Request, Server, guests};

use crate::failures::assert_generic;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["hostile", Both:
        every_kind_between_healthy_requests,
        every_kind_on_two_threads,
    ]
}

/// The applications under attack.
const APPS: [&str; 4] = ["lab", "patient", "table", "waiting"];

/// How a hostile request ends for its client.
#[derive(Clone, Copy, Debug)]
enum End {
    /// With an error that says nothing about causes.
    Refused(u16),
    /// With what the guest answered.
    Answered(&'static str),
    /// In the middle of the body.
    Truncated,
    /// The client has gone, after so many bytes.
    Left(usize),
}

/// One kind of hostile request.
struct Kind {
    app: &'static str,
    request: fn(u64) -> Request,
    end: End,
    /// Under which it is counted, if it is a failure at all.
    reason: Option<&'static str>,
}

const fn kind(request: fn(u64) -> Request, end: End, reason: &'static str) -> Kind {
    Kind {
        app: "lab",
        request,
        end,
        reason: Some(reason),
    }
}

/// What guests of either version can do.
const KINDS: [Kind; 12] = [
    Kind {
        app: "patient",
        ..kind(
            |_| Request::get("/alloc-forever"),
            End::Refused(500),
            "memory",
        )
    },
    Kind {
        app: "table",
        ..kind(|_| Request::get("/"), End::Refused(500), "memory")
    },
    Kind {
        app: "patient",
        ..kind(|_| Request::get("/recurse"), End::Refused(500), "trap")
    },
    kind(|_| Request::get("/spin"), End::Refused(504), "cpu-time"),
    kind(|_| Request::get("/fill"), End::Refused(504), "cpu-time"),
    Kind {
        app: "waiting",
        ..kind(|_| Request::get("/hang"), End::Refused(504), "timeout")
    },
    kind(|_| Request::get("/forever"), End::Truncated, "cpu-time"),
    kind(|_| Request::get("/forever"), End::Left(300_000), "cpu-time"),
    kind(
        |_| Request::get("/print-forever"),
        End::Refused(504),
        "cpu-time",
    ),
    Kind {
        app: "patient",
        ..kind(
            |_| Request::get("/handles-forever"),
            End::Refused(500),
            "trap",
        )
    },
    Kind {
        reason: None,
        ..kind(
            |number| Request::post("/hold-body?ms=20", body_of(number, 100_000)),
            End::Answered("held\n"),
            "",
        )
    },
    kind(
        |_| Request::get("/after?how=trap"),
        End::Answered("after\n"),
        "trap",
    ),
];

const KINDS_OF_0_2: [Kind; 2] = [
    kind(
        |_| Request::get("/random?bytes=1073741824"),
        End::Refused(500),
        "trap",
    ),
    kind(
        |_| Request::get("/bigheaders?count=1024&size=1024"),
        End::Refused(500),
        "trap",
    ),
];

/// A guest of 0.3 is given 16 MiB, for which this one has no room; and it is told
/// of fields that are too large.
const KINDS_OF_0_3: [Kind; 2] = [
    Kind {
        app: "patient",
        ..kind(
            |_| Request::get("/random?bytes=1073741824"),
            End::Refused(500),
            "memory",
        )
    },
    Kind {
        reason: None,
        ..kind(
            |_| Request::get("/bigheaders?count=1024&size=1024"),
            End::Answered("refused: SizeExceeded\n"),
            "",
        )
    },
];

fn kinds(wasi: Wasi) -> Vec<&'static Kind> {
    let own = match wasi {
        Wasi::V02 => &KINDS_OF_0_2,
        Wasi::V03 => &KINDS_OF_0_3,
    };
    KINDS.iter().chain(own).collect()
}

/// Clients that send hostile requests at the same time.
const ATTACKERS: usize = 8;

/// `UNIT_WASM_CONCURRENCY`, with room for the healthy ones, and for guests
/// whose clients have gone.
const SLOTS: u64 = 24;

/// `UNIT_WASM_MEMORY`: `/fill` has 32 MiB.
const MEMORY_MIB: u64 = 48;

/// What a worker may gain between a tenth of the rounds and the end. It does
/// not depend on their number: it is what the slots of the pool keep resident,
/// of which some may have been used for the first time, and what the allocator
/// has in reserve.
const GROWTH: u64 = 64 << 20;

/// What a worker may have besides its guests' memories: code, stacks, buffers
/// of bodies and the pages that the slots of the pool keep.
const BESIDES: u64 = 192 << 20;

fn rounds() -> usize {
    let value = env::var("E2E_HOSTILE_ROUNDS").unwrap_or_default();
    match value.as_str() {
        "" => 10,
        number => number.parse().expect("E2E_HOSTILE_ROUNDS: a number"),
    }
}

fn limited(app: App, threads: &str) -> App {
    app.env("UNIT_WASM_MEMORY", &format!("{MEMORY_MIB}MiB"))
        .env("UNIT_WASM_CPU_TIME", "50ms")
        .env("UNIT_WASM_OUTPUT", "4KiB")
        .env("UNIT_WASM_CONCURRENCY", &SLOTS.to_string())
        .env("UNIT_WASM_THREADS", threads)
}

fn every_kind_between_healthy_requests(host: &Host) {
    attack(host, "1", rounds());
}

fn every_kind_on_two_threads(host: &Host) {
    attack(host, "2", rounds().div_ceil(5));
}

fn attack(host: &Host, threads: &str, rounds: usize) {
    let text = guests::root().join("tests/guests/failing/table-grow.wat");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let table = dir.path().join("table-grow.wasm");
    fs::write(&table, wat::parse_file(&text).expect("a component")).expect("written");
    harness::launch::open_to_all(dir.path());

    // What stops a guest here depends on the guest alone: one that spins or
    // allocates is never stopped by the clock, however slow the machine, and one
    // that waits or allocates never for its CPU time. The short time is that of
    // an application to which nothing comes but requests that wait for ever.
    let limited = |app| limited(app, threads);
    let patient = limited(App::lab().named("patient"))
        .env("UNIT_WASM_MEMORY", "16MiB")
        .env("UNIT_WASM_CPU_TIME", "10s");
    let waiting = limited(App::lab().named("waiting"))
        .env("UNIT_WASM_CPU_TIME", "10s")
        .env("UNIT_WASM_TIMEOUT", "2s");
    let table = limited(App::new("table", &table)).env("UNIT_WASM_CPU_TIME", "10s");
    let mut server = Server::bare(host);
    server.apply(&Config::of([limited(App::lab()), patient, table, waiting]));
    let workers = APPS.map(|app| server.worker(app));

    // Everything once, so that what is opened or allocated lazily is.
    let kinds = kinds(host.wasi);
    strike(&server, &kinds, 0..kinds.len() * 2);
    let before = Baseline::take(server.processes(), workers.to_vec());
    let total = rounds * kinds.len();
    let mark = total / 10;
    let begin = Instant::now();
    let mut healthy = strike(&server, &kinds, 0..mark);
    let at_mark = workers.map(resident);
    healthy += strike(&server, &kinds, mark..total);
    let took = begin.elapsed();
    let at_end = workers.map(resident);

    let mib = |bytes: u64| bytes >> 20;
    for ((worker, mark), end) in workers.iter().zip(at_mark).zip(at_end) {
        let command = worker.command();
        let peak = peak(*worker);
        eprintln!(
            "{} {command}, {threads} threads: {rounds} rounds of {} kinds and {healthy} healthy \
             requests in {took:.1?}; resident {} MiB at a tenth, {} MiB at the end, {} MiB at most",
            host.kind.name(),
            kinds.len(),
            mib(mark),
            mib(end),
            mib(peak),
        );
        assert!(end < mark + GROWTH, "{command} has grown: {mark} to {end}");
        let bound = SLOTS * (MEMORY_MIB << 20) + BESIDES;
        assert!(peak < bound, "{command} had {peak} bytes");
    }
    let now = APPS.map(|app| server.worker(app));
    assert_eq!(now, workers, "application processes were replaced");
    let threads = thread::available_parallelism().map_or(1, usize::from);
    before.assert_no_leak(if server.host.is_unit() { threads } else { 0 }, 0);

    let status = server.terminate();
    assert!(status.success(), "exited with {status}");
    assert_counted(&server.log, &kinds, total + kinds.len() * 2);
    server.finish_stopped();
}

/// Chunked uploads have tests of their own.
fn healthy(client: &mut Client, number: u64) -> Outcome {
    load::mixed(
        client,
        if number.is_multiple_of(6) {
            number + 1
        } else {
            number
        },
    )
}

/// Sends the hostile requests with these numbers, the kinds taking turns,
/// while neighbours are at work. Returns how many of those were answered.
fn strike(server: &Server, kinds: &[&Kind], numbers: std::ops::Range<usize>) -> u64 {
    let addrs = APPS.map(|app| (app, server.addr_of(app)));
    let addrs = BTreeMap::from(addrs);
    let clients = vec![
        Client::keeping(addrs["lab"]),
        Client::keeping(addrs["lab"]),
        Client::fresh(addrs["lab"]),
        Client::keeping(addrs["patient"]),
    ];
    let neighbours = Load::start(clients, healthy);
    neighbours.wait_for_more(3);
    let next = AtomicUsize::new(numbers.start);
    let is_unit = server.host.is_unit();
    let attacker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(());
            }
            let kind = kinds[number % kinds.len()];
            check_end(kind, addrs[kind.app], number as u64, is_unit)?;
        }
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS).map(|_| scope.spawn(attacker)).collect();
        let ends = attackers.into_iter().map(|attacker| attacker.join());
        ends.filter_map(|end| end.expect("an attacker").err())
            .collect()
    });
    neighbours.wait_for_more(3);
    let tally = neighbours.stop();
    assert!(
        wrong.is_empty(),
        "hostile requests did not end as they should: {wrong:#?}"
    );
    tally.assert_clean();
    tally.done
}

/// Sends one hostile request, and says what was wrong with its end. Unit's router drops
/// what it has not written yet of a response that breaks off: that may be all of it.
fn check_end(kind: &Kind, addr: SocketAddr, number: u64, is_unit: bool) -> Result<(), String> {
    let request = (kind.request)(number).header("x-request-id", format!("h-{number}"));
    let wrong = |found: &dyn std::fmt::Debug| {
        Err(format!("{request:?}: {found:?} instead of {:?}", kind.end))
    };
    let mut conn = harness::Conn::open(addr);
    if let End::Left(bytes) = kind.end {
        match conn.start(&request) {
            Ok(head) if head.status == 200 => {}
            Err(Error::Closed) if is_unit => return Ok(()),
            other => return wrong(&other),
        }
        let mut got = 0;
        while got < bytes {
            match conn.read_some() {
                Ok(Some(piece)) => got += piece.len(),
                // The guest may be stopped before that.
                Err(Error::Truncated { .. }) => break,
                other => return wrong(&other),
            }
        }
        return Ok(());
    }
    match (kind.end, conn.exchange(&request)) {
        (End::Refused(status), Ok(response)) if response.status() == status => {
            assert_generic(&response);
            Ok(())
        }
        (End::Answered(text), Ok(response))
            if response.status() == 200 && response.text().starts_with(text) =>
        {
            Ok(())
        }
        (End::Truncated, Err(Error::Truncated { .. })) => Ok(()),
        (End::Truncated, Err(Error::Closed)) if is_unit => Ok(()),
        (_, Err(error)) => wrong(&error),
        (_, Ok(response)) => wrong(&(response.status(), response.body.len())),
    }
}

/// What the process has to itself when nothing is in flight: the least of some
/// time, as guests whose clients have gone run on for a moment.
fn resident(process: Process) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..20 {
        least = least.min(process.memory().anonymous);
        thread::sleep(Duration::from_millis(100));
    }
    least
}

/// Most that the process has had resident, code and shared memory included.
fn peak(process: Process) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.expect("VmHWM of a living process") << 10
}

/// The last lines of the processes count each failure, logged or not.
#[track_caller]
fn assert_counted(log: &Log, kinds: &[&Kind], requests: usize) {
    let mut expected: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for number in 0..requests {
        // `requests` is a multiple of the number of kinds.
        let kind = kinds[number % kinds.len()];
        if let Some(reason) = kind.reason {
            *expected.entry((kind.app, reason)).or_default() += 1;
        }
    }
    let text = log.text();
    let mut counted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((before, counts)) = line.split_once(": failures of this process: ") else {
            continue;
        };
        let app = before.rsplit('"').nth(1).expect("a quoted name");
        for count in counts.split(' ') {
            let (reason, count) = count.split_once('=').expect("reason=count");
            *counted.entry((app, reason)).or_default() += count.parse::<usize>().expect("a count");
        }
    }
    assert_eq!(counted, expected, "failures counted at the end");

    // And each was told: by a line of its own, or as one of several.
    let lines = log.failures().len();
    let more = text.lines().filter_map(|line| {
        let (before, _) = line.split_once(" more failures like this were not logged: ")?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    });
    let told = lines + more.sum::<usize>();
    assert_eq!(told, expected.values().sum::<usize>(), "failures told of");
}
