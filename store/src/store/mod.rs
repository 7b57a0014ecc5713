//! The module store: components by digest, and records of deployments.
//!
//! `components/SHA256.wasm` never changes once it is there, and is checked when it
//! is read; `apps/NAME.json` is a [`Record`], replaced as a whole.

mod directory;
mod objects;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use directory::Directory;
use objects::Objects;

use crate::digest::Digest;
use crate::fetch::open_regular;
use crate::location::{Location, LocationError};
use crate::record::{MAX_RECORD, Name, Record};

/// Bytes of the longest component.
pub const MAX_COMPONENT: u64 = 256 << 20;
/// A component that no record names is kept for this time: it may be about to be
/// deployed.
pub const GRACE: Duration = Duration::from_secs(3600);
/// The folder of components.
const COMPONENTS: &str = "components";
/// The folder of records.
const APPS: &str = "apps";

/// How a store is to be opened.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// Whether a directory that is not there is to be made.
    pub create: bool,
    /// Of an S3 store: the credentials that its URL names.
    pub credentials: Option<&'a str>,
    /// Of an S3 store: authorities to trust beside the machine's, PEM.
    pub authorities: Option<&'a [u8]>,
    /// Of an S3 store: the longest time for one operation.
    pub timeout: Duration,
    /// Of an S3 store: whether it may be reached over plain HTTP on another machine.
    pub allow_plain_http: bool,
}

impl Default for Access<'_> {
    /// Makes nothing, knows no secret.
    fn default() -> Self {
        Self {
            create: false,
            credentials: None,
            authorities: None,
            timeout: Duration::from_secs(120),
            allow_plain_http: false,
        }
    }
}

/// Why a store cannot do what it is to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is none of a store.
    #[error("--store: {0}")]
    Location(#[from] LocationError),
    /// Something else than a directory or a bucket.
    #[error("--store takes a directory (fs:/srv/wasm) or a bucket (s3://bucket/prefix?...)")]
    Kind,
    /// There is no such directory.
    #[error("there is no store at {0}: `nxt-wasm deploy` makes one")]
    Missing(PathBuf),
    /// It cannot be set up.
    #[error("the store at {at}: {problem}")]
    Open {
        /// Where it is.
        at: String,
        /// Why not.
        problem: String,
    },
    /// Others could change what comes from there.
    #[error("--store: {}", crate::location::PLAIN_HTTP)]
    PlainHttp,
    /// Others than root and its user could change it.
    #[error(
        "{path} can be changed by others than its owner, or belongs to another user: what is \
         deployed comes from there"
    )]
    Untrusted {
        /// The directory.
        path: PathBuf,
    },
    /// A component is not there.
    #[error("the store has no component {0}")]
    NoComponent(Digest),
    /// A component has not the bytes that its name promises.
    #[error("the component {0} in the store is damaged")]
    Damaged(Digest),
    /// A component that is too large.
    #[error("the component has more than {0} bytes")]
    TooLarge(u64),
    /// A record that cannot be read.
    #[error("the record of \"{name}\" in the store cannot be used: {problem}")]
    Record {
        /// Of which application.
        name: Name,
        /// Why not.
        problem: String,
    },
    /// Others write the same record all the time.
    #[error("the record of \"{0}\" is being changed by others; try again")]
    Busy(Name),
    /// The file system, or the server, has failed.
    #[error("the store: {what}: {problem}")]
    Failed {
        /// What was being done.
        what: String,
        /// What happened.
        problem: String,
    },
}

impl StoreError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Failed {
            what,
            problem: error.to_string(),
        }
    }
}

/// A module store.
pub struct Store(Kind);

enum Kind {
    Directory(Directory),
    Objects(Box<Objects>),
}

