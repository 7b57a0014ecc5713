//! What every guest has: `wasi:config/store` and `wasi:logging/logging`.

use std::time::Duration;

use harness::{App, Host, Request, Server, eventually};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["plain", All:
        configuration_is_the_environment,
        an_empty_configuration,
        messages_have_levels_of_units_log,
        messages_below_the_level_are_dropped,
        messages_are_escaped_and_cut,
        messages_cannot_fake_a_line,
        volume_of_messages_is_bounded,
    ]
}

fn configuration_is_the_environment(host: &Host) {
    let app = App::caps("plain")
        .env("GREETING", "gr\u{fc}\u{df} dich")
        .env("EMPTY", "")
        .env("UNIT_WASM_MEMORY", "64MiB");
    let server = Server::start(host, app);
    let get = |key: &str| server.get(format!("/config?key={key}"));
    assert_eq!(get("GREETING").ok().text(), "gr\u{fc}\u{df} dich");
    assert_eq!(get("EMPTY").ok().text(), "");
    for absent in [
        "NOTHING",
        "greeting",
        "",
        "UNIT_WASM_MEMORY",
        "UNIT_WASM_CACHE",
    ] {
        let answer = get(absent);
        assert_eq!(answer.status(), 404, "{absent}: {}", answer.text());
    }
    let mut all: Vec<String> = server
        .get("/config-all")
        .ok()
        .text()
        .lines()
        .map(str::to_owned)
        .collect();
    all.sort();
    assert_eq!(all, ["EMPTY=", "GREETING=gr\u{fc}\u{df} dich"]);
    server.finish();
}

fn an_empty_configuration(host: &Host) {
    let server = Server::start(host, App::caps("plain"));
    assert_eq!(server.get("/config-all").ok().text(), "");
    assert_eq!(server.get("/config?key=PATH").status(), 404);
    server.finish();
}

/// Sends a message and returns its line.
fn log_line(server: &Server, level: &str) -> String {
    let id = format!("level-{level}");
    let target = format!("/log?level={level}&context=orders&message=number%20{level}");
    server
        .send(&Request::get(target).header("x-request-id", &id))
        .ok();
    server.log.expect(&[
        &format!("request={id} "),
        &format!("orders: number {level}"),
    ])
}

fn messages_have_levels_of_units_log(host: &Host) {
    let mut server = Server::start(host, App::caps("plain").named("shop"));
    server.expect_log("orders: number critical");
    for (level, shown) in [
        ("info", "[info]"),
        ("warn", "[warn]"),
        ("error", "[error]"),
        ("critical", "[alert]"),
    ] {
        let line = log_line(&server, level);
        assert!(line.contains(shown), "{line}");
        assert!(line.contains("wasm \"shop\" request="), "{line}");
    }
    let no_context = "/log?level=info&message=alone";
    server
        .send(&Request::get(no_context).header("x-request-id", "alone"))
        .ok();
    let line = server.log.expect(&["request=alone ", "alone"]);
    assert!(line.ends_with("log: alone"), "{line}");
    server.finish();
}

fn messages_below_the_level_are_dropped(host: &Host) {
    let below = |setting: Option<&str>, expected: &[&str]| {
        let mut app = App::caps("plain");
        if let Some(setting) = setting {
            app = app.env("UNIT_WASM_LOG_LEVEL", setting);
        }
        let mut server = Server::start(host, app);
        server.expect_log("the last");
        for level in ["trace", "debug", "info", "warn", "error"] {
            server
                .get(format!("/log?level={level}&message=level-{level}."))
                .ok();
        }
        server.get("/log?level=critical&message=the%20last").ok();
        server.log.expect(&["the last"]);
        for level in ["trace", "debug", "info", "warn", "error"] {
            let found = server.log.text().contains(&format!("level-{level}."));
            assert_eq!(found, expected.contains(&level), "{level} of {setting:?}");
        }
        server.finish();
    };
    below(None, &["info", "warn", "error"]);
    below(Some("error"), &["error"]);
    below(Some("alert"), &[]);
}

fn messages_are_escaped_and_cut(host: &Host) {
    let server = Server::start(host, App::caps("plain"));
    let target = "/log?level=info&context=a%1bb&message=red%1b%5b31m%07%08%7fend%c2%85";
    server.get(target).ok();
    let line = server.log.expect(&["red\\x1b"]);
    assert!(
        line.contains("a\\x1bb: red\\x1b[31m\\x07\\x08\\x7fend"),
        "{line}"
    );
    let long = "/log?level=info&message=long&size=100000";
    server
        .send(&Request::get(long).header("x-request-id", "long"))
        .ok();
    // Unit's log has shorter lines than that.
    server.log.expect(&["request=long ", "...[cut]"]);
    let lines = server.log.matching(|line| line.contains("request=long "));
    let all: usize = lines.iter().map(String::len).sum();
    assert!(all <= 20 << 10, "{all} bytes in {} lines", lines.len());
    let plain = |byte: &u8| matches!(byte, b'\n' | b'\t' | 0x20..=0x7e);
    let stray = server.log.bytes().into_iter().find(|byte| !plain(byte));
    assert_eq!(stray, None, "a control character in the log");
    server.finish();
}

fn messages_cannot_fake_a_line(host: &Host) {
    let mut server = Server::start(host, App::caps("plain"));
    server.expect_log("request=fake log: ");
    let fake = "x%0a%0d2026/01/01%2000:00:00%20%5balert%5d%201%231%20faked";
    for target in [
        format!("/log?level=info&message={fake}"),
        format!("/log?level=info&context={fake}&message=m"),
    ] {
        server
            .send(&Request::get(target).header("x-request-id", "fake"))
            .ok();
    }
    let faked = || server.log.matching(|line| line.contains("faked"));
    eventually("both messages", Duration::from_secs(10), || {
        faked().len() == 2
    });
    for line in faked() {
        assert!(
            line.contains("wasm \"plain\" request=fake log: x\\x0a"),
            "{line}"
        );
    }
    server.finish();
}

/// Messages and output share one limit.
fn volume_of_messages_is_bounded(host: &Host) {
    let app = App::caps("plain").env("UNIT_WASM_OUTPUT", "64KiB");
    let server = Server::start(host, app);
    let before = server.log.size();
    let flood = "/log?level=info&context=c&message=flood&n=20000";
    server
        .send(&Request::get(flood).header("x-request-id", "flood"))
        .ok();
    server
        .log
        .expect(&["request=flood ", "output limit reached"]);
    let grown = server.log.size() - before;
    assert!(grown < 256 << 10, "{grown} bytes of log from one request");
    let told = server
        .log
        .matching(|line| line.contains("output limit reached"));
    assert_eq!(told.len(), 1, "said once: {told:?}");
    server.finish();
}
