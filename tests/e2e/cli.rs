//! `nxt-wasm` and the module agree: on artifacts, and on what cannot be served. What
//! it makes to begin with can be built and deployed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::cli::{self, Ran};
use harness::config::Config;
use harness::http::{self, Request};
use harness::launch::open_to_all;
use harness::{App, Host, Server, guests};
use serde_json::{Value, json};

use crate::deploy::Site;
use crate::startup::expect_refusal;
use crate::{Case, Scope, cases};

pub fn cases() -> Vec<Case> {
    let mut cases = cases!["cli", Cli:
        artifacts_of_the_tool_are_found,
        what_the_tool_refuses_the_module_refuses_for_the_same_reason,
    ];
    for (name, run, language) in [
        (
            "cli::a_starter_in_rust",
            a_starter_in_rust as fn(&Host),
            "rust",
        ),
        ("cli::a_starter_in_python", a_starter_in_python, "python"),
    ] {
        let scope = Scope::Starter(language);
        cases.push(Case { name, run, scope });
    }
    cases
}

/// Runs a command of the tool with the component and the configuration of `app`.
fn run(command: &str, server: &Server, host: &Host, app: &App, further: &[&str]) -> Ran {
    let config = server.dir().join(format!("{}.json", app.name));
    let cache = server.dir().join("no-cache-of-its-own");
    fs::write(&config, app.json(host, &cache).to_string()).unwrap();
    let mut arguments = vec![command, app.component.to_str().unwrap()];
    arguments.extend(["--config", config.to_str().unwrap()]);
    arguments.extend(further);
    cli::run(arguments)
}

fn cached(app: App, directory: &Path) -> App {
    app.env("UNIT_WASM_CACHE", directory.to_str().unwrap())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the cache directory");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn artifacts_of_the_tool_are_found(host: &Host) {
    let mut server = Server::bare(host);
    let cache = server.dir().join("made/by/the/tool");
    let apps = [
        App::hello(),
        App::hello()
            .named("fuel")
            .env("UNIT_WASM_FUEL", "100000000"),
        App::hello().named("deep").env("UNIT_WASM_STACK", "1MiB"),
        App::new("newer", &guests::hello_p3()),
    ];
    let apps = apps.map(|app| cached(app, &cache));
    for app in &apps {
        let ran = run("compile", &server, host, app, &["--verify"]).ok();
        assert!(ran.out.contains("handler=wasi:http/"), "{ran:?}");
    }
    let made = files(&cache);
    // One for each engine; the size of the stack is no part of the code.
    assert_eq!(made.len(), 3, "{made:?}");
    server.apply(&Config::of(apps.clone()));
    for app in &apps {
        let response = http::fetch(server.addr_of(&app.name), &Request::get("/"));
        response.expect("an answer").ok();
        let start = format!("wasm \"{}\": component ", app.name);
        let line = server.log.expect(&[&start]);
        assert!(line.contains(", artifact found in the cache in "), "{line}");
    }
    assert_eq!(files(&cache), made);
    server.finish();
}

fn what_the_tool_refuses_the_module_refuses_for_the_same_reason(host: &Host) {
    let mut server = Server::start(host, App::lab());
    expect_refusal(&mut server);
    let missing = server.dir().join("missing");
    for (number, app) in [
        App::new("", &guests::secrets()),
        App::new("", &guests::middleware()),
        App::hello().env("UNIT_WASM_MEMROY", "64MiB"),
        App::hello().env("UNIT_WASM_MEMORY", "512KiB"),
        App::hello().env("UNIT_WASM_SHA256", &"0".repeat(64)),
        App::hello().env("UNIT_WASM_SECRETS", missing.to_str().unwrap()),
        App::hello().filesystem(json!([missing])),
        App::new("", &guests::root().join("README.md")),
    ]
    .into_iter()
    .enumerate()
    {
        let app = app.named(&format!("bad-{number}"));
        let ran = run("check", &server, host, &app, &["--json"]).code(1);
        let report: Value = serde_json::from_str(&ran.out).expect("JSON");
        let reason = report["problems"][0].as_str().expect("a reason").to_owned();
        let reply = server.put(&Config::of([App::lab(), app.clone()]));
        assert!(!reply.success(), "accepted, though {reason}: {reply:?}");
        let begin = format!("wasm \"{}\" cannot start: ", app.name);
        server.log.expect(&[&begin, &reason]);
    }
    server.finish();
}

/// What `tools/build-python-guest` has installed, in the place where a starter's
/// `build.sh` installs it.
fn python_tools() -> PathBuf {
    let mut lines = include_str!("../../tools/build-python-guest").lines();
    let version = lines.find_map(|line| line.strip_prefix("componentize_py_version="));
    let version = version.expect("the version of componentize-py");
    guests::root().join(format!("build/tools/python-{version}"))
}

/// Whether the tool is there, and what components in that language are built with,
/// so that nothing has to be downloaded.
pub fn can_build(language: &str) -> bool {
    let succeeds = |command: &mut Command| {
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let has_tools = || match language {
        "python" => python_tools().join("bin/componentize-py").exists(),
        _ => {
            let mut libraries = Command::new("rustc");
            libraries.args(["--print", "target-libdir", "--target", "wasm32-wasip2"]);
            let found = libraries.output().map(|output| output.stdout);
            let found = String::from_utf8(found.unwrap_or_default()).unwrap_or_default();
            let crates = guests::root().join("example/rust/Cargo.toml");
            let mut fetch = Command::new("cargo");
            fetch.args(["fetch", "--offline", "--locked", "--manifest-path"]);
            Path::new(found.trim()).is_dir() && succeeds(fetch.arg(crates))
        }
    };
    cli::program().is_some() && has_tools()
}

fn a_starter_in_rust(host: &Host) {
    builds_and_serves(host, "rust", |_| {});
}

fn a_starter_in_python(host: &Host) {
    builds_and_serves(host, "python", |directory| {
        fs::create_dir(directory.join(".build")).unwrap();
        symlink(python_tools(), directory.join(".build/python")).unwrap();
    });
}

/// Makes a component to begin with, builds it as its README says, and deploys it.
fn builds_and_serves(host: &Host, language: &str, prepare: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    let directory = folder.path().join("my-shop");
    cli::run(["init", language, directory.to_str().unwrap()]).ok();
    prepare(&directory);
    let mut build = Command::new("sh");
    build.arg(directory.join("build.sh")).current_dir("/");
    build
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO_TARGET_DIR");
    let built = build.output().expect("sh");
    assert!(built.status.success(), "{built:?}");

    let component = directory.join("my-shop.wasm");
    let config = directory.join("config.json");
    let arguments = [&component, Path::new("--config"), &config].map(Path::as_os_str);
    let checked = cli::run([OsStr::new("check")].into_iter().chain(arguments)).ok();
    assert!(checked.out.contains("It can be served."), "{checked:?}");

    let site = Site::start(host);
    let more = ["--route", "/*", "--env", "GREETING=Moin"];
    site.deploy(&component, "my-shop", &more).ok();
    let request = Request::post("/a/b?x=1", "hello");
    let response = http::fetch(site.addr, &request).expect("an answer").ok();
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    for (name, value) in [
        ("language", json!(language)),
        ("path", json!("/a/b")),
        ("query", json!({ "x": "1" })),
        ("body", json!("hello")),
        ("greeting", json!("Moin")),
    ] {
        assert_eq!(said[name], value, "{said}");
    }
    site.server.finish();
}
