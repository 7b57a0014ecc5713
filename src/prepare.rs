//! From a component's file to a compiled artifact that processes can map.
//!
//! Runs in the application's prototype process. The component itself is only
//! touched by a child with the application's own rights (reading, compiling,
//! a trial instance), so that a file which upsets the compiler cannot hurt
//! unitd, and a path that the application may not read stays unread. The
//! child hands its results back in memory files.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::cache::{Cache, CacheError};
use nxt_wasm_runtime::{LoadError, World};
use nxt_wasm_settings::{self as settings, Application, Settings};
use nxt_wasm_store::FetchError;

use crate::metrics;
use crate::source::{Remote, Source};
use crate::unit::{self, Identity, Status};

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

/// Bytes of a component, as of one from elsewhere.
const MOST: u64 = 512 << 20;

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
    let found = match source {
        Source::File(path) => workshop.read(&mut progress, may_listen, || read_component(path))?,
        Source::Remote(remote) => {
            workshop.read_remote(remote, &mut notes, &mut progress, may_listen)?
        }
    };
    workshop.compile(found, notes, &mut progress)
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
    let found = workshop.read(&mut progress, || Ok(()), || read_component(path))?;
    if found.sha256 == sha256 {
        return Ok(None);
    }
    workshop.compile(found, Vec::new(), &mut progress).map(Some)
}

/// Is called while a child works; its end is that of the child.
type Progress<'a> = dyn FnMut(Duration) -> ControlFlow<()> + 'a;

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
    /// The first child fetches the component, unless the cache has it.
    fn read_remote(
        &self,
        remote: &Remote,
        notes: &mut Vec<String>,
        progress: &mut Progress<'_>,
        besides: impl FnOnce() -> Result<(), PrepareError>,
    ) -> Result<Found, PrepareError> {
        let cache = self.cache.as_ref();
        let sha256 = remote.sha256.as_deref();
        let kept = cache.zip(sha256).and_then(|(cache, sha256)| {
            let key = artifact::component_key(sha256);
            cache.find(&key).file
        });
        if let Some(file) = kept {
            let read = || artifact::read_all(&file).map_err(|e| load(&e));
            return self.read(progress, besides, read);
        }
        let found = self.read(progress, besides, || {
            let mut bytes = Vec::new();
            remote.fetch(&mut bytes)?;
            Ok(bytes)
        })?;
        let cache = cache.filter(|_| self.stores);
        if let (Some(cache), Some(sha256)) = (cache, sha256)
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
        besides: impl FnOnce() -> Result<(), PrepareError>,
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
        // be believed: artifacts of other applications have such names too.
        let component = seal(component)?;
        let bytes = artifact::read_all(&component).map_err(|e| load(&e))?;
        let sha256 = artifact::sha256(&bytes);
        drop(bytes);
        let key = report.value("key")?.to_owned();
        let is_its_own = key.split('-').next() == Some(sha256.as_str());
        if !artifact::is_key(&key) || !is_its_own {
            return Err(no_report());
        }
        let world: World = report.value("world")?.parse().map_err(|()| no_report())?;
        let concurrent = settings.limits.reuse.concurrent;
        if world == World::Proxy && concurrent > 1 {
            return Err(PrepareError::NotConcurrent(concurrent));
        }
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
        let cache = self.cache.as_ref();
        let kept = cache.and_then(|cache| {
            let lookup = cache.find(&key);
            let refused = lookup.refused.iter();
            // Who cannot put files there cannot remove them either.
            notes.extend(
                refused.map(|error| match self.stores && !error.is_shortage() {
                    true => format!("not loaded, and removed: {error}"),
                    false => format!("not loaded: {error}"),
                }),
            );
            lookup.file
        });
        let mut output = memory_file("wasm-artifact")?;
        let report = in_child(self.identity.as_ref(), progress, || {
            examine(&component, world, kept.as_ref(), self.settings, &mut output)
        })?;
        let cached = report.value("cached")? == "true";
        let description = Description::from_text(&report.0).ok_or_else(no_report)?;
        let cache = cache.filter(|_| self.stores);
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
                        seal(output)?
                    }
                }
            }
            (_, None) => seal(output)?,
        };
        let size = self.settings.cache_size;
        if let Some(Err(error)) = cache.map(|cache| cache.sweep(size, &artifact)) {
            notes.push(format!("cannot bound the cache: {error}"));
        }
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

/// What a child reports: `name=value` lines.
struct Report(String);

impl Report {
    fn value(&self, name: &str) -> Result<&str, PrepareError> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(no_report)
    }
}

fn no_report() -> PrepareError {
    PrepareError::Helper("it left no report".to_owned())
}

fn load(error: &LoadError) -> PrepareError {
    PrepareError::Load(error.to_string())
}

/// First line of the report of a child whose work failed.
const FAILED: &str = "failed\n";

/// Runs `work` in a child and returns the text it makes, or its error.
fn in_child(
    identity: Option<&Identity>,
    progress: &mut Progress<'_>,
    work: impl FnOnce() -> Result<String, PrepareError>,
) -> Result<Report, PrepareError> {
    let mut report = memory_file("wasm-report")?;
    let status = unit::run_child(
        identity,
        || {
            let text = work().unwrap_or_else(|error| format!("{FAILED}{error}"));
            i32::from(report.write_all(text.as_bytes()).is_err())
        },
        progress,
    )
    .map_err(system("cannot fork"))?;
    match status {
        Status::Exited(0) => {}
        Status::Exited(code) => {
            return Err(PrepareError::Helper(match code {
                unit::CHILD_PANICKED => "it panicked".to_owned(),
                unit::CHILD_UNCONFINED => {
                    "it could not take on the application's user, or its own limits".to_owned()
                }
                code => format!("it failed with code {code}"),
            }));
        }
        Status::Killed(signal) => {
            return Err(PrepareError::Helper(format!(
                "it was ended by signal {signal} (out of memory, CPU time or time?)"
            )));
        }
    }
    let mut text = String::new();
    report
        .seek(SeekFrom::Start(0))
        .and_then(|_| report.read_to_string(&mut text))
        .map_err(system("cannot read the helper's report"))?;
    match text.strip_prefix(FAILED) {
        Some(error) => Err(PrepareError::Load(error.to_owned())),
        None => Ok(Report(text)),
    }
}

