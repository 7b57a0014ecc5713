//! The module's file: what it exports, and what Unit makes of it beside the
//! module of its own for the same type.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::config::Config;
use harness::host::ModuleType;
use harness::{App, Host, Kind, Server, guests};
use serde_json::json;

use crate::startup::expect_refusal;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["modules", All:
        nothing_but_the_descriptor_is_exported,
        ours_wins_over_the_one_that_unit_ships,
    ];
    all.extend(cases!["modules_wasm", WasmType:
        nothing_but_the_descriptor_is_exported,
        ours_wins_over_the_one_that_unit_ships,
    ]);
    all
}

/// The file that `make install` makes.
const OURS: &str = "wasmtime.unit.so";

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn nothing_but_the_descriptor_is_exported(host: &Host) {
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=posix"]);
    let symbols = run(nm.arg(host.modules.join(OURS)));
    let names: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, ["nxt_app_module"]);
}

fn type_name(host: &Host) -> &'static str {
    match host.module_type {
        ModuleType::Component => "wasm-wasi-component",
        ModuleType::Wasm => "wasm",
    }
}

/// Where the headers are with which the host was built.
fn headers(host: &Host) -> Vec<PathBuf> {
    let include = match host.kind {
        Kind::Standin => vec![guests::root().join("standin/include")],
        Kind::Unit | Kind::FreeUnit => {
            let tree = host
                .exe
                .ancestors()
                .nth(3)
                .expect("a tree/build/sbin/unitd");
            vec![tree.join("src"), tree.join("build/include")]
        }
    };
    for folder in &include {
        assert!(folder.is_dir(), "no headers in {}", folder.display());
    }
    include
}

/// Builds a module of the same type that cannot serve.
fn build_rival(host: &Host, version: &str, file: &Path) {
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .arg(file);
    for folder in headers(host) {
        cc.arg("-I").arg(folder);
    }
    cc.arg(format!("-DTYPE=\"{}\"", type_name(host)));
    cc.arg(format!("-DVERSION=\"{version}\""));
    run(cc.arg(guests::root().join("tests/modules/rival.c")));
}

fn ours_wins_over_the_one_that_unit_ships(host: &Host) {
    // The name and the version that Unit's own have.
    let theirs = type_name(host).replace('-', "_") + ".unit.so";
    // Which file comes first in the directory makes no difference.
    for (ours, theirs) in [(OURS, theirs.as_str()), ("b.unit.so", "a.unit.so")] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        harness::launch::open_to_all(folder.path());
        fs::copy(host.modules.join(OURS), folder.path().join(ours)).expect("a copy");
        build_rival(host, "0.1", &folder.path().join(theirs));
        let beside = Host {
            modules: folder.path().to_owned(),
            ..host.clone()
        };
        let mut server = Server::start(&beside, App::lab());
        expect_refusal(&mut server);
        assert_eq!(server.get("/").ok().text(), "lab\n");
        // Both are there, and can be named.
        let named = |version: &str| {
            let name = format!("{} {version}", type_name(host));
            App::lab().named("named").member("type", json!(name))
        };
        server.apply(&Config::of([App::lab(), named("48")]));
        assert!(
            !server
                .put(&Config::of([App::lab(), named("0.1")]))
                .success()
        );
        server.expect_log("the rival was started");
        server.log.expect(&["the rival was started"]);
        let started = server
            .log
            .matching(|line| line.contains("the rival was started"));
        assert_eq!(started.len(), 1, "{started:#?}");
        server.apply(&Config::of([App::lab()]));
        server.finish();
    }
}
