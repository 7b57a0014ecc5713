//! `example/events`: what telemetry has acknowledged reaches the endpoint, at
//! least once, whatever fails in between.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use harness::config::Config;
use harness::http;
use harness::load::{self, Client};
use harness::peers::process::DatabasePeer;
use harness::peers::{RawPeer, raw};
use harness::{Host, Request, Response, Server, eventually, guests, wait_for};
use serde_json::{Value, json};

use crate::access::make_directory;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["scenarios::events", All:
        events_arrive_once_and_in_order,
        bad_requests_are_refused,
        an_endpoint_that_fails_for_a_while,
        two_subscribers_get_everything,
        events_wait_for_a_subscriber,
        a_full_backlog,
        only_the_gateway_reaches_the_endpoint,
        who_is_killed_before_the_acknowledgement_pushes_again,
        what_the_store_has_lost_holds_up_nothing,
        several_lost_in_a_row_make_room,
        what_unfolds_in_memory_is_delivered,
        what_not_every_parser_takes_is_refused,
        topics_are_apart,
        a_broken_topic_holds_up_no_other,
        there_are_so_many_topics_and_subscribers,
        nothing_is_lost_when_workers_are_killed,
    ];
    all.extend(cases!["scenarios::events", Redis:
        without_a_store_nothing_is_acknowledged,
        nothing_is_lost_with_redis,
    ]);
    all
}

const TELEMETRY: &str = "*:8080";
const SERVER: &str = "127.0.0.1:8081";
const GATEWAY: &str = "127.0.0.1:8082";

const PATIENCE: Duration = Duration::from_secs(60);

/// Shorter than any time after which the example tries once more.
const QUICK: Duration = Duration::from_millis(1500);

/// A server outside that takes events, if it is in the mood.
struct Endpoint {
    peer: RawPeer,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    refusing: AtomicBool,
    refused: AtomicUsize,
    /// Takes events, and does not answer as long as this is set.
    holding: AtomicBool,
    events: Mutex<Vec<Value>>,
}

impl Endpoint {
    fn start() -> Self {
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        let peer = RawPeer::start(move |stream, _| {
            while let Some(body) = read_request(stream)? {
                stream.write_all(shared.answer(&body))?;
            }
            Ok(())
        });
        Self { peer, seen }
    }

    fn addr(&self) -> SocketAddr {
        self.peer.addr()
    }

    fn refuse(&self, refusing: bool) {
        self.seen.refusing.store(refusing, Ordering::SeqCst);
    }

    fn refused(&self) -> usize {
        self.seen.refused.load(Ordering::SeqCst)
    }

    fn hold(&self, holding: bool) {
        self.seen.holding.store(holding, Ordering::SeqCst);
    }

    /// Everything it has taken, in the order of arrival.
    fn events(&self) -> Vec<Value> {
        self.seen.events.lock().expect("events").clone()
    }

    fn ids(&self) -> Vec<String> {
        ids_of(&self.events())
    }

    /// Of each event what has arrived first: what takes too long at some stall of the
    /// machine is sent again.
    fn first(&self) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let mut events = self.events();
        events.retain(|event| seen.insert(event["id"].to_string()));
        events
    }

    /// Waits for the events with these ids, which arrive in that order.
    #[track_caller]
    fn expect(&self, server: &Server, ids: &[impl AsRef<str>]) {
        await_pushed(server, "all events have arrived", || {
            self.first().len() >= ids.len()
        });
        let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        assert_eq!(ids_of(&self.first()), ids);
    }
}

fn ids_of(events: &[Value]) -> Vec<String> {
    let ids = events.iter().map(|event| event["id"].as_str());
    ids.map(|id| id.expect("an id").to_owned()).collect()
}

/// Whether a push has failed.
fn has_failed(server: &Server) -> bool {
    let text = server.log.text();
    let told = ["server: pushing ", "server: delivering "];
    told.iter().any(|part| text.contains(part))
}

