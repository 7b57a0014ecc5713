//! The build script on trees that lack something, and what it tells cargo to
//! watch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use tempfile::TempDir;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the script prints when cargo runs it with this `UNIT_SRC`.
fn run(unit_src: &Path) -> Vec<String> {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("NXT_BUILD_SCRIPT"))
        .current_dir(here())
        .env("UNIT_SRC", unit_src)
        .env("CARGO_MANIFEST_DIR", here())
        .env("OUT_DIR", out.path())
        .env("TARGET", env!("NXT_BUILD_TARGET"))
        .env("HOST", env!("NXT_BUILD_TARGET"))
        .env("OPT_LEVEL", "0")
        .env("CARGO_CFG_TARGET_ARCH", env::consts::ARCH)
        .env("RUSTC", env::var_os("RUSTC").unwrap_or("rustc".into()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let made = out.path().join("bindings.rs").exists();
    assert_eq!(made, !text.contains("cargo::error="), "{text}");
    text.lines().map(str::to_owned).collect()
}

/// The values of an instruction to cargo, in both of its spellings.
fn values(lines: &[String], name: &str) -> BTreeSet<String> {
    let spellings = [format!("cargo::{name}="), format!("cargo:{name}=")];
    let value = |line: &String| {
        let found = spellings.iter().find_map(|start| line.strip_prefix(start));
        found.map(str::to_owned)
    };
    lines.iter().filter_map(value).collect()
}

/// The one error that the script ends with.
#[track_caller]
fn error(unit_src: &Path) -> String {
    let lines = run(unit_src);
    let errors = values(&lines, "error");
    let said = lines.iter().filter(|line| line.contains("error")).count();
    assert_eq!((errors.len(), said), (1, 1), "{lines:#?}");
    errors.into_iter().next().unwrap()
}

#[track_caller]
fn assert_error(unit_src: &Path, missing: &str, advice: &str) {
    let text = error(unit_src);
    let begin = format!("UNIT_SRC={}: ", unit_src.display());
    assert!(text.starts_with(&begin), "{text}");
    assert!(text.contains(missing), "{missing:?} not in: {text}");
    assert!(text.contains(advice), "{advice:?} not in: {text}");
}

/// A tree as it is when it has been configured and built; the headers are the
/// stand-in's.
fn tree() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    for folder in ["src", "build/include", "build/src"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for entry in fs::read_dir(here().join("../standin/include")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, root.join("src").join(path.file_name().unwrap())).unwrap();
    }
    for header in ["nxt_auto_config.h", "nxt_version.h"] {
        fs::write(root.join("build/include").join(header), "").unwrap();
    }
    // What Unit includes from there has to be watched as well.
    let main = root.join("src/nxt_main.h");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("#include <nxt_auto_config.h>\n{text}")).unwrap();
    let source = root.join("nxt_unit.c");
    fs::write(&source, "int nxt_unit_none;\n").unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-c").arg(source).arg("-o");
    let status = cc.arg(root.join("build/src/nxt_unit.o")).status();
    assert!(status.unwrap().success());
    tree
}

const WHICH: &str = "name the source tree of the unitd that is to load the module";

#[test]
fn a_tree_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("unit");
    assert_error(&missing, "no such directory", WHICH);
    assert_error(Path::new("unit"), "an absolute path is needed", WHICH);
}

#[test]
fn a_directory_that_is_no_tree() {
    let folder = tempfile::tempdir().unwrap();
    assert_error(folder.path(), "src/nxt_unit.h is missing", WHICH);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_error(&file, "src/nxt_unit.h is missing", WHICH);
}

#[test]
fn a_tree_that_is_not_configured_or_not_built() {
    for header in ["nxt_auto_config.h", "nxt_version.h"] {
        let tree = tree();
        let path = Path::new("build/include").join(header);
        fs::remove_file(tree.path().join(&path)).unwrap();
        let missing = format!("{} is missing", path.display());
        assert_error(tree.path(), &missing, "run `./configure`");
    }
}

#[test]
fn a_tree_without_libunit() {
    let tree = tree();
    fs::remove_file(tree.path().join("build/src/nxt_unit.o")).unwrap();
    let advice = "run `make build/src/nxt_unit.o` in the tree";
    assert_error(tree.path(), "build/src/nxt_unit.o is missing", advice);
}

#[test]
fn headers_that_do_not_compile() {
    let tree = tree();
    let broken = "#error broken\n#error twice\n";
    fs::write(tree.path().join("src/nxt_application.h"), broken).unwrap();
    let text = error(tree.path());
    assert!(
        text.contains("broken") && text.contains("nxt_application.h"),
        "{text}"
    );
}

/// What of `wrapper.h`'s includes the compiler finds in the tree.
fn included(include: &[PathBuf], tree: &Path) -> BTreeSet<String> {
    let mut cc = Command::new("cc");
    cc.args(["-M", "-MT", "x"]);
    for folder in include {
        cc.arg("-I").arg(folder);
    }
    let output = cc.arg(here().join("wrapper.h")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_whitespace().filter(|word| *word != "\\");
    let of_tree = words.filter(|word| Path::new(word).starts_with(tree));
    of_tree.map(str::to_owned).collect()
}

#[test]
fn everything_that_the_bindings_depend_on_is_watched() {
    let folder = tree();
    let tree = folder.path().canonicalize().unwrap();
    let lines = run(&tree);
    assert_eq!(values(&lines, "error"), BTreeSet::new());
    assert!(values(&lines, "rerun-if-env-changed").contains("UNIT_SRC"));
    let watched = values(&lines, "rerun-if-changed");
    let mut needed = included(&[tree.join("src"), tree.join("build/include")], &tree);
    assert!(needed.len() > 6, "{needed:#?}");
    let auto_config = tree.join("build/include/nxt_auto_config.h");
    assert!(needed.contains(auto_config.to_str().unwrap()));
    needed.insert(tree.join("build/src/nxt_unit.o").display().to_string());
    let missed: Vec<&String> = needed.difference(&watched).collect();
    assert!(missed.is_empty(), "not watched: {missed:#?}");
    assert!(watched.contains("wrapper.h"));
}

#[test]
fn the_headers_of_the_stand_in_are_watched_too() {
    let lines = run(Path::new(""));
    let include = here().join("../standin/include");
    let watched = values(&lines, "rerun-if-changed");
    let needed = included(std::slice::from_ref(&include), &include);
    assert!(needed.len() > 6, "{needed:#?}");
    let missed: Vec<&String> = needed.difference(&watched).collect();
    assert!(missed.is_empty(), "not watched: {missed:#?}");
    // And nothing is linked: the stand-in provides the functions.
    assert_eq!(values(&lines, "rustc-link-lib"), BTreeSet::new());
}
