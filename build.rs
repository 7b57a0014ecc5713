//! Tells the module which Wasmtime is inside: it is the version that Unit
//! sees, which takes the highest of the modules of one type. And keeps symbols in
//! that rustc would export.

use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let version = lock
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"wasmtime\"\n"))
        .and_then(|package| package.lines().find_map(|l| l.strip_prefix("version = ")))
        .map_or("48", |v| v.trim_matches('"'));
    println!("cargo::rustc-env=NXT_WASMTIME_VERSION={version}");
    keep_symbols_in();
}

/// rustc writes a version script of its own. lld, which it links with on x86-64
/// Linux, takes a second one, in which what is local comes first; other linkers
/// refuse it.
fn keep_symbols_in() {
    println!("cargo::rerun-if-changed=unexported.map");
    let target = env::var("TARGET").unwrap_or_default();
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if target == "x86_64-unknown-linux-gnu" {
        println!("cargo::rustc-cdylib-link-arg=-Wl,--version-script={folder}/unexported.map");
    }
}