/// Waits for what is pushed. That is done by who publishes; only if a push has failed,
/// what it was about waits for further requests, such as these.
#[track_caller]
fn await_pushed(server: &Server, what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    eventually(what, PATIENCE, || {
        if !done() && begin.elapsed() > Duration::from_secs(5) && has_failed(server) {
            let _ = http::fetch(server.addr_of(SERVER), &Request::post("/deliver", ""));
        }
        done()
    });
}

impl Seen {
    fn answer(&self, body: &[u8]) -> &'static [u8] {
        if self.refusing.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
        }
        let events: Vec<Value> = serde_json::from_slice(body).expect("a list of events");
        self.events.lock().expect("events").extend(events);
        wait_for(PATIENCE, || {
            let held = self.holding.load(Ordering::SeqCst);
            (!held).then_some(())
        });
        b"HTTP/1.1 204 No Content\r\n\r\n"
    }
}

/// The body of the next request; none if the connection ends instead.
fn read_request(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0].to_ascii_lowercase());
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    assert!(head.starts_with("post /"), "{head}");
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok());
    let mut body = vec![0; length.expect("a content-length")];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

/// The configuration of the example, with this store and these peers.
fn config(store: &str, endpoint: &Endpoint, replace: &[(&str, &str)]) -> Config {
    let names = ["telemetry", "server", "gateway"];
    let components = names.map(|name| {
        let path = guests::root().join(format!("example/events/{name}/{name}.wasm"));
        let path = path.to_str().expect("a path in UTF-8").to_owned();
        (format!("/srv/wasm/{name}.wasm"), path)
    });
    let endpoint = endpoint.addr().to_string();
    let deserted = raw::deserted().to_string();
    // The store's time is not what these tests are about. First, as paths may contain that.
    let text = fs::read_to_string(guests::root().join("example/events/config.json"));
    let found = text.expect("the configuration").matches("2s").count();
    assert_eq!(found, 1, "UNIT_WASM_KEYVALUE_TIMEOUT alone");
    let mut all = vec![("2s", "20s")];
    all.extend(replace);
    all.extend(components.iter().map(|(from, to)| (&**from, &**to)));
    all.push(("fs:/srv/events", store));
    all.push(("127.0.0.1:9000", &endpoint));
    if !replace.iter().any(|(from, _)| *from == "127.0.0.1:9001") {
        all.push(("127.0.0.1:9001", &deserted));
    }
    Config::of_file("example/events/config.json", &all)
}

fn start(host: &Host, endpoint: &Endpoint, replace: &[(&str, &str)]) -> Server {
    settled(Server::start_with(host, |server| {
        let directory = server.data().join("events");
        make_directory(&directory);
        let store = format!("fs:{}", directory.display());
        config(&store, endpoint, replace)
    }))
}

/// Each application has two processes: has both of them open what they keep, such
/// as a connection to the store.
fn settled(mut server: Server) -> Server {
    for (listener, target) in [
        (TELEMETRY, "/"),
        (SERVER, "/topics/measurements"),
        (GATEWAY, "/"),
    ] {
        let addr = server.addr_of(listener);
        let clients = (0..8).map(|_| Client::keeping(addr)).collect();
        let tally = load::run(clients, 20, |client, _| {
            load::checked(client, &Request::get(target)).map(drop)
        });
        tally.assert_clean();
    }
    server.settle();
    server
}

fn ask(server: &Server, listener: &str, request: &Request) -> http::Response {
    let answer = http::fetch(server.addr_of(listener), request);
    answer.unwrap_or_else(|error| panic!("{listener}: {error} ({request:?})"))
}

/// A measurement with that id.
fn measurement(id: &str) -> Request {
    let body = json!({ "id": id, "celsius": 21.5 }).to_string();
    Request::post("/measurements", body)
}

