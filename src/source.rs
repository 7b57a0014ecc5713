//! Where an application's component comes from.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nxt_wasm_settings::{Application, Settings, files};
use nxt_wasm_store::{FetchError, FetchOptions, Location, LocationError, fetch};

/// Bytes of a component from elsewhere.
const MOST: u64 = 512 << 20;

/// Bytes of a file of authorities.
const AUTHORITIES: u64 = 4 << 20;

/// Time for all of it. Unit waits meanwhile.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where a component is.
pub enum Source {
    /// In a file that the application's processes can read.
    File(PathBuf),
    /// On another machine.
    Remote(Box<Remote>),
}

/// A component on another machine, and what it takes to have it.
pub struct Remote {
    location: Location,
    /// Its SHA-256, unless any component will do.
    pub sha256: Option<String>,
    credentials: Option<String>,
    authorities: Option<Vec<u8>>,
}

/// A component that cannot even be asked for.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL is none.
    #[error("{0}")]
    Location(#[from] LocationError),
    /// It may change at any time.
    #[error(
        "it comes from another machine: say by UNIT_WASM_SHA256 which one it has to be, \
         or UNIT_WASM_SHA256=any if anything that is there may run"
    )]
    NotPinned,
    /// Others could change it on the way.
    #[error(
        "its endpoint is http: on another machine, and anybody on the way could change the \
         component: use https:, or say by UNIT_WASM_SHA256 which one it has to be"
    )]
    PlainHttp,
    /// There is no file to look at.
    #[error("UNIT_WASM_WATCH takes a component in a file")]
    Watch,
    /// No credentials of that name.
    #[error("credentials `{name}`: {problem}")]
    Credentials {
        /// The name of the secret.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The authorities to trust cannot be read.
    #[error("UNIT_WASM_HTTP_CA: {0}")]
    Authorities(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Remote(remote) => remote.location.fmt(f),
        }
    }
}

impl Source {
    /// That of an application. Reads the files that its settings name for it, so
    /// it takes unitd's rights.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration.
    pub fn of(settings: &Settings, application: &Application) -> Result<Self, SourceError> {
        let location = match settings.component.to_str() {
            Some(text) => text.parse()?,
            None => Location::File(settings.component.clone()),
        };
        if let Location::File(path) = location {
            return Ok(Self::File(on_this_machine(&path, settings, application)));
        }
        if settings.watch {
            return Err(SourceError::Watch);
        }
        if settings.sha256.is_none() && !settings.any_component {
            return Err(SourceError::NotPinned);
        }
        if settings.sha256.is_none() && location.is_exposed() {
            return Err(SourceError::PlainHttp);
        }
        let credentials = location.credentials().map(|name| secret(name, settings));
        let authorities = settings.files.http_ca.as_ref();
        let authorities = authorities.map(|path| files::read_file(path, AUTHORITIES));
        Ok(Self::Remote(Box::new(Remote {
            credentials: credentials.transpose()?,
            authorities: authorities.transpose().map_err(SourceError::Authorities)?,
            sha256: settings.sha256.clone(),
            location,
        })))
    }

    /// The file, if it is one of this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Remote(_) => None,
        }
    }
}

impl Remote {
    /// Copies it to `to`. Needs no rights but to open connections, and blocks.
    ///
    /// # Errors
    ///
    /// Why it cannot be had.
    pub fn fetch(&self, to: &mut (dyn Write + Send)) -> Result<(), FetchError> {
        let options = FetchOptions {
            credentials: self.credentials.as_deref(),
            authorities: self.authorities.as_deref(),
            max_bytes: MOST,
            timeout: TIMEOUT,
            // A change would be noticed.
            allow_plain_http: self.sha256.is_some(),
        };
        fetch(&self.location, &options, to).map(drop)
    }
}

/// The file that a configured path means: relative to the application's
/// working directory, and inside its root directory if it has its own.
fn on_this_machine(path: &Path, settings: &Settings, application: &Application) -> PathBuf {
    let path = match &application.working_directory {
        Some(directory) if path.is_relative() => directory.join(path),
        _ => path.to_owned(),
    };
    match &settings.rootfs {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
        None => path,
    }
}

fn secret(name: &str, settings: &Settings) -> Result<String, SourceError> {
    let wrong = |problem: String| SourceError::Credentials {
        name: name.to_owned(),
        problem,
    };
    let Some(path) = &settings.files.secrets else {
        return Err(wrong(
            "UNIT_WASM_SECRETS is not set, which names the file of secrets".to_owned(),
        ));
    };
    let mut secrets = files::read_secrets(path).map_err(wrong)?;
    secrets
        .remove(name)
        .ok_or_else(|| wrong(format!("{} has no secret of that name", path.display())))
}
