//! Compiled components.
//!
//! Compiling takes from a fraction of a second to half a minute, so it is
//! done once, and the machine code is kept in a file that every process maps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::engine;
use crate::error::LoadError;
use crate::grants::Grants;
use crate::handle;
use crate::host;
use crate::limits::Limits;
use crate::state::State;

/// What has to be known of a component before it can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Full name of the export that handles requests.
    pub handler: String,
    /// Linear memories of one instance.
    pub memories: u32,
    /// Tables of one instance.
    pub tables: u32,
    /// Elements of the largest table at start.
    pub table_elements: u64,
    /// Bytes of all linear memories and tables after instantiation.
    pub initial_memory: u64,
}

impl Description {
    /// One `name=value` line per member, for handing it to another process.
    pub fn to_text(&self) -> String {
        format!(
            "handler={}\nmemories={}\ntables={}\ntable_elements={}\ninitial_memory={}\n",
            self.handler, self.memories, self.tables, self.table_elements, self.initial_memory
        )
    }

    /// The reverse of [`Description::to_text`]; `None` if `text` is anything
    /// else.
    pub fn from_text(text: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
        Some(Self {
            handler: (*fields.get("handler")?).to_owned(),
            memories: fields.get("memories")?.parse().ok()?,
            tables: fields.get("tables")?.parse().ok()?,
            table_elements: fields.get("table_elements")?.parse().ok()?,
            initial_memory: fields.get("initial_memory")?.parse().ok()?,
        })
    }
}

/// SHA-256 of `bytes` as lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that `bytes` begin like a component.
pub fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', ..]) => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm(
            bytes.get(..bytes.len().min(8)).unwrap_or_default().to_vec(),
        )),
    }
}

/// Names the artifact of a component: its digest, and everything of this
/// engine that shapes code. Equal keys mean interchangeable artifacts.
pub fn key(component_sha256: &str, limits: &Limits) -> Result<String, LoadError> {
    use std::hash::{Hash, Hasher};
    let engine = engine::for_compiling(limits, false)?;
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // Fixes of code generation do not change the compatibility hash.
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    wasmtime_version().hash(&mut hasher);
    Ok(format!("{component_sha256}-{:016x}", hasher.finish()))
}

/// Whether `text` has the form of what [`key`] returns.
pub fn is_key(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('-')
        .is_some_and(|(digest, engine)| digest.len() == 64 && engine.len() == 16)
        && text.split('-').all(hex)
}

/// The exact Wasmtime release that this crate is built with.
pub fn wasmtime_version() -> &'static str {
    env!("NXT_WASMTIME_VERSION")
}

/// Compiles a component to machine code. Uses every core and leaves threads
/// behind: meant for a process that ends soon.
pub fn compile(component: &[u8], limits: &Limits) -> Result<Vec<u8>, LoadError> {
    check_kind(component)?;
    engine::for_compiling(limits, true)?
        .precompile_component(component)
        .map_err(|e| LoadError::Compile(format!("{e:#}")))
}

/// Loads an artifact on trial: checks its world and its imports, of which those
/// in `grants` are satisfied, and makes one instance under the limits, which
/// can use none of them. Runs the component's start code, so it too
/// belongs into a process that ends soon.
///
/// # Safety
///
/// `artifact` must hold what [`compile`] made, unchanged.
pub unsafe fn describe(
    artifact: &[u8],
    limits: &Limits,
    grants: &Grants,
) -> Result<Description, LoadError> {
    let engine = engine::for_compiling(limits, false)?;
    // SAFETY: passed on to the caller.
    let component = unsafe { Component::deserialize(&engine, artifact) }
        .map_err(|e| LoadError::Artifact(format!("{e:#}")))?;
    let handler = find_handler(&engine, &component)?;
    refuse_ungranted(&engine, &component, grants)?;
    let linker = link(&engine, grants)?;
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|e| LoadError::Import(format!("{e:#}")))?;
    let pre = ProxyPre::new(pre).map_err(|e| LoadError::Handler {
        name: handler.clone(),
        problem: format!("{e:#}"),
    })?;
    let initial_memory = handle::try_instantiate(&engine, &pre, &handler, limits)?;
    let resources = component.resources_required();
    Ok(Description {
        handler,
        memories: resources.as_ref().map_or(1, |r| r.num_memories),
        tables: resources.as_ref().map_or(1, |r| r.num_tables),
        table_elements: resources
            .and_then(|r| r.max_initial_table_size)
            .unwrap_or(0),
        initial_memory,
    })
}

