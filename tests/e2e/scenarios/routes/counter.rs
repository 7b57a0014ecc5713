//! Counters in Redis, and Redis when it is not well.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use harness::peers::RawPeer;
use harness::peers::process::DatabasePeer;
use harness::{Host, Request, Response, http};
use serde_json::json;

use super::{LISTENER, ask, assert_error, change, json_of, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["scenarios::routes", All:
        what_is_no_redis,
        another_address_takes_a_grant,
    ];
    all.extend(cases!["scenarios::routes", Redis:
        counters_count,
        counters_that_are_none,
        redis_gone_and_back,
    ]);
    all
}

#[track_caller]
fn assert_value(response: &Response, name: &str, value: i64) {
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(json_of(response), json!({"name": name, "value": value}));
}

/// What Redis says to another client.
fn redis_cli(addr: SocketAddr, command: &str) -> String {
    let mut client = TcpStream::connect(addr).expect("a connection");
    client
        .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
        .expect("a write");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    reply.replace("+OK\r\n", "")
}

fn counters_count(host: &Host) {
    let redis = DatabasePeer::redis(None);
    let server = start(host, redis.addr());
    assert_error(&ask(&server, "GET", "/counters/hits"), 404);
    assert_value(&ask(&server, "POST", "/counters/hits"), "hits", 1);
    assert_value(&ask(&server, "POST", "/counters/hits?x=1"), "hits", 2);
    assert_value(&ask(&server, "GET", "/counters/hits"), "hits", 2);
    assert_value(&ask(&server, "POST", "/counters/A-b_3"), "A-b_3", 1);
    assert_eq!(redis_cli(redis.addr(), "GET counter:hits"), "$1\r\n2\r\n");
    assert_eq!(redis_cli(redis.addr(), "SET counter:hits -7"), "");
    assert_value(&ask(&server, "GET", "/counters/hits"), "hits", -7);

    let long = "n".repeat(65);
    for name in ["", "a/b", "a%20b", "a%0d%0aFLUSHALL", "a:b", "%22", &long] {
        for method in ["GET", "POST"] {
            let response = ask(&server, method, &format!("/counters/{name}"));
            assert_error(&response, 400);
        }
    }

    // From both processes at once: nothing is lost, and no value comes twice.
    assert_eq!(server.workers("counter").len(), 2);
    let addr = server.addr_of(LISTENER);
    let increment = move || {
        let response = http::fetch(addr, &Request::new("POST", "/counters/many"));
        json_of(&response.expect("an answer").ok())["value"].as_i64()
    };
    let clients: Vec<_> = (0..10)
        .map(|_| thread::spawn(move || (0..10).map(|_| increment()).collect::<Vec<_>>()))
        .collect();
    let values: BTreeSet<_> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("a client"))
        .collect();
    assert_eq!(values, (1..=100).map(Some).collect());
    server.finish();
}

/// Keys that hold something else.
fn counters_that_are_none(host: &Host) {
    let redis = DatabasePeer::redis(None);
    let server = start(host, redis.addr());
    assert_eq!(redis_cli(redis.addr(), "LPUSH counter:list x"), ":1\r\n");
    redis_cli(redis.addr(), "SET counter:word two");
    redis_cli(redis.addr(), "SET counter:full 9223372036854775807");
    for name in ["list", "word"] {
        assert_error(&ask(&server, "GET", &format!("/counters/{name}")), 502);
        assert_error(&ask(&server, "POST", &format!("/counters/{name}")), 502);
    }
    assert_error(&ask(&server, "POST", "/counters/full"), 502);
    assert_value(&ask(&server, "GET", "/counters/full"), "full", i64::MAX);
    server
        .log
        .expect(&["wasm \"counter\"", "GET counter:list", "WRONGTYPE"]);
    server
        .log
        .expect(&["wasm \"counter\"", "INCR counter:full", "overflow"]);
    server.finish();
}

