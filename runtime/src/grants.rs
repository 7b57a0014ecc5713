//! What a guest may reach. The default is nothing.

use std::path::PathBuf;

use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::error::LoadError;

/// How a guest may use a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// List and read.
    ReadOnly,
    /// List, read, create, write and remove.
    ReadWrite,
}

/// A directory of the host under a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preopen {
    /// The directory on the host.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: String,
    /// What the guest may do there.
    pub access: Access,
}

/// Everything granted to the guests of one application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The guest's whole environment.
    pub environment: Vec<(String, String)>,
    /// The directories it may open.
    pub directories: Vec<Preopen>,
}

impl Grants {
    /// Checks at start what would otherwise fail at every request.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        for preopen in &self.directories {
            std::fs::read_dir(&preopen.host).map_err(|error| LoadError::Directory {
                path: preopen.host.display().to_string(),
                error,
            })?;
        }
        Ok(())
    }

    /// Adds the grants to the WASI context of one request.
    pub(crate) fn apply(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        wasi.envs(&self.environment);
        for preopen in &self.directories {
            let access = match preopen.access {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(&preopen.host, &preopen.guest, access)?;
        }
        Ok(())
    }
}
