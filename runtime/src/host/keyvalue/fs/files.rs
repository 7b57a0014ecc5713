//! The files of a directory. Everything here may wait for the disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::lock::SHARDS;
use crate::host::keyvalue::names::{self, Name, Told};
use crate::host::keyvalue::problem::Problem;

/// Where everything is that is not a value. No key has this name.
const OWN: &str = ".unit-wasm";
/// The same in capitals, to find out whether the file system tells them apart.
const CAPITALS: &str = ".UNIT-WASM";
/// Age of what a killed writer has left when it is removed.
const LEFT: Duration = Duration::from_secs(3600);

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// Not through links, and without waiting for the other end of a pipe.
const OPEN_VALUE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// Values and directories of ours are the application's user's alone.
const OWN_FILE: Mode = Mode::from_raw_mode(0o600);
const OWN_DIRECTORY: Mode = Mode::from_raw_mode(0o700);

/// An open directory of values.
pub(super) struct Files {
    values: OwnedFd,
    /// What writers need.
    writing: Option<Writing>,
}

struct Writing {
    temporary: Arc<OwnedFd>,
    locks: OwnedFd,
}

/// A written value that no key has yet. Removed when dropped.
pub(super) struct Temporary {
    directory: Arc<OwnedFd>,
    name: String,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = rustix::fs::unlinkat(&*self.directory, &self.name, AtFlags::empty());
    }
}

fn failed(what: &str) -> impl Fn(Errno) -> Problem + '_ {
    move |error| Problem::Failed(format!("{what}: {}", io::Error::from(error)))
}

