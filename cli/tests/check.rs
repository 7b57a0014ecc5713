//! `nxt-wasm check`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{repository, run, text, write_wat};
use serde_json::{Value, json};

/// What `--json` says of a file that could be looked at.
#[track_caller]
fn check(file: &Path, further: &[&str]) -> Value {
    let mut arguments = vec!["check", "--json", text(file)];
    arguments.extend(further);
    let ran = run(&arguments);
    let report = ran.json();
    let servable = report["servable"].as_bool().unwrap();
    assert_eq!(ran.code, i32::from(!servable), "{report:#}");
    assert_eq!(servable, report["problems"] == json!([]), "{report:#}");
    report
}

#[track_caller]
fn assert_refused(report: &Value, why: &str) {
    let problems = report["problems"].as_array().unwrap();
    let named = problems.iter().any(|p| p.as_str().unwrap().contains(why));
    assert!(named, "no {why:?} in {problems:#?}");
}

fn import<'a>(report: &'a Value, name: &str) -> &'a Value {
    let imports = report["imports"].as_array().unwrap();
    let found = imports.iter().find(|import| import["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {imports:#?}"))
}

/// A configuration with these applications.
fn config(folder: &Path, applications: Value) -> String {
    let path = folder.join("config.json");
    let config = json!({ "listeners": {}, "applications": applications });
    fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn app(environment: Value) -> Value {
    let kind = "wasm-wasi-component";
    json!({ "type": kind, "component": "/srv/app.wasm", "environment": environment })
}

#[test]
fn components_of_both_generations_can_be_served() {
    for (file, world, wasi) in [
        ("example/rust/rust.wasm", "wasi:http/proxy@0.2", "0.2"),
        (
            "example/hello-p3/hello-p3.wasm",
            "wasi:http/service@0.3",
            "0.3",
        ),
        ("example/c/c.wasm", "wasi:http/proxy@0.2", "0.2"),
    ] {
        let path = repository(file);
        let report = check(&path, &[]);
        assert_eq!(report["servable"], true, "{report:#}");
        assert_eq!(report["kind"], "component");
        assert_eq!(
            (&report["world"], &report["wasi"]),
            (&world.into(), &wasi.into())
        );
        assert_eq!(report["size"], fs::metadata(&path).unwrap().len());
        let digest = fs::read_to_string(path.with_file_name("component.sha256")).unwrap();
        assert!(
            digest.contains(report["sha256"].as_str().unwrap()),
            "{digest}"
        );
        let number = |name: &str| report[name].as_u64().unwrap();
        assert!(number("core_modules") >= 1 && number("code_size") > 1000);
        assert!(number("initial_memory") >= 65_536);
        assert!(number("minimum_memory") >= number("initial_memory"));
        let statuses = report["imports"].as_array().unwrap();
        assert!(statuses.iter().all(|import| import["status"] == "always"));
    }
    let ran = run(&["check", text(&repository("example/rust/rust.wasm"))]);
    assert_eq!(ran.code, 0);
    for part in ["language Rust", "wasi:io/poll@0.2", "It can be served.\n"] {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
}

#[test]
fn settings_that_imports_need_are_named() {
    let file = repository("example/secrets/secrets.wasm");
    let all = [
        "UNIT_WASM_SECRETS",
        "UNIT_WASM_ALLOW_SECRETS",
        "UNIT_WASM_AUDIT_LOG",
    ];
    let report = check(&file, &[]);
    assert_eq!(report["servable"], true);
    assert_eq!(report["settings"]["needed"], json!(all));
    let secrets = import(&report, "unit:wasm/secrets@0.1.0");
    assert_eq!(secrets["status"], "setting");
    assert_eq!(secrets["interface"], "unit:wasm/secrets");
    assert_eq!(secrets["version"], "0.1.0");
    assert_eq!(secrets["required_settings"], json!(all[..2]));

    // Some are set: only the rest is missing.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    fs::write(&path, "token = abcdef\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = json!({ "UNIT_WASM_SECRETS": path });
    let part = config(folder.path(), json!({ "door": app(environment) }));
    let report = check(&file, &["--config", &part]);
    assert_eq!(report["application"], "door");
    assert_eq!(report["settings"]["missing"], json!(all[1..]));
    assert_refused(
        &report,
        "`unit:wasm/secrets@0.1.0`, which is not granted: that takes UNIT_WASM_ALLOW_SECRETS",
    );
    assert_refused(
        &report,
        "`unit:wasm/audit-log@0.1.0`, which is not granted: that takes UNIT_WASM_AUDIT_LOG",
    );

    let log = folder.path().join("audit.log");
    let mut environment = json!({
        "UNIT_WASM_SECRETS": path, "UNIT_WASM_ALLOW_SECRETS": "token", "UNIT_WASM_AUDIT_LOG": log,
    });
    let whole = config(folder.path(), json!({ "door": app(environment.clone()) }));
    let report = check(&file, &["--config", &whole]);
    assert_eq!(report["servable"], true, "{report:#}");
    assert_eq!(report["settings"]["missing"], json!([]));
    assert!(!log.exists(), "a check has changed something");

    environment["UNIT_WASM_ALLOW_SECRETS"] = "other".into();
    let other = config(folder.path(), json!({ "door": app(environment) }));
    let report = check(&file, &["--config", &other]);
    assert_refused(&report, "has no secret of that name");
    // The file is on another machine.
    let report = check(&file, &["--config", &other, "--without-files"]);
    assert_eq!(report["servable"], true, "{report:#}");
}

#[test]
fn settings_that_are_of_use_are_named() {
    let report = check(&repository("tests/guests/caps-http/caps-http.wasm"), &[]);
    let client = import(&report, "wasi:http/outgoing-handler@0.2.4");
    assert_eq!(client["status"], "always");
    assert_eq!(client["optional_settings"], json!(["UNIT_WASM_ALLOW_HTTP"]));

    let folder = tempfile::tempdir().unwrap();
    let environment = json!({ "UNIT_WASM_ALLOW_TCP": "127.0.0.1:1", "A": "b" });
    let path = config(folder.path(), json!({ "net": app(environment) }));
    let file = repository("tests/guests/caps-net/caps-net.wasm");
    let report = check(&file, &["--config", &path]);
    assert_eq!(report["servable"], true, "{report:#}");
    let set = &report["settings"]["optional_set"];
    assert_eq!(
        *set,
        json!(["UNIT_WASM_ALLOW_TCP", "environment"]),
        "{report:#}"
    );
    let optional = report["settings"]["optional"].as_array().unwrap();
    assert!(
        optional.contains(&json!("UNIT_WASM_ALLOW_UDP")),
        "{optional:?}"
    );
}

#[test]
fn bad_settings_are_told_as_the_module_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = repository("example/rust/rust.wasm");
    let missing = folder.path().join("missing");
    for (application, why) in [
        (
            app(json!({ "UNIT_WASM_FEUL": "1" })),
            "unknown setting UNIT_WASM_FEUL = \"1\": the nearest known one is UNIT_WASM_FUEL",
        ),
        (
            app(json!({ "UNIT_WASM_MEMORY": "lots" })),
            "UNIT_WASM_MEMORY: bad value \"lots\"",
        ),
        (
            app(json!({ "UNIT_WASM_SHA256": "0".repeat(64) })),
            "UNIT_WASM_SHA256 asks for 000",
        ),
        (
            app(json!({ "UNIT_WASM_REUSE": "9", "UNIT_WASM_REUSE_CONCURRENT": "2" })),
            "UNIT_WASM_REUSE_CONCURRENT = \"2\" takes a component of WASI 0.3",
        ),
        (
            app(json!({ "UNIT_WASM_AUDIT_LOG": missing.join("log") })),
            "UNIT_WASM_AUDIT_LOG: bad value",
        ),
        (
            json!({ "type": "wasm", "module": "/a", "access": { "filesystem": [missing] } }),
            "of access.filesystem: No such file or directory",
        ),
        (
            json!({ "type": "wasm" }),
            "member \"module\": the path of a component is needed",
        ),
        (
            app(json!({ "UNIT_WASM_KEYVALUE": "what:ever" })),
            "UNIT_WASM_KEYVALUE: bad value",
        ),
    ] {
        let path = config(folder.path(), json!({ "a": application }));
        assert_refused(&check(&file, &["--config", &path]), why);
    }
}

#[test]
fn memory_that_is_needed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let wat = fs::read_to_string(repository("tests/guests/bad/big-memory.wat")).unwrap();
    let file = folder.path().join("big.wasm");
    write_wat(&file, &wat);
    let report = check(&file, &[]);
    assert_eq!(report["servable"], true, "{report:#}");
    assert_eq!(report["settings"]["needed"], json!(["UNIT_WASM_MEMORY"]));
    assert_eq!(report["minimum_memory"], report["initial_memory"]);
    let small = config(folder.path(), json!({ "a": app(json!({})) }));
    let report = check(&file, &["--config", &small]);
    assert_refused(&report, "raise UNIT_WASM_MEMORY");
    assert_eq!(report["settings"]["missing"], json!(["UNIT_WASM_MEMORY"]));
    let large = app(json!({ "UNIT_WASM_MEMORY": "4GiB" }));
    let large = config(folder.path(), json!({ "a": large }));
    assert_eq!(check(&file, &["--config", &large])["servable"], true);
}

