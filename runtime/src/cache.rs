//! Compiled components kept in a directory, for later starts.
//!
//! Machine code is loaded from there, so nothing is taken from a directory or
//! a file that anybody but its owner could have written. Each entry is one
//! file, whose name has its key and its SHA-256: it appears complete, by being
//! renamed, and is never changed, so any number of processes may look for,
//! store and remove entries at the same time.

use std::fs::{self, File, Metadata, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::artifact;

/// What is left of a process that died while it stored an entry is removed
/// after this time.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Why a directory or a file of the cache is not used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Something else is in the directory's place; a symbolic link counts as
    /// something else.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// Another user could have written it.
    #[error(
        "{path} belongs to user {found}: it must belong to {}, since machine code is loaded \
         from it",
        owners(*wanted)
    )]
    Owner {
        /// What was looked at.
        path: PathBuf,
        /// Whom it belongs to.
        found: u32,
        /// Who may own it, besides root.
        wanted: u32,
    },
    /// Other users can write it.
    #[error(
        "{path} can be written by others (mode {mode:04o}), and machine code is loaded from \
         it: chmod go-w"
    )]
    Mode {
        /// What was looked at.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not have the bytes that its name promises.
    #[error("{0} is damaged, or has been renamed")]
    Damaged(PathBuf),
    /// The operating system refused something.
    #[error("{path}: {error}")]
    Io {
        /// What was looked at.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

impl CacheError {
    /// Whether the system was short of something, and the file may be good.
    pub fn is_shortage(&self) -> bool {
        let Self::Io { error, .. } = self else {
            return false;
        };
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| {
            matches!(
                errno,
                Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::INTR
            )
        })
    }
}

fn owners(wanted: u32) -> String {
    match wanted {
        0 => "root".to_owned(),
        user => format!("root or to user {user}"),
    }
}

/// A directory of compiled components.
pub struct Cache {
    path: PathBuf,
    directory: File,
    owner: u32,
}

/// What was found under a key.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The artifact, whole and trustworthy.
    pub file: Option<File>,
    /// Files under the key that were not believed. They have been removed.
    pub refused: Vec<CacheError>,
}

/// A compiled component that is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When it was last used.
    pub used: SystemTime,
    /// Its bytes.
    pub size: u64,
    /// What it was stored under.
    pub key: String,
    /// Its file in the directory.
    pub file: String,
}

/// The files that a cache makes; all others are let alone.
#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    Entry { key: &'a str, digest: &'a str },
    Unfinished,
}

fn kind(name: &str) -> Option<Kind<'_>> {
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (stem, extension) = name.rsplit_once('.')?;
    let (key, rest) = stem.split_once('.')?;
    if !artifact::is_key(key) {
        return None;
    }
    match extension {
        "cwasm" if hex(rest, 64) => Some(Kind::Entry { key, digest: rest }),
        "tmp" if hex(rest, 16) => Some(Kind::Unfinished),
        _ => None,
    }
}

