//! What an operator can see: metrics, the cost of a request, traces, core dumps;
//! and the circuit breaker, which acts on what is seen.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::config::Config;
use harness::http::{self, encode};
use harness::launch::{free_addr, next_ip};
use harness::load::Load;
use harness::peers::HttpPeer;
use harness::{App, Host, Request, Server, eventually, guests, wait_for};
use openmetrics_parser::{PrometheusValue, prometheus::parse_prometheus};
use serde_json::json;

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["observe", Both:
        metrics_count_requests_by_status_and_reason,
        metrics_are_those_of_all_processes,
        metrics_of_a_killed_process_stay,
        metrics_leave_with_the_application,
        a_cost_line_for_each_request,
        the_cost_in_a_field_of_the_response,
        a_breaker_opens_and_closes_again,
        a_breaker_leaves_neighbours_alone,
        a_breaker_does_not_mind_clients,
        a_trap_leaves_a_core_dump,
        core_dumps_are_bounded,
        a_guest_sees_its_trace,
    ];
    all.extend(cases!["observe", All:
        metrics_have_a_port_of_their_own,
        a_port_that_is_taken_is_refused,
        a_trace_goes_on_in_outbound_requests,
        a_trace_is_kept_from_others,
        metrics_of_outbound_requests,
        metrics_of_full_processes,
        metrics_of_open_breakers,
        a_composed_component_leaves_no_core_dump,
    ]);
    all.extend(cases!["observe", Unit: the_cost_in_the_access_log]);
    all
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Metrics as a strict parser reads them.
struct Scrape(Vec<Reading>);

/// A name, its labels and its value.
type Reading = (String, Vec<(String, String)>, f64);

impl Scrape {
    #[track_caller]
    fn of(addr: SocketAddr) -> Self {
        let response = http::fetch(addr, &Request::get("/metrics")).expect("metrics");
        let kind = response.head.first("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = response.ok().text();
        let parsed = parse_prometheus(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let mut all = Vec::new();
        for (name, family) in &parsed.families {
            for sample in family.iter_samples() {
                let labels = sample.get_labelset().expect("labels");
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                let mut add = |name: String, value| all.push((name, labels.clone(), value));
                match &sample.value {
                    PrometheusValue::Gauge(value) | PrometheusValue::Unknown(value) => {
                        add(name.clone(), value.as_f64());
                    }
                    PrometheusValue::Counter(counter) => add(name.clone(), counter.value.as_f64()),
                    PrometheusValue::Histogram(histogram) => {
                        let sum = histogram.sum.as_ref().expect("a sum").as_f64();
                        let count = histogram.count.expect("a count");
                        let last = histogram.buckets.last().expect("buckets");
                        assert_eq!(last.count.as_f64(), count as f64, "{name}");
                        assert_eq!(last.upper_bound, f64::INFINITY, "{name}");
                        add(format!("{name}_sum"), sum);
                        add(format!("{name}_count"), count as f64);
                    }
                    PrometheusValue::Summary(_) => panic!("{name} is a summary"),
                }
            }
        }
        Self(all)
    }

    /// The value of the only sample with these labels, or 0.
    #[track_caller]
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |all: &[(String, String)], (name, value): &(&str, &str)| {
            all.iter().any(|(n, v)| n == name && v == value)
        };
        let found: Vec<f64> = self
            .0
            .iter()
            .filter(|(n, all, _)| n == name && labels.iter().all(|label| has(all, label)))
            .map(|(_, _, value)| *value)
            .collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().copied().unwrap_or(0.0)
    }

    fn code(&self, code: &str) -> f64 {
        self.get("nxt_wasm_requests_total", &[("code", code)])
    }

    fn reason(&self, reason: &str) -> f64 {
        self.get("nxt_wasm_failures_total", &[("reason", reason)])
    }
}

/// An application with metrics, and where they are.
pub fn measured(app: App) -> (App, SocketAddr) {
    let addr = free_addr(next_ip());
    (app.env("UNIT_WASM_METRICS", &addr.to_string()), addr)
}

/// Waits until the guests have so many requests, which Unit's own numbers do not tell.
#[track_caller]
pub fn await_in_flight(metrics: SocketAddr, requests: usize) {
    let reads = || {
        let answer = http::fetch(metrics, &Request::get("/metrics")).ok()?;
        let text = answer.text();
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("nxt_wasm_requests_in_flight{"))?;
        line.rsplit(' ').next()?.parse::<usize>().ok()
    };
    eventually("requests in flight", PATIENCE, || {
        // A look at the queue counts as a request, for a moment.
        (0..3).all(|_| reads() == Some(requests))
    });
}

