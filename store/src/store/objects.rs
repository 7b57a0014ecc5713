//! A store in a bucket that speaks the S3 protocol.
//!
//! Components are objects, through OpenDAL. Records are kept in what guests have as a
//! key-value bucket, for its conditional writes: by these, no deployer loses the
//! update of another. A store that does not know such writes is refused there.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use nxt_wasm_runtime::keyvalue::{BucketGrant, Place, S3Place, Store as Values};
use opendal::options::ListOptions;
use opendal::{ErrorKind, Operator};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use super::{APPS, Access, COMPONENTS, MAX_COMPONENT, MAX_RECORD, StoreError, digest_of, name_of};
use crate::digest::{self, Digest};
use crate::fetch::{self, CopyError};
use crate::record::{Name, Record};

/// What is in the place of a record that was removed.
const GONE: &[u8] = b"{\"removed\": true}\n";
/// Attempts at an update that others are in the way of.
const ATTEMPTS: u32 = 20;
/// Attempts at what the server may do when it is asked again.
const TRIES: u32 = 3;

pub(super) struct Objects {
    folder_name: String,
    event_loop: Runtime,
    components: Operator,
    records: Values,
    timeout: Duration,
}

impl Objects {
    pub fn open(place: &S3Place, access: &Access<'_>) -> Result<Self, StoreError> {
        let failed = |problem| StoreError::Open {
            at: format!("s3://{}/{}", place.bucket, place.prefix),
            problem,
        };
        let place = fetch::with_credentials(place, access.credentials).map_err(failed)?;
        let tls = fetch::is_tls(&place);
        let common = fetch::common(tls, access.authorities, access.timeout).map_err(failed)?;
        let most = usize::try_from(MAX_COMPONENT).unwrap_or(usize::MAX);
        let folder = |name: &str| S3Place {
            prefix: match place.prefix.as_str() {
                "" => name.to_owned(),
                prefix => format!("{prefix}/{name}"),
            },
            ..place.clone()
        };
        let components = common.objects(&folder(COMPONENTS), most).map_err(failed)?;
        let bucket = BucketGrant {
            max_value: usize::try_from(MAX_RECORD).unwrap_or(usize::MAX),
            ..BucketGrant::new(APPS, Place::S3(folder(APPS)))
        };
        // By whatever endpoint it is reached, it is the same store.
        let name = format!("{}/{}", place.bucket, place.prefix);
        let folder_name = format!("s3-{}", Digest::of(name.as_bytes()).short());
        Ok(Self {
            folder_name,
            records: Values::open(&bucket, &common).map_err(failed)?,
            event_loop: fetch::event_loop().map_err(|e| failed(e.to_string()))?,
            components,
            timeout: access.timeout,
        })
    }

    pub fn folder_name(&self) -> &str {
        &self.folder_name
    }