#[test]
fn what_the_module_refuses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let limits = app(json!({ "UNIT_WASM_CPU_TIME": "100ms" }));
    let limits = config(folder.path(), json!({ "a": limits }));
    for (name, why) in [
        ("core-module", "a core WebAssembly module, not a component"),
        ("empty-handler", "is not that of an HTTP component"),
        ("no-handler", "no export `wasi:http/incoming-handler@0.2.x`"),
        ("spinning-start", "(UNIT_WASM_CPU_TIME)"),
        ("trapping-start", "no instance of the component can be made"),
        ("unsatisfied-import", "unsatisfied import: `"),
        ("wrong-handler", "is not that of an HTTP component"),
    ] {
        let wat = repository(&format!("tests/guests/bad/{name}.wat"));
        let file = folder.path().join(name);
        write_wat(&file, &fs::read_to_string(wat).unwrap());
        let report = check(&file, &["--config", &limits]);
        assert_refused(&report, why);
    }
    let report = check(&repository("example/middleware/middleware.wasm"), &[]);
    assert_refused(&report, "has to be composed with that one first");
    assert_eq!(
        import(&report, "wasi:http/handler@0.3.0")["status"],
        "compose"
    );
}

#[test]
fn all_imports_that_nothing_satisfies_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("imports.wasm");
    // One that is not there, one that takes a setting, one of another type, and one
    // that is not of an interface; resources of the first are of its own.
    write_wat(
        &file,
        r#"(component
            (import "acme:queue/put@1.0.0" (instance
                (export "thing" (type (sub resource)))
                (export "put" (func (param "a" string)))))
            (import "unit:wasm/secrets@0.1.0" (instance
                (export "names" (func (result (list string))))))
            (import "wasi:random/random@0.2.0" (instance
                (export "get-random-u64" (func (result u32)))))
            (import "wasi:cli/exit@0.2.0" (instance))
            (import "plain" (func))
            (instance $none)
            (export "wasi:http/incoming-handler@0.2.0" (instance $none)))"#,
    );
    let report = check(&file, &[]);
    for (name, status, problem) in [
        ("acme:queue/put@1.0.0", "missing", Some("`thing`")),
        ("unit:wasm/secrets@0.1.0", "setting", None),
        (
            "wasi:random/random@0.2.0",
            "missing",
            Some("`get-random-u64`"),
        ),
        ("wasi:cli/exit@0.2.0", "always", None),
        ("plain", "missing", Some("implementation is missing")),
    ] {
        let import = import(&report, name);
        assert_eq!(import["status"], status, "{import}");
        let text = import["problem"].as_str();
        assert_eq!(text.is_some(), problem.is_some(), "{import}");
        assert!(
            text.unwrap_or_default()
                .contains(problem.unwrap_or_default()),
            "{import}"
        );
        if problem.is_some() {
            assert_refused(&report, &format!("unsatisfied import: `{name}`"));
        }
    }
}

