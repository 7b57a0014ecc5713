//! `nxt-wasm compile` and `nxt-wasm cache`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Ran, repository, run, text, write_wat};
use serde_json::json;

fn compile(file: &Path, cache: &Path, further: &[&str]) -> Ran {
    let mut arguments = vec!["compile", text(file), "--cache", text(cache)];
    arguments.extend(further);
    run(&arguments)
}

fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A configuration with one application.
fn config(folder: &Path, environment: serde_json::Value) -> String {
    let path = folder.join("config.json");
    let app = json!({ "type": "wasm", "module": "/a.wasm", "environment": environment });
    fs::write(&path, app.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_artifact_is_made_once_and_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("new/cache");
    let rust = repository("example/rust/rust.wasm");
    let first = compile(&rust, &cache, &["--verify"]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.out.contains(" made: "), "{first:?}");
    for part in [
        "world=wasi:http/proxy@0.2\n",
        "handler=wasi:http/incoming-handler@0.2.4\n",
    ] {
        assert!(first.out.contains(part), "{first:?}");
    }
    let made = files(&cache);
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(fs::metadata(&made[0]).unwrap().mode() & 0o777, 0o644);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = inode(&made[0]);

    let again = compile(&rust, &cache, &[]);
    assert!(
        again.code == 0 && again.out.contains(" is there already: "),
        "{again:?}"
    );
    assert_eq!(inode(&files(&cache)[0]), before);
    let forced = compile(&rust, &cache, &["--force"]);
    assert!(forced.out.contains(" made: "), "{forced:?}");
    let after = files(&cache);
    assert!(after.len() == 1 && inode(&after[0]) != before, "{after:?}");

    // What shapes code has another artifact, what does not has the same.
    let slow = config(folder.path(), json!({ "UNIT_WASM_TIMEOUT": "1s" }));
    let same = compile(&rust, &cache, &["--config", &slow]);
    assert!(same.out.contains(" is there already: "), "{same:?}");
    let fuel = config(folder.path(), json!({ "UNIT_WASM_FUEL": "1" }));
    let other = compile(&rust, &cache, &["--config", &fuel]);
    assert!(other.out.contains(" made: "), "{other:?}");
    assert_eq!(files(&cache).len(), 2);
    let p3 = repository("example/hello-p3/hello-p3.wasm");
    let newer = compile(&p3, &cache, &["--verify"]);
    assert!(
        newer.out.contains("world=wasi:http/service@0.3\n"),
        "{newer:?}"
    );
}

#[test]
fn damaged_artifacts_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let rust = repository("example/rust/rust.wasm");
    compile(&rust, &cache, &[]);
    let file = files(&cache).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = compile(&rust, &cache, &["--verify"]);
    assert!(ran.code == 0 && ran.out.contains(" made: "), "{ran:?}");
    assert!(
        ran.err.contains("is damaged, or has been renamed"),
        "{ran:?}"
    );
}

#[test]
fn what_cannot_be_compiled_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let wat = repository("tests/guests/bad/no-handler.wat");
    let bad = folder.path().join("bad.wasm");
    write_wat(&bad, &fs::read_to_string(wat).unwrap());
    let rust = repository("example/rust/rust.wasm");
    let cut = folder.path().join("cut.wasm");
    let bytes = fs::read(&rust).unwrap();
    // Not behind its exports, so that only the compiler finds out.
    let mut garbled = bytes.clone();
    garbled[20_000..20_200].fill(0xff);
    fs::write(&cut, garbled).unwrap();
    let other = config(folder.path(), json!({ "UNIT_WASM_SHA256": "1".repeat(64) }));
    let settings = folder.path().join("settings");
    fs::create_dir(&settings).unwrap();
    let settings = config(&settings, json!({ "UNIT_WASM_MEMORY": "lots" }));
    for (file, further, why) in [
        (
            &bad,
            &[] as &[&str],
            "no export `wasi:http/incoming-handler",
        ),
        (&cut, &[], "the component cannot be compiled: "),
        (
            &rust,
            &["--config", &other],
            "UNIT_WASM_SHA256 asks for 111",
        ),
        (
            &rust,
            &["--config", &settings],
            "UNIT_WASM_MEMORY: bad value \"lots\"",
        ),
    ] {
        let ran = compile(file, &cache, further);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(why), "{ran:?}");
    }
    assert!(!cache.exists() || files(&cache).is_empty());
}