impl Cache {
    /// Opens the directory at `path`, and makes it if it is not there. It, and
    /// every file that is taken from it, must belong to root or to `owner` and
    /// must not be writable by anybody else.
    ///
    /// # Errors
    ///
    /// What keeps the directory from being trusted or used.
    pub fn open(path: &Path, owner: u32) -> Result<Self, CacheError> {
        let failed = |error: io::Error| CacheError::Io {
            path: path.to_owned(),
            error,
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::open(path, flags, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) => {
                let mut builder = fs::DirBuilder::new();
                let made = builder.recursive(true).mode(0o755).create(path);
                made.map_err(failed)?;
                open()
            }
            opened => opened,
        };
        let directory = match opened {
            Ok(directory) => File::from(directory),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(CacheError::NotADirectory(path.to_owned()));
            }
            Err(error) => return Err(failed(error.into())),
        };
        check_owner(path, &directory.metadata().map_err(failed)?, owner)?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            owner,
        })
    }

    /// Makes `owner` the owner of the directory, which this process must be allowed to.
    ///
    /// # Errors
    ///
    /// What the operating system refused.
    pub fn give_to(self, owner: u32) -> io::Result<Self> {
        std::os::unix::fs::fchown(&self.directory, Some(owner), None)?;
        Ok(Self { owner, ..self })
    }

    /// Looks for the artifact of `key`, and marks it as used now.
    pub fn find(&self, key: &str) -> Lookup {
        let mut lookup = Lookup::default();
        let names = self.names().unwrap_or_default();
        for name in &names {
            let digest = match kind(name) {
                Some(Kind::Entry { key: of, digest }) if of == key => digest,
                _ => continue,
            };
            match self.open_entry(name, key, digest) {
                Ok(file) => lookup.file = Some(file),
                // Removed by a sweep in the meantime.
                Err(CacheError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    if !error.is_shortage() {
                        self.remove(name);
                    }
                    lookup.refused.push(error);
                }
            }
        }
        if let Some(file) = &lookup.file {
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                },
            };
            // An entry of root's is used by others too, who cannot mark it.
            let _ = rustix::fs::futimens(file, &times);
        }
        lookup
    }

    fn open_entry(&self, name: &str, key: &str, digest: &str) -> Result<File, CacheError> {
        let path = self.path.join(name);
        let failed = |error: io::Error| CacheError::Io {
            path: path.clone(),
            error,
        };
        let file = self.open_file(name).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check_owner(&path, &metadata, self.owner)?;
        if !metadata.is_file() || copy(key, &file, &mut io::sink()).map_err(failed)? != digest {
            return Err(CacheError::Damaged(path));
        }
        Ok(file)
    }

    /// Only for reading: application processes inherit the descriptor.
    fn open_file(&self, name: &str) -> io::Result<File> {
        // A pipe would not open before somebody writes to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        Ok(File::from(file))
    }

    /// Copies what is in `artifact` into the cache, in place of any other entry
    /// of `key`, and opens the copy.
    ///
    /// # Errors
    ///
    /// What the operating system refused; nothing is left behind then.
    pub fn store(&self, key: &str, artifact: &File) -> io::Result<File> {
        // Process ids are no help: each namespace has its own.
        let number = RandomState::new().hash_one(std::process::id());
        let unfinished = format!("{key}.{number:016x}.tmp");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(&self.directory, &unfinished, flags, mode)?;
        let stored = (|| {
            let mut file = File::from(file);
            let digest = copy(key, artifact, &mut file)?;
            // Whatever the umask: application processes run as other users.
            file.set_permissions(Permissions::from_mode(0o644))?;
            let file = self.open_file(&unfinished)?;
            let name = format!("{key}.{digest}.cwasm");
            rustix::fs::renameat(&self.directory, &unfinished, &self.directory, &name)?;
            self.remove_others(key, &name);
            Ok(file)
        })();
        if stored.is_err() {
            self.remove(&unfinished);
        }
        stored
    }

    /// Removes the entries that have not been used for the longest time, until
    /// the rest has at most `most` bytes; never those of the keys in `keep`. Returns
    /// how many.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn sweep(&self, most: u64, keep: &[&str]) -> io::Result<usize> {
        let mut total = 0_u64;
        let mut entries = Vec::new();
        for name in self.names()? {
            let Some(kind) = kind(&name) else {
                continue;
            };
            let metadata = self.open_file(&name).and_then(|file| file.metadata());
            let Ok(metadata) = metadata else {
                continue;
            };
            let used = metadata.modified()?;
            match kind {
                Kind::Entry { key, .. } => {
                    total = total.saturating_add(metadata.len());
                    if !keep.contains(&key) {
                        entries.push((used, metadata.len(), name));
                    }
                }
                Kind::Unfinished => {
                    let age = SystemTime::now().duration_since(used);
                    if age.is_ok_and(|age| age > ABANDONED) {
                        self.remove(&name);
                    }
                }
            }
        }
        entries.sort();
        let mut removed = 0;
        for (_, size, name) in entries {
            if total <= most {
                break;
            }
            self.remove(&name);
            total = total.saturating_sub(size);
            removed += 1;
        }
        Ok(removed)
    }

    /// What is kept, from the one that has not been used for the longest time to the
    /// one that was used last. Nothing is read of their contents.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in self.names()? {
            let Some(Kind::Entry { key, .. }) = kind(&file) else {
                continue;
            };
            let key = key.to_owned();
            // Removed by a sweep in the meantime.
            let Ok(metadata) = self.open_file(&file).and_then(|file| file.metadata()) else {
                continue;
            };
            entries.push(Entry {
                used: metadata.modified()?,
                size: metadata.len(),
                key,
                file,
            });
        }
        entries.sort();
        Ok(entries)
    }

    /// Removes an entry; processes that have mapped it keep it.
    ///
    /// # Errors
    ///
    /// What the operating system refused. That it is gone already is no error.
    pub fn remove_entry(&self, entry: &Entry) -> io::Result<()> {
        // Only what this lists can be meant.
        if kind(&entry.file).is_none() {
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.directory, &entry.file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whoever stores an entry has found none, or none of use.
    fn remove_others(&self, key: &str, made: &str) {
        let names = self.names().unwrap_or_default();
        for name in names.iter().filter(|name| *name != made) {
            if matches!(kind(name), Some(Kind::Entry { key: of, .. }) if of == key) {
                self.remove(name);
            }
        }
    }

    fn remove(&self, name: &str) {
        // Another process may have done it.
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// Only root and `owner` may be able to write what is at `path`.
fn check_owner(path: &Path, metadata: &Metadata, owner: u32) -> Result<(), CacheError> {
    let found = metadata.uid();
    if found != 0 && found != owner {
        return Err(CacheError::Owner {
            path: path.to_owned(),
            found,
            wanted: owner,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(CacheError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Copies all of `from`, and returns the SHA-256 of `key` and the bytes: an
/// entry under another's name has the wrong one.
fn copy(key: &str, from: &File, to: &mut impl Write) -> io::Result<String> {
    let mut from = from;
    from.seek(SeekFrom::Start(0))?;
    let mut digest = Sha256::new();
    digest.update(key);
    digest.update("\n");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = match from.read(&mut buffer) {
            Ok(0) => return Ok(artifact::hex(&digest.finalize())),
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..size).unwrap_or_default();
        digest.update(piece);
        to.write_all(piece)?;
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
