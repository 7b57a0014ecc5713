//! Hot swap: `UNIT_WASM_WATCH=on`, and another component in the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use harness::config::Config;
use harness::load::{self, Client, Load, checked};
use harness::proc::{self, Process, Stat};
use harness::{App, Conn, Host, Request, Server, eventually, guests};
use serde_json::json;

use crate::keyvalue::{get, set};
use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["swap", Both:
        twenty_swaps_under_load,
        swaps_of_two_threads_that_reuse_instances,
        a_response_in_progress_ends_as_it_began,
        instances_that_are_kept_end_with_a_swap,
    ];
    all.extend(cases!["swap", All:
        what_cannot_be_served_is_not_taken,
        a_file_that_is_overwritten,
        a_change_while_another_is_prepared,
        processes_switch_together,
        processes_that_come_and_go,
        processes_that_are_killed_while_they_load,
        a_successor_begins_with_what_is_served,
        an_application_without_processes,
        a_file_that_goes_and_comes_back,
        nothing_happens_unless_it_is_wanted,
        two_applications_of_one_file,
        another_world,
        buckets_in_memory_stay,
        restarts_leave_no_watcher,
        a_watcher_that_was_killed,
        a_watcher_that_was_killed_at_work,
        a_watcher_that_is_late,
        a_watcher_is_the_first_to_go,
        a_digest_and_changes_exclude_each_other,
        a_relative_path,
        a_symbolic_link,
    ]);
    all.extend(cases!["swap", Unit:
        a_root_directory,
        a_root_directory_and_namespaces,
        a_log_that_is_rotated,
        a_cache_that_is_given_away,
    ]);
    all.push(Case {
        name: "swap::a_large_component_is_compiled_beside_the_load",
        run: a_large_component_is_compiled_beside_the_load,
        scope: crate::Scope::Built("python"),
    });
    all
}

/// How long a change may take to be noticed and prepared on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The lab guest with some of its texts changed: `/sleep` answers `vNNNN`, and the
/// events of `/sse` begin with `dNNNN`.
fn version(host: &Host, number: u64) -> Vec<u8> {
    let bytes = fs::read(guests::lab_for(host.wasi)).unwrap();
    let bytes = patched(bytes, b"slept\n", format!("v{number:04}\n").as_bytes());
    patched(bytes, b"data: ", format!("d{number:04} ").as_bytes())
}

/// The one place of `from` gets as many other bytes.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let found = |bytes: &[u8]| bytes.windows(from.len()).position(|part| part == from);
    let at = found(&bytes).expect("the text in the guest");
    bytes[at..at + to.len()].copy_from_slice(to);
    assert!(found(&bytes).is_none(), "several of {from:?}");
    bytes
}

