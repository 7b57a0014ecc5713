//! `unit:wasm/audit-log`: what is recorded is there, whatever happens next.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use harness::config::Config;
use harness::http;
use harness::proc::Process;
use harness::{App, Host, Request, Server, eventually};
use serde_json::{Value, json};

use crate::startup::assert_refused;
use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["audit", All:
        events_are_appended_to_the_file,
        events_go_to_units_log,
        an_event_survives_the_end_of_its_guest,
        secrets_are_blanked_out,
        too_large_and_too_many,
        records_of_all_processes_are_whole,
        what_could_not_be_written_is_an_error,
        a_file_is_appended_to_and_can_be_cut,
        a_file_that_is_removed_is_an_error_until_a_restart,
        files_that_cannot_be_used_are_refused,
    ]
}

/// The secrets guest, which records to `audit`.
fn config(server: &Server, audit: &str) -> Config {
    let path = server.dir().join("secrets");
    secrets::write_private(&path, "token = open-sesame-4711\n");
    secrets::app(&path, "token", audit).into()
}

fn start(host: &Host) -> Server {
    Server::start_with(host, |server| {
        config(server, server.dir().join("audit").to_str().unwrap())
    })
}

fn lines(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.dir().join("audit")).unwrap();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "half a line at the end"
    );
    text.lines().map(str::to_owned).collect()
}

/// Every record, which has to be there already: nothing is waited for.
fn records(server: &Server) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line);
    let records = lines(server).iter().map(parse).collect::<Result<_, _>>();
    records.expect("JSON on every line")
}

fn record(server: &Server, target: &str, id: &str) -> String {
    let request = Request::get(target).header("x-request-id", id);
    server.send(&request).ok().text()
}

