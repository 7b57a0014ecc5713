//! `nxt-wasm init`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{repository, run, text};

fn init(language: &str, directory: &Path, further: &[&str]) -> common::Ran {
    let mut arguments = vec!["init", language, text(directory)];
    arguments.extend(further);
    run(&arguments)
}

#[test]
fn every_language_has_a_component_to_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    for (language, source, original) in [
        ("rust", "src/lib.rs", "example/rust/src/lib.rs"),
        ("c", "answer.c", "example/c/answer.c"),
        ("python", "app.py", "example/python/app.py"),
        ("javascript", "app.js", "example/javascript/app.js"),
        (
            "go",
            "export_wasi_http_incoming_handler/handler.go",
            "example/go/export_wasi_http_incoming_handler/handler.go",
        ),
    ] {
        let directory = folder.path().join("new").join(language);
        let ran = init(language, &directory, &["--name", "shop-1"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let read = |path: &str| fs::read_to_string(directory.join(path)).unwrap();
        let example = fs::read_to_string(repository(original)).unwrap();
        assert_eq!(read(source), example);
        for (path, part) in [
            ("README.md", "# shop-1\n"),
            ("config.json", "\"/srv/wasm/shop-1.wasm\""),
            ("build.sh", "shop-1.wasm"),
            (".gitignore", "/.build/"),
        ] {
            assert!(read(path).contains(part), "{language}: {path}");
        }
        let script = directory.join("build.sh");
        let parsed = Command::new("sh").arg("-n").arg(&script).status().unwrap();
        assert!(parsed.success(), "{}", script.display());
        // Its configuration is one that `check` takes.
        let component = repository("example/c/c.wasm");
        let config = directory.join("config.json");
        let checked = run(&["check", text(&component), "--config", text(&config)]);
        assert_eq!(checked.code, 0, "{checked:?}");

        let again = init(language, &directory, &["--name", "other"]);
        assert_eq!(again.code, 2, "{again:?}");
        assert!(again.err.contains("is not empty"), "{again:?}");
        assert!(read("README.md").contains("# shop-1\n"));
    }
}

#[test]
fn the_name_is_that_of_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("shop");
    fs::create_dir(&directory).unwrap();
    assert_eq!(init("python", &directory, &[]).code, 0);
    let script = fs::read_to_string(directory.join("build.sh")).unwrap();
    assert!(script.contains("--output \"shop.wasm\""), "{script}");

    for name in ["Shop", "1shop", "a b", "a;b", "", "../x", &"x".repeat(65)] {
        let directory = folder.path().join("bad");
        let ran = init("rust", &directory, &[&format!("--name={name}")]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("cannot be its name"), "{ran:?}");
        assert!(!directory.exists());
    }
    let ran = init("cobol", &folder.path().join("x"), &[]);
    assert!(ran.code == 2 && ran.err.contains("javascript"), "{ran:?}");
}