/// A component that can be compiled, and that no instance pool takes.
fn two_memories() -> Vec<u8> {
    let text = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
          (export "incoming-request" (type (sub resource)))
          (export "response-outparam" (type (sub resource)))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $outparam))
        (core module $code (memory 1) (memory 1)
          (func (export "handle") (param i32 i32)))
        (core instance $main (instantiate $code))
        (func $handle
          (param "request" (own $request)) (param "response-out" (own $outparam))
          (canon lift (core func $main "handle")))
        (instance $handler (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
    wat::parse_str(text).unwrap()
}

/// A file of the server that is replaced as it should be: by renaming.
struct Deployed {
    path: PathBuf,
}

impl Deployed {
    fn new(server: &Server, component: &[u8]) -> Self {
        let path = server.data().join("app.wasm");
        let deployed = Self { path };
        deployed.put(component);
        deployed
    }

    fn app(&self) -> App {
        let mut app = App::new("lab", &self.path).env("UNIT_WASM_WATCH", "on");
        app.lab = true;
        app
    }

    fn put(&self, component: &[u8]) {
        let next = self.path.with_extension("next");
        fs::write(&next, component).unwrap();
        fs::rename(&next, &self.path).unwrap();
    }

    /// Replaces the file and waits until all processes have switched.
    #[track_caller]
    fn switch(&self, server: &Server, component: &[u8]) {
        let done = self.switches(server);
        self.put(component);
        eventually("a switch", PATIENCE, || self.switches(server) > done);
    }

    /// How often the log says that this file's component was switched to.
    fn switches(&self, server: &Server) -> usize {
        let path = self.path.to_str().unwrap();
        let line = |line: &str| line.contains(path) && line.contains(": switched, processes: ");
        server.log.matching(line).len()
    }
}

/// A server of the lab guest with version 0, changed by `change`.
fn start(host: &Host, change: impl FnOnce(App) -> App) -> (Server, Deployed) {
    let mut deployed = None;
    let server = Server::start_with(host, |server| {
        let file = Deployed::new(server, &version(host, 0));
        let app = change(file.app());
        deployed = Some(file);
        app.into()
    });
    (server, deployed.expect("just made"))
}

fn number(text: &str) -> Option<u64> {
    text.trim_end().strip_prefix('v')?.parse().ok()
}

#[track_caller]
fn served(server: &Server) -> u64 {
    let text = server.get("/sleep?ms=0").ok().text();
    number(&text).unwrap_or_else(|| panic!("{text:?}"))
}

/// Versions of the file: the last that was put there, and the last that all
/// processes have switched to.
#[derive(Default)]
struct Versions {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Versions {
    /// The answer has to be of a version that was there at some time between
    /// sending the request and having the answer.
    fn ask(&self, client: &mut Client, ms: u64) -> Result<(), String> {
        let oldest = self.done.load(Ordering::SeqCst);
        let response = checked(client, &Request::get(format!("/sleep?ms={ms}")))?;
        let newest = self.begun.load(Ordering::SeqCst);
        let text = response.text();
        match number(&text) {
            Some(number) if (oldest..=newest).contains(&number) => Ok(()),
            _ => Err(format!("{text:?}, not between {oldest} and {newest}")),
        }
    }
}

/// How many runtimes a process has: each comes with a thread.
fn runtimes(worker: Process) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", worker.pid)).expect("a process");
    let names = tasks.flatten().map(|task| task.path().join("comm"));
    let names = names.filter_map(|path| fs::read_to_string(path).ok());
    names.filter(|name| name == "wasm-epoch\n").count()
}

fn swap_under_load(host: &Host, times: u64, change: impl FnOnce(App) -> App) {
    let (mut server, deployed) = start(host, change);
    // From here on the watcher has an artifact of its own to give to processes.
    deployed.switch(&server, &version(host, 1));
    server.settle();
    let worker = server.worker("lab");
    let addr = server.addr();
    let versions = Arc::new(Versions::default());
    versions.begun.store(1, Ordering::SeqCst);
    versions.done.store(1, Ordering::SeqCst);
    let seen = Arc::clone(&versions);
    let mut clients = vec![Client::fresh(addr), Client::fresh(addr)];
    clients.extend([Client::keeping(addr), Client::keeping(addr)]);
    let load = Load::start(clients, move |client, number| match number % 4 {
        0 => load::mixed(client, number),
        1 => seen.ask(client, 40),
        _ => seen.ask(client, 0),
    });
    load.wait_for_more(20);
    let mut before = None;
    for number in 2..=times + 1 {
        versions.begun.store(number, Ordering::SeqCst);
        deployed.switch(&server, &version(host, number));
        versions.done.store(number, Ordering::SeqCst);
        load.wait_for_more(20);
        if number == 5 {
            before = Some(worker.memory().anonymous);
        }
    }
    load.stop().assert_clean();
    assert_eq!(served(&server), times + 1);
    assert_eq!(server.worker("lab"), worker);
    eventually("one runtime is left", PATIENCE, || runtimes(worker) == 1);
    // A runtime that was kept would have instances in its pool that have run.
    let (before, now) = (before.expect("enough swaps"), worker.memory().anonymous);
    assert!(
        now < before + (32 << 20),
        "{before} bytes, {now} at the end"
    );
    server.finish();
}

fn twenty_swaps_under_load(host: &Host) {
    swap_under_load(host, 20, |app| app);
}

fn swaps_of_two_threads_that_reuse_instances(host: &Host) {
    swap_under_load(host, 6, |app| {
        let app = app
            .env("UNIT_WASM_THREADS", "2")
            .env("UNIT_WASM_REUSE", "1000");
        match host.wasi {
            harness::host::Wasi::V02 => app,
            harness::host::Wasi::V03 => app.env("UNIT_WASM_REUSE_CONCURRENT", "4"),
        }
    });
}

fn a_response_in_progress_ends_as_it_began(host: &Host) {
    // However long compiling takes here.
    let (mut server, deployed) = start(host, |app| {
        app.env("UNIT_WASM_IDLE_TIMEOUT", "10m")
            .member("limits", json!({ "shm": 10 << 20 }))
    });
    deployed.switch(&server, &version(host, 1));
    server.settle();
    let worker = server.worker("lab");
    let mut events = Conn::open(server.addr());
    events
        .start(&Request::get("/sse?events=60&interval=100"))
        .unwrap();
    // This one does not fit into all the buffers on its way: it goes on for as long
    // as the client reads slowly. One that does not read at all Unit gives up.
    const BYTES: usize = 100_000_000;
    let mut conn = Conn::open_narrow(server.addr());
    conn.start(&Request::get(format!("/download?bytes={BYTES}")))
        .unwrap();
    let slowly = Arc::new(AtomicBool::new(true));
    let reader = thread::spawn({
        let slowly = Arc::clone(&slowly);
        move || {
            let mut download = guests::Download::default();
            while let Some(piece) = conn.read_some().unwrap() {
                download.check(&piece).unwrap();
                if slowly.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(100));
                }
            }
            download.seen()
        }
    });
    deployed.switch(&server, &version(host, 2));
    assert_eq!(served(&server), 2);
    // A thread has its name a moment after it has begun.
    eventually("the old one and the new one", PATIENCE, || {
        runtimes(worker) == 2
    });
    deployed.switch(&server, &version(host, 3));
    assert_eq!(served(&server), 3);
    // Nobody began with the second.
    eventually("two are left", PATIENCE, || runtimes(worker) == 2);
    let text = String::from_utf8(events.read_body().unwrap()).unwrap();
    let expected: String = (0..60).map(|i| format!("d0001 {i}\n\n")).collect();
    assert_eq!(text, expected);
    slowly.store(false, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap(), BYTES);
    drop(events);
    eventually("one is left", PATIENCE, || runtimes(worker) == 1);
    server.finish();
}