/// Has the server store events, one by one. Telemetry would store one again if the answer
/// took too long, and then there are more of them.
#[track_caller]
fn store(server: &Server, ids: &[&str]) {
    for id in ids {
        let answer = publish_to(server, "measurements", &format!("[{{\"id\":\"{id}\"}}]"));
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
}

/// Publishes events, one by one.
#[track_caller]
fn publish(server: &Server, ids: &[impl AsRef<str>]) {
    for id in ids {
        let response = ask(server, TELEMETRY, &measurement(id.as_ref()));
        assert_eq!(response.status(), 202, "{}", response.text());
    }
}

#[track_caller]
fn subscribe(server: &Server) {
    // The gateway gives the server some time, no more.
    eventually("a subscription", PATIENCE, || {
        let answer = ask(server, GATEWAY, &Request::post("/subscribe", ""));
        assert!(matches!(answer.status(), 200 | 502), "{}", answer.text());
        answer.status() == 200
    });
}

/// Has the server push to `url` what is published.
#[track_caller]
fn subscribe_at(server: &Server, name: &str, url: &str) {
    subscribe_to(server, "measurements", name, url).ok();
}

fn subscribe_to(server: &Server, topic: &str, name: &str, url: &str) -> Response {
    let target = format!("/topics/{topic}/subscribers/{name}");
    let body = json!({ "url": url }).to_string();
    ask(server, SERVER, &Request::with_body("PUT", target, body))
}

/// Has the server store something itself.
fn publish_to(server: &Server, topic: &str, events: &str) -> Response {
    let target = format!("/topics/{topic}/events");
    ask(server, SERVER, &Request::post(target, events))
}

/// How many entries a subscriber has still to get.
#[track_caller]
fn pending(server: &Server, name: &str) -> u64 {
    pending_of(server, "measurements", name)
}

#[track_caller]
fn pending_of(server: &Server, topic: &str, name: &str) -> u64 {
    let text = ask(server, SERVER, &Request::get(format!("/topics/{topic}"))).ok();
    let topic: Value = serde_json::from_slice(&text.body).expect("JSON");
    let pending = topic["subscribers"][name]["pending"].as_u64();
    pending.expect("a number")
}

/// Has the server deliver until there is nothing left.
#[track_caller]
fn drain(server: &Server) {
    let addr = server.addr_of(SERVER);
    eventually("everything is delivered", PATIENCE, || {
        let answer = http::fetch(addr, &Request::post("/deliver", ""));
        // Its process may just have been killed.
        let Some(answer) = answer.ok().filter(|answer| answer.status() == 200) else {
            return false;
        };
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        told["pending"] == 0
    });
}

/// The number of its entry, and its own in that.
fn sequence(event: &Value) -> String {
    event["sequence"].as_str().expect("a sequence").to_owned()
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

fn events_arrive_once_and_in_order(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    subscribe(&server);
    let begin = Instant::now();
    let body = r#"[{"id": "a", "celsius": 21.5}, {"id": "b", "volts": [3, 4]}]"#;
    let answer = ask(&server, TELEMETRY, &Request::post("/measurements", body));
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.text(), "{\"accepted\":[\"a\",\"b\"]}\n");
    // Nobody has asked for a delivery: that is done by who publishes.
    endpoint.expect(&server, &["a", "b"]);
    let events = endpoint.events();
    let expected = json!({
        "specversion": "1.0", "id": "b", "source": "/telemetry", "type": "measurement",
        "sequence": "000000000000.001", "data": { "volts": [3, 4] },
    });
    assert_eq!(events[1], expected);

    let mut ids = vec!["a".to_owned(), "b".to_owned()];
    ids.extend(numbered("c", 40));
    let mut slowest = begin.elapsed();
    for id in &ids[2..] {
        let begin = Instant::now();
        publish(&server, &[id]);
        slowest = slowest.max(begin.elapsed());
    }
    endpoint.expect(&server, &ids);
    let sequences: Vec<_> = endpoint.first().iter().map(sequence).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    // Nothing has been sent again, unless it had to be.
    if slowest < QUICK && !has_failed(&server) {
        assert_eq!(endpoint.ids(), ids);
    }

    // One that has no id is given one, and what was delivered is deleted by the
    // next delivery.
    drain(&server);
    let answer = ask(&server, TELEMETRY, &Request::post("/measurements", "{}"));
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let id = answer["accepted"][0].as_str().expect("an id");
    assert_eq!(id.len(), 32, "{id}");
    ids.push(id.to_owned());
    endpoint.expect(&server, &ids);
    drain(&server);
    let names = fs::read_dir(server.data().join("events")).expect("the store");
    let names = names.flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8"));
    let mut entries: Vec<String> = names.filter(|name| name.starts_with("event:")).collect();
    // The last one too, if a delivery was begun when it had just arrived.
    let last = endpoint.events().iter().map(sequence).max();
    let last = last.expect("an event").replace(".000", "");
    entries.retain(|name| *name != format!("event:measurements:{last}"));
    assert!(entries.is_empty(), "{entries:?}");
    server.finish();
}

fn bad_requests_are_refused(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    subscribe(&server);
    let many = format!("[{}{{}}]", "{},".repeat(100));
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(64 << 10));
    for (body, status) in [
        ("", 400),
        ("[]", 400),
        ("[1]", 400),
        ("{\"id\": 5}", 400),
        ("{\"id\": \"\"}", 400),
        (&many, 400),
        (&long, 413),
    ] {
        let answer = ask(&server, TELEMETRY, &Request::post("/measurements", body));
        assert_eq!(answer.status(), status, "{body:.50}: {}", answer.text());
    }
    let post = |target: &str, body: &str| ask(&server, SERVER, &Request::post(target, body));
    assert_eq!(post("/topics/measurements/events", "[{}]").status(), 400);
    assert_eq!(post("/topics/../events", "[{\"id\": \"x\"}]").status(), 404);
    assert_eq!(
        post("/topics/a:b/events", "[{\"id\": \"x\"}]").status(),
        404
    );
    publish(&server, &["good"]);
    endpoint.expect(&server, &["good"]);
    server.finish();
}