#[test]
fn imports_that_were_not_tried_are_not_taken_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.wasm");
    let handler = "(instance $none)
        (export \"wasi:http/incoming-handler@0.2.0\" (instance $none))";
    // A module, which the host has none of.
    write_wat(
        &file,
        &format!("(component (import \"odd\" (core module)) (import \"later\" (func)) {handler})"),
    );
    let report = check(&file, &[]);
    assert_eq!(import(&report, "odd")["status"], "missing");
    assert_eq!(import(&report, "later")["status"], "unknown");

    let many: String = (0..3000)
        .map(|n| format!("(import \"f{n}\" (func))"))
        .collect();
    write_wat(&file, &format!("(component {many} {handler})"));
    let report = check(&file, &[]);
    let count = |status: &str| {
        let imports = report["imports"].as_array().unwrap().iter();
        imports.filter(|import| import["status"] == status).count()
    };
    assert_eq!((count("missing"), count("unknown")), (1000, 2000));
}

#[test]
fn damaged_files_are_told_from_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.wasm");
    let good = fs::read(repository("tests/guests/c-hello/c-hello.wasm")).unwrap();
    for end in (0..10).map(|tenth| good.len() * tenth / 10) {
        fs::write(&file, &good[..end]).unwrap();
        assert_eq!(check(&file, &[])["servable"], false, "cut at {end}");
    }
    // Whatever it says of these, it says something.
    for at in (8..good.len()).step_by(good.len() / 20) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&file, &bad).unwrap();
        check(&file, &[]);
    }
    for text in ["", "#!/bin/sh\n", "\0asm", "\0asm\u{d}\0\u{1}\0\u{7f}"] {
        fs::write(&file, text).unwrap();
        assert_eq!(check(&file, &[])["servable"], false, "{text:?}");
    }
    // Deeper than any compiler goes.
    let mut deep = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..50_000 {
        deep = [&deep[..8], &[4], &length(deep.len())[..], &deep].concat();
        if deep.len() > 200_000 {
            break;
        }
    }
    fs::write(&file, &deep).unwrap();
    assert_eq!(check(&file, &[])["servable"], false);
}