/// Nobody can take them any more, and the old component can have requests for hours.
fn instances_that_are_kept_end_with_a_swap(host: &Host) {
    let (mut server, deployed) = start(host, |app| {
        let app = app
            .env("UNIT_WASM_IDLE_TIMEOUT", "10m")
            .env("UNIT_WASM_DRAIN_TIMEOUT", "1s")
            .env("UNIT_WASM_REUSE", "1000");
        match host.wasi {
            harness::host::Wasi::V02 => app,
            harness::host::Wasi::V03 => app.env("UNIT_WASM_REUSE_CONCURRENT", "2"),
        }
    });
    let worker = server.worker("lab");
    // Where an instance has room for two, they share one.
    let mut streams = [Conn::open(server.addr()), Conn::open(server.addr())];
    for stream in &mut streams {
        let events = Request::get("/sse?events=100000&interval=100");
        stream.start(&events).unwrap();
        assert!(stream.read_some().unwrap().is_some());
    }
    // In an instance of its own, which is kept.
    server.get("/alloc?mib=100").ok();
    let before = worker.memory().anonymous;
    assert!(before > 100 << 20, "{before} bytes");
    deployed.switch(&server, &version(host, 1));
    eventually("its memory is given back", PATIENCE, || {
        worker.memory().anonymous + (80 << 20) < before
    });
    assert_eq!(runtimes(worker), 2);
    for stream in &mut streams {
        let piece = stream.read_some().unwrap().unwrap_or_default();
        assert!(piece.starts_with(b"d0000 "), "{piece:?}");
    }
    assert_eq!(served(&server), 1);
    // They would go on for hours.
    server.expect_new_workers();
    assert!(server.restart("lab").success());
    eventually("the process ends", PATIENCE, || !worker.alive());
    drop(streams);
    server.finish();
}

/// Files that are refused at the start are refused later, for the same reasons, and
/// change nothing.
fn what_cannot_be_served_is_not_taken(host: &Host) {
    let (mut server, deployed) = start(host, |app| app.env("UNIT_WASM_CPU_TIME", "1s"));
    let whole = version(host, 1);
    let neighbours = Load::neighbours(server.addr());
    let mut bad = vec![
        ("", whole[..whole.len() / 2].to_vec()),
        ("not a WebAssembly", b"This is no component.\n".to_vec()),
        ("memories count of 2", two_memories()),
    ];
    bad.extend(
        [
            ("core WebAssembly module", "core-module"),
            ("wasi:blobstore/blobstore@0.2.0-draft", "unsatisfied-import"),
            ("unreachable", "trapping-start"),
            ("UNIT_WASM_MEMORY", "big-memory"),
            ("CPU", "spinning-start"),
            ("wasi:http/incoming-handler", "no-handler"),
        ]
        .map(|(why, name)| (why, guests::bad(name))),
    );
    let path = deployed.path.to_str().unwrap();
    let sha256 = load::sha256(&version(host, 0));
    let refused = |line: &str| line.contains(path) && line.contains("is not taken");
    for (number, (why, component)) in bad.iter().enumerate() {
        deployed.put(component);
        let lines = || server.log.matching(refused);
        eventually(why, PATIENCE, || lines().len() > number);
        let line = lines().pop().expect("just counted");
        let parts = ["[error]", "wasm \"lab\"", &sha256, why];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert_eq!(served(&server), 0);
    }
    // Each is told of once, however long it lies there.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(server.log.matching(refused).len(), bad.len());
    // Unless somebody touches it.
    let file = fs::File::options().append(true).open(&deployed.path);
    file.and_then(|file| file.set_modified(std::time::SystemTime::now()))
        .unwrap();
    eventually("it is tried again", PATIENCE, || {
        server.log.matching(refused).len() > bad.len()
    });
    // The one that is served is no news, except that all is well again.
    deployed.put(&version(host, 0));
    server
        .log
        .expect(&["is the one that is served again", &sha256]);
    assert_eq!(deployed.switches(&server), 0);
    deployed.switch(&server, &whole);
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    assert_eq!(served(&server), 1);
    server.settle();
    server.finish();
}

