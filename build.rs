//! Tells the module which Wasmtime is inside: it is the version that Unit
//! sees, which takes the highest of the modules of one type.

use std::fs;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let version = lock
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"wasmtime\"\n"))
        .and_then(|package| package.lines().find_map(|l| l.strip_prefix("version = ")))
        .map_or("48", |v| v.trim_matches('"'));
    println!("cargo::rustc-env=NXT_WASMTIME_VERSION={version}");
}
