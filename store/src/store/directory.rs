//! A store in a directory.
//!
//! Everything appears complete, by being renamed after it is on the disk. Whoever
//! changes records, or removes components, has a lock on the file `lock`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{
    APPS, COMPONENTS, MAX_COMPONENT, MAX_RECORD, StoreError, digest_of, is_private_to, name_of,
};
use crate::digest::{self, Digest};
use crate::fetch::open_regular;
use crate::record::{Name, Record};

/// Where files are written that are yet to get their names.
const WRITING: &str = "tmp";
/// What killed writers leave there is removed after this time.
const ABANDONED: Duration = Duration::from_secs(3600);

pub(super) struct Directory {
    /// Absolute, without symbolic links.
    path: PathBuf,
}

impl Directory {
    pub fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::Open {
            at: path.display().to_string(),
            problem: error.to_string(),
        };
        if create {
            // Unit's processes read components, so that all may enter.
            make(path, 0o755).map_err(failed)?;
        }
        let path = match path.canonicalize() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::Missing(path.to_path_buf()));
            }
            path => path.map_err(failed)?,
        };
        // Records have what guests are given in their environment.
        for (folder, mode) in [(COMPONENTS, 0o755), (APPS, 0o700), (WRITING, 0o700)] {
            let folder = path.join(folder);
            if create {
                make(&folder, mode).map_err(failed)?;
            } else if !folder.is_dir() {
                return Err(StoreError::Missing(path));
            }
        }
        let user = rustix::process::geteuid().as_raw();
        for folder in [&path, &path.join(COMPONENTS), &path.join(APPS)] {
            let found = fs::metadata(folder).map_err(failed)?;
            if !is_private_to(&found, user) {
                let path = folder.clone();
                return Err(StoreError::Untrusted { path });
            }
        }
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn component_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(COMPONENTS).join(format!("{digest}.wasm"))
    }

    fn record_path(&self, name: &Name) -> PathBuf {
        self.path.join(APPS).join(format!("{name}.json"))
    }

    /// Waits for the lock, which is held until the file is closed.
    fn lock(&self) -> Result<File, StoreError> {
        let lock = || {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(self.path.join("lock"))?;
            rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
            Ok(file)
        };
        lock().map_err(StoreError::io("taking its lock"))
    }

    pub fn put(&self, from: &mut dyn Read) -> Result<(Digest, u64), StoreError> {
        let failed = || StoreError::io("keeping a component");
        let mut new = Unnamed::new(&self.path.join(WRITING), 0o444).map_err(failed())?;
        let copied = digest::copy(from, &mut new.file, MAX_COMPONENT);
        let (digest, length) = copied.map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => StoreError::TooLarge(MAX_COMPONENT),
            _ => failed()(error),
        })?;
        // Renamed in any case: the one that is there may be damaged, and is as old
        // as it is. Whoever reads it goes on with what it has opened. Under the lock,
        // as `collect` looks at the age of a file before it removes it.
        new.file.sync_all().map_err(failed())?;
        let _lock = self.lock()?;
        new.name(&self.component_path(&digest)).map_err(failed())?;
        Ok((digest, length))
    }

    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        let there = self.component_path(digest).try_exists();
        there.map_err(StoreError::io(format!(
            "looking for the component {digest}"
        )))
    }

    pub fn get(&self, digest: &Digest, to: &mut dyn Write) -> Result<u64, StoreError> {
        let failed = || StoreError::io(format!("reading the component {digest}"));
        let mut file = match open_regular(&self.component_path(digest)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::NoComponent(digest.clone()));
            }
            file => file.map_err(failed())?,
        };
        match digest::copy(&mut file, to, MAX_COMPONENT) {
            Ok((found, length)) if found == *digest => Ok(length),
            Ok(_) => Err(StoreError::Damaged(digest.clone())),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                Err(StoreError::Damaged(digest.clone()))
            }
            Err(error) => Err(failed()(error)),
        }
    }

    pub fn names(&self) -> Result<Vec<Name>, StoreError> {
        let names = files(&self.path.join(APPS)).map_err(StoreError::io("listing records"))?;
        Ok(names.iter().filter_map(|file| name_of(file)).collect())
    }

    pub fn record(&self, name: &Name) -> Result<Option<Record>, StoreError> {
        let failed = || StoreError::io(format!("reading the record of \"{name}\""));
        let file = match open_regular(&self.record_path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed())?,
        };
        let mut text = Vec::new();
        let most = MAX_RECORD + 1;
        file.take(most).read_to_end(&mut text).map_err(failed())?;
        let problem = |problem| StoreError::Record {
            name: name.clone(),
            problem,
        };
        Record::from_json(name, &text).map(Some).map_err(problem)
    }

    pub fn update(
        &self,
        name: &Name,
        change: &mut dyn FnMut(Option<Record>) -> Record,
    ) -> Result<Record, StoreError> {
        let _lock = self.lock()?;
        let record = change(self.record(name)?);
        let text = record.to_json().map_err(|problem| StoreError::Record {
            name: name.clone(),
            problem,
        })?;
        let write = || {
            let mut new = Unnamed::new(&self.path.join(WRITING), 0o600)?;
            new.file.write_all(&text)?;
            new.name(&self.record_path(name))
        };
        write().map_err(StoreError::io(format!("writing the record of \"{name}\"")))?;
        Ok(record)
    }

    pub fn remove(&self, name: &Name, seen: &Record) -> Result<bool, StoreError> {
        let failed = |problem: String| StoreError::Failed {
            what: format!("removing the record of \"{name}\""),
            problem,
        };
        let _lock = self.lock()?;
        match self.record(name) {
            Ok(None) => return Ok(false),
            Ok(Some(record)) if record != *seen => return Err(StoreError::Busy(name.clone())),
            Ok(Some(_)) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        let path = self.record_path(name);
        let removed = fs::remove_file(&path).and_then(|()| sync_folder(&path));
        removed.map_err(|error| failed(error.to_string()))?;
        Ok(true)
    }

    pub fn collect(
        &self,
        grace: Duration,
        mut used: BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        self.sweep()?;
        let _lock = self.lock()?;
        for name in self.names()? {
            let record = self.record(&name)?;
            let history = record.iter().flat_map(Record::history);
            used.extend(history.map(|deployment| deployment.digest.clone()));
        }
        let failed = || StoreError::io("removing components");
        let components = self.path.join(COMPONENTS);
        let mut removed = Vec::new();
        for file in files(&components).map_err(failed())? {
            let Some(digest) = digest_of(&file).filter(|digest| !used.contains(digest)) else {
                continue;
            };
            if remove_old(&components.join(file), grace).map_err(failed())? {
                removed.push(digest);
            }
        }
        Ok(removed)
    }

    pub fn sweep(&self) -> Result<(), StoreError> {
        let sweep = || -> io::Result<()> {
            let writing = self.path.join(WRITING);
            for file in files(&writing)? {
                remove_old(&writing.join(file), ABANDONED)?;
            }
            Ok(())
        };
        sweep().map_err(StoreError::io("removing what killed writers have left"))
    }
}

