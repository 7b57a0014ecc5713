//! Tells the crate which Wasmtime release it is built with.

use std::fs;

fn main() {
    // The lock file is the only place that names the release exactly.
    let lock = "../Cargo.lock";
    println!("cargo::rerun-if-changed={lock}");
    let text = fs::read_to_string(lock).unwrap_or_default();
    let version = text
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"wasmtime\"\n"))
        .and_then(|package| package.lines().find_map(|l| l.strip_prefix("version = ")))
        .map_or("unknown", |v| v.trim_matches('"'));
    println!("cargo::rustc-env=NXT_WASMTIME_VERSION={version}");
}
