//! The cache of compiled components: what is taken from it, what is not, and
//! how much it keeps.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use harness::config::Config;
use harness::http::{self, Request};
use harness::load::sha256;
use harness::{App, Host, Server, eventually, guests};

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["cache", All:
        a_directory_that_others_control_is_refused,
        artifacts_are_compiled_once,
        files_that_others_could_have_written_are_compiled_anew,
        artifacts_of_another_engine_or_component_are_compiled_anew,
        applications_that_race_for_an_entry,
        the_least_recently_used_are_removed,
        a_full_cache_directory_is_no_obstacle,
    ]
}

/// Who is neither root nor the user that runs the tests.
const STRANGER: u32 = 4711;

const COMPILED: &str = ", compiled in ";
const FOUND: &str = ", artifact found in the cache in ";

fn new_directory(path: PathBuf) -> PathBuf {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(&path).expect("a new directory");
    path
}

fn cached(app: App, directory: &Path) -> App {
    app.env("UNIT_WASM_CACHE", directory.to_str().unwrap())
}

/// Files in the cache that have `part` in their names.
fn files(directory: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the cache directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains(part);
    paths.filter(named).collect()
}

#[track_caller]
fn the_file(directory: &Path, part: &str) -> PathBuf {
    let files = files(directory, part);
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// Restarts the application, and asserts that its artifact comes from where it
/// should.
#[track_caller]
fn restarted(server: &Server, app: &App, from: &str) {
    let ready = |line: &str| line.contains(&format!("wasm \"{}\": component ", app.name));
    let before = server.log.matching(ready).len();
    assert!(server.restart(&app.name).success());
    answers(server, app);
    let lines = server.log.matching(ready);
    assert_eq!(lines.len(), before + 1, "one start: {lines:#?}");
    assert!(lines[before].contains(from), "{lines:#?}");
}

/// Waits until no process of `hello` is about to start or to stop: one that is
/// told to stop in the middle of its start can leave alerts of libunit behind
/// (`too many port socket messages`), in Unit's own modules as well.
fn two_processes(server: &Server) {
    let mut before = Vec::new();
    eventually("two processes", Duration::from_secs(20), || {
        let now = server.workers("hello");
        let steady = now.len() == 2 && now == before;
        before = now;
        steady
    });
    thread::sleep(Duration::from_millis(200));
}

#[track_caller]
fn answers(server: &Server, app: &App) {
    let response = http::fetch(server.addr_of(&app.name), &Request::get("/"));
    let text = response.expect("an answer").ok().text();
    let begin = if app.lab {
        "lab\n"
    } else {
        " * Welcome to the component model"
    };
    assert!(text.starts_with(begin), "{text}");
}

fn a_directory_that_others_control_is_refused(host: &Host) {
    let folder = tempfile::tempdir().unwrap();
    let directory = new_directory(folder.path().join("cache"));
    let refused = |path: &Path, why: &str| {
        let app = cached(App::lab().named("bad"), path);
        let parts = ["UNIT_WASM_CACHE: ", path.to_str().unwrap(), why];
        assert_refused(host, &app, &parts);
        assert_eq!(files(&directory, ""), [] as [PathBuf; 0]);
    };
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    refused(&directory, "can be written by others (mode 0777)");
    fs::set_permissions(&directory, Permissions::from_mode(0o775)).unwrap();
    refused(&directory, "can be written by others (mode 0775)");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let link = folder.path().join("link");
    symlink(&directory, &link).unwrap();
    refused(&link, "is not a directory");
    // Only root can give things away.
    if chown(&directory, Some(STRANGER), None).is_ok() {
        refused(&directory, "belongs to user 4711");
    }
}

fn artifacts_are_compiled_once(host: &Host) {
    let mut server = Server::bare(host);
    let cache = server.dir().join("new/cache");
    let app = cached(App::hello(), &cache).processes(2.into());
    server.apply(&app.clone().into());
    answers(&server, &app);
    server.log.expect(&["wasm \"hello\": component ", COMPILED]);
    two_processes(&server);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let file = the_file(&cache, "");
    let before = inode(&file);
    for _ in 0..2 {
        restarted(&server, &app, FOUND);
        two_processes(&server);
    }
    assert_eq!(inode(&the_file(&cache, "")), before);
    server.finish();
}

fn files_that_others_could_have_written_are_compiled_anew(host: &Host) {
    let mut server = Server::bare(host);
    let cache = new_directory(server.dir().join("cache"));
    let app = cached(App::hello(), &cache);
    server.apply(&app.clone().into());
    answers(&server, &app);
    let again = |tamper: &dyn Fn(&Path), why: &str| {
        let path = the_file(&cache, "");
        tamper(&path);
        restarted(&server, &app, COMPILED);
        let line = server
            .log
            .expect(&["[warn]", "wasm \"hello\": not loaded", why]);
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        restarted(&server, &app, FOUND);
    };
    let mode = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o646)).unwrap();
    again(&mode, "can be written by others (mode 0646)");
    if chown(the_file(&cache, ""), None, None).is_ok() && is_root() {
        let give = |path: &Path| chown(path, Some(STRANGER), None).unwrap();
        again(&give, "belongs to user 4711");
    }
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // A new file, as the running process has the old one mapped.
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    again(&damage, "is damaged");
    server.finish();
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The name under which the cache would believe `bytes` to be the artifact of
/// `key`.
fn forged(key: &str, bytes: &[u8]) -> String {
    let signed = [key.as_bytes(), b"\n", bytes].concat();
    format!("{key}.{}.cwasm", sha256(&signed))
}

