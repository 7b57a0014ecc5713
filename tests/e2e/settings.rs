//! Settings that are wrong, and settings that are right.

use std::fs;

use harness::load::sha256;
use harness::{App, Host, Server, guests};
use serde_json::json;

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["settings", All:
        unknown_keys_name_the_nearest,
        bad_values_are_named,
        another_component_than_the_pinned,
        the_pinned_component,
        bad_directories,
        units_and_off,
        cache_off,
        damaged_cache_is_not_believed,
    ]
}

fn bad(key: &str, value: &str) -> App {
    App::lab().named("bad").env(key, value)
}

fn unknown_keys_name_the_nearest(host: &Host) {
    for (key, nearest) in [
        ("UNIT_WASM_MEMRY", "UNIT_WASM_MEMORY"),
        ("UNIT_WASM_TIMOUT", "UNIT_WASM_TIMEOUT"),
        ("UNIT_WASM_THREAD", "UNIT_WASM_THREADS"),
    ] {
        assert_refused(host, &bad(key, "17s"), &[key, "17s", nearest]);
    }
}

fn bad_values_are_named(host: &Host) {
    for (key, value) in [
        ("UNIT_WASM_MEMORY", "lots"),
        ("UNIT_WASM_FUEL", "0"),
        ("UNIT_WASM_CPU_TIME", "fast"),
        ("UNIT_WASM_TIMEOUT", "-1s"),
        ("UNIT_WASM_CONCURRENCY", "0"),
        ("UNIT_WASM_THREADS", "two"),
        ("UNIT_WASM_SHA256", "abc"),
    ] {
        assert_refused(host, &bad(key, value), &[key, value]);
    }
}

fn another_component_than_the_pinned(host: &Host) {
    let other = sha256(b"another component");
    assert_refused(host, &bad("UNIT_WASM_SHA256", &other), &[&other]);
}

fn the_pinned_component(host: &Host) {
    let digest = sha256(&fs::read(guests::lab()).unwrap());
    let server = Server::start(host, App::lab().env("UNIT_WASM_SHA256", &digest));
    server.get("/").ok();
    server.finish();
}

fn bad_directories(host: &Host) {
    let missing = "/nonexistent-directory-of-nxt-e2e";
    for (filesystem, part) in [
        (json!([missing]), missing),
        (json!([{ "host": missing, "guest": "/data" }]), missing),
        (
            json!([{ "host": "/tmp", "guest": "/data", "mode": "rx" }]),
            "rx",
        ),
        (json!([{ "host": "/tmp", "gast": "/data" }]), "gast"),
        (json!([17]), "filesystem"),
        (json!([{ "guest": "/data" }]), "host"),
    ] {
        let app = App::lab().named("bad").filesystem(filesystem);
        assert_refused(host, &app, &[part]);
    }
}

fn units_and_off(host: &Host) {
    let app = App::lab()
        .env("UNIT_WASM_MEMORY", "67108864")
        .env("UNIT_WASM_STACK", "1MiB")
        .env("UNIT_WASM_FUEL", "off")
        .env("UNIT_WASM_CPU_TIME", "1500ms")
        .env("UNIT_WASM_TIMEOUT", "1m")
        .env("UNIT_WASM_IDLE_TIMEOUT", "5s")
        .env("UNIT_WASM_CONCURRENCY", "16")
        .env("UNIT_WASM_THREADS", "1")
        .env("UNIT_WASM_DRAIN_TIMEOUT", "3s");
    let server = Server::start(host, app);
    assert_eq!(server.get("/env").ok().text(), "");
    assert_eq!(server.get("/alloc?mib=65").status(), 500);
    assert_eq!(server.get("/spin").status(), 504);
    server.finish();
}

fn cache_off(host: &Host) {
    let server = Server::start(host, App::hello().env("UNIT_WASM_CACHE", "off"));
    server.get("/").ok();
    server.finish();
}

/// Whatever happened to the artifacts, the component is served as it is.
fn damaged_cache_is_not_believed(host: &Host) {
    use std::os::unix::fs::DirBuilderExt;
    let mut server = Server::bare(host);
    let cache = server.dir().join("cache");
    fs::DirBuilder::new().mode(0o700).create(&cache).unwrap();
    let app = App::hello().env("UNIT_WASM_CACHE", cache.to_str().unwrap());
    server.apply(&app.into());
    server.get("/").ok();
    let files = || -> Vec<_> {
        let entries = fs::read_dir(&cache).unwrap().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect()
    };
    assert!(!files().is_empty(), "nothing was cached");
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| *bytes = b"rubbish".repeat(1000),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes.iter_mut().skip(middle).take(64).for_each(|b| *b ^= 1);
        },
    ];
    for damage in damages {
        for path in files() {
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            // A new file, as the running process has the old one mapped.
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        assert!(server.restart("hello").success());
        let text = server.get("/").ok().text();
        assert!(text.contains("Welcome to the component model"), "{text}");
    }
    server.settle();
    server.finish();
}
