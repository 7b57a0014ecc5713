//! What a guest may reach. The default is nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::coredump::CoredumpGrant;
use crate::error::LoadError;
use crate::host::audit::{AuditLog, AuditTarget};
use crate::host::dns::DnsConfig;
use crate::host::keyvalue::KeyvalueGrant;
use crate::host::outbound::HttpGrant;
use crate::host::secrets::{Redactor, Secrets};
use crate::host::sockets::SocketGrant;
use crate::host::{Asking, Capabilities};
use crate::limits::MIB;
use crate::output::Severity;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// The guest's whole environment.
    pub environment: Vec<(String, String)>,
    /// The directories it may open.
    pub directories: Vec<Preopen>,
    /// Bytes that one request may write to files in them.
    pub write_quota: u64,
    /// The sockets it may use.
    pub sockets: Arc<SocketGrant>,
    /// The HTTP requests it may send.
    pub http: Option<HttpGrant>,
    /// How names of hosts are resolved, for all that needs it.
    pub dns: DnsConfig,
    /// The secrets it may ask for.
    pub secrets: Option<Secrets>,
    /// Where it may record what it did.
    pub audit: Option<Arc<AuditLog>>,
    /// The buckets it may open.
    pub keyvalue: Option<KeyvalueGrant>,
    /// Where a core dump of it is written when it traps.
    pub coredumps: Option<CoredumpGrant>,
    /// Messages of `wasi:logging` that matter less are not logged.
    pub log_level: Severity,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            environment: Vec::new(),
            directories: Vec::new(),
            write_quota: 256 * MIB as u64,
            sockets: Arc::default(),
            http: None,
            dns: DnsConfig::default(),
            secrets: None,
            audit: None,
            keyvalue: None,
            coredumps: None,
            log_level: Severity::Info,
        }
    }
}

impl Grants {
    /// With every interface that takes settings, and nothing behind any of them: for
    /// trying out a component that nobody has configured yet.
    pub fn of_all_interfaces() -> Self {
        let log = AuditLog::new(AuditTarget::Stderr, "", Redactor::default());
        Self {
            secrets: Some(Secrets::new(BTreeMap::new())),
            audit: Some(Arc::new(log)),
            keyvalue: Some(KeyvalueGrant::default()),
            ..Self::default()
        }
    }

    /// Tries whether processes could use what is granted: directories and buckets.
    /// Connects to nothing.
    ///
    /// # Errors
    ///
    /// The first that cannot be used, as [`Runtime::load`](crate::Runtime::load) finds it.
    pub fn verify(&self) -> Result<(), LoadError> {
        self.check()?;
        Capabilities::new(self).map(drop)
    }

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

    /// Opens the directories, for all requests to come.
    pub(crate) fn open_directories(&self) -> Result<WasiFilesystemCtx, LoadError> {
        let mut wasi = WasiCtxBuilder::new();
        for preopen in &self.directories {
            let access = match preopen.access {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(&preopen.host, &preopen.guest, access)
                .map_err(|error| LoadError::Directory {
                    path: preopen.host.display().to_string(),
                    error: std::io::Error::other(format!("{error:#}")),
                })?;
        }
        Ok(wasi.build().filesystem().clone())
    }

    /// Adds the grants to the WASI context of one request, except for the directories.
    pub(crate) fn apply(
        &self,
        wasi: &mut WasiCtxBuilder,
        asking: &Arc<Asking>,
    ) -> wasmtime::Result<()> {
        self.sockets.apply(wasi, asking);
        wasi.envs(&self.environment);
        Ok(())
    }
}
