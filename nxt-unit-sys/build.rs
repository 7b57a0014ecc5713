//! Binds and links the Unit tree that `UNIT_SRC` names; without it, binds the
//! stand-in's headers and leaves the functions for the stand-in to provide.

mod bindings;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=UNIT_SRC");
    println!("cargo::rerun-if-changed=wrapper.h");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let tree = env::var_os("UNIT_SRC").filter(|value| !value.is_empty());
    let (host, include_dirs) = match tree {
        Some(tree) => ("unit", link_unit(Path::new(&tree))?),
        None => ("standin", vec![here.join("../standin/include")]),
    };
    println!("cargo::metadata=host={host}");
    bindings::generate(&here.join("wrapper.h"), &include_dirs, &out)
}

/// Checks that the tree is there, configured and built, and links its libunit.
fn link_unit(tree: &Path) -> Result<Vec<PathBuf>, String> {
    let name = format!("UNIT_SRC={}", tree.display());
    let tree = tree
        .canonicalize()
        .map_err(|e| format!("{name}: no such source tree of NGINX Unit or FreeUnit: {e}"))?;
    let need = |path: &str, what: &str| {
        let path = tree.join(path);
        println!("cargo::rerun-if-changed={}", path.display());
        if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{name}: {what}: {} is missing", path.display()))
        }
    };
    need(
        "src/nxt_unit.h",
        "this is not a source tree of NGINX Unit or FreeUnit",
    )?;
    for header in ["nxt_auto_config.h", "nxt_version.h"] {
        need(
            &format!("build/include/{header}"),
            "the tree is not configured and built, run `./configure && make` in it",
        )?;
    }
    let object = need(
        "build/src/nxt_unit.o",
        "libunit is not built, run `make build/src/nxt_unit.o` in the tree",
    )?;
    cc::Build::new()
        .object(object)
        .try_compile("nxt_unit_static")
        .map_err(|e| format!("{name}: cannot archive nxt_unit.o: {e}"))?;
    Ok(vec![tree.join("src"), tree.join("build/include")])
}