fn an_endpoint_that_fails_for_a_while(host: &Host) {
    let endpoint = Endpoint::start();
    endpoint.refuse(true);
    let server = start(host, &endpoint, &[]);
    subscribe(&server);
    let ids = numbered("id", 20);
    publish(&server, &ids);
    await_pushed(&server, "a refusal", || {
        let told = "pushing measurements to gateway: status 502";
        endpoint.refused() > 0 && server.log.text().contains(told)
    });
    // More if telemetry had to send one again.
    assert!(pending(&server, "gateway") >= 20);
    assert!(endpoint.events().is_empty());
    endpoint.refuse(false);
    drain(&server);
    endpoint.expect(&server, &ids);
    assert_eq!(pending(&server, "gateway"), 0);
    server.finish();
}

fn two_subscribers_get_everything(host: &Host) {
    let endpoint = Endpoint::start();
    let archive = Endpoint::start();
    archive.refuse(true);
    let addr = archive.addr().to_string();
    let server = start(host, &endpoint, &[("127.0.0.1:9001", &addr)]);
    subscribe(&server);
    subscribe_at(&server, "archive", &format!("http://{addr}/archive"));
    let ids = numbered("id", 20);
    publish(&server, &ids);
    // One that takes nothing does not hold up the other.
    endpoint.expect(&server, &ids);
    assert!(archive.events().is_empty());
    archive.refuse(false);
    drain(&server);
    archive.expect(&server, &ids);
    endpoint.expect(&server, &ids);
    server.finish();
}

fn events_wait_for_a_subscriber(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    publish(&server, &["before"]);
    assert_eq!(endpoint.peer.connections(), 0);
    subscribe(&server);
    endpoint.expect(&server, &["before"]);
    drain(&server);
    let gone = Request::new("DELETE", "/topics/measurements/subscribers/gateway");
    ask(&server, SERVER, &gone).ok();
    publish(&server, &["between"]);
    drain(&server);
    endpoint.expect(&server, &["before"]);
    subscribe(&server);
    // To subscribe once more is to stay where one is.
    subscribe(&server);
    publish(&server, &["after"]);
    endpoint.expect(&server, &["before", "between", "after"]);
    server.finish();
}

