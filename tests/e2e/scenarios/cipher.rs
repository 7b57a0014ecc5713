//! A cipher and what serves it by HTTP, two components in one, three times side by
//! side with different shifts.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use harness::config::Config;
use harness::http;
use harness::proc::Process;
use harness::{App, Conn, Host, Request, Response, Server, guests};
use serde_json::{Value, json};

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["scenarios::cipher", All:
        each_application_has_its_shift,
        whole_numbers_are_shifts,
        nonsense_is_no_shift,
        bad_requests_are_answered,
        texts_of_all_kinds_come_back,
        other_members_are_skipped,
        each_call_is_recorded,
        what_cannot_be_recorded_is_not_done,
        shifts_are_never_mixed,
        no_part_serves_alone,
        nothing_starts_without_an_audit_log,
    ]
}

/// The listeners of `config.json`, the applications behind them, and how far they
/// shift.
const SERVICES: [(&str, &str, u8); 3] = [
    ("*:8080", "caesar", 3),
    ("*:8081", "rot13", 13),
    ("*:8082", "backwards", 25),
];

fn audit(server: &Server) -> PathBuf {
    server.dir().join("audit")
}

/// The three services as `config.json` has them.
fn start(host: &Host) -> Server {
    let server = Server::bare(host);
    let component = guests::cipher_service();
    let config = Config::of_file(
        "example/cipher-service/config.json",
        &[
            ("/srv/wasm/cipher-service.wasm", component.to_str().unwrap()),
            (
                "/var/log/unit-cipher.jsonl",
                audit(&server).to_str().unwrap(),
            ),
        ],
    );
    serving(server, &config)
}

/// Applications with these values of SHIFT_AMOUNT, called `shift-0` and so on.
fn start_with_shifts(host: &Host, values: &[&str]) -> Server {
    let server = Server::bare(host);
    let path = audit(&server);
    let app = |(number, value): (usize, &&str)| {
        App::new(&format!("shift-{number}"), &guests::cipher_service())
            .env("SHIFT_AMOUNT", value)
            .env("UNIT_WASM_AUDIT_LOG", path.to_str().unwrap())
    };
    let config = Config::of(values.iter().enumerate().map(app));
    serving(server, &config)
}

/// The harness would warm up with a page that this service does not have.
fn serving(mut server: Server, config: &Config) -> Server {
    server.apply(config);
    for listener in config.listeners() {
        let addr = server.addr_of(&listener);
        assert_eq!(http::fetch(addr, &Request::get("/")).unwrap().status(), 404);
    }
    server.settle();
    server
}

fn call(addr: SocketAddr, path: &str, message: &str) -> Response {
    let body = json!({ "message": message }).to_string();
    http::fetch(addr, &Request::post(path, body)).expect("an answer")
}

/// The result of a call that has one.
#[track_caller]
fn result(addr: SocketAddr, path: &str, message: &str) -> String {
    result_in(&call(addr, path, message).ok())
}

#[track_caller]
fn result_in(response: &Response) -> String {
    let kind = response.head.first("content-type");
    assert_eq!(kind.as_deref(), Some("application/json"));
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(
        said.as_object().map(serde_json::Map::len),
        Some(1),
        "{said}"
    );
    said["result"].as_str().expect("a result").to_owned()
}

/// What comes of lower case letters, by a table instead of by arithmetic.
fn shifted(text: &str, amount: u8) -> String {
    const TWICE: &str = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
    let shift = |letter| {
        let place = TWICE.find(letter)?;
        TWICE.chars().nth(place + usize::from(amount))
    };
    text.chars().map(|c| shift(c).unwrap_or(c)).collect()
}

/// Every whole line of the audit log, which has to be there already.
fn records(server: &Server) -> Vec<Value> {
    let text = fs::read_to_string(audit(server)).unwrap();
    let parse = |line| serde_json::from_str(line).expect("JSON on every line");
    text.lines().map(parse).collect()
}