fn metrics_count_requests_by_status_and_reason(host: &Host) {
    let (app, addr) = measured(App::lab());
    let server = Server::start(host, app.env("UNIT_WASM_FUEL", "50000000"));
    // Requests are counted when their guests have ended, which may be after the answer.
    let at_rest = || {
        await_in_flight(addr, 0);
        Scrape::of(addr)
    };
    let before = at_rest();
    for _ in 0..7 {
        server.get("/").ok();
    }
    assert_eq!(server.get("/no-such-route").status(), 404);
    assert_eq!(server.get("/trap").status(), 500);
    assert_eq!(server.get("/spin").status(), 504);
    let after = at_rest();
    let grown = |get: &dyn Fn(&Scrape) -> f64| get(&after) - get(&before);
    assert_eq!(grown(&|s| s.code("200")), 7.0);
    assert_eq!(grown(&|s| s.code("404")), 1.0);
    assert_eq!(grown(&|s| s.code("500")), 1.0);
    assert_eq!(grown(&|s| s.code("504")), 1.0);
    assert_eq!(grown(&|s| s.reason("trap")), 1.0);
    assert_eq!(grown(&|s| s.reason("fuel")), 1.0);
    assert_eq!(grown(&|s| s.reason("timeout")), 0.0);
    for name in [
        "nxt_wasm_request_duration_seconds_count",
        "nxt_wasm_guest_cpu_seconds_count",
        "nxt_wasm_guest_memory_bytes_count",
        "nxt_wasm_guest_fuel_count",
        "nxt_wasm_instantiate_seconds_count",
    ] {
        assert_eq!(grown(&|s| s.get(name, &[])), 10.0, "{name}");
    }
    let fuel = grown(&|s| s.get("nxt_wasm_guest_fuel_sum", &[]));
    assert!((50e6..60e6).contains(&fuel), "one used all of it: {fuel}");
    let memory = grown(&|s| s.get("nxt_wasm_guest_memory_bytes_sum", &[]));
    assert!(memory >= 10.0 * 65536.0, "{memory}");
    let cpu = grown(&|s| s.get("nxt_wasm_guest_cpu_seconds_sum", &[]));
    assert!(cpu > 0.0 && cpu < 60.0, "{cpu}");
    assert_eq!(after.get("nxt_wasm_processes", &[("app", "lab")]), 1.0);
    assert_eq!(after.get("nxt_wasm_requests_in_flight", &[]), 0.0);
    assert!(after.get("nxt_wasm_slots", &[]) > 0.0);
    let line = server.log.expect(&["component ", " exports wasi:http/"]);
    let cached = f64::from(u8::from(line.contains("artifact found in the cache")));
    assert_eq!(after.get("nxt_wasm_artifacts_from_cache", &[]), cached);

    let sleeper = thread::spawn({
        let addr = server.addr();
        move || http::fetch(addr, &Request::get("/sleep?ms=8000"))
    });
    eventually("a request in flight", PATIENCE, || {
        Scrape::of(addr).get("nxt_wasm_requests_in_flight", &[]) == 1.0
    });
    sleeper.join().unwrap().unwrap().ok();
    server.finish();
}

fn metrics_are_those_of_all_processes(host: &Host) {
    let (app, addr) = measured(App::lab().processes(json!(3)));
    let server = Server::start(host, app);
    eventually("all processes are there", PATIENCE, || {
        Scrape::of(addr).get("nxt_wasm_processes", &[]) == 3.0
    });
    // What was counted takes a moment to be seen by the others.
    let counted = || Scrape::of(addr).code("200");
    let mut before = counted();
    eventually("all say the same", PATIENCE, || {
        let last = before;
        thread::sleep(Duration::from_secs(1));
        before = counted();
        before == last && (0..12).all(|_| counted() == before)
    });
    const REQUESTS: u32 = 60;
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..REQUESTS / 6 {
                    server.get("/sleep?ms=5").ok();
                }
            });
        }
    });
    let all = before + f64::from(REQUESTS);
    eventually("all have been told", PATIENCE, || {
        (0..12).all(|_| counted() == all)
    });
    // Whoever answers.
    for _ in 0..12 {
        let after = Scrape::of(addr);
        assert_eq!(after.code("200"), all);
        assert_eq!(after.get("nxt_wasm_processes", &[]), 3.0);
    }
    server.finish();
}

