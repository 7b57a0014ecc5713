//! What children of the prototype do with a component, and what they leave: reports
//! and memory files, of which nothing is believed that can be seen to.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::{LoadError, World};
use nxt_wasm_settings::Settings;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::{PrepareError, Progress, system};
use crate::unit::{self, Identity, Status};

/// Bytes of a component, as of one from elsewhere.
pub(super) const MOST: u64 = 512 << 20;

/// Bytes of what it is compiled to.
pub(super) const MOST_CODE: u64 = 4 * MOST;

/// Those that a component can be of.
pub(super) const WORLDS: [World; 2] = [World::Proxy, World::Service];

/// What a child reports: `name=value` lines.
pub(super) struct Report(pub String);

impl Report {
    pub fn value(&self, name: &str) -> Result<&str, PrepareError> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(no_report)
    }
}

pub(super) fn no_report() -> PrepareError {
    PrepareError::Helper("it left no report".to_owned())
}

pub(super) fn load(error: &LoadError) -> PrepareError {
    PrepareError::Load(error.to_string())
}

/// Bytes of a report that are read. An error can name all that a component exports.
const LONGEST_REPORT: u64 = 64 << 10;

/// First line of the report of a child whose work failed.
const FAILED: &str = "failed\n";

/// Runs `work` in a child and returns the text it makes, or its error.
pub(super) fn in_child(
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
    let text = read_report(report).map_err(system("cannot read the helper's report"))?;
    match text.strip_prefix(FAILED) {
        Some(error) => Err(PrepareError::Load(error.to_owned())),
        None => Ok(Report(text)),
    }
}

/// What a child has written there, as far as anybody will read it.
fn read_report(mut report: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    report.rewind()?;
    report.take(LONGEST_REPORT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Checks that what a child has left in a file of `what` has no more than `most`
/// bytes: it costs a child nothing to make a file as long as it likes.
pub(super) fn bounded(file: &File, what: &str, most: u64) -> Result<(), PrepareError> {
    let metadata = file
        .metadata()
        .map_err(system("cannot read what the helper made"))?;
    let size = metadata.len();
    match size > most {
        true => Err(PrepareError::Helper(format!(
            "it left {what} of {size} bytes, and {most} is the most"
        ))),
        false => Ok(()),
    }
}

/// Names the artifacts of the component with this SHA-256 in each world it can be of.
pub(super) fn names(sha256: &str, settings: &Settings) -> Result<String, PrepareError> {
    let mut text = String::new();
    for world in WORLDS {
        let key = artifact::key(sha256, world, &settings.limits).map_err(|e| load(&e))?;
        text.push_str(&format!("{world}={key}\n"));
    }
    Ok(text)
}

/// Describes an artifact of the cache. Says nothing if it does not fit the engine.
pub(super) fn describe_kept(
    artifact: &File,
    world: World,
    settings: &Settings,
) -> Result<String, PrepareError> {
    let bytes = artifact::read_all(artifact).map_err(|e| load(&e))?;
    match describe(&bytes, world, settings) {
        Err(LoadError::Artifact(_)) => Ok(String::new()),
        other => Ok(other.map_err(|e| load(&e))?.to_text()),
    }
}

/// Checks that the file is the right one and names its artifact.
pub(super) fn identify(component: &[u8], settings: &Settings) -> Result<String, PrepareError> {
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
pub(super) fn examine(
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
pub(super) fn read_component(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let unread = |error: io::Error| PrepareError::Read(error.to_string());
    // A pipe or a device could keep unitd waiting for ever. Whatever is in the file's
    // place, opening it does not wait, and what was opened is what is looked at.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(opened.map_err(|error| unread(error.into()))?);
    let metadata = file.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(unread(io::Error::other("not a regular file")));
    }
    let size = metadata.len();
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

pub(super) fn memory_file(name: &str) -> Result<File, PrepareError> {
    memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map(File::from)
        .map_err(|e| system("cannot create a memory file")(e.into()))
}

/// Makes a memory file immutable.
pub(super) fn seal(file: File) -> Result<File, PrepareError> {
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

    /// Whoever may write a directory can put anything there at any time.
    #[test]
    fn a_pipe_in_the_place_of_the_file_does_not_block() {
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::sync::mpsc;
        use std::time::Duration;

        use rustix::fs::{CWD, FileType, RenameFlags};

        let name = format!("nxt-prepare-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let (path, pipe) = (dir.join("component"), dir.join("pipe"));
        std::fs::write(&path, COMPONENT).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let done = AtomicBool::new(false);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let read = path.clone();
            // Not of the scope: if it blocks, it does so for ever.
            std::thread::spawn(move || {
                let outcomes: Vec<bool> =
                    (0..2000).map(|_| read_component(&read).is_ok()).collect();
                let _ = tell.send(outcomes);
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(CWD, &path, CWD, &pipe, RenameFlags::EXCHANGE)
                        .unwrap();
                }
            });
            let outcomes = told.recv_timeout(Duration::from_secs(60));
            done.store(true, Ordering::Relaxed);
            let outcomes = outcomes.expect("it reads, or refuses to");
            assert!(outcomes.contains(&true) && outcomes.contains(&false));
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_child_cannot_make_anybody_read_without_end() {
        // It has not a byte, and all of them.
        let long = file(b"", 1 << 50);
        let error = bounded(&long, "a component", MOST).unwrap_err().to_string();
        assert!(
            error.contains("a component of 1125899906842624 bytes"),
            "{error}"
        );
        assert!(error.contains("536870912 is the most"), "{error}");
        bounded(&file(b"", MOST), "a component", MOST).unwrap();
        let report = read_report(file(b"key=value\n", 1 << 50)).unwrap();
        assert_eq!(report.len() as u64, LONGEST_REPORT);
        let report = Report(report);
        assert_eq!(report.value("key").unwrap(), "value");
    }

    #[test]
    fn a_sealed_file_stays_as_it_is() {
        let mut sealed = seal(file(b"code", 4)).unwrap();
        assert!(sealed.write_all(b"x").is_err());
        assert!(sealed.set_len(0).is_err() && sealed.set_len(100).is_err());
        assert!(fcntl_add_seals(&sealed, SealFlags::WRITE).is_err());
        assert_eq!(artifact::read_all(&sealed).unwrap(), b"code");
    }
}