fn each_application_has_its_shift(host: &Host) {
    let server = start(host);
    let results = ["khoor zruog", "uryyb jbeyq", "gdkkn vnqkc"];
    for ((listener, app, _), hello) in SERVICES.iter().zip(results) {
        let addr = server.addr_of(listener);
        assert_eq!(result(addr, "/encrypt", "hello world"), hello, "{app}");
        assert_eq!(result(addr, "/decrypt", hello), "hello world", "{app}");
    }
    let caesar = server.addr_of("*:8080");
    assert_eq!(result(caesar, "/encrypt", "Xyz, XYZ"), "Abc, ABC");
    assert_eq!(result(caesar, "/decrypt?x=1", "Abc, ABC"), "Xyz, XYZ");
    server.finish();
}

fn whole_numbers_are_shifts(host: &Host) {
    let shifts = [
        ("0", "abcxyz"),
        ("1", "bcdyza"),
        ("-1", "zabwxy"),
        ("+1", "bcdyza"),
        ("26", "abcxyz"),
        ("27", "bcdyza"),
        ("-27", "zabwxy"),
        ("9223372036854775807", "hijefg"),
        ("-9223372036854775808", "stupqr"),
    ];
    let server = start_with_shifts(host, &shifts.map(|(value, _)| value));
    for (number, (value, wanted)) in shifts.iter().enumerate() {
        let addr = server.addr_of(&format!("shift-{number}"));
        assert_eq!(result(addr, "/encrypt", "abcxyz"), *wanted, "{value}");
        assert_eq!(result(addr, "/decrypt", wanted), "abcxyz", "{value}");
    }
    server.finish();
}

fn nonsense_is_no_shift(host: &Host) {
    let values = ["", "three", " 3", "3.5", "9223372036854775808"];
    let server = start_with_shifts(host, &values);
    for (number, value) in values.iter().enumerate() {
        let app = format!("shift-{number}");
        let response = call(server.addr_of(&app), "/encrypt", "abc");
        assert_eq!(response.status(), 500, "{value}: {}", response.text());
        assert_eq!(
            response.text(),
            "{\"error\":\"the service is set up wrongly\"}\n"
        );
        let line = format!("stderr: cipher: SHIFT_AMOUNT={value:?}: ");
        server.log.expect(&[&format!("wasm \"{app}\""), &line]);
        let records = records(&server);
        assert_eq!(records.len(), number + 1, "{records:#?}");
        assert_eq!(records[number]["application"], app);
        assert_eq!(records[number]["outcome"], "failure");
    }
    server.finish();
}

fn bad_requests_are_answered(host: &Host) {
    let server = start(host);
    let good = "{\"message\":\"abc\"}";
    let post = |path: &str, body: &str| Request::post(path, body);
    for (request, status) in [
        (post("/", good), 404),
        (post("/encrypt/", good), 404),
        (post("/Encrypt", good), 404),
        (Request::get("/encrypt"), 405),
        (Request::with_body("PUT", "/decrypt", good), 405),
        (post("/encrypt", ""), 400),
        (post("/encrypt", "nonsense"), 400),
        (post("/encrypt", "{\"message\":\"abc\""), 400),
        (post("/encrypt", "{\"message\":\"abc\"} and more"), 400),
        (post("/encrypt", "\"abc\""), 400),
        (post("/encrypt", "[\"abc\"]"), 400),
        (post("/encrypt", "{}"), 400),
        (post("/encrypt", "{\"message\":3}"), 400),
        (post("/encrypt", "{\"Message\":\"abc\"}"), 400),
        (Request::post("/encrypt", b"{\"message\":\"\xff\"}"), 400),
        // Recursion without end is not for this parser.
        (post("/encrypt", &"[".repeat(60_000)), 400),
        (post("/encrypt", &" ".repeat(65_537)), 413),
        (post("/decrypt", &" ".repeat(1_000_000)), 413),
    ] {
        let response = server.send(&request);
        assert_eq!(response.status(), status, "{request:?}");
        let allow = (status == 405).then(|| "POST".to_owned());
        assert_eq!(response.head.first("allow"), allow, "{request:?}");
        let said: Value = serde_json::from_slice(&response.body).expect("JSON");
        let why = said["error"].as_str().expect("an error");
        assert!(!why.is_empty(), "{request:?}");
    }
    // None of them was a call.
    assert_eq!(records(&server), Vec::<Value>::new());
    assert_eq!(server.log.failures(), []);
    server.finish();
}