fn metrics_of_a_killed_process_stay(host: &Host) {
    let (app, addr) = measured(App::lab());
    let mut server = Server::start(host, app);
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    for _ in 0..20 {
        server.get("/").ok();
    }
    thread::sleep(Duration::from_secs(1));
    let before = Scrape::of(addr);
    assert!(before.code("200") >= 20.0);
    let old = server.worker("lab");
    old.signal(libc::SIGKILL);
    eventually("it is gone", PATIENCE, || !old.alive());
    server.await_worker("lab");
    eventually("the next process serves", PATIENCE, || {
        server
            .fetch(&Request::get("/"))
            .is_ok_and(|r| r.status() == 200)
    });
    let after = Scrape::of(addr);
    assert!(
        after.code("200") > before.code("200"),
        "{}",
        after.code("200")
    );
    assert_eq!(after.get("nxt_wasm_processes", &[]), 1.0);
    server.finish();
}

fn metrics_leave_with_the_application(host: &Host) {
    let (app, addr) = measured(App::lab());
    let mut server = Server::start(host, app.clone());
    server.expect_new_workers();
    Scrape::of(addr);
    // The same port, in a new generation.
    server.apply(&app.env("VERSION", "2").into());
    server.get("/").ok();
    eventually("the new one answers", PATIENCE, || {
        http::fetch(addr, &Request::get("/metrics")).is_ok_and(|response| response.status() == 200)
    });
    server.apply(&App::lab().into());
    server.get("/").ok();
    eventually("nobody listens", PATIENCE, || {
        http::fetch(addr, &Request::get("/metrics")).is_err()
    });
    server.finish();
}

fn metrics_have_a_port_of_their_own(host: &Host) {
    let (app, addr) = measured(App::lab());
    let server = Server::start(host, app);
    let ask = |request: &Request| http::fetch(addr, request).expect("an answer");
    assert_eq!(ask(&Request::get("/")).status(), 404);
    let posted = ask(&Request::post("/metrics", "x"));
    assert_eq!(posted.status(), 405);
    assert_eq!(posted.head.first("allow").as_deref(), Some("GET, HEAD"));
    // Clients that say nothing keep nobody from asking for longer than a moment.
    let silent: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(addr).expect("a connection"))
        .collect();
    let begin = Instant::now();
    server.get("/").ok();
    Scrape::of(addr);
    assert!(begin.elapsed() < Duration::from_secs(25));
    drop(silent);
    // And not on the port of the application.
    assert_eq!(server.get("/metrics").status(), 404);
    server.finish();
}

fn a_port_that_is_taken_is_refused(host: &Host) {
    let taken = std::net::TcpListener::bind((next_ip(), 0)).expect("a port");
    let addr = taken.local_addr().expect("its address").to_string();
    let mut server = Server::bare(host);
    server.expect_log("UNIT_WASM_METRICS");
    server.expect_log("failed to start");
    server.expect_log("failed to apply new conf");
    let app = App::lab().env("UNIT_WASM_METRICS", &addr);
    server.put(&app.into());
    let line = server
        .log
        .expect(&["cannot start", "UNIT_WASM_METRICS", &addr]);
    assert!(line.contains("in use"), "{line}");
    server.terminate();
    server.finish_stopped();
}

fn a_cost_line_for_each_request(host: &Host) {
    let app = App::lab().env("UNIT_WASM_COST_LOG", "on");
    let server = Server::start(host, app.env("UNIT_WASM_FUEL", "50000000"));
    let line_of = |target: &str, id: &str| {
        let request = Request::get(target).header("x-request-id", id);
        let status = server.send(&request).status();
        (
            status,
            server.log.expect(&[&format!(" request={id} cost ")]),
        )
    };
    let (status, line) = line_of("/", "cost-1");
    assert_eq!(status, 200);
    for part in [
        " status=200 ",
        " time=",
        " fuel=",
        " cpu=",
        " memory=",
        " instantiate=",
        " outbound=0",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("reason="), "{line}");
    let (status, line) = line_of("/spin", "cost-2");
    assert_eq!(status, 504);
    assert!(
        line.contains(" status=504 ") && line.contains(" reason=fuel "),
        "{line}"
    );
    // One line, not this one and that of fuel.
    assert!(!server.log.text().contains("request=cost-1 fuel="));
    server.finish();
}

