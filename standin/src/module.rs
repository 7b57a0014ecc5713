//! Language modules: loading and finding them.

use std::ffi::{CStr, c_char};
use std::io;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use serde_json::{Value, json};

use crate::ffi::{self, nxt_app_module_t};
use crate::log::{Level, log};

/// A module that was found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its application type.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// The shared object.
    pub file: PathBuf,
}

/// A loaded module; it is never unloaded.
pub struct Loaded {
    /// What it exports.
    pub exported: &'static nxt_app_module_t,
    /// Type and version.
    pub module: Module,
}

/// Loads a module and checks that it was built for this host.
pub fn load(file: &Path) -> io::Result<Loaded> {
    // SAFETY: runs the object's initialisers, which is the point; this is a
    // short-lived or a prototype process with one thread.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(io::Error::other)?;
    // SAFETY: only its address is used.
    let symbol: Result<Symbol<*mut ()>, _> = unsafe { library.get(b"nxt_app_module") };
    let at = symbol.map_err(io::Error::other)?.as_raw_ptr();
    std::mem::forget(library);
    // SAFETY: by the contract of modules, a static of this type; the library
    // is never unloaded.
    let exported = unsafe { &*at.cast::<nxt_app_module_t>().cast_const() };

    let compat = [ffi::NXT_VERNUM, ffi::NXT_DEBUG];
    if exported.compat_length != size_of_val(&compat) {
        return Err(io::Error::other("incompatible module"));
    }
    // SAFETY: the length was checked; the module vouches for the pointer.
    let theirs = unsafe { std::slice::from_raw_parts(exported.compat, compat.len()) };
    if theirs != compat {
        return Err(io::Error::other(format!(
            "incompatible module: built for {theirs:?}, this is {compat:?}"
        )));
    }
    // SAFETY: a string of the module.
    let kind = unsafe { std::slice::from_raw_parts(exported.type_.start, exported.type_.length) };
    let module = Module {
        kind: String::from_utf8_lossy(kind).into_owned(),
        version: text(exported.version),
        file: file.to_path_buf(),
    };
    Ok(Loaded { exported, module })
}

fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: a NUL-terminated string of the module.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_string_lossy().into_owned()
}

/// The role that looks into a directory and prints what it found.
pub fn discover(directory: &Path) -> io::Result<()> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".unit.so"))
        .collect();
    files.sort();
    for file in files {
        match load(&file) {
            Ok(Loaded { module, .. }) => {
                let file = module.file.to_string_lossy();
                println!(
                    "{}",
                    json!({"type": module.kind, "version": module.version, "file": file})
                );
            }
            Err(error) => log(
                Level::Notice,
                format!("module {} is not usable: {error}", file.display()),
            ),
        }
    }
    Ok(())
}

/// Reads what `discover` printed; the highest version comes first, and of two
/// equal ones the first file counts.
pub fn parse_list(printed: &str) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for line in printed.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let module = Module {
            kind: member("type").to_owned(),
            version: member("version").to_owned(),
            file: member("file").into(),
        };
        let same = |other: &Module| other.kind == module.kind && other.version == module.version;
        if !modules.iter().any(same) {
            modules.push(module);
        }
    }
    modules.sort_by_key(|module| std::cmp::Reverse(numbers(&module.version)));
    modules
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// The module for the `type` of an application: `TYPE` or `TYPE VERSION`,
/// where the version may be the beginning of one.
pub fn find<'a>(modules: &'a [Module], wanted: &str) -> Option<&'a Module> {
    let (kind, version) = wanted.split_once(' ').unwrap_or((wanted, ""));
    modules.iter().find(|module| {
        module.kind == kind
            && module
                .version
                .strip_prefix(version)
                .is_some_and(|rest| version.is_empty() || rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_fitting_version_is_found() {
        let modules = parse_list(
            r#"{"type":"wasm","version":"9.1","file":"/a"}
{"type":"wasm","version":"48.0.1","file":"/b"}
{"type":"wasm","version":"48.0.1","file":"/c"}"#,
        );
        let file = |wanted| find(&modules, wanted).map(|module| module.file.to_str().unwrap());
        assert_eq!(file("wasm"), Some("/b"));
        assert_eq!(file("wasm 48"), Some("/b"));
        assert_eq!(file("wasm 9"), Some("/a"));
        assert_eq!(file("wasm 4"), None);
        assert_eq!(file("php"), None);
    }
}