fn texts_of_all_kinds_come_back(host: &Host) {
    let server = start(host);
    let addr = server.addr();
    // The largest body there may be, with the limits of `config.json`.
    let rest = json!({ "message": "" }).to_string().len();
    let largest = "x".repeat(65_536 - rest);
    for (text, wanted) in [
        ("", ""),
        ("1 + 2 = 3;\t\"ok\"\\\n", "1 + 2 = 3;\t\"rn\"\\\n"),
        (
            "\u{0} \u{e4}\u{df} \u{1f600}",
            "\u{0} \u{e4}\u{df} \u{1f600}",
        ),
        (&largest, &"a".repeat(largest.len())),
    ] {
        let encrypted = result(addr, "/encrypt", text);
        assert!(encrypted == wanted, "{} bytes", text.len());
        let decrypted = result(addr, "/decrypt", &encrypted);
        assert!(decrypted == text, "{} bytes", text.len());
    }
    assert_eq!(call(addr, "/encrypt", &format!("{largest}x")).status(), 413);
    server.finish();
}

/// As values of `serde_json` they would take more memory than there is.
fn other_members_are_skipped(host: &Host) {
    let server = start(host);
    let one = format!("{}1{}", "{\"\":".repeat(100), "}".repeat(100));
    let nested = vec![one; 120].join(",");
    let names: Vec<String> = (0..5000).map(|n| format!("\"{n}\":{{}}")).collect();
    for others in [format!("\"others\":[{nested}]"), names.join(",")] {
        for body in [
            format!("{{{others},\"message\":\"abc\"}}"),
            format!(" {{\"message\":\"abc\",{others}}}\n"),
        ] {
            let response = server.send(&Request::post("/encrypt", body)).ok();
            assert_eq!(result_in(&response), "def");
        }
    }
    server.finish();
}

fn each_call_is_recorded(host: &Host) {
    let server = start(host);
    let mut expected = Vec::new();
    for (listener, app, _) in SERVICES {
        for operation in ["encrypt", "decrypt"] {
            let id = format!("{operation}-by-{app}");
            let request = Request::post(format!("/{operation}"), "{\"message\":\"rendezvous\"}")
                .header("x-request-id", &id);
            http::fetch(server.addr_of(listener), &request)
                .unwrap()
                .ok();
            expected.push(json!({
                "action": format!("cipher.{operation}"), "application": app, "request": id,
                "subject": "", "outcome": "success", "fields": { "bytes": "10" },
            }));
        }
    }
    let mut records = records(&server);
    for record in &mut records {
        let time = record.as_object_mut().unwrap().remove("time");
        assert!(time.is_some_and(|time| time.is_string()), "{record}");
    }
    assert_eq!(records, expected);
    // Neither there nor in the log is a word of what was said.
    for text in [
        fs::read_to_string(audit(&server)).unwrap(),
        server.log.text(),
    ] {
        for secret in ["rendezvous", "uhqghcyrxv", "eraqrmibhf"] {
            assert!(!text.contains(secret), "{secret} in: {text}");
        }
    }
    server.finish();
}

/// As `audit::limit_files`: a full disk for one process.
fn limit_files(process: Process, bytes: &str) {
    let id = |field: &str| -> u32 {
        let ids = process.status(field);
        let first = ids.split('\t').next().and_then(|id| id.parse().ok());
        first.unwrap_or_else(|| panic!("{field}: {ids}"))
    };
    let mut command = Command::new("prlimit");
    command.arg("--pid").arg(process.pid.to_string());
    command.arg(format!("--fsize={bytes}:"));
    command.gid(id("Gid")).uid(id("Uid"));
    let output = command.output().expect("prlimit");
    assert!(output.status.success(), "{output:?}");
}