fn a_full_backlog(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[("1000", "3")]);
    store(&server, &["1", "2", "3"]);
    let refused = ask(&server, TELEMETRY, &measurement("4"));
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert_eq!(refused.head.first("retry-after").as_deref(), Some("1"));
    server.log.expect(&["measurements: the backlog is full"]);
    subscribe(&server);
    drain(&server);
    publish(&server, &["4"]);
    endpoint.expect(&server, &["1", "2", "3", "4"]);
    server.finish();
}

fn only_the_gateway_reaches_the_endpoint(host: &Host) {
    let endpoint = Endpoint::start();
    let url = format!("http://{}/ingest", endpoint.addr());
    let needed = format!("UNIT_WASM_ALLOW_HTTP would need http://{}", endpoint.addr());

    let publish_to = "http://127.0.0.1:8081/topics/measurements/events";
    let server = start(host, &endpoint, &[(publish_to, &url)]);
    let answer = ask(&server, TELEMETRY, &measurement("from telemetry"));
    assert_eq!(answer.status(), 503);
    server.log.expect(&["wasm \"telemetry\"", &needed]);
    server.finish();

    let server = start(host, &endpoint, &[]);
    subscribe_at(&server, "direct", &url);
    publish(&server, &["from the server"]);
    server.log.expect(&["wasm \"server\"", &needed]);
    assert!(pending(&server, "direct") >= 1);
    assert_eq!(endpoint.peer.connections(), 0);

    subscribe(&server);
    endpoint.expect(&server, &["from the server"]);
    assert!(pending(&server, "direct") >= 1);
    server.finish();
}

/// Kills all processes of an application.
fn kill(server: &Server, app: &str) {
    let mut workers = Vec::new();
    eventually("a process to kill", PATIENCE, || {
        workers = server.workers(app);
        !workers.is_empty()
    });
    for worker in &workers {
        worker.signal(libc::SIGKILL);
    }
    eventually("it is gone", PATIENCE, || {
        !workers.iter().any(|worker| worker.alive())
    });
}

fn who_is_killed_before_the_acknowledgement_pushes_again(host: &Host) {
    for app in ["server", "gateway"] {
        let endpoint = Endpoint::start();
        let mut server = start(host, &endpoint, &[]);
        server.expect_new_workers();
        server.expect_log("exited on signal 9");
        subscribe(&server);
        endpoint.hold(true);
        publish(&server, &["once"]);
        endpoint.expect(&server, &["once"]);
        // The endpoint has it, and nobody knows.
        kill(&server, app);
        let before = endpoint.events().len();
        endpoint.hold(false);
        drain(&server);
        endpoint.expect(&server, &["once"]);
        let events = endpoint.events();
        assert!(events.len() > before, "not pushed again");
        let same = events.iter().filter(|event| **event == events[0]);
        assert!(same.count() > 1, "a duplicate can be told");
        server.finish();
    }
}

fn what_the_store_has_lost_holds_up_nothing(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    store(&server, &["0", "1", "2"]);
    let lost = "events/event:measurements:000000000001";
    fs::remove_file(server.data().join(lost)).expect("an entry of the log");
    subscribe(&server);
    endpoint.expect(&server, &["0", "2"]);
    server
        .log
        .expect(&["the store has lost entry 1 of measurements"]);
    publish(&server, &["3"]);
    endpoint.expect(&server, &["0", "2", "3"]);
    server.finish();
}

/// Nobody has got past them: new events take their places, all but the last.
fn several_lost_in_a_row_make_room(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    store(&server, &["0", "1", "2", "3"]);
    for number in [1, 2] {
        let lost = format!("events/event:measurements:{number:012}");
        fs::remove_file(server.data().join(lost)).expect("an entry of the log");
    }
    subscribe(&server);
    endpoint.expect(&server, &["0"]);
    store(&server, &["4"]);
    endpoint.expect(&server, &["0", "4", "3"]);
    server
        .log
        .expect(&["the store has lost entry 2 of measurements"]);
    server.finish();
}

