//! From a component's file to a compiled artifact that processes can map.
//!
//! Runs in the application's prototype process. The component itself is only
//! touched by a child with the application's own rights (reading, compiling,
//! a trial instance), so that a file which upsets the compiler cannot hurt
//! unitd, and a path that the application may not read stays unread. The
//! child hands its results back in memory files.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nxt_wasm_runtime::LoadError;
use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::cache::{Cache, CacheError};

use crate::settings::{self, Settings};
use crate::unit::{self, Application, Identity, Status};

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

/// The file that a configured path means: relative to the application's
/// working directory, and inside its root directory if it has its own.
pub fn component_path(settings: &Settings, application: &Application) -> PathBuf {
    let path = &settings.component;
    let path = match &application.working_directory {
        Some(directory) if path.is_relative() => directory.join(path),
        _ => path.clone(),
    };
    match &settings.rootfs {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
        None => path,
    }
}

/// Reads, checks and compiles the application's component, or finds it in
/// the cache. `progress` is called from time to time.
///
/// # Errors
///
/// Everything that keeps the application from starting.
pub fn prepare(
    settings: &Settings,
    application: &Application,
    mut progress: impl FnMut(Duration),
) -> Result<Prepared, PrepareError> {
    let mut notes = Vec::new();
    let cache = open_cache(&settings.cache, &mut notes)?;
    let identity =
        unit::application_identity(application.user.as_deref(), application.group.as_deref())
            .map_err(PrepareError::Helper)?;

    // The first child reads the file with the application's rights.
    let path = component_path(settings, application);
    let mut component = memory_file("wasm-component")?;
    let report = in_child(identity.as_ref(), &mut progress, || {
        let bytes = read_component(&path)?;
        component
            .write_all(&bytes)
            .map_err(system("cannot copy the component"))?;
        identify(&bytes, settings)
    })?;
    let key = report.value("key")?.to_owned();
    // It becomes a file name of root's, and comes from a child that is not.
    if !artifact::is_key(&key) {
        return Err(no_report());
    }
    let sha256 = report.value("sha256")?.to_owned();

    // The second compiles it, unless this process, which alone has to do
    // with the cache, finds it there.
    let found = cache.as_ref().and_then(|cache| {
        let lookup = cache.find(&key);
        let refused = lookup.refused.iter();
        notes.extend(refused.map(|error| match error.is_shortage() {
            true => format!("not loaded: {error}"),
            false => format!("not loaded, and removed: {error}"),
        }));
        lookup.file
    });
    let mut output = memory_file("wasm-artifact")?;
    let report = in_child(identity.as_ref(), &mut progress, || {
        examine(&component, found.as_ref(), settings, &mut output)
    })?;
    let cached = report.value("cached")? == "true";
    let description = Description::from_text(&report.0).ok_or_else(no_report)?;
    let artifact = match (found, &cache) {
        (Some(file), _) if cached => file,
        (found, Some(cache)) => {
            if found.is_some() {
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
    if let Some(Err(error)) = cache.map(|cache| cache.sweep(settings.cache_size, &artifact)) {
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

/// The cache, if there is to be one and it can be trusted.
fn open_cache(
    configured: &settings::Cache,
    notes: &mut Vec<String>,
) -> Result<Option<Cache>, PrepareError> {
    let Some(directory) = configured.directory(unit::is_root()) else {
        return Ok(None);
    };
    let user = rustix::process::geteuid().as_raw();
    match Cache::open(&directory, user) {
        Ok(cache) => Ok(Some(cache)),
        // Nobody has asked for it: it can go without.
        Err(error) if *configured == settings::Cache::Default => {
            notes.push(format!("no cache of compiled components: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
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
    progress: &mut dyn FnMut(Duration),
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
    let key = artifact::key(&sha256, &settings.limits).map_err(|e| load(&e))?;
    Ok(format!("key={key}\nsha256={sha256}\n"))
}

/// Compiles the component into `output`, unless the artifact in `found` will
/// do, and describes it.
fn examine(
    component: &File,
    found: Option<&File>,
    settings: &Settings,
    output: &mut File,
) -> Result<String, PrepareError> {
    let found = match found.and_then(|file| artifact::read_all(file).ok()) {
        Some(bytes) => match describe(&bytes, settings) {
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
            let bytes = artifact::compile(&component, &settings.limits).map_err(|e| load(&e))?;
            let description = describe(&bytes, settings).map_err(|e| load(&e))?;
            output
                .write_all(&bytes)
                .map_err(system("cannot write the compiled artifact"))?;
            (false, description)
        }
    };
    Ok(format!("cached={cached}\n{}", description.to_text()))
}

fn describe(bytes: &[u8], settings: &Settings) -> Result<Description, LoadError> {
    // SAFETY: the bytes have just been compiled by this process, or come from
    // the cache, which nobody else may write, with their checksum.
    unsafe { artifact::describe(bytes, &settings.limits, &settings.grants) }
}

fn read_component(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let read = || {
        // A pipe or a device could keep unitd waiting for ever.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        fs::read(path)
    };
    read().map_err(|e| PrepareError::Read(e.to_string()))
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
