//! Bindings to the stand-in's own headers, made as the module makes its own,
//! and the two variadic functions, which stable Rust cannot define.

#[path = "../nxt-unit-sys/bindings.rs"]
mod bindings;

use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let wrapper = here.join("../nxt-unit-sys/wrapper.h");
    bindings::generate(&wrapper, &[here.join("include")], &out)?;

    cc::Build::new()
        .file("csrc/log.c")
        .include("include")
        .flag("-Wall")
        .flag("-Wextra")
        .warnings_into_errors(true)
        .compile("standin_log");

    // Modules find the libunit functions in the executable itself.
    println!("cargo::rustc-link-arg-bins=-rdynamic");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=../nxt-unit-sys/bindings.rs");
    println!("cargo::rerun-if-changed=../nxt-unit-sys/wrapper.h");
    Ok(())
}