/// Half of a component is none; the rest makes it one.
fn a_file_that_is_overwritten(host: &Host) {
    use std::io::Write;
    let (mut server, deployed) = start(host, |app| app);
    let next = version(host, 1);
    let (half, rest) = next.split_at(next.len() / 2);
    let mut file = fs::File::create(&deployed.path).unwrap();
    file.write_all(half).unwrap();
    server.log.expect(&["is not taken"]);
    assert_eq!(served(&server), 0);
    file.write_all(rest).unwrap();
    drop(file);
    eventually("a switch", PATIENCE, || deployed.switches(&server) == 1);
    assert_eq!(served(&server), 1);
    server.settle();
    server.finish();
}

/// Whoever spins may do so for long.
fn spinning_long(app: App) -> App {
    app.env("UNIT_WASM_CPU_TIME", "300s")
        .env("UNIT_WASM_TIMEOUT", "300s")
}

/// It is not the old file any more, but not served either.
fn a_change_while_another_is_prepared(host: &Host) {
    let (mut server, deployed) = start(host, spinning_long);
    // It takes all of its time, and would be refused then.
    deployed.put(&guests::bad("spinning-start"));
    eventually("a helper", PATIENCE, || all_watching(&server).len() == 2);
    let begin = std::time::Instant::now();
    deployed.switch(&server, &version(host, 1));
    assert!(
        begin.elapsed() < Duration::from_secs(280),
        "it was waited for"
    );
    assert_eq!(served(&server), 1);
    let refused = |line: &str| line.contains("is not taken");
    assert_eq!(server.log.matching(refused), [] as [&str; 0]);
    server.settle();
    server.finish();
}

/// No client sees a version after it has seen a later one, whichever process it
/// gets, if the switch is in between.
fn processes_switch_together(host: &Host) {
    let (mut server, deployed) = start(host, |app| app.processes(json!(2)));
    deployed.switch(&server, &version(host, 1));
    server.settle();
    let workers = server.workers("lab");
    assert_eq!(workers.len(), 2);
    let line = server.log.expect(&[": switched, processes: 2"]);
    assert!(line.contains("[notice]"), "{line}");
    for number in 2..6 {
        deployed.switch(&server, &version(host, number));
        thread::scope(|scope| {
            let ask = || (0..20).map(|_| served(&server)).collect::<Vec<_>>();
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            for client in clients {
                let seen = client.join().unwrap();
                assert!(seen.iter().all(|&seen| seen == number), "{seen:?}");
            }
        });
    }
    assert_eq!(server.workers("lab"), workers);
    server.finish();
}

/// What ends as it should is no sign of anything.
fn processes_that_come_and_go(host: &Host) {
    let (mut server, deployed) = start(host, |app| {
        app.processes(json!(2))
            .member("limits", json!({ "requests": 20 }))
    });
    server.expect_new_workers();
    let addr = server.addr();
    let clients = (0..4).map(|_| Client::keeping(addr)).collect();
    let load = Load::start(clients, |client, _| {
        checked(client, &Request::get("/sleep?ms=5")).map(drop)
    });
    load.wait_for_more(20);
    for number in 1..4 {
        deployed.switch(&server, &version(host, number));
        load.wait_for_more(20);
    }
    load.stop().assert_clean();
    assert_eq!(served(&server), 3);
    server.settle();
    server.finish();
}

