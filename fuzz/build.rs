//! The module takes libunit from whatever loads it. Fuzz targets are loaded by
//! nobody and never call it.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Wl,--unresolved-symbols=ignore-all");
}
