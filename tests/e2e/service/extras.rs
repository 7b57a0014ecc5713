//! What the host offers beside WASI, to a guest of 0.3: secrets, the audit log,
//! key-value stores, configuration and the log.

use std::fs;

use harness::{App, Host, Server, guests};
use serde_json::Value;

use super::{ask, ask_as};
use crate::secrets::write_private;
use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-extras", All:
        secrets,
        the_audit_log,
        key_value_stores,
        configuration,
        the_log,
        a_store_and_a_clock_in_one_request,
        not_without_grants,
    ]
}

fn app() -> App {
    App::new("caps3", &guests::caps3())
}

/// With everything granted.
fn start(host: &Host) -> Server {
    Server::start_with(host, |server| {
        let secrets = server.dir().join("secrets");
        write_private(&secrets, "token = open-sesame-4711\nother = not-for-it\n");
        app()
            .env("UNIT_WASM_SECRETS", secrets.to_str().unwrap())
            .env("UNIT_WASM_ALLOW_SECRETS", "token")
            .env("UNIT_WASM_AUDIT_LOG", audit(server).to_str().unwrap())
            .env("UNIT_WASM_KEYVALUE", "values=memory:")
            .env("GREETING", "gr\u{fc}\u{df} dich")
            .into()
    })
}

fn audit(server: &Server) -> std::path::PathBuf {
    server.dir().join("audit")
}

fn secrets(host: &Host) {
    let server = start(host);
    assert_eq!(ask(&server, "/secret?name=token"), "open-sesame-4711");
    for name in ["other", "nothing", ""] {
        let text = ask_as(&server, "refused", format!("/secret?name={name}"));
        assert_eq!(text, "error: not-granted\n", "{name}");
    }
    server
        .log
        .expect(&["request=refused ", "\"other\"", "UNIT_WASM_ALLOW_SECRETS"]);
    // Where the guest lets it slip, it is blanked out.
    ask_as(&server, "slip", "/log?text=it%20is%20open-sesame-4711");
    server.log.expect(&["request=slip ", "[secret token]"]);
    assert!(!server.log.text().contains("sesame"));
    server.finish();
}

fn the_audit_log(host: &Host) {
    let server = start(host);
    for subject in ["bob", "eve"] {
        let target = format!("/audit?text={subject}");
        assert_eq!(ask_as(&server, subject, target), "recorded\n");
    }
    // The guest was told that they are there.
    let text = fs::read_to_string(audit(&server)).expect("the audit log");
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(records.len(), 2, "{text}");
    for (record, subject) in records.iter().zip(["bob", "eve"]) {
        for (name, value) in [
            ("action", "test"),
            ("subject", subject),
            ("outcome", "success"),
            ("application", "caps3"),
            ("request", subject),
        ] {
            assert_eq!(record[name], value, "{name}: {record}");
        }
    }
    let large = format!("/audit?text={}", "x".repeat(7000));
    assert_eq!(ask(&server, large), "recorded\n");
    server.finish();
}

fn key_value_stores(host: &Host) {
    let server = start(host);
    let kv = |route: &str, rest: &str| ask(&server, format!("/{route}?bucket=values&{rest}"));
    assert_eq!(kv("get", "key=a"), "none\n");
    assert_eq!(kv("set", "key=a&value=one"), "set\n");
    assert_eq!(kv("set", "key=b&value=two"), "set\n");
    assert_eq!(kv("get", "key=a"), "one");
    assert_eq!(
        kv("get-many", "key=b&key=none&key=a"),
        "b=two\nnone none\na=one\n"
    );
    assert_eq!(kv("increment", "key=n&by=5"), "5\n");
    assert_eq!(kv("increment", "key=n&by=-7"), "-2\n");
    assert!(kv("increment", "key=a").starts_with("error: other: "));
    let text = ask_as(&server, "other", "/get?bucket=others&key=a");
    assert_eq!(text, "error: no-such-store\n");
    server
        .log
        .expect(&["request=other ", "bucket `others`", "UNIT_WASM_KEYVALUE"]);
    server.finish();
}

fn configuration(host: &Host) {
    let server = start(host);
    assert_eq!(ask(&server, "/config?key=GREETING"), "gr\u{fc}\u{df} dich");
    for key in ["NOTHING", "UNIT_WASM_SECRETS", "PATH"] {
        assert_eq!(
            ask(&server, format!("/config?key={key}")),
            "none\n",
            "{key}"
        );
    }
    server.finish();
}

fn the_log(host: &Host) {
    let mut server = start(host);
    server.expect_log("caps3: number critical");
    for (level, shown) in [
        ("info", "[info]"),
        ("warn", "[warn]"),
        ("error", "[error]"),
        ("critical", "[alert]"),
    ] {
        let id = format!("level-{level}");
        let target = format!("/log?level={level}&text=number%20{level}");
        assert_eq!(ask_as(&server, &id, target), "logged\n");
        let part = format!("caps3: number {level}");
        let line = server.log.expect(&[&format!("request={id} "), &part]);
        assert!(line.contains(shown), "{line}");
    }
    ask_as(&server, "below", "/log?level=debug&text=below");
    assert_eq!(ask_as(&server, "last", "/log?text=last"), "logged\n");
    server.log.expect(&["request=last "]);
    let below = server.log.matching(|line| line.contains("request=below "));
    assert_eq!(below, Vec::<String>::new());
    server.finish();
}

fn a_store_and_a_clock_in_one_request(host: &Host) {
    let server = start(host);
    assert_eq!(ask(&server, "/set?bucket=values&key=k&value=v"), "set\n");
    let begin = std::time::Instant::now();
    assert_eq!(ask(&server, "/both?bucket=values&key=k&ms=300"), "v");
    assert!(begin.elapsed().as_millis() >= 290, "it has not slept");
    server.finish();
}

/// Each missing grant is named in its turn.
fn not_without_grants(host: &Host) {
    let app = app().named("bad");
    let parts = [
        "unit:wasm/secrets@0.1.0",
        "that takes UNIT_WASM_SECRETS and UNIT_WASM_ALLOW_SECRETS",
    ];
    let others = app
        .clone()
        .env("UNIT_WASM_AUDIT_LOG", "log")
        .env("UNIT_WASM_KEYVALUE", "memory:");
    assert_refused(host, &others, &parts);
    let dir = tempfile::tempdir().expect("a temporary directory");
    harness::launch::open_to_all(dir.path());
    let secrets = dir.path().join("secrets");
    write_private(&secrets, "token = open-sesame-4711\n");
    let with_secrets = app
        .env("UNIT_WASM_SECRETS", secrets.to_str().unwrap())
        .env("UNIT_WASM_ALLOW_SECRETS", "token");
    let without_audit = with_secrets.clone().env("UNIT_WASM_KEYVALUE", "memory:");
    let parts = [
        "unit:wasm/audit-log@0.1.0",
        "that takes UNIT_WASM_AUDIT_LOG",
    ];
    assert_refused(host, &without_audit, &parts);
    let without_stores = with_secrets.env("UNIT_WASM_AUDIT_LOG", "log");
    let parts = ["imports `wasi:keyvalue/", "that takes UNIT_WASM_KEYVALUE"];
    assert_refused(host, &without_stores, &parts);
}