fn the_cost_in_a_field_of_the_response(host: &Host) {
    let server = Server::start(host, App::lab().env("UNIT_WASM_COST_HEADER", "X-Wasm-Cost"));
    let response = server.get("/").ok();
    let cost = response.head.first("x-wasm-cost").expect("the field");
    assert!(cost.starts_with("cpu="), "{cost}");
    assert!(cost.contains(" instantiate="), "{cost}");
    // What the guest says of it does not count.
    let claimed = server.get("/headers?x-wasm-cost=nothing").ok();
    let values = claimed.head.all("x-wasm-cost");
    assert_eq!(values.len(), 1, "{values:?}");
    assert!(values[0].starts_with(b"cpu="));
    server.finish();
}

const BREAKER: &str = "UNIT_WASM_BREAKER";

fn a_breaker_opens_and_closes_again(host: &Host) {
    let server = Server::start(host, App::lab().env(BREAKER, "3/10 10s"));
    // Enough that went well for the first failures to be among ten.
    for _ in 0..10 {
        server.get("/").ok();
    }
    for _ in 0..2 {
        assert_eq!(server.get("/trap").status(), 500);
    }
    // Not later than it opens.
    let opened = Instant::now();
    assert_eq!(server.get("/trap").status(), 500);
    server
        .log
        .expect(&["[error]", "3 of the last 10 requests have failed", BREAKER]);
    let refused = server.get("/");
    assert_eq!(refused.status(), 503);
    assert!(refused.head.first("retry-after").is_some());
    assert!(server.log.text().contains("reason=breaker"));
    // The one that is tried fails as well.
    eventually("a request is tried", PATIENCE, || {
        server.get("/trap").status() == 500
    });
    assert!(opened.elapsed() >= Duration::from_secs(10));
    server
        .log
        .expect(&["[error]", "a request that was tried has failed", BREAKER]);
    assert_eq!(server.get("/").status(), 503);
    // And then one that goes well.
    eventually("it serves again", PATIENCE, || {
        server.get("/").status() == 200
    });
    server.log.expect(&["[notice]", "serving again", BREAKER]);
    for _ in 0..5 {
        server.get("/").ok();
    }
    // What was before is forgotten.
    assert_eq!(server.get("/trap").status(), 500);
    server.get("/").ok();
    server.finish();
}

fn a_breaker_leaves_neighbours_alone(host: &Host) {
    // Not to be asked at the end.
    let broken = App::new("broken", &guests::lab()).env(BREAKER, "1/1 1m");
    let server = Server::start(host, harness::config::Config::of([broken, App::lab()]));
    let neighbours = Load::neighbours(server.addr_of("lab"));
    let ask = |target: &str| {
        let response = http::fetch(server.addr_of("broken"), &Request::get(target));
        response.expect("an answer").status()
    };
    // What a client asks for in vain is not the application's failure.
    assert_eq!(ask("/no-such-route"), 404);
    assert_eq!(ask("/"), 200);
    assert_eq!(ask("/trap"), 500);
    for _ in 0..20 {
        assert_eq!(ask("/"), 503);
    }
    neighbours.wait_for_more(10);
    neighbours.stop().assert_clean();
    server.finish();
}

fn a_breaker_does_not_mind_clients(host: &Host) {
    let app = App::lab().env(BREAKER, "1/1 1m");
    let server = Server::start(host, app.env("UNIT_WASM_RESPONSE_TIMEOUT", "5s"));
    // Streams that nobody ends but the limit.
    for number in 0..3 {
        let id = format!("stream-{number}");
        let request = Request::get("/forever").header("x-request-id", &id);
        assert!(server.fetch(&request).is_err(), "it has no end");
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "timeout");
        server.get("/").ok();
    }
    server.finish();
}

/// An application that leaves core dumps in a folder of the server.
fn dumping(host: &Host, settings: &[(&str, &str)]) -> Server {
    Server::start_with(host, |server| {
        let folder = server.data();
        let app = App::lab().env("UNIT_WASM_COREDUMP", folder.to_str().expect("UTF-8"));
        let set = |app: App, (name, value): &(&str, &str)| app.env(name, value);
        settings.iter().fold(app, set).into()
    })
}