/// A JSON text of about `size` bytes which `serde_json` would make values of that
/// are some 80 times as large.
fn unfolding(size: usize) -> String {
    const DEPTH: usize = 100;
    let one = format!("{}1{}", "{\"\":".repeat(DEPTH), "}".repeat(DEPTH));
    let all = vec![one; size / (5 * DEPTH)];
    format!("[{}]", all.join(","))
}

fn what_unfolds_in_memory_is_delivered(host: &Host) {
    let endpoint = Endpoint::start();
    endpoint.refuse(true);
    let server = start(host, &endpoint, &[]);
    subscribe(&server);
    // As large as telemetry takes it, and as the server does.
    let data = unfolding(60_000);
    let mut ids = numbered("through", 6);
    for id in &ids {
        let body = format!("{{\"id\":\"{id}\",\"data\":{data}}}");
        let answer = ask(&server, TELEMETRY, &Request::post("/measurements", body));
        assert_eq!(answer.status(), 202, "{}", answer.text());
    }
    let data = unfolding(120_000);
    for id in numbered("direct", 6) {
        let events = format!("[{{\"id\":\"{id}\",\"sequence\":\"mine\",\"data\":{data}}}]");
        let answer = publish_to(&server, "measurements", &events);
        assert_eq!(answer.status(), 201, "{}", answer.text());
        ids.push(id);
    }
    endpoint.refuse(false);
    drain(&server);
    endpoint.expect(&server, &ids);
    let events = endpoint.first();
    let data: Value = serde_json::from_str(&data).expect("JSON");
    assert!(events.last().expect("an event")["data"] == data);
    // Without gaps, unless telemetry had to send some again.
    let mut sequences: Vec<_> = endpoint.events().iter().map(sequence).collect();
    sequences.sort();
    sequences.dedup();
    let numbers = 0..sequences.len();
    let expected: Vec<_> = numbers.map(|n| format!("{n:012}.000")).collect();
    assert_eq!(sequences, expected);
    let first: Vec<_> = events.iter().map(sequence).collect();
    assert!(first.is_sorted(), "{first:?}");
    server.finish();
}

/// An endpoint that cannot read an event would never take what comes after it.
fn what_not_every_parser_takes_is_refused(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    subscribe(&server);
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for data in [deep.as_str(), "1e999", "\"\\ud800\"", "\"\u{1}\""] {
        let body = format!("{{\"id\":\"x\",\"data\":{data}}}");
        let answer = publish_to(&server, "measurements", &format!("[{body}]"));
        assert_eq!(answer.status(), 400, "{data:.20}: {}", answer.text());
        let answer = ask(&server, TELEMETRY, &Request::post("/measurements", body));
        assert_eq!(answer.status(), 400, "{data:.20}: {}", answer.text());
    }
    for events in ["[[\"x\"]]", "[{\"id\":[\"x\"]}]", "{\"id\":\"x\"}", "[]"] {
        let answer = publish_to(&server, "measurements", events);
        assert_eq!(answer.status(), 400, "{events}: {}", answer.text());
    }
    publish(&server, &["good"]);
    endpoint.expect(&server, &["good"]);
    server.finish();
}