/// Makes a directory with this mode, and its parents, which all may enter. One that is
/// there stays as it is.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        make(parent, 0o755)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    // Whatever the umask takes away: others have to get at components.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Names of the files in a folder.
fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Removes a file that has not changed for `age`, and says whether it was there.
fn remove_old(path: &Path, age: Duration) -> io::Result<bool> {
    let remove = || -> io::Result<bool> {
        let changed = fs::symlink_metadata(path)?.modified()?;
        let old = SystemTime::now().duration_since(changed);
        if old.is_ok_and(|old| old >= age) {
            fs::remove_file(path)?;
            return Ok(true);
        }
        Ok(false)
    };
    match remove() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        result => result,
    }
}

/// Sees to it that the names in the folder of `path` are on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A file that is being written, and goes away unless it gets a name.
struct Unnamed {
    file: File,
    path: PathBuf,
}

impl Unnamed {
    fn new(folder: &Path, mode: u32) -> io::Result<Self> {
        // Nobody guesses it, and none is the same as another.
        let name = RandomState::new().hash_one(std::process::id());
        let path = folder.join(format!("{name:016x}"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let unnamed = Self { file, path };
        let mode = Permissions::from_mode(mode);
        unnamed.file.set_permissions(mode)?;
        Ok(unnamed)
    }

    fn name(self, path: &Path) -> io::Result<()> {
        let now = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
        };
        rustix::fs::futimens(&self.file, &now)?;
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        sync_folder(path)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Once it has its name, there is none of the old one.
        let _ = fs::remove_file(&self.path);
    }
}