fn dumps(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

fn a_trap_leaves_a_core_dump(host: &Host) {
    let server = dumping(host, &[]);
    server.get("/").ok();
    assert_eq!(server.get("/no-such-route").status(), 404);
    assert!(dumps(&server.data()).is_empty());
    let request = Request::get("/trap").header("x-request-id", "dump-1");
    assert_eq!(server.send(&request).status(), 500);
    let line = server.log.expect(&[" request=dump-1 ", "core dump in "]);
    let names = dumps(&server.data());
    let [name] = &names[..] else {
        panic!("one file: {names:?}")
    };
    assert!(line.contains(name.as_str()), "{line}");
    assert!(
        name.starts_with("lab-") && name.ends_with("-dump_1.coredump"),
        "{name}"
    );
    let bytes = fs::read(server.data().join(name)).expect("the file");
    // A module with the sections `core` and `corestack`, and memories.
    assert!(bytes.starts_with(b"\0asm\x01\0\0\0"));
    for part in [&b"\x04core"[..], b"corestack", b"coremodules"] {
        let found = bytes.windows(part.len()).any(|window| window == part);
        assert!(found, "{}", String::from_utf8_lossy(part));
    }
    server.finish();
}

fn core_dumps_are_bounded(host: &Host) {
    let settings = [
        ("UNIT_WASM_COREDUMP_COUNT", "2"),
        ("UNIT_WASM_FUEL", "50000000"),
    ];
    let server = dumping(host, &settings);
    // Many at once leave one; if they take long, one per second.
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(server.get("/trap").status(), 500));
        }
    });
    let most = 1 + begin.elapsed().as_secs();
    let dumped = |id: &str| {
        let wanted = |line: &str| line.contains(id) && line.contains("core dump in ");
        server.log.matching(wanted).len() as u64
    };
    server.log.expect(&["core dump in "]);
    for number in 0..3 {
        let id = format!("later-{number}");
        let part = format!(" request={id} ");
        // A limit is a trap as well.
        let target = if number == 2 { "/spin" } else { "/trap" };
        eventually("a later dump", PATIENCE, || {
            // Longer than the pause of a second, which begins after the line in the
            // log: on a busy machine, long after.
            thread::sleep(Duration::from_secs(2));
            server.send(&Request::get(target).header("x-request-id", &id));
            wait_for(Duration::from_secs(5), || (dumped(&part) > 0).then_some(())).is_some()
        });
    }
    let first = dumped("") - dumped(" request=later-");
    assert!(first <= most, "{first} dumps of eight, not {most}");
    eventually("two are left", PATIENCE, || {
        dumps(&server.data()).len() == 2
    });
    let names = dumps(&server.data());
    assert!(names[1].ends_with("-later_2.coredump"), "{names:?}");
    server.finish();

    let server = dumping(host, &[("UNIT_WASM_COREDUMP_SIZE", "64KiB")]);
    assert_eq!(server.get("/trap").status(), 500);
    server
        .log
        .expect(&["no core dump", "UNIT_WASM_COREDUMP_SIZE"]);
    assert!(dumps(&server.data()).is_empty());
    server.finish();
}