/// In five bytes of LEB128.
fn length(size: usize) -> [u8; 5] {
    let digit = |place: usize| u8::try_from(size >> (7 * place) & 0x7f).unwrap();
    [
        digit(0) | 0x80,
        digit(1) | 0x80,
        digit(2) | 0x80,
        digit(3) | 0x80,
        digit(4),
    ]
}

#[test]
fn what_cannot_be_looked_at_has_a_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let good = repository("example/rust/rust.wasm");
    let huge = folder.path().join("huge.wasm");
    fs::File::create(&huge).unwrap().set_len(3 << 30).unwrap();
    let bad = folder.path().join("bad.json");
    fs::write(&bad, "{").unwrap();
    let two = config(
        folder.path(),
        json!({ "a": app(json!({})), "b": app(json!({})) }),
    );
    let missing = folder.path().join("missing");
    for (arguments, why) in [
        (vec![text(&missing)], "No such file"),
        (vec![text(folder.path())], "is not a regular file"),
        (vec!["/dev/zero"], "is not a regular file"),
        (vec![text(&huge)], "more than the 1073741824"),
        (vec![text(&good), "--config", text(&bad)], "is not JSON"),
        (vec![text(&good), "--config", text(&missing)], "cannot read"),
        (
            vec![text(&good), "--config", &two],
            "--name is needed, one of: a, b",
        ),
        (
            vec![text(&good), "--config", &two, "--name", "c"],
            "no application \"c\"",
        ),
        (vec![text(&good), "--no-such-option"], "--no-such-option"),
        (vec![], "<FILE>"),
    ] {
        let mut all = vec!["check"];
        all.extend(arguments);
        let ran = run(&all);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(why) && ran.out.is_empty(), "{ran:?}");
    }
}

#[test]
fn what_a_file_says_of_itself_cannot_move_the_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("named.wasm");
    write_wat(&file, "(component (import \"a\" (func)))");
    let mut bytes = fs::read(&file).unwrap();
    let language = b"\x01\x08language\x01\x07\x1b[2J\x07ev\x00";
    let mut section = vec![9];
    section.extend(b"producers");
    section.extend(language);
    bytes.push(0);
    bytes.push(u8::try_from(section.len()).unwrap());
    bytes.extend(section);
    fs::write(&file, bytes).unwrap();
    let ran = run(&["check", text(&file)]);
    assert!(ran.out.contains("language \\u{1b}[2J\\u{7}ev"), "{ran:?}");
    assert!(!ran.out.contains('\x1b'), "{ran:?}");
}
