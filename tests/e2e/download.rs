//! Large responses and slow readers.

use std::thread;
use std::time::{Duration, Instant};

use harness::guests::Download;
use harness::load::{self, Client, Load, checked, hex};
use harness::proc::{Memory, Process};
use harness::{App, Conn, Host, Request, Server};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["download", Both:
        two_hundred_megabytes_slowly_then_fast,
        small_writes_to_a_stuck_client,
        large_writes_to_a_stuck_client,
        one_slow_reader_with_the_smallest_shared_memory,
        two_large_downloads_beside_each_other,
        many_slow_readers,
    ]
}

const MIB: u64 = 1 << 20;

/// How much private memory of the worker and of the router may grow, whatever
/// the size of the response: buffers, an instance's memory, fragmentation.
const BOUND: u64 = 48 * MIB;

/// Unit's default for `limits.shm`, with one segment to spare.
const SHARED_BOUND: u64 = 110 * MIB;

/// Watches the memory of worker and router while a response is under way.
pub struct Watch {
    processes: [(&'static str, Process, Memory); 2],
}

impl Watch {
    pub fn new(server: &Server) -> Self {
        let worker = server.worker("lab");
        let router = server.router();
        Self {
            processes: [
                ("worker", worker, worker.memory()),
                ("router", router, router.memory()),
            ],
        }
    }

    #[track_caller]
    pub fn check(&self, when: &str) {
        for (name, process, before) in &self.processes {
            let now = process.memory();
            let grown = now.anonymous.saturating_sub(before.anonymous);
            assert!(
                grown < BOUND,
                "{when}: the {name} grew by {} MiB",
                grown / MIB
            );
            let shared = now.shared;
            assert!(
                shared < SHARED_BOUND,
                "{when}: {name} shares {} MiB",
                shared / MIB
            );
        }
    }
}

/// Reads for some time at a rate of about `piece` bytes per 10 ms.
pub fn read_slowly(conn: &mut Conn, expected: &mut Download, pieces: usize) {
    for _ in 0..pieces {
        let piece = conn.read_some().unwrap().expect("more body");
        expected.check(&piece).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
}

fn two_hundred_megabytes_slowly_then_fast(host: &Host) {
    const SIZE: usize = 200_000_000;
    let server = Server::start(host, App::lab());
    let watch = Watch::new(&server);
    let mut conn = server.connect();
    let request = Request::get(format!("/download?bytes={SIZE}&length=1"));
    let head = conn.start(&request).unwrap();
    assert_eq!(head.first("content-length"), Some(SIZE.to_string()));
    let mut digest = Sha256::new();
    let mut got = 0;
    let mut pieces = 0;
    while let Some(piece) = conn.read_some().unwrap() {
        digest.update(&piece);
        got += piece.len();
        pieces += 1;
        if pieces <= 200 {
            thread::sleep(Duration::from_millis(10));
        }
        if pieces % 50 == 0 {
            watch.check(&format!("after {got} bytes"));
        }
    }
    assert_eq!(got, SIZE);
    let mut expected = Sha256::new();
    let period = Download::default().bytes(1 << 16);
    let (whole, rest) = (SIZE / period.len(), SIZE % period.len());
    (0..whole).for_each(|_| expected.update(&period));
    expected.update(&period[..rest]);
    assert_eq!(hex(&digest.finalize()), hex(&expected.finalize()));
    watch.check("at the end");
    drop(conn);
    server.finish();
}

/// A client that takes a little and then nothing, while memory is watched,
/// and in the end reads the rest.
fn stuck_client(host: &Host, size: usize, chunk: usize) {
    let server = Server::start(host, App::lab());
    let watch = Watch::new(&server);
    let mut conn = Conn::open_narrow(server.addr());
    let request = Request::get(format!("/download?bytes={size}&chunk={chunk}"));
    assert_eq!(conn.start(&request).unwrap().status, 200);
    let mut expected = Download::default();
    read_slowly(&mut conn, &mut expected, 20);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        watch.check("while the client is stuck");
        assert_eq!(server.get("/").ok().text(), "lab\n");
        thread::sleep(Duration::from_millis(50));
    }
    let mut pieces = 0;
    while let Some(piece) = conn.read_some().unwrap() {
        expected.check(&piece).unwrap();
        pieces += 1;
        if pieces % 500 == 0 {
            watch.check("while the client reads on");
        }
    }
    assert_eq!(expected.seen(), size);
    watch.check("at the end");
    drop(conn);
    server.finish();
}

/// Unit sends small writes around the shared memory and does not hold them
/// back; the module has to.
fn small_writes_to_a_stuck_client(host: &Host) {
    stuck_client(host, 150_000_000, 1024);
}

fn large_writes_to_a_stuck_client(host: &Host) {
    stuck_client(host, 300_000_000, 65536);
}

fn one_slow_reader_with_the_smallest_shared_memory(host: &Host) {
    const SIZE: usize = 60_000_000;
    let app = App::lab().member("limits", json!({ "shm": 10_485_760 }));
    let server = Server::start(host, app);
    let watch = Watch::new(&server);
    let mut slow = Conn::open_narrow(server.addr());
    slow.start(&Request::get(format!("/download?bytes={SIZE}")))
        .unwrap();
    let mut expected = Download::default();
    let mut client = Client::keeping(server.addr());
    let mut fresh = Client::fresh(server.addr());
    for number in 0..20 {
        read_slowly(&mut slow, &mut expected, 5);
        let begin = Instant::now();
        load::mixed(&mut client, number).unwrap();
        load::mixed(&mut fresh, number + 1).unwrap();
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "round {number} took {took:?}"
        );
        // A head of more than 1024 bytes needs shared memory itself: it has to
        // wait until the slow reader has given some back, and no longer.
        let begin = Instant::now();
        thread::scope(|scope| {
            let heads = scope.spawn(|| {
                for (count, size) in [(1, 10), (2, 1_000), (20, 500)] {
                    let target = format!("/bigheaders?count={count}&size={size}");
                    let response = checked(&mut client, &Request::get(target)).unwrap();
                    let last = format!("x-big-{}", count - 1);
                    assert_eq!(response.head.all(&last)[0].len(), size);
                }
            });
            while !heads.is_finished() {
                read_slowly(&mut slow, &mut expected, 1);
            }
        });
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(25),
            "large heads in round {number} took {took:?}"
        );
        watch.check("beside a slow reader");
    }
    while let Some(piece) = slow.read_some().unwrap() {
        expected.check(&piece).unwrap();
    }
    assert_eq!(expected.seen(), SIZE);
    drop((slow, client, fresh));
    server.finish();
}