fn a_composed_component_leaves_no_core_dump(host: &Host) {
    // It would fail in a warm-up too.
    let mut server = Server::bare(host);
    let folder = server.data();
    let app = App::new("composed", &guests::middleware_with_hello())
        .env("UNIT_WASM_COREDUMP", folder.to_str().expect("UTF-8"))
        .env("UNIT_WASM_FUEL", "1000");
    server.apply(&app.into());
    let request = Request::get("/").header("x-request-id", "composed-1");
    assert_eq!(server.send(&request).status(), 504);
    assert_eq!(server.log.expect_failure("composed-1").reason, "fuel");
    server
        .log
        .expect(&[" request=composed-1 ", "no core dump", "composed"]);
    assert!(dumps(&server.data()).is_empty());
    server.finish();
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn a_guest_sees_its_trace(host: &Host) {
    let hex = |text: &str| -> String { text.bytes().map(|b| format!("{b:02x}")).collect() };
    for trace in ["on", "off"] {
        let server = Server::start(host, App::lab().env("UNIT_WASM_TRACE", trace));
        let request = Request::get("/request")
            .header("traceparent", TRACE)
            .header("tracestate", "vendor=1");
        let seen = server.send(&request).ok().text();
        for (name, value) in [("traceparent", TRACE), ("tracestate", "vendor=1")] {
            let line = format!("{name}={}\n", hex(value));
            assert!(seen.contains(&line), "{seen}");
        }
        server.finish();
    }
}

fn a_trace_is_kept_from_others(host: &Host) {
    let peer = HttpPeer::plain();
    let app = App::caps("http")
        .env("UNIT_WASM_ALLOW_HTTP", &peer.entry())
        .env("UNIT_WASM_HTTP_KEEP_ALIVE", "off")
        .env("UNIT_WASM_TRACE", "off");
    let server = Server::start(host, app);
    let target = format!("/fetch?url={}", encode(&peer.url("/request")));
    let request = Request::get(&target)
        .header("traceparent", TRACE)
        .header("tracestate", "vendor=1");
    let seen = server.send(&request).ok().text();
    assert!(!seen.contains("traceparent"), "{seen}");
    assert!(!seen.contains("tracestate"), "{seen}");
    assert_eq!(peer.requests_for("/request"), 1);
    server.finish();
}

fn metrics_of_outbound_requests(host: &Host) {
    let peer = HttpPeer::plain();
    let app = App::caps("http").env("UNIT_WASM_HTTP_KEEP_ALIVE", "off");
    let (app, addr) = measured(app.env("UNIT_WASM_ALLOW_HTTP", &peer.entry()));
    let server = Server::start(host, app);
    let target = format!("/fetch?url={}", encode(&peer.url("/request")));
    let sent = || {
        await_in_flight(addr, 0);
        Scrape::of(addr).get("nxt_wasm_outbound_requests_total", &[])
    };
    assert_eq!(sent(), 0.0);
    for _ in 0..3 {
        server.get(&target).ok();
    }
    assert_eq!(sent(), 3.0);
    server.finish();
}

fn metrics_of_full_processes(host: &Host) {
    let (app, addr) = measured(App::lab().env("UNIT_WASM_CONCURRENCY", "2"));
    let server = Server::start(host, app);
    let full = || Scrape::of(addr).get("nxt_wasm_full_total", &[]);
    server.get("/").ok();
    let before = full();
    let sleepers: Vec<_> = (0..6)
        .map(|_| {
            let addr = server.addr();
            thread::spawn(move || http::fetch(addr, &Request::get("/sleep?ms=2000")))
        })
        .collect();
    for sleeper in sleepers {
        sleeper.join().unwrap().unwrap().ok();
    }
    assert!(full() > before, "{before}");
    server.finish();
}

fn metrics_of_open_breakers(host: &Host) {
    let (app, addr) = measured(App::lab().env(BREAKER, "1/1 1s"));
    let server = Server::start(host, app);
    let open = || Scrape::of(addr).get("nxt_wasm_breakers_open", &[("app", "lab")]);
    server.get("/").ok();
    assert_eq!(open(), 0.0);
    assert_eq!(server.get("/trap").status(), 500);
    assert_eq!(open(), 1.0);
    eventually("it serves again", PATIENCE, || {
        server.get("/").status() == 200
    });
    assert_eq!(open(), 0.0);
    server.finish();
}

/// As docs/operations.md says that it can be had.
fn the_cost_in_the_access_log(host: &Host) {
    let mut server = Server::bare(host);
    let path = server.dir().join("access.log");
    let app = App::lab().env("UNIT_WASM_COST_HEADER", "x-wasm-cost");
    let log = json!({
        "path": path,
        "format": "$request_line $status $response_header_x_wasm_cost",
    });
    server.apply(&Config::of([app]).access_log(log));
    server.get("/").ok();
    eventually("a line in the access log", PATIENCE, || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().any(|line| {
            line.starts_with("GET / HTTP/1.1 200 cpu=") && line.contains(" instantiate=")
        })
    });
    server.finish();
}

fn a_trace_goes_on_in_outbound_requests(host: &Host) {
    let peer = HttpPeer::plain();
    let app = App::caps("http").env("UNIT_WASM_HTTP_KEEP_ALIVE", "off");
    let server = Server::start(host, app.env("UNIT_WASM_ALLOW_HTTP", &peer.entry()));
    let target = format!("/fetch?url={}", encode(&peer.url("/request")));
    let parent = TRACE;
    let request = Request::get(&target)
        .header("traceparent", parent)
        .header("tracestate", "vendor=1")
        .header("x-private", "stays");
    let seen = server.send(&request).ok().text();
    assert!(seen.contains(parent), "{seen}");
    assert!(seen.contains("vendor=1"), "{seen}");
    assert!(!seen.contains("x-private"), "{seen}");
    // A request that is part of no trace begins none.
    let seen = server.get(&target).ok().text();
    assert!(!seen.contains("traceparent"), "{seen}");
    server.finish();
}
