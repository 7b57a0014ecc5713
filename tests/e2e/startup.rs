//! Components that cannot be started.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::config::Config;
use harness::http::{self, Request};
use harness::proc::{self, Process};
use harness::{App, Conn, Host, Server, guests};
use serde_json::json;

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["startup", All:
        missing_file,
        directory_instead_of_a_file,
        text_file,
        empty_file,
        cut_off_component,
        core_module,
        handlers_that_are_none,
        unsatisfied_import,
        components_of_which_no_instance_can_be_made,
        corrected_file_comes_up,
        corrected_file_comes_up_without_spare_processes,
        corrected_configuration_comes_up,
        several_applications_fail_apart,
        a_component_that_the_application_may_not_read,
        the_compile_helper_is_confined,
        an_artifact_in_memory_is_sealed,
    ]
}

/// A start that fails must not take longer to say so, even if it has to compile first.
const PROMPT: Duration = Duration::from_secs(60);

/// What the log may say when an application does not start: the module, and
/// then unitd.
pub fn expect_refusal(server: &mut Server) {
    server.expect_log("cannot start");
    server.expect_log("failed to apply new conf");
}

#[track_caller]
fn assert_unavailable(server: &Server, app: &str) {
    for attempt in 0..3 {
        let begin = Instant::now();
        let mut conn = Conn::open(server.addr_of(app));
        conn.set_patience(PROMPT);
        let response = conn.exchange(&Request::get("/"));
        let status = response.expect("an answer").status();
        assert_eq!(status, 503, "attempt {attempt}");
        assert!(begin.elapsed() < PROMPT, "attempt {attempt} hung");
    }
}

/// Configures `bad` beside a healthy application, eagerly and lazily, then
/// corrects the configuration.
pub fn assert_refused(host: &Host, bad: &App, parts: &[&str]) {
    let mut server = Server::start(host, App::lab());
    expect_refusal(&mut server);
    let lab = server.worker("lab");

    let begin = Instant::now();
    let reply = server.put(&Config::of([App::lab(), bad.clone()]));
    assert!(!reply.success(), "accepted: {reply:?}");
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
    let entry = format!("wasm \"{}\" cannot start: ", bad.name);
    let mut all = vec!["[alert]", entry.as_str()];
    all.extend_from_slice(parts);
    let line = server.log.expect(&all);
    let entries = server.log.matching(|line| line.contains(&entry));
    assert_eq!(entries.len(), 1, "one readable entry: {entries:#?}");
    assert!(line.len() < 2_000, "not readable: {line}");
    assert_eq!(server.get("/").ok().text(), "lab\n");

    let lazy = bad.clone().processes(json!({ "spare": 0, "max": 1 }));
    server.apply(&Config::of([App::lab(), lazy]));
    assert_unavailable(&server, &bad.name);
    server.restart(&bad.name);
    assert_unavailable(&server, &bad.name);
    assert_eq!(server.get("/").ok().text(), "lab\n");

    server.apply(&Config::of([App::lab(), App::lab().named(&bad.name)]));
    let healed = http::fetch(server.addr_of(&bad.name), &Request::get("/"));
    assert_eq!(healed.unwrap().ok().text(), "lab\n");
    // Back to what there was, so that nothing of all this may be left.
    server.apply(&Config::of([App::lab()]));
    assert_eq!(server.worker("lab"), lab, "the neighbour was restarted");
    server.finish();
}

fn refused(host: &Host, component: &Path, parts: &[&str]) {
    let mut all = vec![component.to_str().unwrap()];
    all.extend_from_slice(parts);
    assert_refused(host, &App::new("bad", component), &all);
}

/// Writes a bad component that lives as long as the returned directory.
fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("bad.wasm");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn missing_file(host: &Host) {
    let (dir, _) = written(b"");
    refused(host, &dir.path().join("missing.wasm"), &["No such file"]);
}

fn directory_instead_of_a_file(host: &Host) {
    let (dir, _) = written(b"");
    refused(host, dir.path(), &[]);
}

fn text_file(host: &Host) {
    let (_dir, path) = written(b"This is no component, only a text.\n");
    refused(host, &path, &[]);
}

fn empty_file(host: &Host) {
    let (_dir, path) = written(b"");
    refused(host, &path, &[]);
}

fn cut_off_component(host: &Host) {
    let whole = fs::read(guests::hello()).unwrap();
    let (_dir, path) = written(&whole[..whole.len() / 2]);
    refused(host, &path, &[]);
}

/// What the log has to say of each of the committed bad components.
const BAD: [(&str, &str); 8] = [
    ("big-memory", "UNIT_WASM_MEMORY"),
    ("core-module", "core WebAssembly module"),
    ("empty-handler", "handle"),
    ("no-handler", "wasi:http/incoming-handler"),
    ("spinning-start", "CPU"),
    ("trapping-start", "unreachable"),
    ("unsatisfied-import", "wasi:blobstore/blobstore@0.2.0-draft"),
    ("wrong-handler", "handle"),
];

fn refused_of_the_committed(host: &Host, names: &[&str]) {
    for (name, why) in BAD.iter().filter(|(name, _)| names.contains(name)) {
        let (_dir, path) = written(&guests::bad(name));
        let app = App::new("bad", &path).env("UNIT_WASM_CPU_TIME", "1s");
        assert_refused(host, &app, &[path.to_str().unwrap(), why]);
    }
}

fn core_module(host: &Host) {
    refused_of_the_committed(host, &["core-module"]);
}

fn handlers_that_are_none(host: &Host) {
    refused_of_the_committed(host, &["no-handler", "empty-handler", "wrong-handler"]);
}

fn unsatisfied_import(host: &Host) {
    refused_of_the_committed(host, &["unsatisfied-import"]);
}