fn topics_are_apart(host: &Host) {
    let endpoint = Endpoint::start();
    let archive = Endpoint::start();
    let addr = archive.addr().to_string();
    let server = start(host, &endpoint, &[("127.0.0.1:9001", &addr)]);
    endpoint.refuse(true);
    archive.refuse(true);
    subscribe(&server);
    // The same name in another topic is another subscriber.
    let url = format!("http://{addr}/archive");
    subscribe_to(&server, "alarms", "gateway", &url).ok();
    publish(&server, &["m-0", "m-1", "m-2"]);
    for id in ["a-0", "a-1"] {
        let answer = publish_to(&server, "alarms", &format!("[{{\"id\":\"{id}\"}}]"));
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    assert!(pending(&server, "gateway") >= 3);
    assert_eq!(pending_of(&server, "alarms", "gateway"), 2);

    // One round delivers what is there in both, and each has numbers of its own.
    endpoint.refuse(false);
    archive.refuse(false);
    drain(&server);
    endpoint.expect(&server, &["m-0", "m-1", "m-2"]);
    archive.expect(&server, &["a-0", "a-1"]);
    assert_eq!(archive.events()[0]["sequence"], "000000000000.000");
    assert_eq!(endpoint.events()[0]["sequence"], "000000000000.000");

    // Who leaves one is still in the other.
    let gone = Request::new("DELETE", "/topics/alarms/subscribers/gateway");
    ask(&server, SERVER, &gone).ok();
    publish_to(&server, "alarms", "[{\"id\":\"a-2\"}]");
    publish(&server, &["m-3"]);
    drain(&server);
    endpoint.expect(&server, &["m-0", "m-1", "m-2", "m-3"]);
    archive.expect(&server, &["a-0", "a-1"]);
    server.finish();
}

fn a_broken_topic_holds_up_no_other(host: &Host) {
    let endpoint = Endpoint::start();
    endpoint.refuse(true);
    let server = start(host, &endpoint, &[]);
    // It is the first on the list.
    publish_to(&server, "broken", "[{\"id\":\"x\"}]");
    subscribe_to(&server, "broken", "one", "http://127.0.0.1:9001/");
    subscribe(&server);
    publish(&server, &["good"]);
    let record = server.data().join("events/topic:broken");
    assert!(fs::exists(&record).expect("the store"));
    fs::write(&record, "nonsense").expect("the record");
    // From here on it is not the request that published who delivers.
    await_pushed(&server, "an attempt", || endpoint.refused() > 0);
    endpoint.refuse(false);
    eventually("the other is delivered", PATIENCE, || {
        let answer = ask(&server, SERVER, &Request::post("/deliver", ""));
        assert_eq!(answer.status(), 503);
        let text = answer.text();
        assert!(
            text.starts_with("broken: a value in the store is broken"),
            "{text}"
        );
        !endpoint.events().is_empty()
    });
    endpoint.expect(&server, &["good"]);
    eventually("that is noted", PATIENCE, || {
        pending(&server, "gateway") == 0
    });
    server.finish();
}

fn there_are_so_many_topics_and_subscribers(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    let url = "http://127.0.0.1:9001/";
    for number in 0..8 {
        subscribe_to(&server, "measurements", &format!("s-{number}"), url).ok();
    }
    let answer = subscribe_to(&server, "measurements", "s-8", url);
    assert_eq!(answer.status(), 409);
    assert_eq!(answer.text(), "There are too many subscribers.\n");
    // Who is there already may say so again, and who leaves makes room.
    subscribe_to(&server, "measurements", "s-7", url).ok();
    let gone = Request::new("DELETE", "/topics/measurements/subscribers/s-7");
    ask(&server, SERVER, &gone).ok();
    subscribe_to(&server, "measurements", "s-8", url).ok();

    let event = "[{\"id\":\"x\"}]";
    for number in 1..64 {
        let answer = publish_to(&server, &format!("t-{number}"), event);
        assert_eq!(answer.status(), 201, "{number}: {}", answer.text());
    }
    for answer in [
        publish_to(&server, "t-64", event),
        subscribe_to(&server, "t-64", "s", url),
    ] {
        assert_eq!(answer.status(), 409);
        assert_eq!(answer.text(), "There are too many topics.\n");
    }
    assert_eq!(publish_to(&server, "t-63", event).status(), 201);
    server.finish();
}

fn nothing_is_lost_when_workers_are_killed(host: &Host) {
    let endpoint = Endpoint::start();
    let server = start(host, &endpoint, &[]);
    assert_nothing_is_lost(server, &endpoint);
}

fn nothing_is_lost_with_redis(host: &Host) {
    let redis = DatabasePeer::redis(None);
    let endpoint = Endpoint::start();
    let store = format!("redis://{}/0?prefix=events:", redis.addr());
    let server = settled(Server::start(host, config(&store, &endpoint, &[])));
    assert_nothing_is_lost(server, &endpoint);
}

const CLIENTS: u64 = 4;
const EACH: u64 = 75;
const KILLS: u64 = 12;

/// Clients publish, each event until it is acknowledged, while the processes of
/// one application after the other are killed. In the end the endpoint has all.
fn assert_nothing_is_lost(mut server: Server, endpoint: &Endpoint) {
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    subscribe(&server);
    let addr = server.addr_of(TELEMETRY);
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut conn = Client::keeping(addr).patience(Duration::from_secs(10));
                for number in 0..EACH {
                    publish_until_acknowledged(&mut conn, &format!("{client}-{number}"));
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=KILLS {
            let goal = CLIENTS * EACH * round / (KILLS + 1);
            eventually("more are acknowledged", 2 * PATIENCE, || {
                acknowledged.load(Ordering::SeqCst) >= goal
            });
            let apps = ["server", "gateway", "telemetry"];
            kill(&server, apps[round as usize % apps.len()]);
        }
    });
    assert_eq!(acknowledged.into_inner(), CLIENTS * EACH);
    drain(&server);
    let all = (0..CLIENTS).flat_map(|client| (0..EACH).map(move |n| format!("{client}-{n}")));
    let arrived = endpoint.ids();
    assert_eq!(
        arrived.iter().cloned().collect::<BTreeSet<String>>(),
        all.collect::<BTreeSet<String>>(),
    );
    assert_in_order(&arrived);
    let missed = server
        .log
        .matching(|line| line.contains("the store has lost"));
    assert!(missed.is_empty(), "nothing was: {missed:?}");

    // A request that a killed process had just taken is lost to the host, which
    // keeps its connection. What is opened from here on has to be closed again.
    let server = settled(server);
    let later = numbered("later", 20);
    publish(&server, &later);
    drain(&server);
    let mut ids = ids_of(&endpoint.first());
    ids.retain(|id| id.starts_with("later-"));
    assert_eq!(ids, later);
    server.finish();
}