fn key_of(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split('.').next().unwrap().to_owned()
}

fn artifacts_of_another_engine_or_component_are_compiled_anew(host: &Host) {
    let mut server = Server::bare(host);
    let cache = new_directory(server.dir().join("cache"));
    let hello = cached(App::hello(), &cache);
    let fuel = hello
        .clone()
        .named("fuel")
        .env("UNIT_WASM_FUEL", "1000000000");
    let lab = cached(App::lab(), &cache);
    let mut paths = Vec::new();
    for app in [&hello, &fuel, &lab] {
        let before = files(&cache, "");
        server.apply(&app.clone().into());
        let new = files(&cache, "").into_iter();
        let new: Vec<PathBuf> = new.filter(|path| !before.contains(path)).collect();
        assert_eq!(new.len(), 1, "an artifact of its own: {new:?}");
        paths.extend(new);
    }
    server.apply(&hello.clone().into());
    answers(&server, &hello);
    let original = paths[0].clone();
    let key = key_of(&original);

    // Another component's, under this one's name.
    for other in [&paths[1], &paths[2]] {
        fs::remove_file(&original).unwrap();
        fs::copy(other, &original).unwrap();
        restarted(&server, &hello, COMPILED);
        server.log.expect(&["not loaded", "has been renamed"]);
        assert_eq!(the_file(&cache, &key), original);
    }

    // As if the key did not tell engines apart: with the right checksum, of an
    // engine that counts fuel, and of another release.
    let fueled = fs::read(&paths[1]).unwrap();
    let mut released = fs::read(&original).unwrap();
    let version = find(&released, b"48.0.").or_else(|| find(&released, b"\x0248"));
    let at = version.expect("a version in the artifact");
    let digits = at + find(&released[at..], b"48").unwrap();
    released[digits..digits + 2].copy_from_slice(b"47");
    for (number, bytes) in [fueled, released].iter().enumerate() {
        fs::remove_file(&original).unwrap();
        let path = cache.join(forged(&key, bytes));
        fs::write(&path, bytes).unwrap();
        restarted(&server, &hello, COMPILED);
        let refusals = || {
            let refused = |line: &str| line.contains("does not fit this engine");
            server.log.matching(refused).len()
        };
        assert_eq!(refusals(), number + 1);
        assert!(original.exists());
        assert!(!path.exists(), "the forged one is still there");
        restarted(&server, &hello, FOUND);
    }
    server.finish();
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

fn applications_that_race_for_an_entry(host: &Host) {
    let mut server = Server::bare(host);
    let cache = new_directory(server.dir().join("cache"));
    let names = ["a", "b", "c", "d"];
    let apps = names.map(|name| cached(App::hello().named(name), &cache));
    server.apply(&Config::of(apps.clone()));
    let compiled = |line: &str| line.contains(COMPILED);
    let mut races = 0;
    // A restart of Unit starts nothing itself: a new process comes once the old one has
    // ended, and now and then they come one after the other.
    for _ in 0..12 {
        for app in &apps {
            answers(&server, app);
        }
        let file = the_file(&cache, "");
        fs::remove_file(file).unwrap();
        let before = server.log.matching(compiled).len();
        // All at once: several find nothing, and compile.
        let host = &server;
        thread::scope(|scope| {
            let restarts = names.map(|name| scope.spawn(move || host.restart(name).success()));
            assert!(restarts.into_iter().all(|restart| restart.join().unwrap()));
        });
        for app in &apps {
            answers(&server, app);
        }
        let racers = server.log.matching(compiled).len() - before;
        assert!(racers >= 1, "nobody has compiled");
        races += usize::from(racers >= 2);
        if races == 3 {
            break;
        }
    }
    assert!(races > 0, "no race");
    for app in &apps {
        answers(&server, app);
    }
    let refused = server.log.matching(|line| line.contains("not loaded"));
    assert_eq!(refused, [] as [String; 0]);
    restarted(&server, &apps[0], FOUND);
    the_file(&cache, "");
    server.finish();
}

fn the_least_recently_used_are_removed(host: &Host) {
    let mut server = Server::bare(host);
    let cache = new_directory(server.dir().join("cache"));
    let guest = |name: &str| {
        App::new(
            name,
            &guests::root().join(format!("tests/guests/{name}/{name}.wasm")),
        )
    };
    let apps = [App::hello(), guest("small"), App::lab()].map(|app| cached(app, &cache));
    let mut keys: Vec<String> = Vec::new();
    let mut total = 0;
    for (number, app) in apps.iter().enumerate() {
        server.apply(&app.clone().into());
        let new = files(&cache, "").into_iter();
        let new: Vec<PathBuf> = new.filter(|path| !keys.contains(&key_of(path))).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        keys.push(key_of(&new[0]));
        total += fs::metadata(&new[0]).unwrap().len();
        let used = SystemTime::now() - Duration::from_secs(1000 - number as u64);
        File::open(&new[0]).unwrap().set_modified(used).unwrap();
    }
    let kept = || -> Vec<bool> {
        let kept = keys.iter().map(|key| !files(&cache, key).is_empty());
        kept.collect()
    };
    // There is room for all; the oldest is used, and is the oldest no more.
    let [hello, ..] = &apps;
    server.apply(
        &hello
            .clone()
            .env("UNIT_WASM_CACHE_SIZE", &total.to_string())
            .into(),
    );
    assert_eq!(kept(), [true, true, true]);
    let less = (total - 1).to_string();
    server.apply(&hello.clone().env("UNIT_WASM_CACHE_SIZE", &less).into());
    assert_eq!(kept(), [true, false, true]);
    // Where there is room for none, the one that has just been made stays.
    let app = cached(guest("c-hello"), &cache).env("UNIT_WASM_CACHE_SIZE", "1");
    server.apply(&app.clone().into());
    assert_eq!(kept(), [false, false, false]);
    the_file(&cache, "");
    server.finish();
}

/// An artifact that cannot be kept is served all the same.
fn a_full_cache_directory_is_no_obstacle(host: &Host) {
    let mut server = Server::bare(host);
    // A file system on which nothing can be made, to root either.
    let app = cached(App::hello(), Path::new("/proc/self/fdinfo"));
    server.apply(&app.clone().into());
    answers(&server, &app);
    server.log.expect(&["[warn]", "cannot keep the artifact"]);
    server.finish();
}