    /// Waits for an operation.
    fn wait<T, E: std::fmt::Display>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StoreError> {
        let failed = |problem| StoreError::Failed {
            what: what.to_owned(),
            problem,
        };
        match fetch::wait(&self.event_loop, self.timeout, work) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(failed(error.to_string())),
            None => Err(failed(format!("not within {} s", self.timeout.as_secs()))),
        }
    }

    pub fn put(&self, from: &mut dyn Read) -> Result<(Digest, u64), StoreError> {
        let mut bytes = Vec::new();
        let copied = digest::copy(from, &mut bytes, MAX_COMPONENT);
        let (digest, length) = copied.map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => StoreError::TooLarge(MAX_COMPONENT),
            _ => StoreError::io("reading the component")(error),
        })?;
        // Written in any case: what is there may be damaged, and would be as old as
        // it is. What is read there meanwhile has the same bytes.
        let (name, bytes) = (format!("{digest}.wasm"), Bytes::from(bytes));
        let write = again(|| self.components.write(&name, bytes.clone()));
        self.wait("keeping a component", write)?;
        Ok((digest, length))
    }

    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        let name = format!("{digest}.wasm");
        let exists = again(|| self.components.exists(&name));
        self.wait("looking for a component", exists)
    }

    pub fn get(&self, digest: &Digest, to: &mut dyn Write) -> Result<u64, StoreError> {
        let what = format!("reading the component {digest}");
        let name = format!("{digest}.wasm");
        let (mut hash, mut length) = (Sha256::new(), 0);
        let copy = fetch::copy_object(&self.components, &name, async |part: Bytes| {
            hash.update(&part);
            length += part.len() as u64;
            to.write_all(&part)
        });
        let copied = self.wait(&what, async { Ok::<_, String>(copy.await) })?;
        copied.map_err(|error| match error {
            CopyError::Store(error) if error.kind() == ErrorKind::NotFound => {
                StoreError::NoComponent(digest.clone())
            }
            CopyError::Store(error) => StoreError::Failed {
                what: what.clone(),
                problem: error.to_string(),
            },
            CopyError::Take(error) => StoreError::io(what.clone())(error),
        })?;
        match Digest::from_hash(hash) == *digest {
            true => Ok(length),
            false => Err(StoreError::Damaged(digest.clone())),
        }
    }

    /// Those that have a record: what stands for one that was removed is told by reading it.
    pub fn names(&self) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        for name in self.keys()? {
            // One that cannot be read has a name as well.
            if !matches!(self.record(&name), Ok(None)) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn keys(&self) -> Result<Vec<Name>, StoreError> {
        let list = async {
            let (mut names, mut cursor) = (Vec::new(), None);
            loop {
                let page = self.records.list(cursor.as_deref()).await?;
                names.extend(page.keys.iter().filter_map(|key| name_of(key)));
                cursor = page.next;
                if cursor.is_none() {
                    return Ok::<_, nxt_wasm_runtime::keyvalue::Problem>(names);
                }
            }
        };
        self.wait("listing records", list)
    }

    pub fn record(&self, name: &Name) -> Result<Option<Record>, StoreError> {
        let what = format!("reading the record of \"{name}\"");
        let most = usize::try_from(MAX_RECORD).unwrap_or(usize::MAX);
        let key = format!("{name}.json");
        let text = self.wait(&what, self.records.get(&key, most))?;
        parse(name, text.as_deref())
    }

    pub fn update(
        &self,
        name: &Name,
        change: &mut dyn FnMut(Option<Record>) -> Record,
    ) -> Result<Record, StoreError> {
        let what = format!("writing the record of \"{name}\"");
        let most = usize::try_from(MAX_RECORD).unwrap_or(usize::MAX);
        let key = format!("{name}.json");
        for _ in 0..ATTEMPTS {
            let seen = self.wait(&what, self.records.observe(&key, most))?;
            let record = change(parse(name, seen.value.as_deref())?);
            let text = record.to_json().map_err(|problem| StoreError::Record {
                name: name.clone(),
                problem,
            })?;
            let replace = self.records.replace(&key, &seen, text.into());
            if self.wait(&what, replace)? {
                return Ok(record);
            }
        }
        Err(StoreError::Busy(name.clone()))
    }

    /// Not every store deletes on a condition, as it writes. So the record is replaced by
    /// a mark that it is gone, which stays: what another machine deploys meanwhile is
    /// never lost.
    pub fn remove(&self, name: &Name, expected: &Record) -> Result<bool, StoreError> {
        let what = format!("removing the record of \"{name}\"");
        let most = usize::try_from(MAX_RECORD).unwrap_or(usize::MAX);
        let key = format!("{name}.json");
        for _ in 0..ATTEMPTS {
            let seen = self.wait(&what, self.records.observe(&key, most))?;
            match parse(name, seen.value.as_deref())? {
                None => return Ok(false),
                Some(record) if record != *expected => return Err(StoreError::Busy(name.clone())),
                Some(_) => {}
            }
            let replace = self.records.replace(&key, &seen, Bytes::from_static(GONE));
            if self.wait(&what, replace)? {
                return Ok(true);
            }
        }
        Err(StoreError::Busy(name.clone()))
    }

    pub fn collect(
        &self,
        grace: Duration,
        mut used: BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        // Listed first: what is put after that is not among them.
        let list = async {
            let options = ListOptions {
                recursive: true,
                ..ListOptions::default()
            };
            let lister = self.components.lister_options("", options).await?;
            lister.try_collect::<Vec<_>>().await
        };
        let components = self.wait("listing components", list)?;
        for name in self.keys()? {
            let record = self.record(&name)?;
            let history = record.iter().flat_map(Record::history);
            used.extend(history.map(|deployment| deployment.digest.clone()));
        }
        let mut removed = Vec::new();
        for entry in components {
            let Some(digest) = digest_of(entry.path()) else {
                continue;
            };
            if used.contains(&digest) || !is_old(entry.metadata(), grace) {
                continue;
            }
            // It may have been put again since it was listed.
            if self.is_old(entry.path(), grace)? {
                let delete = again(|| self.components.delete(entry.path()));
                self.wait("removing a component", delete)?;
                removed.push(digest);
            }
        }
        Ok(removed)
    }

    /// Whether an object is there, and so old.
    fn is_old(&self, path: &str, grace: Duration) -> Result<bool, StoreError> {
        let found = async {
            match again(|| self.components.stat(path)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                found => Ok(is_old(&found?, grace)),
            }
        };
        self.wait::<_, opendal::Error>("looking at a component", found)
    }
}

fn is_old(found: &opendal::Metadata, grace: Duration) -> bool {
    let changed = found.last_modified();
    let age = changed.map(|changed| SystemTime::now().duration_since(changed.into()));
    age.is_some_and(|age| age.is_ok_and(|age| age >= grace))
}

/// The record that is in an object, if there is one.
fn parse(name: &Name, text: Option<&[u8]>) -> Result<Option<Record>, StoreError> {
    let Some(text) = text.filter(|text| *text != GONE) else {
        return Ok(None);
    };
    let record = Record::from_json(name, text).map_err(|problem| StoreError::Record {
        name: name.clone(),
        problem,
    });
    record.map(Some)
}

/// Does what may be done twice, again if it fails for the moment.
async fn again<T, F: Future<Output = Result<T, opendal::Error>>>(
    mut operation: impl FnMut() -> F,
) -> Result<T, opendal::Error> {
    let mut attempt = 1;
    loop {
        match operation().await {
            Err(error) if error.is_temporary() && attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}
