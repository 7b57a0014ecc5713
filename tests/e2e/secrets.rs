//! `unit:wasm/secrets`: who gets which, and where values must never be.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use harness::config::Config;
use harness::http;
use harness::{App, Host, Request, Server};

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["secrets", All:
        those_that_are_named_can_be_had,
        each_application_has_its_own,
        values_are_blanked_out_of_the_log,
        values_of_several_lines_are_blanked_out,
        a_guess_is_refused_and_told,
        a_value_in_place_of_a_name_is_blanked_out,
        guessing_does_not_flood_the_log,
        a_restart_reads_the_file_again,
        files_that_others_can_read_are_refused,
        files_of_others_are_refused,
        files_that_make_no_sense_are_refused,
        names_without_a_value_are_refused,
        an_import_without_a_grant_is_refused,
    ]
}

const FILE: &str = "\
# of the tests
token = open-sesame-4711
db-password=hunter2hunter2
other = not-for-everybody
key = \"-----BEGIN KEY-----\\nMIIEvQIBADANBgkqhkiG\\n-----END KEY-----\\n\"
";

/// All values in it, line by line.
const VALUES: [&str; 4] = [
    "open-sesame-4711",
    "hunter2hunter2",
    "not-for-everybody",
    "MIIEvQIBADANBgkqhkiG",
];

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) {
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The secrets guest with a file of secrets and those that it may have.
pub fn app(secrets: &Path, allowed: &str, audit: &str) -> App {
    App::caps("secrets")
        .env("UNIT_WASM_SECRETS", secrets.to_str().unwrap())
        .env("UNIT_WASM_ALLOW_SECRETS", allowed)
        .env("UNIT_WASM_AUDIT_LOG", audit)
}

fn start(host: &Host, allowed: &str) -> Server {
    Server::start_with(host, |server| {
        let path = server.dir().join("secrets");
        write_private(&path, FILE);
        app(&path, allowed, "log").into()
    })
}

#[track_caller]
fn assert_no_value_in(text: &str) {
    for value in VALUES {
        assert!(!text.contains(value), "{value} is in: {text}");
    }
}

fn those_that_are_named_can_be_had(host: &Host) {
    let server = start(host, "token, key");
    assert_eq!(server.get("/names").ok().text(), "key\ntoken");
    let secret = |name: &str| server.get(format!("/secret?name={name}")).ok().text();
    assert_eq!(secret("token"), "open-sesame-4711");
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n-----END KEY-----\n";
    assert_eq!(secret("key"), key);
    for name in ["other", "db-password", "nothing", "", "Token", "token%00"] {
        assert_eq!(secret(name), "error: not-granted", "{name}");
    }
    assert_no_value_in(&server.log.text());
    server.finish();
}

fn each_application_has_its_own(host: &Host) {
    let server = Server::start_with(host, |server| {
        let path = server.dir().join("secrets");
        write_private(&path, FILE);
        Config::of([
            app(&path, "token", "log").named("one"),
            app(&path, "other", "log").named("two"),
            app(&path, "", "log").named("none"),
        ])
    });
    let get = |app: &str, target: &str| {
        let answer = http::fetch(server.addr_of(app), &Request::get(target));
        answer.unwrap().ok().text()
    };
    for (app, names, token) in [
        ("one", "token", "open-sesame-4711"),
        ("two", "other", "error: not-granted"),
        ("none", "", "error: not-granted"),
    ] {
        assert_eq!(get(app, "/names"), names, "{app}");
        assert_eq!(get(app, "/secret?name=token"), token, "{app}");
    }
    server.finish();
}

/// Prints a secret, and returns what the log has of it.
fn printed(server: &Server, name: &str, how: &str) -> String {
    let id = format!("print-{how}");
    let target = format!("/print-secret?name={name}&how={how}");
    let answer = server.send(&Request::get(target).header("x-request-id", &id));
    let expected = if how == "panic" { 500 } else { 200 };
    assert_eq!(answer.status(), expected, "{how}: {}", answer.text());
    server.log.expect(&[&format!("request={id} "), "[secret "])
}

fn values_are_blanked_out_of_the_log(host: &Host) {
    let server = start(host, "token");
    for how in ["stdout", "stderr", "log", "context", "pieces", "panic"] {
        let line = printed(&server, "token", how);
        assert!(line.contains("[[secret token]]"), "{how}: {line}");
    }
    server.log.expect_failure("print-panic");
    assert_no_value_in(&server.log.text());
    server.finish();
}

/// Output goes line by line, so a value is never seen as a whole.
fn values_of_several_lines_are_blanked_out(host: &Host) {
    let server = start(host, "key");
    for how in ["stdout", "stderr", "log", "pieces", "panic"] {
        printed(&server, "key", how);
    }
    assert_no_value_in(&server.log.text());
    server.finish();
}

fn a_guess_is_refused_and_told(host: &Host) {
    let mut server = start(host, "token");
    server.expect_log("[warn]");
    let ask = |name: &str, id: &str| {
        let request = Request::get(format!("/secret?name={name}"));
        let answer = server.send(&request.header("x-request-id", id)).ok();
        assert_eq!(answer.text(), "error: not-granted");
        server.log.expect(&[&format!("request={id} ")])
    };
    // Whether there is such a secret is not told.
    for name in ["other", "nothing"] {
        let line = ask(name, name);
        assert!(line.contains("[warn]"), "{line}");
        assert!(line.contains(&format!("{name:?}")), "{line}");
        assert!(line.contains("UNIT_WASM_ALLOW_SECRETS"), "{line}");
    }
    let line = ask("x%0a%1b%5balert%5d", "odd");
    assert!(line.contains("UNIT_WASM_ALLOW_SECRETS"), "{line}");
    let line = ask(&"n".repeat(6000), "long");
    assert!(line.len() < 2000, "a line of {} bytes", line.len());
    server.finish();
}

/// By mistake, and with what is escaped in one way or the other.
fn a_value_in_place_of_a_name_is_blanked_out(host: &Host) {
    let mut server = Server::start_with(host, |server| {
        let path = server.dir().join("secrets");
        let text = r#"quoted = "say \"hush-hush\" \\ twice"
control = "be\u001bgin-en\u0085d"
"#;
        write_private(&path, text);
        app(&path, "quoted control", "log").into()
    });
    server.expect_log("[warn]");
    for (name, value) in [
        ("quoted", "say%20%22hush-hush%22%20%5c%20twice"),
        ("control", "be%1bgin-en%c2%85d"),
    ] {
        let request = Request::get(format!("/secret?name={value}"));
        let answer = server.send(&request.header("x-request-id", name)).ok();
        assert_eq!(answer.text(), "error: not-granted");
        let line = server.log.expect(&[&format!("request={name} ")]);
        assert!(line.contains(&format!("\"[secret {name}]\"")), "{line}");
        assert!(!line.contains("hush") && !line.contains("gin-en"), "{line}");
    }
    for how in ["stdout", "stderr", "log", "context"] {
        let line = printed(&server, "control", how);
        assert!(line.contains("[[secret control]]"), "{how}: {line}");
    }
    server.finish();
}

fn guessing_does_not_flood_the_log(host: &Host) {
    let server = start(host, "token");
    let before = server.log.size();
    assert_eq!(server.get("/guess?n=100000").ok().text(), "0\n");
    let grown = server.log.size() - before;
    eprintln!("grown {grown}");
    assert!(grown < 2 << 20, "{grown} bytes of log from one request");
    server.finish();
}

fn a_restart_reads_the_file_again(host: &Host) {
    let mut server = start(host, "token");
    let path = server.dir().join("secrets");
    write_private(&path, "token = changed-since-then\n");
    assert_eq!(
        server.get("/secret?name=token").ok().text(),
        "open-sesame-4711"
    );
    server.expect_new_workers();
    assert!(server.restart("secrets").success());
    let now = || server.get("/secret?name=token").ok().text();
    harness::eventually("the new value", std::time::Duration::from_secs(30), || {
        now() == "changed-since-then"
    });
    server.finish();
}

/// A file that lives as long as the returned directory.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("secrets");
    write_private(&path, text);
    (dir, path)
}