/// What they were loading may have been the reason: others have to load it first.
fn processes_that_are_killed_while_they_load(host: &Host) {
    let (mut server, deployed) = start(host, |app| app.processes(json!(2)));
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    let [first, second] = server.workers("lab")[..] else {
        panic!("two processes expected");
    };
    first.signal(libc::SIGSTOP);
    deployed.put(&version(host, 1));
    eventually("the other one has loaded it", PATIENCE, || {
        runtimes(second) == 2
    });
    assert_eq!(deployed.switches(&server), 0);
    // The one that has loaded it has gone before the other one has.
    second.signal(libc::SIGKILL);
    eventually("it has gone", PATIENCE, || !second.alive());
    first.signal(libc::SIGKILL);
    eventually("a switch", PATIENCE, || {
        // Somebody has to ask for a process.
        let _ = server.fetch(&Request::get("/sleep?ms=0"));
        deployed.switches(&server) == 1
    });
    assert_eq!(served(&server), 1);
    let of_nobody = |line: &str| line.contains("switched, processes: 0");
    assert_eq!(server.log.matching(of_nobody), [] as [&str; 0]);
    eventually("both are back", PATIENCE, || {
        server.workers("lab").len() == 2
    });
    server.settle();
    server.finish();
}

fn a_successor_begins_with_what_is_served(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    for number in 1..4 {
        deployed.switch(&server, &version(host, number));
        let old = server.worker("lab");
        old.signal(libc::SIGKILL);
        eventually("the old process is gone", PATIENCE, || !old.alive());
        let mut answer = None;
        eventually("an answer after the kill", PATIENCE, || {
            let response = server.fetch(&Request::get("/sleep?ms=0"));
            answer = response.ok().filter(|response| response.status() == 200);
            answer.is_some()
        });
        // The very first answer.
        let text = answer.expect("just seen").text();
        assert_eq!(text, format!("v{number:04}\n"));
    }
    server.settle();
    // The new process is told of later versions, as the old one was.
    deployed.switch(&server, &version(host, 4));
    assert_eq!(served(&server), 4);
    server.finish();
}

/// It has a watcher all the same.
fn an_application_without_processes(host: &Host) {
    let mut server = Server::bare(host);
    let deployed = Deployed::new(&server, &version(host, 0));
    let processes = json!({ "max": 1, "spare": 0, "idle_timeout": 1 });
    server.apply(&deployed.app().processes(processes).into());
    for number in 1..3 {
        assert_eq!(served(&server), number - 1);
        eventually("the idle process exits", PATIENCE, || {
            server.workers("lab").is_empty()
        });
        deployed.switch(&server, &version(host, number));
        server.log.expect(&[": switched, processes: 0"]);
        assert_eq!(served(&server), number);
    }
    // There is nobody who could say that it cannot be loaded.
    eventually("the idle process exits", PATIENCE, || {
        server.workers("lab").is_empty()
    });
    deployed.put(&two_memories());
    let refused = |line: &str| line.contains("is not taken");
    eventually("a refusal", PATIENCE, || {
        !server.log.matching(refused).is_empty()
    });
    assert_eq!(served(&server), 2);
    server.finish();
}

fn a_file_that_goes_and_comes_back(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    let gone = |line: &str| line.contains("[warn]") && line.contains("is gone");
    let aside = deployed.path.with_extension("aside");
    fs::rename(&deployed.path, &aside).unwrap();
    eventually("it is missed", PATIENCE, || {
        server.log.matching(gone).len() == 1
    });
    assert_eq!(served(&server), 0);
    fs::rename(&aside, &deployed.path).unwrap();
    server.log.expect(&["is the one that is served again"]);
    fs::remove_file(&deployed.path).unwrap();
    eventually("it is missed again", PATIENCE, || {
        server.log.matching(gone).len() == 2
    });
    deployed.switch(&server, &version(host, 1));
    assert_eq!(served(&server), 1);
    server.settle();
    server.finish();
}

fn nothing_happens_unless_it_is_wanted(host: &Host) {
    let (mut server, deployed) = start(host, |app| app.env("UNIT_WASM_WATCH", "off"));
    assert_eq!(watchers(&server), []);
    deployed.put(&version(host, 1));
    // Longer than a swap takes: see the other tests.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(served(&server), 0);
    // What does the same then.
    server.expect_new_workers();
    assert!(server.restart("lab").success());
    eventually("the new one is served", PATIENCE, || served(&server) == 1);
    server.finish();
}

