//! Binds and links the Unit tree that `UNIT_SRC` names; without it, binds the
//! stand-in's headers and leaves the functions for the stand-in to provide.

mod bindings;

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    // This fails the build. An exit code would make cargo say it twice, in the
    // midst of everything else that was printed here.
    if let Err(error) = run() {
        println!("cargo::error={}", error.trim().replace('\n', "; "));
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
    tell_tests()?;
    bindings::generate(&here.join("wrapper.h"), &include_dirs, &out)
}

/// The tests run this script again, on trees of their own.
fn tell_tests() -> Result<(), String> {
    let script = env::current_exe().map_err(|e| format!("no path of the build script: {e}"))?;
    let target = env::var("TARGET").map_err(|e| format!("TARGET: {e}"))?;
    println!("cargo::rustc-env=NXT_BUILD_SCRIPT={}", script.display());
    println!("cargo::rustc-env=NXT_BUILD_TARGET={target}");
    Ok(())
}

/// What to do about a tree that is none.
const WHICH: &str = "name the source tree of the unitd that is to load the module, or leave \
                     UNIT_SRC empty to build for the stand-in";

/// Checks that the tree is there, configured and built, and links its libunit.
fn link_unit(tree: &Path) -> Result<Vec<PathBuf>, String> {
    let name = format!("UNIT_SRC={}", tree.display());
    if tree.is_relative() {
        return Err(format!("{name}: an absolute path is needed; {WHICH}"));
    }
    let tree = tree
        .canonicalize()
        .map_err(|e| format!("{name}: there is no such directory ({e}); {WHICH}"))?;
    let need = |path: &str, what: &str| {
        let path = tree.join(path);
        println!("cargo::rerun-if-changed={}", path.display());
        if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{name}: {} is missing: {what}", path.display()))
        }
    };
    need(
        "src/nxt_unit.h",
        &format!("this is not a source tree of NGINX Unit or FreeUnit; {WHICH}"),
    )?;
    for header in ["nxt_auto_config.h", "nxt_version.h"] {
        need(
            &format!("build/include/{header}"),
            "the tree is not configured and built; run `./configure` with the options of that \
             unitd, and `make`, in the tree",
        )?;
    }
    let object = need(
        "build/src/nxt_unit.o",
        "libunit is not built; run `make build/src/nxt_unit.o` in the tree",
    )?;
    cc::Build::new()
        .object(object)
        .try_compile("nxt_unit_static")
        .map_err(|e| format!("{name}: cannot archive nxt_unit.o: {e}"))?;
    Ok(vec![tree.join("src"), tree.join("build/include")])
}