/// Unit's own module hangs on this one time in three.
fn two_large_downloads_beside_each_other(host: &Host) {
    const SIZE: usize = 100_000_000;
    let server = Server::start(host, App::lab());
    let addr = server.addr();
    let neighbours = Load::neighbours(addr);
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut conn = Conn::open(addr);
                    let request = Request::get(format!("/download?bytes={SIZE}"));
                    assert_eq!(conn.start(&request).unwrap().status, 200);
                    let mut expected = Download::default();
                    while let Some(piece) = conn.read_some().unwrap() {
                        expected.check(&piece).unwrap();
                    }
                    assert_eq!(expected.seen(), SIZE);
                });
            }
        });
    }
    neighbours.stop().assert_clean();
    server.finish();
}

fn many_slow_readers(host: &Host) {
    const SIZE: usize = 4_000_000;
    let app = App::lab().member("limits", json!({ "shm": 10_485_760 }));
    let server = Server::start(host, app);
    let addr = server.addr();
    let watch = Watch::new(&server);
    let neighbours = Load::neighbours(addr);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(move || {
                let mut conn = Conn::open_narrow(addr);
                let request = Request::get(format!("/download?bytes={SIZE}"));
                assert_eq!(conn.start(&request).unwrap().status, 200);
                let mut expected = Download::default();
                read_slowly(&mut conn, &mut expected, 100);
                while let Some(piece) = conn.read_some().unwrap() {
                    expected.check(&piece).unwrap();
                }
                assert_eq!(expected.seen(), SIZE);
            });
        }
        neighbours.wait_for_more(20);
        watch.check("with twenty slow readers");
    });
    let tally = neighbours.stop();
    tally.assert_clean();
    let slowest = tally.slowest;
    assert!(
        slowest < Duration::from_secs(25),
        "a neighbour waited {slowest:?}"
    );
    server.finish();
}