/// An application of the name that `assert_refused` wants.
fn bad(secrets: &Path, allowed: &str) -> App {
    app(secrets, allowed, "log").named("bad")
}

fn files_that_others_can_read_are_refused(host: &Host) {
    let (_dir, path) = file(FILE);
    for (mode, shown) in [(0o640, "640"), (0o604, "604"), (0o620, "620")] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let parts = [
            "UNIT_WASM_SECRETS",
            path.to_str().unwrap(),
            shown,
            "chmod 600",
        ];
        assert_refused(host, &bad(&path, "token"), &parts);
    }
}

/// Only root can make such a file.
fn files_of_others_are_refused(host: &Host) {
    let (_dir, path) = file(FILE);
    let me = fs::metadata(&path).unwrap().uid();
    if me == 0 {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let parts = ["UNIT_WASM_SECRETS", path.to_str().unwrap(), "12345", "root"];
        assert_refused(host, &bad(&path, "token"), &parts);
    } else {
        // A file of root's that cannot be read even by unitd.
        let parts = ["UNIT_WASM_SECRETS", "/etc/shadow"];
        assert_refused(host, &bad(Path::new("/etc/shadow"), "token"), &parts);
    }
}

fn files_that_make_no_sense_are_refused(host: &Host) {
    let (dir, path) = file("");
    let missing = dir.path().join("missing");
    assert_refused(
        host,
        &bad(&missing, "token"),
        &["UNIT_WASM_SECRETS", "No such file"],
    );
    assert_refused(
        host,
        &bad(dir.path(), "token"),
        &["UNIT_WASM_SECRETS", "regular file"],
    );
    for (text, problem) in [
        ("token = a\nhunter2hunter2\n", "line 2"),
        ("token = \"hunter2hunter2\n", "line 1"),
        ("token = one\ntoken = hunter2hunter2\n", "line 2"),
        ("to ken = hunter2hunter2\n", "line 1"),
    ] {
        write_private(&path, text);
        let mut server = Server::bare(host);
        crate::startup::expect_refusal(&mut server);
        let reply = server.put(&bad(&path, "token").into());
        assert!(!reply.success(), "{text}: {reply:?}");
        assert_no_value_in(&reply.json.to_string());
        server
            .log
            .expect(&["cannot start", "UNIT_WASM_SECRETS", problem]);
        assert_no_value_in(&server.log.text());
        server.finish();
    }
}