fn what_cannot_be_recorded_is_not_done(host: &Host) {
    let server = start(host);
    let (caesar, rot13) = (server.addr_of("*:8080"), server.addr_of("*:8081"));
    // Longer than Unit's log, which must not meet the limit.
    let earlier = format!("{{\"filler\":\"{}\"}}\n", "x".repeat(2_000_000));
    fs::write(audit(&server), &earlier).unwrap();
    let worker = server.worker("caesar");

    limit_files(worker, &earlier.len().to_string());
    for path in ["/encrypt", "/decrypt"] {
        let request = Request::post(path, "{\"message\":\"abc\"}").header("x-request-id", "lost");
        let response = http::fetch(caesar, &request).unwrap();
        assert_eq!(response.status(), 503, "{}", response.text());
        assert_eq!(
            response.text(),
            "{\"error\":\"this cannot be recorded, so it was not done\"}\n"
        );
    }
    let line = server.log.expect(&["[error]", "request=lost "]);
    assert!(line.contains("UNIT_WASM_AUDIT_LOG"), "{line}");
    // The limit is that of one process, and so is the failure.
    assert_eq!(result(rot13, "/encrypt", "abc"), "nop");
    limit_files(worker, "unlimited");
    assert_eq!(result(caesar, "/encrypt", "abc"), "def");

    let apps: Vec<Value> = records(&server)[1..]
        .iter()
        .map(|record| record["application"].clone())
        .collect();
    assert_eq!(apps, ["rot13", "caesar"]);
    assert_eq!(server.worker("caesar"), worker, "the process was replaced");
    server.finish();
}

fn shifts_are_never_mixed(host: &Host) {
    const CLIENTS: u8 = 4;
    const CALLS: u8 = 40;
    let mut server = start(host);
    thread::scope(|scope| {
        for (listener, app, amount) in SERVICES {
            let addr = server.addr_of(listener);
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let mut conn = Conn::open(addr);
                    for number in 0..CALLS {
                        let place = char::from(b'a' + (client * CALLS + number) % 26);
                        let message = format!("message {place} of {app} {client}-{number}");
                        let wanted = shifted(&message, amount);
                        let body = json!({ "message": message }).to_string();
                        let request = Request::post("/encrypt", body);
                        let response = conn.exchange(&request).unwrap().ok();
                        assert_eq!(result_in(&response), wanted, "{app}");

                        let body = json!({ "message": wanted }).to_string();
                        let request = Request::post("/decrypt", body);
                        let response = conn.exchange(&request).unwrap().ok();
                        assert_eq!(result_in(&response), message, "{app}");
                    }
                });
            }
        }
    });
    let records = records(&server);
    for (_, app, _) in SERVICES {
        let found = records.iter().filter(|one| one["application"] == app);
        let calls = usize::from(CLIENTS) * usize::from(CALLS) * 2;
        assert_eq!(found.count(), calls, "{app}");
    }
    // Threads open their sockets to the router when they first have a request.
    server.settle();
    server.finish();
}

fn no_part_serves_alone(host: &Host) {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit");
    for (component, why) in [
        (guests::cipher_adapter(), "`example:cipher/cipher@0.1.0`"),
        (guests::cipher(), "wasi:http/incoming-handler"),
    ] {
        let app = App::new("bad", &component).env("UNIT_WASM_AUDIT_LOG", audit.to_str().unwrap());
        assert_refused(host, &app, &[component.to_str().unwrap(), why]);
    }
}

fn nothing_starts_without_an_audit_log(host: &Host) {
    let app = App::new("bad", &guests::cipher_service());
    let parts = ["unit:wasm/audit-log@0.1.0", "UNIT_WASM_AUDIT_LOG"];
    assert_refused(host, &app, &parts);
}
