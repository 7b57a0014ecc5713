//! From a component's file to a compiled artifact that processes can map.
//!
//! Runs in the application's prototype process. The component itself is only
//! touched by a child with the application's own rights (reading, compiling,
//! a trial instance), so that a file which upsets the compiler cannot hurt
//! unitd, and a path that the application may not read stays unread. The
//! child hands its results back in memory files.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nxt_wasm_runtime::World;
use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::cache::{Cache, CacheError};
use nxt_wasm_settings::{self as settings, Application, Settings};
use nxt_wasm_store::FetchError;

use crate::metrics;
use crate::source::{Remote, Source};
use crate::unit::{self, Identity};

mod helper;

use helper::{
    MOST, MOST_CODE, WORLDS, bounded, describe_kept, examine, identify, in_child, load,
    memory_file, names, no_report, read_component, seal,
};

/// A component ready to be mapped by application processes.
pub struct Prepared {
    /// Its machine code. Nobody else writes it.
    pub artifact: File,
    /// What is known of it.
    pub description: Description,
    /// SHA-256 of the component.
    pub sha256: String,
    /// Whether the artifact was found in the cache.
    pub cached: bool,
    /// What the operator should know of the cache.
    pub notes: Vec<String>,
}

/// Why an application cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The component's file cannot be read.
    #[error("cannot read the file: {0}")]
    Read(String),
    /// It cannot be had from where it is.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not the component that the configuration asks for.
    #[error("its SHA-256 is {found}, UNIT_WASM_SHA256 asks for {wanted}")]
    Digest {
        /// What the file has.
        found: String,
        /// What was configured.
        wanted: String,
    },
    /// The component cannot be served. The text is a [`LoadError`]'s.
    #[error("{0}")]
    Load(String),
    /// It is of WASI 0.2, where an instance has one request at a time.
    #[error(
        "UNIT_WASM_REUSE_CONCURRENT = \"{0}\" takes a component of WASI 0.3, and this one is \
         of 0.2: leave it out"
    )]
    NotConcurrent(u32),
    /// Nobody could read metrics.
    #[error(
        "UNIT_WASM_METRICS: cannot listen at {addr}: {error}: give each application a port, and another one if its user changes"
    )]
    Metrics {
        /// As configured.
        addr: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The helper process failed, or was stopped by its limits.
    #[error("the compile helper: {0}")]
    Helper(String),
    /// The cache directory cannot be trusted or used.
    #[error("UNIT_WASM_CACHE: {0}")]
    Cache(#[from] CacheError),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> PrepareError {
    move |error| PrepareError::System { what, error }
}

/// Reads, checks and compiles the application's component, or finds it in
/// the cache. `progress` is called from time to time.
///
/// # Errors
///
/// Everything that keeps the application from starting.
pub fn prepare(
    settings: &Settings,
    source: &Source,
    application: &Application,
    mut progress: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<Prepared, PrepareError> {
    let mut notes = Vec::new();
    let cache = open_cache(&settings.cache, &mut notes)?;
    let identity =
        unit::application_identity(application.user.as_deref(), application.group.as_deref())
            .map_err(PrepareError::Helper)?;

    let may_listen = || match settings.metrics {
        Some(addr) => metrics::check(addr).map_err(|error| PrepareError::Metrics { addr, error }),
        None => Ok(()),
    };
    let workshop = Workshop {
        settings,
        identity,
        cache,
        stores: true,
    };
    let progress = &mut progress;
    let found = match source {
        Source::File(path) => workshop.read(progress, &may_listen, || read_component(path))?,
        Source::Remote(remote) => {
            let kept = workshop.find_remote(remote, &mut notes);
            if kept.is_none()
                && let Some(sha256) = &remote.sha256
                && let Some(mut prepared) =
                    workshop.artifact_alone(sha256, &mut notes, progress, &may_listen)?
            {
                prepared.notes = notes;
                return Ok(prepared);
            }
            workshop.read_remote(remote, kept, &mut notes, progress, &may_listen)?
        }
    };
    workshop.compile(found, notes, progress)
}

/// The same for a component that may have come to lie at `path`. `None` if it
/// is the one with this `sha256`.
///
/// For a process that has the application's rights, and had unitd's before: if
/// that was root, it can take from the cache, but not put into it.
///
/// # Errors
///
/// Everything that would keep the application from starting with it.
pub fn prepare_successor(
    settings: &Settings,
    path: &Path,
    was_root: bool,
    sha256: &str,
    mut progress: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<Option<Prepared>, PrepareError> {
    // Where the cache is may be another place by now.
    let directory = match settings.rootfs {
        Some(_) => None,
        None => settings.cache.directory(was_root),
    };
    // That it can be used is seen to when the application starts. It is not for
    // this process to make one.
    let cache = directory
        .filter(|path| path.is_dir())
        .and_then(|directory| Cache::open(&directory, cache_owner(was_root)).ok());
    let workshop = Workshop {
        settings,
        identity: None,
        cache,
        stores: !was_root,
    };
    let found = workshop.read(&mut progress, &|| Ok(()), || read_component(path))?;
    if found.sha256 == sha256 {
        return Ok(None);
    }
    workshop.compile(found, Vec::new(), &mut progress).map(Some)
}

/// Is called while a child works; its end is that of the child.
type Progress<'a> = dyn FnMut(Duration) -> ControlFlow<()> + 'a;

/// What the first child does as well, with the application's rights.
type Besides<'a> = dyn Fn() -> Result<(), PrepareError> + 'a;

/// What components are prepared with.
struct Workshop<'a> {
    settings: &'a Settings,
    /// Whom children become.
    identity: Option<Identity>,
    cache: Option<Cache>,
    /// Whether artifacts are put into the cache.
    stores: bool,
}

/// A component that was read, and is what the configuration asks for.
struct Found {
    component: File,
    key: String,
    sha256: String,
    world: World,
}

impl Workshop<'_> {
    /// Looks into the cache, and notes what was not believed there.
    fn find(&self, key: &str, notes: &mut Vec<String>) -> Option<File> {
        let lookup = self.cache.as_ref()?.find(key);
        let refused = lookup.refused.iter();
        // Who cannot put files there cannot remove them either.
        notes.extend(
            refused.map(|error| match self.stores && !error.is_shortage() {
                true => format!("not loaded, and removed: {error}"),
                false => format!("not loaded: {error}"),
            }),
        );
        lookup.file
    }

    /// The component, if it was fetched before and is kept.
    fn find_remote(&self, remote: &Remote, notes: &mut Vec<String>) -> Option<File> {
        let sha256 = remote.sha256.as_deref()?;
        self.find(&artifact::component_key(sha256), notes)
    }

    /// Starts from an artifact of which the component is kept no more: its key has the
    /// component's digest, and the configuration too. A child makes the keys, as that
    /// takes an engine, and another one tries the artifact.
    fn artifact_alone(
        &self,
        sha256: &str,
        notes: &mut Vec<String>,
        progress: &mut Progress<'_>,
        besides: &Besides<'_>,
    ) -> Result<Option<Prepared>, PrepareError> {
        if self.cache.is_none() {
            return Ok(None);
        }
        let settings = self.settings;
        let keys = in_child(self.identity.as_ref(), progress, || {
            besides()?;
            names(sha256, settings)
        })?;
        for world in WORLDS {
            let key = keys.value(&world.to_string())?;
            let Some(artifact) = self.find(key, notes) else {
                continue;
            };
            self.check(key, sha256, world)?;
            let described = in_child(self.identity.as_ref(), progress, || {
                describe_kept(&artifact, world, settings)
            })?;
            // One that does not fit this engine is replaced when it has been made anew.
            let Some(description) = Description::from_text(&described.0) else {
                continue;
            };
            self.sweep(key, sha256, notes);
            return Ok(Some(Prepared {
                artifact,
                description,
                sha256: sha256.to_owned(),
                cached: true,
                notes: Vec::new(),
            }));
        }
        Ok(None)
    }

    /// Checks what a child says of a component: what its artifact is called, as those
    /// of other applications have such names too, and its world.
    fn check(&self, key: &str, sha256: &str, world: World) -> Result<(), PrepareError> {
        let is_its_own = key.split('-').next() == Some(sha256);
        if !artifact::is_key(key) || !is_its_own {
            return Err(no_report());
        }
        let concurrent = self.settings.limits.reuse.concurrent;
        if world == World::Proxy && concurrent > 1 {
            return Err(PrepareError::NotConcurrent(concurrent));
        }
        Ok(())
    }

    /// Removes from the cache what is too much, but for what this application starts
    /// from.
    fn sweep(&self, key: &str, sha256: &str, notes: &mut Vec<String>) {
        let Some(cache) = self.cache.as_ref().filter(|_| self.stores) else {
            return;
        };
        let keep = [key, &artifact::component_key(sha256)];
        if let Err(error) = cache.sweep(self.settings.cache_size, &keep) {
            notes.push(format!("cannot bound the cache: {error}"));
        }
    }

    /// The first child fetches the component, unless it was `kept`.
    fn read_remote(
        &self,
        remote: &Remote,
        kept: Option<File>,
        notes: &mut Vec<String>,
        progress: &mut Progress<'_>,
        besides: &Besides<'_>,
    ) -> Result<Found, PrepareError> {
        if let Some(file) = kept {
            let read = || artifact::read_all(&file).map_err(|e| load(&e));
            return self.read(progress, besides, read);
        }
        let found = self.read(progress, besides, || {
            let mut bytes = Vec::new();
            remote.fetch(&mut bytes)?;
            Ok(bytes)
        })?;
        let cache = self.cache.as_ref().filter(|_| self.stores);
        if let (Some(cache), Some(sha256)) = (cache, remote.sha256.as_deref())
            && found.sha256 == sha256
            && let Err(error) = cache.store(&artifact::component_key(sha256), &found.component)
        {
            notes.push(format!("cannot keep the component in the cache: {error}"));
        }
        Ok(found)
    }

    /// The first child gets the component with the application's rights.
    fn read(
        &self,
        progress: &mut Progress<'_>,
        besides: &Besides<'_>,
        get: impl FnOnce() -> Result<Vec<u8>, PrepareError>,
    ) -> Result<Found, PrepareError> {
        let settings = self.settings;
        let mut component = memory_file("wasm-component")?;
        let report = in_child(self.identity.as_ref(), progress, || {
            besides()?;
            let bytes = get()?;
            component
                .write_all(&bytes)
                .map_err(system("cannot copy the component"))?;
            identify(&bytes, settings)
        })?;
        // What a child says of its file, which may have come from anywhere, is not to
        // be believed.
        let component = seal(component)?;
        bounded(&component, "a component", MOST)?;
        let bytes = artifact::read_all(&component).map_err(|e| load(&e))?;
        let sha256 = artifact::sha256(&bytes);
        drop(bytes);
        let key = report.value("key")?.to_owned();
        let world: World = report.value("world")?.parse().map_err(|()| no_report())?;
        self.check(&key, &sha256, world)?;
        Ok(Found {
            component,
            key,
            sha256,
            world,
        })
    }

    /// The second compiles it, unless this process, which alone has to do with
    /// the cache, finds it there.
    fn compile(
        &self,
        found: Found,
        mut notes: Vec<String>,
        progress: &mut Progress<'_>,
    ) -> Result<Prepared, PrepareError> {
        let Found {
            component,
            key,
            sha256,
            world,
        } = found;
        let kept = self.find(&key, &mut notes);
        let mut output = memory_file("wasm-artifact")?;
        let report = in_child(self.identity.as_ref(), progress, || {
            examine(&component, world, kept.as_ref(), self.settings, &mut output)
        })?;
        let cached = report.value("cached")? == "true";
        let description = Description::from_text(&report.0).ok_or_else(no_report)?;
        // As of a component: from here on nobody can make it longer.
        let output = seal(output)?;
        bounded(&output, "an artifact", MOST_CODE)?;
        let cache = self.cache.as_ref().filter(|_| self.stores);
        let artifact = match (kept, cache) {
            (Some(file), _) if cached => file,
            (kept, Some(cache)) => {
                if kept.is_some() {
                    notes.push("the cached artifact does not fit this engine: replaced".to_owned());
                }
                match cache.store(&key, &output) {
                    Ok(file) => file,
                    Err(error) => {
                        notes.push(format!("cannot keep the artifact in the cache: {error}"));
                        output
                    }
                }
            }
            (_, None) => output,
        };
        self.sweep(&key, &sha256, &mut notes);
        Ok(Prepared {
            artifact,
            description,
            sha256,
            cached,
            notes,
        })
    }
}

/// The cache, if there is to be one and it can be trusted.
fn open_cache(
    configured: &settings::Cache,
    notes: &mut Vec<String>,
) -> Result<Option<Cache>, PrepareError> {
    let Some(directory) = configured.directory(unit::is_root()) else {
        return Ok(None);
    };
    match Cache::open(&directory, cache_owner(unit::is_root())) {
        Ok(cache) => Ok(Some(cache)),
        // Nobody has asked for it: it can go without.
        Err(error) if *configured == settings::Cache::Default => {
            notes.push(format!("no cache of compiled components: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whose files in the cache are trusted, besides root's: unitd's user's. If that is
/// root, the user of this process may be the application's.
fn cache_owner(is_root: bool) -> u32 {
    match is_root {
        true => 0,
        false => rustix::process::geteuid().as_raw(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_process_that_was_root_only_root_owns_the_cache() {
        assert_eq!(cache_owner(true), 0);
        assert_eq!(cache_owner(false), rustix::process::geteuid().as_raw());
    }
}
