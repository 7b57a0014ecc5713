//! What the log says of requests that no guest can be given.

use std::time::{Duration, Instant};

use harness::{App, Host, Request, Server, eventually};

use crate::failures::assert_generic;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["refused", All:
        a_refused_request_has_its_id,
        a_flood_of_them_is_counted_not_logged,
    ]
}

/// Unit passes this on, but it is no URI.
const TARGET: &str = "/a<b";

/// Begins the text of the lines, after application and id.
const LINE: &str = " status=400 the request target is not a valid URI";

#[track_caller]
fn refused(server: &Server, request: &Request) {
    let response = server.send(request);
    assert_eq!(response.status(), 400);
    assert_generic(&response);
}

fn a_refused_request_has_its_id(host: &Host) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let server = Server::start(host, App::lab().named("shop"));
    let request = || Request::get(TARGET);
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    refused(&server, &request().header("X-Request-Id", "Order-17.b_2"));
    let named = request().header("x-request-id", "second-choice");
    refused(&server, &named.header("Traceparent", &traceparent));
    for id in ["Order-17.b_2", TRACE] {
        let line = server.log.expect(&[&format!("request={id}{LINE}")]);
        assert!(line.contains("[info]"), "{line}");
        assert!(line.contains("wasm \"shop\" request="), "{line}");
    }
    // None, and none that could be a name: one is made up.
    refused(&server, &request());
    refused(&server, &request().header("x-request-id", "two words"));
    let made_up = || -> Vec<String> {
        let lines = server.log.matching(|line| line.contains(LINE));
        let ids = lines.iter().map(|line| {
            let (_, rest) = line.split_once(" request=").expect("an id");
            rest.split(' ').next().expect("a word").to_owned()
        });
        ids.skip(2).collect()
    };
    eventually("four lines", Duration::from_secs(60), || {
        made_up().len() == 2
    });
    let ids = made_up();
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        let is_hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(id.len() == 16 && is_hex, "{id}");
    }
    server.finish();
}

fn a_flood_of_them_is_counted_not_logged(host: &Host) {
    const TIMES: usize = 250;
    let mut server = Server::start(host, App::lab());
    let begin = Instant::now();
    let mut conn = server.connect();
    for _ in 0..TIMES {
        let response = conn.exchange(&Request::get(TARGET)).unwrap();
        assert_eq!(response.status(), 400);
    }
    drop(conn);
    let quick = begin.elapsed() < Duration::from_secs(9);
    let logged = || server.log.matching(|line| line.contains(LINE)).len();
    let told = || {
        let lines = server
            .log
            .matching(|line| line.contains(" more refused requests or notices like this"));
        let count = |line: &String| {
            assert!(line.contains("[warn]"), "{line}");
            let (before, after) = line.split_once(" more refused requests or notices")?;
            assert!(after.contains(LINE.trim()), "{line}");
            before.rsplit(' ').next()?.parse::<usize>().ok()
        };
        (lines.len(), lines.iter().filter_map(count).sum::<usize>())
    };
    // A period has ten seconds.
    eventually("all refusals told of", Duration::from_secs(60), || {
        let (lines, count) = told();
        logged() - lines + count == TIMES
    });
    if quick {
        assert_eq!(told(), (1, TIMES - 100), "logged in full");
    }
    assert_eq!(
        server.log.failures(),
        [],
        "they are no failures of the guest"
    );
    assert!(server.terminate().success());
    let totals = server
        .log
        .matching(|line| line.contains("failures of this process"));
    assert_eq!(totals, [] as [String; 0]);
    server.finish_stopped();
}
