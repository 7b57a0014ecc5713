//! Compiled components.
//!
//! Compiling takes from a fraction of a second to half a minute, so it is
//! done once, and the machine code is kept in a file that every process maps.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::engine;
use crate::error::LoadError;
use crate::grants::Grants;
use crate::host;
use crate::instance::Pre;
use crate::limits::Limits;
use crate::state::State;
use crate::trial;
use crate::world::World;

/// What has to be known of a component before it can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is made for.
    pub world: World,
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
            "world={}\nhandler={}\nmemories={}\ntables={}\ntable_elements={}\n\
             initial_memory={}\n",
            self.world,
            self.handler,
            self.memories,
            self.tables,
            self.table_elements,
            self.initial_memory
        )
    }

    /// The reverse of [`Description::to_text`]; `None` if `text` is anything
    /// else.
    pub fn from_text(text: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
        Some(Self {
            world: fields.get("world")?.parse().ok()?,
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
pub fn key(component_sha256: &str, world: World, limits: &Limits) -> Result<String, LoadError> {
    use std::hash::{Hash, Hasher};
    let engine = engine::for_compiling(world, limits, false)?;
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // Fixes of code generation do not change the compatibility hash.
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    wasmtime_version().hash(&mut hasher);
    Ok(format!("{component_sha256}-{:016x}", hasher.finish()))
}

/// The key under which a cache keeps a component itself, as no engine made it.
pub fn component_key(component_sha256: &str) -> String {
    format!("{component_sha256}-{:016x}", 0)
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
pub fn compile(component: &[u8], world: World, limits: &Limits) -> Result<Vec<u8>, LoadError> {
    check_kind(component)?;
    engine::for_compiling(world, limits, true)?
        .precompile_component(component)
        .map_err(|e| LoadError::Compile(format!("{e:#}")))
}

/// Loads an artifact on trial: checks its world and its imports, of which those
/// in `grants` are satisfied, makes one instance under the limits, which can use
/// none of them, and checks that it fits into an instance pool. Runs the
/// component's start code, so it too belongs into a process that ends soon.
///
/// # Safety
///
/// `artifact` must hold what [`compile`] made, unchanged. If that was for another
/// world or under other limits, this fails.
pub unsafe fn describe(
    artifact: &[u8],
    world: World,
    limits: &Limits,
    grants: &Grants,
) -> Result<Description, LoadError> {
    let engine = engine::for_compiling(world, limits, false)?;
    // SAFETY: passed on to the caller.
    let component = unsafe { Component::deserialize(&engine, artifact) }
        .map_err(|e| LoadError::Artifact(format!("{e:#}")))?;
    let handler = find_handler(world, &engine, &component)?;
    refuse_ungranted(&engine, &component, grants)?;
    let linker = link(world, &engine, grants)?;
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|e| LoadError::Import(format!("{e:#}")))?;
    let pre = Pre::new(world, pre).map_err(|e| LoadError::Handler {
        name: handler.clone(),
        problem: format!("{e:#}"),
    })?;
    let initial_memory = trial::try_instantiate(&engine, &pre, &handler, limits)?;
    let resources = component.resources_required();
    let description = Description {
        world,
        handler,
        memories: resources.as_ref().map_or(1, |r| r.num_memories),
        tables: resources.as_ref().map_or(1, |r| r.num_tables),
        table_elements: resources
            .and_then(|r| r.max_initial_table_size)
            .unwrap_or(0),
        initial_memory,
    };
    // Only one of the two at a time has to have room.
    drop((linker, pre, component, engine));
    // SAFETY: passed on to the caller.
    unsafe { fits(artifact, &description, limits, grants) }?;
    Ok(description)
}

/// Loads the artifact as the processes will that serve it: an instance pool has
/// bounds of its own, such as one memory and one table for each core module.
///
/// # Safety
///
/// As for [`describe`].
unsafe fn fits(
    artifact: &[u8],
    description: &Description,
    limits: &Limits,
    grants: &Grants,
) -> Result<(), LoadError> {
    let failed = |e: wasmtime::Error| LoadError::Start(format!("{e:#}"));
    let engine = engine::for_fitting(limits, description)?;
    // SAFETY: passed on to the caller.
    let component = unsafe { Component::deserialize(&engine, artifact) }.map_err(failed)?;
    let linker = link(description.world, &engine, grants)?;
    linker.instantiate_pre(&component).map_err(failed)?;
    Ok(())
}

/// Everything a component of `world` may import if it is granted `grants`.
pub(crate) fn link(
    world: World,
    engine: &Engine,
    grants: &Grants,
) -> Result<Linker<State>, LoadError> {
    let mut linker = Linker::new(engine);
    let wasi = |linker: &mut Linker<State>| {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        // One of 0.3 imports from 0.2 too: the libraries of its language do.
        if world == World::Service {
            wasmtime_wasi::p3::add_to_linker(linker)?;
            wasmtime_wasi_http::p3::add_to_linker(linker)?;
        }
        host::link(linker, world, grants)
    };
    wasi(&mut linker).map_err(|e| LoadError::Engine(format!("{e:#}")))?;
    Ok(linker)
}

/// Interfaces that only a setting, or another component, makes available get a
/// message of their own.
fn refuse_ungranted(
    engine: &Engine,
    component: &Component,
    grants: &Grants,
) -> Result<(), LoadError> {
    let ty = component.component_type();
    for (name, _) in ty.imports(engine) {
        if is_any_handler(name) {
            let import = name.to_owned();
            return Err(LoadError::NotComposed { import });
        }
        if let Some(settings) = host::missing_settings(name, grants) {
            return Err(LoadError::NotGranted {
                import: name.to_owned(),
                settings,
            });
        }
    }
    Ok(())
}

/// Whether this is what components of either world export.
pub(crate) fn is_any_handler(name: &str) -> bool {
    [World::Proxy, World::Service]
        .iter()
        .any(|world| world.is_handler(name))
}

fn find_handler(world: World, engine: &Engine, component: &Component) -> Result<String, LoadError> {
    let ty = component.component_type();
    let exports: Vec<String> = ty
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    exports
        .iter()
        .find(|name| world.is_handler(name))
        .cloned()
        .ok_or_else(|| LoadError::no_handler(&exports))
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
    use std::os::unix::fs::FileExt;
    // Processes that have inherited the file, or were sent it, share its position.
    let read = || {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(|error| LoadError::Io {
        context: "cannot read the compiled artifact",
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_survives_the_way_through_text() {
        let description = Description {
            world: World::Proxy,
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

    fn described(module: &str, limits: &Limits) -> Result<Description, LoadError> {
        let component = format!(
            r#"(component
                (import "wasi:http/types@0.2.0" (instance $types
                  (export "incoming-request" (type (sub resource)))
                  (export "response-outparam" (type (sub resource)))))
                (alias export $types "incoming-request" (type $request))
                (alias export $types "response-outparam" (type $outparam))
                (core module $code {module}
                  (func (export "handle") (param i32 i32)))
                (core instance $main (instantiate $code))
                (func $handle
                  (param "request" (own $request)) (param "response-out" (own $outparam))
                  (canon lift (core func $main "handle")))
                (instance $handler (export "handle" (func $handle)))
                (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
        );
        let component = wat::parse_str(&component).unwrap();
        let bytes = compile(&component, World::Proxy, limits).unwrap();
        // SAFETY: it has just been compiled, for this world under these limits.
        unsafe { describe(&bytes, World::Proxy, limits, &Grants::default()) }
    }

    #[test]
    fn what_no_instance_pool_takes_is_refused() {
        let limits = Limits::default();
        let description = described("(memory 1) (table 2 funcref)", &limits).unwrap();
        assert_eq!((description.memories, description.tables), (1, 1));
        for (module, what) in [
            ("(memory 1) (memory 1)", "memories count of 2"),
            ("(table 1 funcref) (table 1 funcref)", "tables count of 2"),
        ] {
            let error = described(module, &limits).unwrap_err();
            assert!(matches!(error, LoadError::Start(_)), "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        // The addresses of a process are not enough for so many.
        let crowded = Limits {
            concurrency: 100_000,
            ..limits
        };
        let error = described("(memory 1)", &crowded).unwrap_err();
        assert!(matches!(error, LoadError::Engine(_)), "{error}");
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
        assert_ne!(
            key("a", World::Proxy, &plain).unwrap(),
            key("a", World::Proxy, &fuel).unwrap()
        );
        assert!(is_key(&key(&sha256(b"a"), World::Proxy, &plain).unwrap()));
        for bad in [
            "",
            "-",
            "a-b",
            &format!("{}-{}", "a".repeat(64), "../etc/passwd/aa"),
        ] {
            assert!(!is_key(bad), "{bad}");
        }
        assert_eq!(
            key("a", World::Proxy, &plain).unwrap(),
            key("a", World::Proxy, &slow).unwrap()
        );
    }
}