#[test]
fn caches_that_the_module_would_refuse_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();
    let rust = repository("example/rust/rust.wasm");
    let ran = compile(&rust, &cache, &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.err.contains("can be written by others (mode 0777)"),
        "{ran:?}"
    );
    assert!(files(&cache).is_empty());
    let off = config(folder.path(), json!({ "UNIT_WASM_CACHE": "off" }));
    let ran = run(&["compile", text(&rust), "--config", &off]);
    assert!(
        ran.code == 2 && ran.err.contains("UNIT_WASM_CACHE is off"),
        "{ran:?}"
    );
    let ran = compile(&rust, &cache, &["--user", "nobody-of-that-name"]);
    assert!(
        ran.code == 2 && ran.err.contains("there is no user"),
        "{ran:?}"
    );
}

#[test]
fn artifacts_belong_to_whom_unitd_believes() {
    let folder = tempfile::tempdir().unwrap();
    let rust = repository("example/rust/rust.wasm");
    let cache = folder.path().join("cache");
    let ran = compile(&rust, &cache, &["--user", "4711"]);
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    if owner(folder.path()) == 0 {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!((owner(&cache), owner(&files(&cache)[0])), (4711, 4711));
        let list = run(&["cache", "list", "--cache", text(&cache), "--user", "4711"]);
        assert!(list.out.contains("1 artifacts, "), "{list:?}");
        let ran = compile(&rust, &cache, &[]);
        assert!(
            ran.code == 2 && ran.err.contains("it must belong to root"),
            "{ran:?}"
        );
    } else {
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.err.contains("takes only those of root and of its own"),
            "{ran:?}"
        );
        assert!(!cache.exists());
    }
}

#[test]
fn the_cache_is_listed_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let place = ["--cache", text(&cache)];
    let with = |command: &str, further: &[&str]| {
        let arguments = [&["cache", command], &place[..], further].concat();
        run(&arguments)
    };
    let ran = with("list", &[]);
    assert!(
        ran.code == 2 && ran.err.contains("there is no cache"),
        "{ran:?}"
    );
    assert!(!cache.exists());

    for (name, days) in [("example/c/c.wasm", 9), ("example/rust/rust.wasm", 3)] {
        assert_eq!(compile(&repository(name), &cache, &[]).code, 0);
        let now = SystemTime::now();
        let is_new = |path: &PathBuf| {
            let used = fs::metadata(path).unwrap().modified().unwrap();
            now.duration_since(used).unwrap() < Duration::from_secs(3600)
        };
        let new = files(&cache).into_iter().find(is_new).unwrap();
        let used = now - Duration::from_secs(86_400 * days);
        fs::File::open(new).unwrap().set_modified(used).unwrap();
    }
    fs::write(cache.join("README"), "not of the cache").unwrap();
    let list = with("list", &["--json"]).json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2, "{list:?}");
    let size = |entry: usize| list[entry]["size"].as_u64().unwrap();
    assert!(list[0]["used"].as_u64() < list[1]["used"].as_u64());
    let shown = with("list", &[]).out;
    assert!(
        shown.contains("used 9d ago") && shown.contains("2 artifacts, "),
        "{shown}"
    );

    let dry = with("prune", &["--older-than", "5d", "--dry-run"]);
    assert!(
        dry.out.contains("1 of 2 artifacts would be removed"),
        "{dry:?}"
    );
    assert_eq!(files(&cache).len(), 3);
    let all = (size(0) + size(1)).to_string();
    let none = with("prune", &["--older-than", "30d", "--max", &all]);
    assert!(none.out.contains("0 of 2 artifacts removed"), "{none:?}");
    let one = with("prune", &["--max", &size(1).to_string()]);
    assert!(
        one.out.contains(list[0]["key"].as_str().unwrap()),
        "{one:?}"
    );
    assert!(one.out.contains("1 of 2 artifacts removed"), "{one:?}");
    let last = with("prune", &["--older-than", "24h"]);
    assert!(last.out.contains("1 of 1 artifacts removed"), "{last:?}");
    assert_eq!(files(&cache), [cache.join("README")]);

    assert_eq!(with("prune", &[]).code, 2);
    assert_eq!(with("prune", &["--max", "lots"]).code, 2);
}