impl Files {
    pub fn open(path: &Path, readonly: bool) -> Result<Self, String> {
        let told = |what: &'static str| {
            move |e: Errno| format!("{}: {what}: {}", path.display(), io::Error::from(e))
        };
        let values = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty())
            .map_err(told("the directory cannot be opened"))?;
        Dir::read_from(&values).map_err(told("the directory cannot be listed"))?;
        let mut files = Self {
            values,
            writing: None,
        };
        if !readonly {
            files.prepare().map_err(told(
                "the directory cannot be written to (the application's user has to be able to, \
                 unless the bucket is readonly)",
            ))?;
            if rustix::fs::statat(&files.values, CAPITALS, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err("the file system does not tell capitals from small letters".into());
            }
            let test = files.write(Bytes::new()).map_err(|e| e.to_string())?;
            drop(test);
        }
        Ok(files)
    }

    fn prepare(&mut self) -> Result<(), Errno> {
        let own = directory(&self.values, OWN)?;
        let temporary = directory(&own, "tmp")?;
        let locks = directory(&own, "lock")?;
        sweep(&temporary)?;
        self.writing = Some(Writing {
            temporary: Arc::new(temporary),
            locks,
        });
        Ok(())
    }

    fn writing(&self) -> Result<&Writing, Problem> {
        // Writing is refused before it comes to this.
        let readonly = || Problem::Unsupported("the bucket is readonly".to_owned());
        self.writing.as_ref().ok_or_else(readonly)
    }

    /// Opens a value. `None` if there is none of this name.
    fn value(&self, name: &str) -> Result<Option<File>, Problem> {
        match rustix::fs::openat(&self.values, name, OPEN_VALUE, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let stat = rustix::fs::fstat(&file).map_err(failed("reading"))?;
                let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                Ok(plain.then_some(file))
            }
            Err(Errno::NOENT) => self.none(),
            // A link, a socket, a device without a driver.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
            Err(error) => Err(failed("reading")(error)),
        }
    }

    /// Nothing is there, if that is because nobody has put it there.
    fn none<T>(&self) -> Result<Option<T>, Problem> {
        let stat = rustix::fs::fstat(&self.values).map_err(failed("reading"))?;
        if stat.st_nlink == 0 {
            return Err(Problem::Failed("the directory has been removed".into()));
        }
        Ok(None)
    }

    pub fn read(&self, name: &Name, most: usize) -> Result<Option<Bytes>, Problem> {
        let Some(file) = self.value(name.as_str())? else {
            return Ok(None);
        };
        let limit = most.saturating_add(name.overhead());
        let mut stored = Vec::new();
        // Not by its size alone: others may be writing to it.
        file.take(limit as u64 + 1)
            .read_to_end(&mut stored)
            .map_err(|e| Problem::Failed(format!("reading: {e}")))?;
        if stored.len() > limit {
            return Err(Problem::TooLarge(most));
        }
        Ok(name.unwrap(stored.into()))
    }

    pub fn exists(&self, name: &Name) -> Result<bool, Problem> {
        if name.overhead() > 0 {
            return Ok(self.key_inside(name.as_str())?.is_some());
        }
        match rustix::fs::statat(&self.values, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
            Err(Errno::NOENT) => Ok(self.none::<()>()?.is_some()),
            Err(error) => Err(failed("reading")(error)),
        }
    }

    /// Writes a value that is nobody's yet, down to the disk.
    pub fn write(&self, stored: Bytes) -> Result<Temporary, Problem> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let directory = Arc::clone(&self.writing()?.temporary);
        let (fd, name) = loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let name = format!(
                "{}-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed),
                now.unwrap_or_default().as_nanos()
            );
            match rustix::fs::openat(&*directory, &name, flags, OWN_FILE) {
                Ok(fd) => break (fd, name),
                // Processes in containers can have the same number.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("writing")(error)),
            }
        };
        let temporary = Temporary { directory, name };
        let mut file = File::from(fd);
        file.write_all(&stored)
            .map_err(|e| Problem::Failed(format!("writing: {e}")))?;
        rustix::fs::fdatasync(&file).map_err(failed("writing"))?;
        Ok(temporary)
    }

    /// Makes a written value that of a key.
    pub fn publish(&self, new: Temporary, name: &Name) -> Result<(), Problem> {
        rustix::fs::renameat(&*new.directory, &new.name, &self.values, name.as_str())
            .map_err(failed("writing"))
    }

    pub fn remove(&self, name: &Name) -> Result<(), Problem> {
        if !self.exists(name)? {
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.values, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("deleting")(error)),
        }
    }

    /// Takes a lock, unless somebody else has it. It is given back when the
    /// file is closed.
    pub fn try_lock(&self, shard: usize) -> Result<Option<OwnedFd>, Problem> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = format!("{:02}", shard % SHARDS);
        let file = rustix::fs::openat(&self.writing()?.locks, name, flags, OWN_FILE)
            .map_err(failed("locking"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(failed("locking")(error)),
        }
    }

    /// All names that keys can have.
    pub fn names(&self, deadline: Instant, mut each: impl FnMut(&str)) -> Result<(), Problem> {
        let listing = failed("listing");
        for entry in Dir::read_from(&self.values).map_err(&listing)? {
            in_time(deadline)?;
            let entry = entry.map_err(&listing)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let plain = match entry.file_type() {
                FileType::Unknown => self.is_plain(name),
                kind => kind == FileType::RegularFile,
            };
            if plain && names::tell(name).is_some() {
                each(name);
            }
        }
        self.none::<()>().map(|_| ())
    }

    fn is_plain(&self, name: &str) -> bool {
        rustix::fs::statat(&self.values, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// The keys that have these names.
    pub fn keys(&self, names: &[String], deadline: Instant) -> Result<Vec<String>, Problem> {
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            match names::tell(name) {
                Some(Told::Key(key)) => keys.push(key),
                Some(Told::Inside) => {
                    in_time(deadline)?;
                    keys.extend(self.key_inside(name)?);
                }
                None => {}
            }
        }
        Ok(keys)
    }

    /// The key in the file of this name, if it is that of the name. The file
    /// may have gone.
    fn key_inside(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(file) = self.value(name)? else {
            return Ok(None);
        };
        let mut start = Vec::new();
        file.take(names::KEY_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(|e| Problem::Failed(format!("reading: {e}")))?;
        Ok(names::stored_key(&start)
            .filter(|key| Name::of(key).as_str() == name)
            .map(str::to_owned))
    }
}

fn in_time(deadline: Instant) -> Result<(), Problem> {
    if Instant::now() < deadline {
        Ok(())
    } else {
        Err(Problem::Late)
    }
}

/// Opens a directory, and makes it if there is none.
fn directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, name, OWN_DIRECTORY) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(
        parent,
        name,
        OPEN_DIRECTORY | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// Removes what writers have left that were killed long ago.
fn sweep(temporary: &OwnedFd) -> Result<(), Errno> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    for entry in Dir::read_from(temporary)? {
        let entry = entry?;
        let stat = rustix::fs::statat(temporary, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
        let old = stat.is_ok_and(|stat| {
            let written = u64::try_from(stat.st_mtime).unwrap_or(now);
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && now.saturating_sub(written) > LEFT.as_secs()
        });
        if old {
            // Another process may have been quicker.
            let _ = rustix::fs::unlinkat(temporary, entry.file_name(), AtFlags::empty());
        }
    }
    Ok(())
}