fn components_of_which_no_instance_can_be_made(host: &Host) {
    let names = ["big-memory", "trapping-start", "spinning-start"];
    refused_of_the_committed(host, &names);
    let listed = BAD.map(|(name, _)| name.to_owned());
    assert_eq!(guests::bad_names(), listed, "components without a test");
}

fn corrected_file_comes_up(host: &Host) {
    let (_dir, path) = written(b"not yet");
    let mut server = Server::bare(host);
    expect_refusal(&mut server);
    let config = Config::of([App::new("late", &path)]);
    assert!(!server.put(&config).success());
    fs::copy(guests::lab(), &path).unwrap();
    server.apply(&config);
    assert_eq!(server.get("/").ok().text(), "lab\n");
    server.settle();
    server.finish();
}

fn corrected_file_comes_up_without_spare_processes(host: &Host) {
    let (_dir, path) = written(b"not yet");
    let mut server = Server::bare(host);
    expect_refusal(&mut server);
    let app = App::new("late", &path).processes(json!({ "spare": 0, "max": 1 }));
    server.apply(&Config::of([app]));
    assert_unavailable(&server, "late");
    fs::copy(guests::lab(), &path).unwrap();
    assert!(server.restart("late").success());
    assert_eq!(server.get("/").ok().text(), "lab\n");
    // And the other way: a file that goes bad, and is put right again.
    fs::write(&path, b"not any more").unwrap();
    server.restart("late");
    assert_unavailable(&server, "late");
    fs::copy(guests::lab(), &path).unwrap();
    assert!(server.restart("late").success());
    assert_eq!(server.get("/").ok().text(), "lab\n");
    server.finish();
}

fn corrected_configuration_comes_up(host: &Host) {
    let (_dir, path) = written(b"never");
    let mut server = Server::bare(host);
    expect_refusal(&mut server);
    let lazy = App::new("late", &path).processes(json!({ "spare": 0, "max": 1 }));
    server.apply(&Config::of([lazy]));
    assert_unavailable(&server, "late");
    server.apply(&Config::of([App::lab().named("late")]));
    assert_eq!(server.get("/").ok().text(), "lab\n");
    server.settle();
    server.finish();
}

fn several_applications_fail_apart(host: &Host) {
    let (_dir, path) = written(b"bad");
    let mut server = Server::bare(host);
    expect_refusal(&mut server);
    let lazy = json!({ "spare": 0, "max": 1 });
    let bad = |name: &str| App::new(name, &path).processes(lazy.clone());
    let good = App::lab().processes(lazy.clone());
    server.apply(&Config::of([good, bad("bad-1"), bad("bad-2")]));
    for _ in 0..3 {
        assert_unavailable(&server, "bad-1");
        assert_eq!(server.get("/").ok().text(), "lab\n");
        assert_unavailable(&server, "bad-2");
    }
    server.finish();
}

/// The component is read with the application's rights, not with unitd's.
fn a_component_that_the_application_may_not_read(host: &Host) {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = written(&fs::read(guests::lab()).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert_refused(
        host,
        &App::new("bad", &path),
        &[path.to_str().unwrap(), "Permission denied"],
    );
    drop(dir);
}

/// What the compile helper is limited to, as its `/proc/PID/limits` has it.
const HELPER_LIMITS: [(&str, &str); 3] = [
    ("Max cpu time", "600"),
    ("Max data size", "8589934592"),
    ("Max core file size", "0"),
];

fn the_compile_helper_is_confined(host: &Host) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut server = Server::bare(host);
    let main = server.main().pid;
    let is_limited = |process: &Process| {
        let text = fs::read_to_string(format!("/proc/{}/limits", process.pid));
        let text = text.unwrap_or_default();
        HELPER_LIMITS.iter().all(|(name, limit)| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            let values = lines.next().unwrap_or_default().split_whitespace();
            values.take(2).eq([*limit; 2])
        })
    };
    let done = AtomicBool::new(false);
    // Compiled anew: there is no cache.
    let config = Config::of([App::lab().env("UNIT_WASM_CACHE", "off")]);
    let seen = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = Vec::new();
            let end = Instant::now() + Duration::from_secs(300);
            while !done.load(Ordering::Relaxed) && Instant::now() < end {
                let processes = proc::group(main).into_iter().map(|stat| stat.process);
                for process in processes.filter(is_limited) {
                    let uid = process.status("Uid");
                    // Of one that has ended there is nothing to see.
                    if !uid.is_empty() {
                        seen.push(uid);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        server.apply(&config);
        done.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    assert!(!seen.is_empty(), "no helper with its limits was seen");
    // It takes on its limits, and then the user.
    let roots = |uid: &String| uid.split_whitespace().any(|id| id == "0");
    let last = seen.last().unwrap();
    assert!(!roots(last), "the helper is root: {last}");
    assert_eq!(server.get("/").ok().text(), "lab\n");
    server.finish();
}

/// Where there is no cache, processes map the artifact from a file in memory that
/// nobody can change.
fn an_artifact_in_memory_is_sealed(host: &Host) {
    use std::os::fd::AsRawFd;
    let server = Server::start(host, App::lab().env("UNIT_WASM_CACHE", "off"));
    let worker = server.worker("lab");
    let open = worker.descriptors();
    let found = open.iter().find(|fd| fd.contains("/memfd:wasm-artifact"));
    let found = found.unwrap_or_else(|| panic!("no artifact: {open:?}"));
    let (number, _) = found.split_once(' ').unwrap();
    let file = fs::File::open(format!("/proc/{}/fd/{number}", worker.pid)).unwrap();
    // SAFETY: asks for flags of a descriptor that is open.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let all = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    assert_eq!(seals, all, "seals of {found}");
    server.finish();
}
