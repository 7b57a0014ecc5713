//! A component of 18 MB with an interpreter inside, under the default limits.
//! It is too large to be committed: without it these tests are ignored.

use std::thread;

use harness::guests;
use harness::http;
use harness::{App, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["python", Python:
        serves_under_the_default_limits,
        starts_from_the_cache,
    ]
}

fn app() -> App {
    App::new("python", &guests::built("python-hello"))
}

fn serves_under_the_default_limits(host: &Host) {
    let server = Server::start(host, app());
    let addr = server.addr();
    for _ in 0..5 {
        thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || {
                    let target = format!("/number/{number}?x=1");
                    let answer = http::fetch(addr, &Request::get(&target)).unwrap();
                    let expected = format!("Hello from Python: {target}\n");
                    assert_eq!(answer.ok().text(), expected);
                });
            }
        });
    }
    server.finish();
}

/// The first start, above or in an earlier run, has left its artifact.
fn starts_from_the_cache(host: &Host) {
    Server::start(host, app()).finish();
    let server = Server::start(host, app());
    server.log.expect(&["artifact found in the cache"]);
    let answer = server.get("/").ok();
    assert_eq!(answer.text(), "Hello from Python: /\n");
    server.finish();
}