/// Of each client, what arrives first of its events is in the order in which it
/// has published them.
fn assert_in_order(ids: &[String]) {
    for client in 0..CLIENTS {
        let mut seen = BTreeSet::new();
        let prefix = format!("{client}-");
        let numbers = ids.iter().filter_map(|id| id.strip_prefix(&prefix));
        let numbers = numbers.map(|number| number.parse::<u64>().expect("a number"));
        let first: Vec<u64> = numbers.filter(|number| seen.insert(*number)).collect();
        assert!(first.is_sorted(), "client {client}: {first:?}");
    }
}

fn publish_until_acknowledged(client: &mut Client, id: &str) {
    let request = measurement(id);
    let mut last = String::new();
    let done = wait_for(2 * PATIENCE, || match client.exchange(&request) {
        Ok(answer) if answer.status() == 202 => Some(()),
        Ok(answer) => {
            last = format!("{}: {}", answer.status(), answer.text());
            None
        }
        Err(error) => {
            last = error.to_string();
            None
        }
    });
    assert!(done.is_some(), "{id} is not acknowledged: {last}");
}

fn without_a_store_nothing_is_acknowledged(host: &Host) {
    let mut redis = DatabasePeer::redis(None);
    let endpoint = Endpoint::start();
    let store = format!("redis://{}/0", redis.addr());
    let server = settled(Server::start(host, config(&store, &endpoint, &[])));
    subscribe(&server);
    redis.kill();
    let answer = ask(&server, TELEMETRY, &measurement("early"));
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert_eq!(
        ask(&server, SERVER, &Request::post("/deliver", "")).status(),
        503
    );
    redis.restart_redis();
    // It has forgotten who was subscribed.
    subscribe(&server);
    publish(&server, &["late"]);
    endpoint.expect(&server, &["late"]);
    server.finish();
}