fn two_applications_of_one_file(host: &Host) {
    let mut deployed = None;
    let mut server = Server::start_with(host, |server| {
        let file = Deployed::new(server, &version(host, 0));
        let apps = ["alpha", "beta"].map(|name| file.app().named(name));
        deployed = Some(file);
        Config::of(apps)
    });
    let deployed = deployed.expect("just made");
    assert_eq!(watchers(&server).len(), 2);
    for number in 1..4 {
        let before = deployed.switches(&server);
        deployed.put(&version(host, number));
        eventually("both switch", PATIENCE, || {
            deployed.switches(&server) == before + 2
        });
        for name in ["alpha", "beta"] {
            let target = Request::get("/sleep?ms=0");
            let answer = harness::http::fetch(server.addr_of(name), &target);
            assert_eq!(answer.unwrap().ok().text(), format!("v{number:04}\n"));
        }
    }
    server.settle();
    server.finish();
}

/// From WASI 0.2 to 0.3 and back.
fn another_world(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    let newer = Host {
        wasi: harness::host::Wasi::V03,
        ..host.clone()
    };
    let neighbours = Load::neighbours(server.addr());
    deployed.switch(&server, &version(&newer, 1));
    assert_eq!(served(&server), 1);
    server.log.expect(&["wasi:http/handler@0.3", "switched"]);
    deployed.switch(&server, &version(host, 2));
    assert_eq!(served(&server), 2);
    neighbours.wait_for_more(4);
    neighbours.stop().assert_clean();
    server.settle();
    server.finish();
}

fn buckets_in_memory_stay(host: &Host) {
    let component = fs::read(guests::caps("keyvalue")).unwrap();
    let next = patched(component.clone(), b"caps-keyvalue\n", b"caps-keyvalu1\n");
    let mut deployed = None;
    let mut server = Server::start_with(host, |server| {
        let file = Deployed::new(server, &component);
        let app = App::new("keyvalue", &file.path)
            .env("UNIT_WASM_WATCH", "on")
            .env("UNIT_WASM_KEYVALUE", "memory:");
        deployed = Some(file);
        app.into()
    });
    set(&server, "", "a", "kept");
    let deployed = deployed.expect("just made");
    deployed.switch(&server, &next);
    assert_eq!(server.get("/").ok().text(), "caps-keyvalu1\n");
    assert_eq!(get(&server, "", "a").as_deref(), Some("kept"));
    server.settle();
    server.finish();
}

/// The watchers of this server, and what they have started to do their work: each
/// begins with a look at the file that is there.
fn all_watching(server: &Server) -> Vec<Process> {
    let mut all = server.processes();
    all.retain(|process| is_watching(*process));
    all
}

fn is_watching(process: Process) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", process.pid));
    name.is_ok_and(|name| name == "wasm-watcher\n")
}

/// The watchers of this server.
fn watchers(server: &Server) -> Vec<Process> {
    // Parents as of one look: a helper that has ended since has none any more.
    let mut all = proc::group(server.main().pid);
    all.retain(|stat| is_watching(stat.process));
    let is_helper = |stat: &Stat| all.iter().any(|other| stat.parent == other.process.pid);
    let watchers = all.iter().filter(|stat| !is_helper(stat));
    watchers.map(|stat| stat.process).collect()
}

fn restarts_leave_no_watcher(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    server.expect_new_workers();
    for number in 1..4 {
        let before = watchers(&server);
        assert_eq!(before.len(), 1);
        deployed.put(&version(host, number));
        assert!(server.restart("lab").success());
        eventually("the new one is served", PATIENCE, || {
            served(&server) == number
        });
        eventually("the old watcher is gone", PATIENCE, || {
            let now = watchers(&server);
            now.len() == 1 && now != before
        });
    }
    // Not even one that is at work: the file has just changed.
    let busy = guests::built("python");
    if busy.exists() {
        deployed.put(&fs::read(busy).unwrap());
        eventually("a helper", PATIENCE, || all_watching(&server).len() == 2);
    }
    server.apply(&Config::of([App::lab()]));
    eventually("no watcher is left", PATIENCE, || {
        all_watching(&server).is_empty()
    });
    server.finish();
}

fn a_watcher_that_was_killed(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    server.expect_log("exited on signal 9");
    for watcher in watchers(&server) {
        watcher.signal(libc::SIGKILL);
    }
    server
        .log
        .expect(&["[warn]", "the watcher (UNIT_WASM_WATCH) has ended"]);
    deployed.put(&version(host, 1));
    assert_eq!(served(&server), 0);
    // As the line says.
    server.expect_new_workers();
    assert!(server.restart("lab").success());
    eventually("the new one is served", PATIENCE, || served(&server) == 1);
    deployed.switch(&server, &version(host, 2));
    assert_eq!(served(&server), 2);
    server.finish();
}

