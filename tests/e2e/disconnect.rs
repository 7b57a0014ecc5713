//! Clients that go away.

use std::thread;
use std::time::Duration;

use harness::load::Load;
use harness::{App, Conn, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["disconnect", Both:
        a_hundred_clients_leave_within_a_download,
        a_hundred_clients_leave_before_the_answer,
        clients_leave_within_their_upload,
    ]
}

const MIB: u64 = 1 << 20;

/// What memory may grow by in a test of a hundred lost clients. The router of
/// FreeUnit has been seen to keep 34 MiB of free heap after them, that of Unit 70 MiB
/// on a busy machine.
const BOUND: u64 = 64 * MIB;

/// Causes a loss ten times as a warm-up and a hundred times in earnest;
/// [`Server::finish`] compares the descriptors.
fn lose_clients(host: &Host, lose: impl Fn(&Server)) {
    let mut server = Server::start(host, App::lab());
    for _ in 0..10 {
        lose(&server);
    }
    server.get("/").ok();
    server.settle();
    let processes = [server.worker("lab"), server.router()];
    let resident = || processes.map(|process| process.memory().anonymous);
    let neighbours = Load::neighbours(server.addr());
    // What a heap keeps for the next time it does not take once more.
    let mut grown = [0; 2];
    for _ in 0..2 {
        let before = resident();
        for _ in 0..100 {
            lose(&server);
        }
        neighbours.wait_for_more(4);
        let after = resident();
        grown = [0, 1].map(|n: usize| after[n].saturating_sub(before[n]));
        if grown.iter().all(|grown| *grown < BOUND) {
            break;
        }
    }
    neighbours.stop().assert_clean();
    for (process, grown) in processes.into_iter().zip(grown) {
        let name = process.command();
        assert!(grown < BOUND, "{name} grew by {} MiB", grown / MIB);
    }
    server.finish();
}

fn a_hundred_clients_leave_within_a_download(host: &Host) {
    lose_clients(host, |server| {
        let mut conn = Conn::open_narrow(server.addr());
        let head = conn
            .start(&Request::get("/download?bytes=8000000"))
            .unwrap();
        assert_eq!(head.status, 200);
        for _ in 0..4 {
            conn.read_some().unwrap().expect("a piece");
        }
    });
}

fn a_hundred_clients_leave_before_the_answer(host: &Host) {
    lose_clients(host, |server| {
        let mut conn = server.connect();
        conn.send(&Request::get("/sleep?ms=50").bytes()).unwrap();
        thread::sleep(Duration::from_millis(10));
    });
}

fn clients_leave_within_their_upload(host: &Host) {
    lose_clients(host, |server| {
        let request = Request::post("/echo", vec![b'u'; 200_000]);
        let bytes = request.bytes();
        let mut conn = server.connect();
        conn.send(&bytes[..bytes.len() / 2]).unwrap();
    });
}