fn names_without_a_value_are_refused(host: &Host) {
    let (_dir, path) = file(FILE);
    let parts = ["UNIT_WASM_ALLOW_SECRETS", "nothing", path.to_str().unwrap()];
    assert_refused(host, &bad(&path, "token, nothing"), &parts);
    let app = App::caps("secrets")
        .named("bad")
        .env("UNIT_WASM_ALLOW_SECRETS", "token")
        .env("UNIT_WASM_AUDIT_LOG", "log");
    let parts = ["UNIT_WASM_ALLOW_SECRETS", "UNIT_WASM_SECRETS is not set"];
    assert_refused(host, &app, &parts);
}

fn an_import_without_a_grant_is_refused(host: &Host) {
    let app = App::caps("secrets").named("bad");
    let parts = [
        "unit:wasm/secrets@0.1.0",
        "UNIT_WASM_SECRETS",
        "UNIT_WASM_ALLOW_SECRETS",
    ];
    assert_refused(host, &app.clone().env("UNIT_WASM_AUDIT_LOG", "log"), &parts);
    let (_dir, path) = file(FILE);
    let without_audit = app
        .env("UNIT_WASM_SECRETS", path.to_str().unwrap())
        .env("UNIT_WASM_ALLOW_SECRETS", "token");
    let parts = ["unit:wasm/audit-log@0.1.0", "UNIT_WASM_AUDIT_LOG"];
    assert_refused(host, &without_audit, &parts);
}