/// A helper is a process of its own, which would go on for all of its time.
fn a_watcher_that_was_killed_at_work(host: &Host) {
    let (mut server, deployed) = start(host, spinning_long);
    server.expect_log("exited on signal 9");
    deployed.put(&guests::bad("spinning-start"));
    // The one that reads it ends soon; the one that compiles it and starts it on trial
    // does not.
    eventually("a helper that goes on", PATIENCE, || {
        let all = all_watching(&server);
        std::thread::sleep(Duration::from_secs(2));
        all.len() == 2 && all_watching(&server) == all
    });
    let [watcher] = watchers(&server)[..] else {
        panic!("one watcher expected");
    };
    watcher.signal(libc::SIGKILL);
    eventually("the helper ends", Duration::from_secs(30), || {
        all_watching(&server).is_empty()
    });
    assert_eq!(served(&server), 0);
    server.finish();
}

/// A process that begins meanwhile serves all the same, and makes up for it later.
fn a_watcher_that_is_late(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    server.expect_new_workers();
    server.expect_log("exited on signal 9");
    deployed.switch(&server, &version(host, 1));
    let [watcher] = watchers(&server)[..] else {
        panic!("one watcher expected");
    };
    watcher.signal(libc::SIGSTOP);
    let old = server.worker("lab");
    old.signal(libc::SIGKILL);
    eventually("an answer after the kill", PATIENCE, || {
        let response = server.fetch(&Request::get("/sleep?ms=0"));
        response.is_ok_and(|response| response.status() == 200)
    });
    assert_eq!(served(&server), 0);
    server
        .log
        .expect(&["[error]", "the watcher (UNIT_WASM_WATCH) does not answer"]);
    watcher.signal(libc::SIGCONT);
    eventually("what is served", PATIENCE, || served(&server) == 1);
    deployed.switch(&server, &version(host, 2));
    assert_eq!(served(&server), 2);
    server.settle();
    server.finish();
}

/// When memory is short, the kernel ends it and its helpers before those who serve.
fn a_watcher_is_the_first_to_go(host: &Host) {
    let (server, _) = start(host, |app| app);
    let score = |process: Process| {
        fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).unwrap()
    };
    let watchers = watchers(&server);
    assert_eq!(watchers.len(), 1);
    assert_eq!(score(watchers[0]), "1000\n");
    assert_eq!(score(server.worker("lab")), score(server.main()));
    server.finish();
}

fn a_digest_and_changes_exclude_each_other(host: &Host) {
    let app = App::lab()
        .named("bad")
        .env("UNIT_WASM_WATCH", "on")
        .env("UNIT_WASM_SHA256", &"0".repeat(64));
    assert_refused(host, &app, &["UNIT_WASM_WATCH", "UNIT_WASM_SHA256 allows"]);
    let app = App::lab().named("bad").env("UNIT_WASM_WATCH", "yes");
    assert_refused(host, &app, &["UNIT_WASM_WATCH", "\"yes\"", "on or off"]);
}

/// Where the application's working directory is.
fn a_relative_path(host: &Host) {
    let (mut server, deployed) = start(host, |mut app| {
        let directory = app.component.parent().map(Path::to_path_buf);
        app.component = "app.wasm".into();
        app.member("working_directory", json!(directory))
    });
    deployed.switch(&server, &version(host, 1));
    assert_eq!(served(&server), 1);
    server.settle();
    server.finish();
}

/// A link on the way to the file, as a folder of releases has one.
fn a_symbolic_link(host: &Host) {
    use std::os::unix::fs::symlink;
    let release = |server: &Server, number: u64| {
        let directory = server.data().join(number.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("app.wasm"), version(host, number)).unwrap();
        let next = server.data().join("next");
        symlink(number.to_string(), &next).unwrap();
        fs::rename(&next, server.data().join("current")).unwrap();
    };
    let mut server = Server::start_with(host, |server| {
        release(server, 0);
        let path = server.data().join("current/app.wasm");
        let mut app = App::new("lab", &path).env("UNIT_WASM_WATCH", "on");
        app.lab = true;
        app.into()
    });
    for number in 1..3 {
        release(&server, number);
        eventually("a switch", PATIENCE, || served(&server) == number);
    }
    server.settle();
    server.finish();
}

/// The watcher does not hear of it, but what it has to say is in the new file.
fn a_log_that_is_rotated(host: &Host) {
    let (mut server, deployed) = start(host, |app| app);
    deployed.switch(&server, &version(host, 1));
    let path = server.dir().join("log");
    fs::rename(&path, server.dir().join("log.1")).unwrap();
    server.main().signal(libc::SIGUSR1);
    eventually("a new file", PATIENCE, || path.exists());
    deployed.switch(&server, &version(host, 2));
    assert_eq!(served(&server), 2);
    server.settle();
    server.finish();
}