fn events_are_appended_to_the_file(host: &Host) {
    let server = start(host);
    let mode = fs::metadata(server.dir().join("audit"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o007, 0, "others can read it");
    let target = "/audit?action=user.delete&subject=%22joe%22%0a%e2%82%ac&outcome=denied\
                  &field.role=none&field.why=one&field.why=two";
    assert_eq!(record(&server, target, "first"), "recorded\n");
    assert_eq!(
        record(&server, "/audit?action=a&outcome=failure&n=2", "second"),
        "recorded\n"
    );
    let mut records = records(&server);
    let times: Vec<String> = records
        .iter_mut()
        .map(|record| record.as_object_mut().unwrap().remove("time").unwrap())
        .map(|time| time.as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(
        times[0].starts_with("20") && times[0].ends_with('Z'),
        "{times:?}"
    );
    let second = json!({
        "application": "secrets", "request": "second", "action": "a", "subject": "",
        "outcome": "failure", "fields": {},
    });
    let first = json!({
        "application": "secrets", "request": "first", "action": "user.delete",
        "subject": "\"joe\"\n\u{20ac}", "outcome": "denied",
        "fields": { "role": "none", "why": ["one", "two"] },
    });
    assert_eq!(records, [first, second.clone(), second]);
    server.finish();
}

fn events_go_to_units_log(host: &Host) {
    let server = Server::start_with(host, |server| config(server, "log"));
    let target = "/audit?action=user.create&subject=x%0ay\
                  &field.odd=%7f%c2%85%c2%9b31m%e2%80%a8%e2%80%a9";
    assert_eq!(record(&server, target, "in-the-log"), "recorded\n");
    let line = server.log.expect(&["\"request\":\"in-the-log\""]);
    let (_, json) = line.split_once("audit").expect("the word audit before it");
    let odd = "\u{7f}\u{85}\u{9b}31m\u{2028}\u{2029}";
    let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!json.trim_end().contains(bad), "{json}");
    let record: Value = serde_json::from_str(json.trim_start_matches([':', ' '])).unwrap();
    assert_eq!(record["fields"]["odd"], odd);
    assert_eq!(record["action"], "user.create");
    assert_eq!(record["subject"], "x\ny");
    assert_eq!(record["application"], "secrets");
    server.finish();
}

fn an_event_survives_the_end_of_its_guest(host: &Host) {
    let mut server = start(host);
    let request = Request::get("/audit?action=last.words&then=panic");
    assert_eq!(server.send(&request).status(), 500);
    let action = |record: &Value| record["action"].as_str().unwrap().to_owned();
    assert_eq!(
        records(&server).iter().map(action).collect::<Vec<_>>(),
        ["last.words"]
    );
    // And of its process.
    assert_eq!(
        record(&server, "/audit?action=killed.next", "kill"),
        "recorded\n"
    );
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    let worker = server.worker("secrets");
    worker.signal(libc::SIGKILL);
    eventually(
        "the end of the process",
        std::time::Duration::from_secs(10),
        || !worker.alive(),
    );
    let all: Vec<String> = records(&server).iter().map(action).collect();
    assert_eq!(all, ["last.words", "killed.next"]);
    eventually("a new process", std::time::Duration::from_secs(30), || {
        let answer = server.fetch(&Request::get("/audit?action=next.life"));
        answer.is_ok_and(|answer| answer.text() == "recorded\n")
    });
    assert_eq!(
        records(&server).iter().map(action).next_back().unwrap(),
        "next.life"
    );
    server.finish();
}

fn secrets_are_blanked_out(host: &Host) {
    let server = start(host);
    let target = "/audit?action=open-sesame-4711&subject=%3Copen-sesame-4711%3E\
                  &field.open-sesame-4711=1&field.x=open-sesame-4711";
    assert_eq!(record(&server, target, "secret"), "recorded\n");
    let line = lines(&server).remove(0);
    assert!(!line.contains("open-sesame"), "{line}");
    assert_eq!(line.matches("[secret token]").count(), 4, "{line}");
    server.finish();
}

fn too_large_and_too_many(host: &Host) {
    let server = start(host);
    // With the time and all the rest, the record has to fit.
    let answer = record(&server, "/audit?action=large&size=65450", "fits");
    assert_eq!(answer, "error: too-large after 0\n");
    let answer = record(&server, "/audit?action=large&size=65200", "fits");
    assert_eq!(answer, "recorded\n");
    let answer = record(&server, "/audit?action=large&size=1000000", "large");
    assert_eq!(answer, "error: too-large after 0\n");
    assert_eq!(records(&server).len(), 1);
    let answer = record(&server, "/audit?action=many&n=10005", "many");
    assert_eq!(answer, "error: too-many after 10000\n");
    assert_eq!(records(&server).len(), 10_001);
    // The bound is one of a request, not of the application.
    assert_eq!(record(&server, "/audit?action=more", "more"), "recorded\n");
    server.finish();
}

fn records_of_all_processes_are_whole(host: &Host) {
    let mut server = Server::start_with(host, |server| {
        let mut config = config(server, server.dir().join("audit").to_str().unwrap());
        let app = config.apps.remove(0);
        Config::of([app.processes(json!(2))])
    });
    let addr = server.addr();
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                for number in 0..5 {
                    let target = format!("/audit?action=c{client}-{number}&n=20&size=9000");
                    let answer = http::fetch(addr, &Request::get(target)).unwrap();
                    assert_eq!(answer.ok().text(), "recorded\n");
                }
            });
        }
    });
    let records = records(&server);
    assert_eq!(records.len(), 8 * 5 * 20);
    for client in 0..8 {
        for number in 0..5 {
            let action = format!("c{client}-{number}");
            let found = records.iter().filter(|record| record["action"] == *action);
            assert_eq!(found.count(), 20, "{action}");
        }
    }
    // Threads open their sockets to the router when they first have a request.
    server.settle();
    server.finish();
}

/// Sets how large the files may become that a process writes: `bytes`, or
/// `unlimited`. It takes its own user to do so, root or not.
fn limit_files(process: Process, bytes: &str) {
    let owner = |field: &str| process.status(field).split('\t').next()?.parse().ok();
    let mut command = Command::new("prlimit");
    command.arg("--pid").arg(process.pid.to_string());
    command.arg(format!("--fsize={bytes}:"));
    let user: Option<u32> = owner("Uid");
    command.gid(owner("Gid").expect("a group"));
    command.uid(user.expect("a user"));
    let output = command.output().expect("prlimit");
    assert!(output.status.success(), "{output:?}");
}