/// finish() finds that the processes are the same ones.
fn redis_gone_and_back(host: &Host) {
    let mut redis = DatabasePeer::redis(None);
    let server = start(host, redis.addr());
    for _ in 0..2 {
        assert_value(&ask(&server, "POST", "/counters/hits"), "hits", 1);
        redis.kill();
        for method in ["GET", "POST", "GET"] {
            let response = ask(&server, method, "/counters/hits");
            assert_error(&response, 503);
            assert_eq!(response.head.first("retry-after").as_deref(), Some("1"));
        }
        assert_eq!(
            ask(&server, "GET", "/files/hello.txt").ok().text(),
            "hello\n"
        );
        redis.restart_redis();
    }
    assert_value(&ask(&server, "POST", "/counters/hits"), "hits", 1);
    let parts = ["wasm \"counter\"", "INCR counter:hits: connection-refused"];
    server.log.expect(&parts);
    server.finish();
}

/// Replies as the name of the counter asks for.
fn odd_redis(stream: &mut TcpStream) -> io::Result<()> {
    let mut piece = [0; 1000];
    let length = stream.read(&mut piece)?;
    let command = String::from_utf8_lossy(&piece[..length]).into_owned();
    let name = command.rsplit("counter:").next().unwrap_or_default().trim();
    let long = "x".repeat(5000);
    let reply = match name {
        "http" => "HTTP/1.1 400 Bad Request\r\n\r\n",
        "array" => "*1\r\n:1\r\n",
        "large" => "$999999999\r\n",
        "negative" => "$-2\r\n",
        "endless" => &long,
        "empty" => "\r\n",
        "loading" => "-LOADING Redis is loading the dataset in memory\r\n",
        "cut" => "$10\r\n12",
        "silent" => return stream.read_to_end(&mut Vec::new()).map(drop),
        "pieces" => {
            stream.set_nodelay(true)?;
            // The last one says that it has been understood by closing.
            for piece in ["$", "2\r", "\n4", "2"] {
                stream.write_all(piece.as_bytes())?;
                thread::yield_now();
            }
            "\r\n"
        }
        _ => return Ok(()),
    };
    stream.write_all(reply.as_bytes())
}

fn what_is_no_redis(host: &Host) {
    let peer = RawPeer::start(|stream, _| odd_redis(stream));
    let server = start(host, peer.addr());
    for (name, status) in [
        ("http", 502),
        ("array", 502),
        ("large", 502),
        ("negative", 502),
        ("endless", 502),
        ("empty", 502),
        ("loading", 502),
        ("cut", 503),
        ("closed", 503),
        ("silent", 503),
    ] {
        let response = ask(&server, "GET", &format!("/counters/{name}"));
        assert_eq!(response.status(), status, "{name}: {}", response.text());
        assert_error(&response, status);
        server
            .log
            .expect(&["wasm \"counter\"", &format!("GET counter:{name}: ")]);
    }
    server
        .log
        .expect(&["GET counter:silent: no answer in time"]);
    assert_value(&ask(&server, "GET", "/counters/pieces"), "pieces", 42);
    server.finish();
}

fn another_address_takes_a_grant(host: &Host) {
    let (granted, other) = (RawPeer::echo(), RawPeer::echo());
    let mut server = start(host, granted.addr());
    server.expect_new_workers();
    let path = "applications/counter/environment/REDIS";
    change(&server, path, &json!(other.addr().to_string()));
    assert_error(&ask(&server, "POST", "/counters/a"), 503);
    let entry = format!("UNIT_WASM_ALLOW_TCP would need {}", other.addr());
    server.log.expect(&["[warn]", "wasm \"counter\"", &entry]);
    assert_eq!(other.connections(), 0);
    // What cannot be an address is no reason to fall over.
    change(&server, path, &json!("redis.example"));
    assert_error(&ask(&server, "POST", "/counters/a"), 503);
    server.log.expect(&["\"redis.example\" is not IP:PORT"]);
    server.finish();
}
