//! The hosts that a run is given.

use std::env;
use std::path::PathBuf;

/// What loads the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The stand-in of this repository.
    Standin,
    /// NGINX Unit's unitd.
    Unit,
    /// FreeUnit's unitd.
    FreeUnit,
}

impl Kind {
    /// Every kind, in the order of the listing.
    pub const ALL: [Self; 3] = [Self::Standin, Self::Unit, Self::FreeUnit];

    /// Prefix of the names of its tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standin => "standin",
            Self::Unit => "unit",
            Self::FreeUnit => "freeunit",
        }
    }

    /// The variable that names its executable and modules directory.
    pub fn variable(self, module_type: ModuleType) -> String {
        let upper = self.name().to_uppercase();
        match module_type {
            ModuleType::Component => format!("E2E_{upper}"),
            ModuleType::Wasm => format!("E2E_{upper}_WASM"),
        }
    }
}

/// The application type for which the module was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleType {
    /// `wasm-wasi-component`
    Component,
    /// `wasm`
    Wasm,
}

/// The version of WASI that the lab guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wasi {
    /// 0.2: the guest `lab`.
    V02,
    /// 0.3: the guest `lab3`.
    V03,
}

/// One host: an executable and the directory with the module built for it.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it is.
    pub kind: Kind,
    /// Which configuration shape its module takes.
    pub module_type: ModuleType,
    /// Which lab guest tests get.
    pub wasi: Wasi,
    /// The executable.
    pub exe: PathBuf,
    /// The directory that holds `wasmtime.unit.so`.
    pub modules: PathBuf,
}

impl Host {
    /// Reads `EXE:MODULES` from the host's variable, if that is set.
    pub fn from_env(kind: Kind, module_type: ModuleType) -> Result<Option<Self>, String> {
        let variable = kind.variable(module_type);
        let value = env::var(&variable).unwrap_or_default();
        if value.is_empty() {
            return Ok(None);
        }
        let Some((exe, modules)) = value.split_once(':') else {
            return Err(format!(
                "{variable}={value}: expected EXECUTABLE:MODULESDIR"
            ));
        };
        let absolute = |path: &str| {
            let found = std::fs::canonicalize(path);
            found.map_err(|error| format!("{variable}: {path}: {error}"))
        };
        Ok(Some(Self {
            kind,
            module_type,
            wasi: Wasi::V02,
            exe: absolute(exe)?,
            modules: absolute(modules)?,
        }))
    }

    /// Whether chunked request bodies can be larger than what arrives together
    /// with the head.
    ///
    /// Those are up to Unit's router, and in 1.35 it loses its place in a
    /// chunk that arrives in more than one read: it answers 400 or closes the
    /// connection before any application sees the request.
    pub fn takes_large_chunked_bodies(&self) -> bool {
        self.kind != Kind::Unit
    }

    /// Whether this is real Unit, of either make.
    pub fn is_unit(&self) -> bool {
        self.kind != Kind::Standin
    }
}
