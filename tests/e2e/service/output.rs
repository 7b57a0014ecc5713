//! What guests print, by functions of WASI 0.2 and by streams of 0.3, and what else
//! they are given without a grant.

use std::time::Duration;

use harness::{Host, Server, eventually};

use super::{app, ask, ask_as, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-output", All:
        printing_becomes_lines,
        printing_at_the_same_time,
        volume_is_bounded,
        environment,
    ]
}

fn printing_becomes_lines(host: &Host) {
    let server = start(host, &[]);
    for route in ["print", "print3"] {
        let target = format!("/{route}?out=to%20one&err=to%20the%20other&count=3");
        assert_eq!(ask_as(&server, route, target), "ok\n");
        for line in ["stdout: to one", "stderr: to the other"] {
            let wanted = format!("wasm \"lab\" request={route} {line}");
            let found = || server.log.matching(|line| line.ends_with(&wanted));
            eventually("three lines", Duration::from_secs(60), || {
                found().len() == 3
            });
            assert!(found().iter().all(|line| line.contains("[info]")));
        }
        let target = format!("/{route}?out=x%0a%1b%5balert%5d%20faked");
        assert_eq!(ask_as(&server, "fake", target), "ok\n");
        let line = server
            .log
            .expect(&["request=fake stdout: \\x1b[alert] faked"]);
        assert!(line.contains("[info]"), "{line}");
    }
    let mut server = server;
    server.expect_log("request=fake stdout: ");
    server.finish();
}

/// Each line has the id of its own request.
fn printing_at_the_same_time(host: &Host) {
    let server = start(host, &[]);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..10 {
                    let id = format!("own-{client}-{number}");
                    let target = format!("/print3?out=of-{id}&err=of-{id}");
                    assert_eq!(ask_as(server, &id, target), "ok\n");
                }
            });
        }
    });
    let of = |line: &str| {
        let (_, rest) = line.split_once(" request=own-")?;
        let (id, rest) = rest.split_once(' ')?;
        let (_, text) = rest.split_once(": of-own-")?;
        Some((id.to_owned(), text.to_owned()))
    };
    let lines = || -> Vec<_> { server.log.text().lines().filter_map(of).collect() };
    eventually("all lines", Duration::from_secs(60), || {
        lines().len() == 160
    });
    for (id, text) in lines() {
        assert_eq!(id, text);
    }
    server.finish();
}

fn volume_is_bounded(host: &Host) {
    let server = start(host, &[("UNIT_WASM_OUTPUT", "4KiB")]);
    for route in ["print", "print3"] {
        let before = server.log.size();
        let id = format!("flood-{route}");
        let target = format!("/{route}?out={}&count=1000", "x".repeat(100));
        // The guest is not told, and goes on.
        assert_eq!(ask_as(&server, &id, target), "ok\n");
        server
            .log
            .expect(&[&format!("request={id} "), "output limit reached"]);
        let grown = server.log.size() - before;
        assert!(grown < 20_000, "{route}: {grown} bytes of log");
        assert!(grown > 1_000, "{route}: {grown} bytes of log");
    }
    // Those of one request do not count for the next one.
    assert_eq!(ask_as(&server, "next", "/print3?out=there"), "ok\n");
    server.log.expect(&["request=next stdout: there"]);
    server.finish();
}

fn environment(host: &Host) {
    let app = app(&[("UNIT_WASM_TIMEOUT", "30s")])
        .env("GREETING", "gr\u{fc}\u{df} dich")
        .env("EMPTY", "");
    let server = Server::start(host, app);
    let expected = "EMPTY=\nGREETING=gr\u{fc}\u{df} dich\n";
    assert_eq!(ask(&server, "/env"), expected);
    assert_eq!(ask(&server, "/env?name=UNIT_WASM_TIMEOUT"), "none\n");
    assert_eq!(ask(&server, "/args"), "0\n");
    assert_eq!(ask(&server, "/stdin"), "0\n");
    server.finish();
}
