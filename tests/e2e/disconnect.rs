//! Clients that go away.

use std::thread;
use std::time::Duration;

use harness::load::Load;
use harness::{App, Conn, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["disconnect", All:
        a_hundred_clients_leave_within_a_download,
        a_hundred_clients_leave_before_the_answer,
        clients_leave_within_their_upload,
    ]
}

const MIB: u64 = 1 << 20;

/// What memory may grow by in a test of a hundred lost clients. The router of
/// FreeUnit has been seen to keep 34 MiB of free heap after them.
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
    let before = processes.map(|process| process.memory().anonymous);
    let neighbours = Load::neighbours(server.addr());
    for _ in 0..100 {
        lose(&server);
    }
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    for (process, before) in processes.into_iter().zip(before) {
        let grown = process.memory().anonymous.saturating_sub(before);
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