impl Store {
    /// Opens the store at `url`: `fs:/directory`, a path, or `s3://bucket/prefix?...`.
    /// Of an S3 store, nothing is asked yet.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn open(url: &str, access: &Access<'_>) -> Result<Self, StoreError> {
        // Of a bucket alone, there is no object in the URL.
        if url.starts_with("s3:") {
            let place = nxt_wasm_settings::buckets::s3_place(url);
            let place = place.map_err(|problem| StoreError::Open {
                at: "--store".to_owned(),
                problem,
            })?;
            if nxt_wasm_settings::buckets::is_exposed(&place) && !access.allow_plain_http {
                return Err(StoreError::PlainHttp);
            }
            let objects = Objects::open(&place, access)?;
            return Ok(Self(Kind::Objects(Box::new(objects))));
        }
        match url.parse()? {
            Location::File(path) => {
                let directory = Directory::open(&path, access.create)?;
                Ok(Self(Kind::Directory(directory)))
            }
            Location::S3(_) | Location::Https(_) => Err(StoreError::Kind),
        }
    }

    /// The name of the secret with the credentials that `url` takes.
    pub fn credentials(url: &str) -> Option<String> {
        let place = nxt_wasm_settings::buckets::s3_place(url).ok()?;
        Location::S3(place).credentials().map(str::to_owned)
    }

    /// Its directory, if it is one of this machine.
    pub fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Directory(directory) => Some(directory.path()),
            Kind::Objects(_) => None,
        }
    }

    /// Of a store that is not on this machine: the name of a folder for copies of its
    /// components, which no other store has.
    pub fn folder_name(&self) -> Option<&str> {
        match &self.0 {
            Kind::Directory(_) => None,
            Kind::Objects(objects) => Some(objects.folder_name()),
        }
    }

    /// The file of a component, if it is one of this machine.
    pub fn component_path(&self, digest: &Digest) -> Option<PathBuf> {
        match &self.0 {
            Kind::Directory(directory) => Some(directory.component_path(digest)),
            Kind::Objects(_) => None,
        }
    }

    /// Keeps a component. One that is there already is kept for as long as a new one.
    ///
    /// # Errors
    ///
    /// If it is too large, cannot be read, or cannot be kept.
    pub fn put(&self, from: &mut dyn Read) -> Result<(Digest, u64), StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.put(from),
            Kind::Objects(objects) => objects.put(from),
        }
    }

    /// Whether a component of this name is there. It may be damaged.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.contains(digest),
            Kind::Objects(objects) => objects.contains(digest),
        }
    }

    /// Copies a component, and checks it on the way: after an error, what was written
    /// is to be thrown away.
    ///
    /// # Errors
    ///
    /// If it is not there or damaged, or cannot be read or written.
    pub fn get(&self, digest: &Digest, to: &mut dyn Write) -> Result<u64, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.get(digest, to),
            Kind::Objects(objects) => objects.get(digest, to),
        }
    }

    /// Names of all applications, sorted.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn names(&self) -> Result<Vec<Name>, StoreError> {
        let mut names = match &self.0 {
            Kind::Directory(directory) => directory.names()?,
            Kind::Objects(objects) => objects.names()?,
        };
        names.sort();
        Ok(names)
    }

    /// The record of an application, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is none.
    pub fn record(&self, name: &Name) -> Result<Option<Record>, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.record(name),
            Kind::Objects(objects) => objects.record(name),
        }
    }

    /// Replaces the record of an application by what `change` makes of it. No change
    /// that another deployer makes meanwhile is lost: `change` is called again for
    /// what is there then.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn update(
        &self,
        name: &Name,
        mut change: impl FnMut(Option<Record>) -> Record,
    ) -> Result<Record, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.update(name, &mut change),
            Kind::Objects(objects) => objects.update(name, &mut change),
        }
    }

    /// Forgets an application, unless another deployer has changed its record since it
    /// was `seen`. Whether it was there. Its components stay until [`Store::collect`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] if the record is another one now, and what the store fails
    /// with.
    pub fn remove(&self, name: &Name, seen: &Record) -> Result<bool, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.remove(name, seen),
            Kind::Objects(objects) => objects.remove(name, seen),
        }
    }

    /// Removes components that no record names and that are not among `in_use`, if they
    /// have not been put for `grace`: [`GRACE`], unless nobody else uses the store. Says
    /// which.
    ///
    /// # Errors
    ///
    /// If the store fails, or a record cannot be read: nothing is removed then.
    pub fn collect(
        &self,
        grace: Duration,
        in_use: BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.collect(grace, in_use),
            Kind::Objects(objects) => objects.collect(grace, in_use),
        }
    }

    /// Removes what killed writers have left in a store of this machine.
    /// [`Store::collect`] does the same.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn sweep(&self) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.sweep(),
            Kind::Objects(_) => Ok(()),
        }
    }
}

/// The name of the application that has its record in a file of this name.
fn name_of(file: &str) -> Option<Name> {
    file.strip_suffix(".json")?.parse().ok()
}

/// The digest of the component in a file of this name.
fn digest_of(file: &str) -> Option<Digest> {
    file.strip_suffix(".wasm")?.parse().ok()
}

/// Whether only `user` and root may change what has this metadata.
pub fn is_private_to(found: &std::fs::Metadata, user: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    (found.uid() == user || found.uid() == 0) && found.mode() & 0o022 == 0
}

/// Opens a file for reading, if it is a regular one of at most [`MAX_COMPONENT`]
/// bytes.
///
/// # Errors
///
/// Why it cannot be used.
pub fn read_component_file(path: &Path) -> io::Result<std::fs::File> {
    let file = open_regular(path)?;
    if file.metadata()?.len() > MAX_COMPONENT {
        let text = format!("it has more than {MAX_COMPONENT} bytes");
        return Err(io::Error::other(text));
    }
    Ok(file)
}