/// Checks that the file is the right one and names its artifact.
fn identify(component: &[u8], settings: &Settings) -> Result<String, PrepareError> {
    artifact::check_kind(component).map_err(|e| load(&e))?;
    let sha256 = artifact::sha256(component);
    if let Some(wanted) = settings.sha256.as_ref().filter(|&wanted| *wanted != sha256) {
        return Err(PrepareError::Digest {
            found: sha256,
            wanted: wanted.clone(),
        });
    }
    let world = World::of(component).map_err(|e| load(&e))?;
    let key = artifact::key(&sha256, world, &settings.limits).map_err(|e| load(&e))?;
    Ok(format!("key={key}\nsha256={sha256}\nworld={world}\n"))
}

/// Compiles the component into `output`, unless the artifact in `found` will
/// do, and describes it.
fn examine(
    component: &File,
    world: World,
    found: Option<&File>,
    settings: &Settings,
    output: &mut File,
) -> Result<String, PrepareError> {
    let found = match found.and_then(|file| artifact::read_all(file).ok()) {
        Some(bytes) => match describe(&bytes, world, settings) {
            // Compiling it anew gives one that fits.
            Err(LoadError::Artifact(_)) => None,
            other => Some(other.map_err(|e| load(&e))?),
        },
        None => None,
    };
    let (cached, description) = match found {
        Some(description) => (true, description),
        None => {
            let component = artifact::read_all(component).map_err(|e| load(&e))?;
            let bytes = artifact::compile(&component, world, &settings.limits);
            let bytes = bytes.map_err(|e| load(&e))?;
            let description = describe(&bytes, world, settings).map_err(|e| load(&e))?;
            output
                .write_all(&bytes)
                .map_err(system("cannot write the compiled artifact"))?;
            (false, description)
        }
    };
    Ok(format!("cached={cached}\n{}", description.to_text()))
}

fn describe(bytes: &[u8], world: World, settings: &Settings) -> Result<Description, LoadError> {
    // SAFETY: the bytes have just been compiled by this process, or come from
    // the cache, which nobody else may write, with their checksum.
    unsafe { artifact::describe(bytes, world, &settings.limits, &settings.grants) }
}

/// Reads a component, if that is what the file may be: somebody may put a disk image
/// there, and processes that serve have the same memory.
fn read_component(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let unread = |error: io::Error| PrepareError::Read(error.to_string());
    // A pipe or a device could keep unitd waiting for ever.
    if !fs::metadata(path).map_err(unread)?.is_file() {
        return Err(unread(io::Error::other("not a regular file")));
    }
    let mut file = File::open(path).map_err(unread)?;
    let size = file.metadata().map_err(unread)?.len();
    let too_large = |size| {
        let text = format!("it has {size} bytes, and a component may have {MOST}");
        PrepareError::Read(text)
    };
    if size > MOST {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most| (&mut file).take(most).read_to_end(bytes);
    read(&mut bytes, 8).map_err(unread)?;
    artifact::check_kind(&bytes).map_err(|e| load(&e))?;
    // It may be growing.
    read(&mut bytes, MOST).map_err(unread)?;
    match bytes.len() as u64 {
        size if size > MOST => Err(too_large(size)),
        _ => Ok(bytes),
    }
}

fn memory_file(name: &str) -> Result<File, PrepareError> {
    use rustix::fs::{MemfdFlags, memfd_create};
    memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map(File::from)
        .map_err(|e| system("cannot create a memory file")(e.into()))
}

/// Makes a memory file immutable.
fn seal(file: File) -> Result<File, PrepareError> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )
    .map_err(|e| system("cannot seal the compiled artifact")(e.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// A file that begins so, with zeros after it.
    fn file(beginning: &[u8], size: u64) -> File {
        let mut file = memory_file("test").unwrap();
        file.write_all(beginning).unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn read(file: &File) -> Result<Vec<u8>, String> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        read_component(Path::new(&path)).map_err(|error| error.to_string())
    }

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn only_what_can_be_a_component_is_read() {
        let bytes = read(&file(COMPONENT, 100_000)).unwrap();
        assert!(bytes.len() == 100_000 && bytes.starts_with(COMPONENT));
        let error = read(&file(COMPONENT, MOST + 1)).unwrap_err();
        assert!(error.contains("536870913 bytes"), "{error}");
        assert!(error.contains("may have 536870912"), "{error}");
        let error = read(&file(b"#!/bin/sh", 100)).unwrap_err();
        assert!(error.contains("not a WebAssembly file"), "{error}");
        let error = read(&file(b"", 0)).unwrap_err();
        assert!(error.contains("not a WebAssembly file"), "{error}");
        let error = read_component(Path::new("/dev")).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn of_a_process_that_was_root_only_root_owns_the_cache() {
        assert_eq!(cache_owner(true), 0);
        assert_eq!(cache_owner(false), rustix::process::geteuid().as_raw());
    }
}