/// A limit on the size of files does to a process what a full disk does: a
/// record fits in part or not at all.
fn what_could_not_be_written_is_an_error(host: &Host) {
    let server = start(host);
    // So that the audit log is longer than Unit's, which must not meet the limit.
    assert_eq!(
        record(&server, "/audit?action=fill&n=10&size=60000", "fill"),
        "recorded\n"
    );
    let before = fs::read(server.dir().join("audit")).unwrap();
    let worker = server.worker("secrets");
    let size = u64::try_from(before.len()).unwrap();
    limit_files(worker, &(size + 50).to_string());
    let answer = record(&server, "/audit?action=lost", "lost");
    assert_eq!(answer, "error: unavailable after 0\n");
    let line = server.log.expect(&["request=lost "]);
    assert!(line.contains("UNIT_WASM_AUDIT_LOG"), "{line}");
    assert!(line.contains("[error]"), "{line}");
    // Now there is no room at all.
    let answer = record(&server, "/audit?action=lost", "lost-again");
    assert_eq!(answer, "error: unavailable after 0\n");
    limit_files(worker, "unlimited");
    assert_eq!(
        record(&server, "/audit?action=found", "found"),
        "recorded\n"
    );
    // Half a record, and then a whole one on a line of its own.
    let after = fs::read(server.dir().join("audit")).unwrap();
    assert!(after.starts_with(&before));
    let last = String::from_utf8(after[before.len()..].to_vec()).unwrap();
    let last: Value = serde_json::from_str(last.lines().next_back().unwrap()).unwrap();
    assert_eq!(last["action"], "found");
    assert_eq!(server.worker("secrets"), worker, "the process was replaced");
    server.finish();
}

/// As logrotate does with `copytruncate`.
fn a_file_is_appended_to_and_can_be_cut(host: &Host) {
    let server = Server::start_with(host, |server| {
        let path = server.dir().join("audit");
        fs::write(&path, "{\"action\":\"of old\"}\n").unwrap();
        config(server, path.to_str().unwrap())
    });
    assert_eq!(record(&server, "/audit?action=new", "new"), "recorded\n");
    assert_eq!(records(&server).len(), 2);
    fs::write(server.dir().join("audit"), "").unwrap();
    assert_eq!(record(&server, "/audit?action=cut", "cut"), "recorded\n");
    let records = records(&server);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["action"], "cut");
    server.finish();
}

/// As rotation does that moves a file away, packs it, and restarts nothing.
fn a_file_that_is_removed_is_an_error_until_a_restart(host: &Host) {
    let mut server = start(host);
    let (path, moved) = (server.dir().join("audit"), server.dir().join("audit.1"));
    fs::rename(&path, &moved).unwrap();
    assert_eq!(
        record(&server, "/audit?action=moved", "moved"),
        "recorded\n"
    );
    assert!(fs::read_to_string(&moved).unwrap().contains("\"moved\""));
    fs::remove_file(&moved).unwrap();
    let answer = record(&server, "/audit?action=lost", "lost");
    assert_eq!(answer, "error: unavailable after 0\n");
    let line = server.log.expect(&["request=lost "]);
    assert!(line.contains("UNIT_WASM_AUDIT_LOG"), "{line}");
    assert!(line.contains("the file has been removed"), "{line}");
    server.expect_new_workers();
    assert!(server.restart("secrets").success());
    server.await_worker("secrets");
    harness::eventually("a new file", std::time::Duration::from_secs(30), || {
        record(&server, "/audit?action=again", "again") == "recorded\n" && path.exists()
    });
    assert!(
        records(&server)
            .iter()
            .all(|record| record["action"] == "again")
    );
    server.finish();
}

fn files_that_cannot_be_used_are_refused(host: &Host) {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    secrets::write_private(&secrets, "token = open-sesame-4711\n");
    let bad = |audit: &Path| -> App {
        secrets::app(&secrets, "token", audit.to_str().unwrap()).named("bad")
    };
    for (path, problem) in [
        (dir.path().join("no/such/folder"), "No such file"),
        (dir.path().to_path_buf(), "directory"),
        ("/dev/full".into(), "not a regular file"),
    ] {
        let parts = ["UNIT_WASM_AUDIT_LOG", path.to_str().unwrap(), problem];
        assert_refused(host, &bad(&path), &parts);
    }
    let parts = ["UNIT_WASM_AUDIT_LOG", "relative/path", "absolute path"];
    assert_refused(host, &bad(Path::new("relative/path")), &parts);
}