/// Everything a component may import if it is granted `grants`.
pub(crate) fn link(engine: &Engine, grants: &Grants) -> Result<Linker<State>, LoadError> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
        .and_then(|()| host::link(&mut linker, grants))
        .map_err(|e| LoadError::Engine(format!("{e:#}")))?;
    Ok(linker)
}

/// Interfaces that only a setting makes available get a message of their own.
fn refuse_ungranted(
    engine: &Engine,
    component: &Component,
    grants: &Grants,
) -> Result<(), LoadError> {
    let ty = component.component_type();
    for (name, _) in ty.imports(engine) {
        if let Some(settings) = host::missing_settings(name, grants) {
            return Err(LoadError::NotGranted {
                import: name.to_owned(),
                settings,
            });
        }
    }
    Ok(())
}

fn find_handler(engine: &Engine, component: &Component) -> Result<String, LoadError> {
    let ty = component.component_type();
    let exports: Vec<String> = ty
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    exports
        .iter()
        .find(|name| name.starts_with("wasi:http/incoming-handler@0.2."))
        .cloned()
        .ok_or_else(|| LoadError::NoHandler {
            exports: if exports.is_empty() {
                "nothing".to_owned()
            } else {
                exports.join(", ")
            },
        })
}

/// Where the kernel shows a process its own descriptors.
const PROC: &str = "/proc/self/fd";

/// Maps the artifact in `file` into this process.
///
/// # Safety
///
/// `file` must hold what [`compile`] made, unchanged, and nobody may change
/// it as long as this process lives.
pub(crate) unsafe fn map(engine: &Engine, file: &File) -> Result<Component, LoadError> {
    // Mapping needs a path. The descriptor's own is right whatever was renamed
    // or chrooted since, if the kernel is behind it: in a root directory of the
    // application's own, /proc can be anything.
    let path = format!("{PROC}/{}", file.as_raw_fd());
    let system = rustix::fs::statfs(PROC);
    let is_procfs = system.is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC);
    let component = if is_procfs {
        // SAFETY: procfs leads to `file` itself, and the caller vouches for its
        // contents, now and later.
        unsafe { Component::deserialize_file(engine, &path) }
    } else {
        // A root directory without /proc: a private copy does as well.
        let bytes = read_all(file)?;
        // SAFETY: the caller vouches for the contents.
        unsafe { Component::deserialize(engine, bytes) }
    };
    component.map_err(|e| LoadError::Artifact(format!("{e:#}")))
}

/// The whole of `file`, from its beginning whatever its position.
pub fn read_all(file: &File) -> Result<Vec<u8>, LoadError> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(|error| LoadError::Io {
            context: "cannot read the compiled artifact",
            error,
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_survives_the_way_through_text() {
        let description = Description {
            handler: "wasi:http/incoming-handler@0.2.3".into(),
            memories: 2,
            tables: 3,
            table_elements: 4000,
            initial_memory: 1_114_112,
        };
        let text = description.to_text();
        assert_eq!(Description::from_text(&text), Some(description));
        assert_eq!(Description::from_text("handler=x\nmemories=many"), None);
    }

    #[test]
    fn kinds_of_files() {
        assert!(matches!(
            check_kind(b"#!/bin/sh\n"),
            Err(LoadError::NotWasm(_))
        ));
        assert!(matches!(check_kind(b""), Err(LoadError::NotWasm(_))));
        assert!(matches!(
            check_kind(b"\0asm\x01\0\0\0"),
            Err(LoadError::CoreModule)
        ));
        assert!(check_kind(b"\0asm\x0d\0\x01\0").is_ok());
    }

    #[test]
    fn fuel_changes_the_key_and_time_limits_do_not() {
        let plain = Limits::default();
        let fuel = Limits {
            fuel: Some(1),
            ..Limits::default()
        };
        let slow = Limits {
            cpu_time: std::time::Duration::from_secs(1),
            ..Limits::default()
        };
        assert_ne!(key("a", &plain).unwrap(), key("a", &fuel).unwrap());
        assert!(is_key(&key(&sha256(b"a"), &plain).unwrap()));
        for bad in [
            "",
            "-",
            "a-b",
            &format!("{}-{}", "a".repeat(64), "../etc/passwd/aa"),
        ] {
            assert!(!is_key(bad), "{bad}");
        }
        assert_eq!(key("a", &plain).unwrap(), key("a", &slow).unwrap());
    }
}