/// At the start unitd trusts root's files alone, if it is root. What watches for it is
/// not, and does so too.
fn a_cache_that_is_given_away(host: &Host) {
    let mut folder = None;
    let (mut server, deployed) = start(host, |app| {
        let cache = app.component.with_file_name("cache");
        fs::create_dir(&cache).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
        let app = app.env("UNIT_WASM_CACHE", cache.to_str().unwrap());
        folder = Some(cache);
        app
    });
    let cache = folder.expect("just made");
    let user = watchers(&server)[0].status("Uid");
    let user = user
        .split_whitespace()
        .next()
        .and_then(|id| id.parse().ok());
    deployed.switch(&server, &version(host, 1));
    let sha256 = load::sha256(&version(host, 0));
    let taken = |from: &str| {
        let line = |line: &str| line.contains(&sha256) && line.contains("switched");
        let lines = server.log.matching(line);
        assert!(lines.last().expect("a line").contains(from), "{lines:?}");
    };
    deployed.switch(&server, &version(host, 0));
    taken("found in the cache");
    if user == Some(server_user()) {
        // It cannot be given to anybody else.
        server.settle();
        return server.finish();
    }
    let entries = fs::read_dir(&cache).unwrap().flatten();
    for path in entries.map(|entry| entry.path()).chain([cache.clone()]) {
        std::os::unix::fs::chown(path, user, None).unwrap();
    }
    deployed.switch(&server, &version(host, 2));
    deployed.switch(&server, &version(host, 0));
    taken("compiled in");
    server.settle();
    server.finish();
}

/// Whom unitd runs as: whoever runs the tests.
fn server_user() -> u32 {
    // SAFETY: always succeeds, touches no memory.
    unsafe { libc::geteuid() }
}

/// With a root directory of its own, an application has nothing of the system in
/// it, not even `/proc`. A unitd that may not do that gets an application without.
fn a_root_directory(host: &Host) {
    const CAP_SYS_CHROOT: u32 = 18;
    swap_in_a_root(host, CAP_SYS_CHROOT, json!({}));
}

/// There Unit does not change the root of the prototype, but of all processes in
/// its namespace.
fn a_root_directory_and_namespaces(host: &Host) {
    const CAP_SYS_ADMIN: u32 = 21;
    swap_in_a_root(host, CAP_SYS_ADMIN, json!({ "mount": true, "pid": true }));
}

fn swap_in_a_root(host: &Host, capability: u32, namespaces: serde_json::Value) {
    let me = Process::of(std::process::id().cast_signed()).expect("this process");
    let capabilities = u64::from_str_radix(&me.status("CapEff"), 16).expect("a number");
    let is_possible = capabilities & 1 << capability != 0;
    let (mut server, deployed) = start(host, |mut app| {
        if !is_possible {
            return app;
        }
        let root = app.component.parent().map(Path::to_path_buf);
        app.component = "/app.wasm".into();
        let isolation = json!({ "rootfs": root, "namespaces": namespaces });
        app.member("isolation", isolation)
    });
    for number in 1..3 {
        deployed.switch(&server, &version(host, number));
        assert_eq!(served(&server), number);
    }
    server.settle();
    server.finish();
}

/// Compiling takes seconds there, and both of the machine's processors.
fn a_large_component_is_compiled_beside_the_load(host: &Host) {
    let (mut server, deployed) = start(host, |mut app| {
        // At the end it is another one.
        app.lab = false;
        // Of the run's cache it might be taken without compiling.
        let cache = app.component.with_file_name("cache");
        fs::create_dir(&cache).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
        app.env("UNIT_WASM_CACHE", cache.to_str().unwrap())
    });
    let addr = server.addr();
    let load = Load::start(vec![Client::keeping(addr), Client::fresh(addr)], |c, n| {
        // Whichever answers.
        checked(c, &Request::get(format!("/?n={n}"))).map(drop)?;
        // Compiling gets what is left of the processors.
        thread::sleep(Duration::from_millis(10));
        Ok(())
    });
    load.wait_for_more(4);
    let before = load.answered();
    deployed.switch(&server, &fs::read(guests::built("python")).unwrap());
    let during = load.answered() - before;
    load.wait_for_more(4);
    load.stop().assert_clean();
    assert!(during > 20, "{during} answers while it was compiled");
    assert_ne!(server.get("/").ok().text(), "lab\n");
    server.settle();
    server.finish();
}
