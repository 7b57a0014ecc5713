//! Buckets in a directory: a file per key, its name the key's ([`names`]), its
//! content the value.
//!
//! Not OpenDAL's `fs` service. It follows symbolic links, which a guest that
//! may also write to the directory could lay out of it; it cannot keep a lock
//! until a write that nobody waits for any more is done; to list, it asks for
//! the metadata of each file, one after the other; and it makes a directory
//! that is not there.
//!
//! Every operation is one or two calls on a thread of tokio's pool for such
//! work, which, once begun, go on to their end even if nobody waits for them
//! any more.
//!
//! - A value is written to a file in `.unit-wasm/tmp`, brought to the disk and
//!   renamed: there is the old value or the new one, never a part of one, also
//!   after a crash. What killed writers leave there is removed after an hour.
//! - Whatever changes a key takes the `flock` of one of 64 files in
//!   `.unit-wasm/lock`, so that nothing comes between reading and writing of an
//!   atomic operation, in this process or another. Readers take none.
//! - Only plain files are values. Links, directories and the like are none.

mod files;
mod lock;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;

use self::files::{Files, Temporary};
use self::lock::Turns;
use super::names::Name;
use super::number::{self, Range};
use super::paging::{ByHash, ByName, Page, Pick};
use super::problem::Problem;
use super::store::Seen;

/// One bucket.
pub(super) struct Directory {
    files: Arc<Files>,
    turns: Arc<Turns>,
    patience: Duration,
}

impl Directory {
    /// Opens a directory that must be there, and makes sure that it can be used
    /// by this process.
    pub fn open(path: &Path, readonly: bool, patience: Duration) -> Result<Self, String> {
        Ok(Self {
            files: Arc::new(
                Files::open(path, readonly).map_err(|e| format!("{}: {e}", path.display()))?,
            ),
            turns: Arc::default(),
            patience,
        })
    }

    pub async fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, Problem> {
        let name = Name::of(key);
        self.apart(move |files| files.read(&name, most)).await
    }

    pub async fn exists(&self, key: &str) -> Result<bool, Problem> {
        let name = Name::of(key);
        self.apart(move |files| files.exists(&name)).await
    }

    pub async fn set(&self, key: &str, value: Bytes) -> Result<(), Problem> {
        let name = Name::of(key);
        let new = self.write(&name, value).await?;
        self.locked(name, move |files, name| files.publish(new, name))
            .await
    }

    pub async fn delete(&self, key: &str) -> Result<(), Problem> {
        self.locked(Name::of(key), Files::remove).await
    }

    pub async fn list(&self, cursor: Option<&str>) -> Result<Page<String>, Problem> {
        self.pick(ByName::after(cursor)).await
    }

    pub async fn list_by_hash(&self, cursor: Option<u64>) -> Result<Page<u64>, Problem> {
        self.pick(ByHash::after(cursor)).await
    }

    async fn pick<P>(&self, mut pick: P) -> Result<Page<P::Cursor>, Problem>
    where
        P: Pick + Send + 'static,
        P::Cursor: Send,
    {
        let deadline = Instant::now() + self.patience;
        self.apart(move |files| {
            files.names(deadline, |name| pick.offer(name))?;
            let mut page = pick.finish();
            page.keys = files.keys(&page.keys, deadline)?;
            Ok(page)
        })
        .await
    }

    pub async fn increment(&self, key: &str, delta: i64, range: Range) -> Result<i64, Problem> {
        self.locked(Name::of(key), move |files, name| {
            let stored = match files.read(name, number::LONGEST) {
                Err(Problem::TooLarge(_)) => return Err(Problem::NotANumber),
                stored => stored?,
            };
            let sum = number::add(stored.as_deref(), delta, range)?;
            let new = files.write(name.wrap(sum.to_string().into()))?;
            files.publish(new, name)?;
            Ok(sum)
        })
        .await
    }

    pub async fn replace(&self, key: &str, seen: &Seen, value: Bytes) -> Result<bool, Problem> {
        let name = Name::of(key);
        let new = self.write(&name, value).await?;
        let expected = seen.value.clone();
        self.locked(name, move |files, name| {
            let most = expected.as_ref().map_or(0, Bytes::len);
            match files.read(name, most) {
                Ok(found) if found == expected => {}
                Ok(_) | Err(Problem::TooLarge(_)) => return Ok(false),
                Err(problem) => return Err(problem),
            }
            files.publish(new, name)?;
            Ok(true)
        })
        .await
    }

    async fn write(&self, name: &Name, value: Bytes) -> Result<Temporary, Problem> {
        let stored = name.wrap(value);
        self.apart(move |files| files.write(stored)).await
    }

    /// Does `work` on a thread where it may wait for the disk.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let files = Arc::clone(&self.files);
        let mut task = Task(tokio::task::spawn_blocking(move || work(&files)));
        (&mut task.0)
            .await
            .unwrap_or_else(|e| Err(Problem::Failed(format!("the operation ended early: {e}"))))
    }

    /// Does `work` on the file of a key while nobody else changes it.
    ///
    /// The lock is taken and given back on the thread that does the work, so
    /// it is held until the work is done, even if nobody waits for it any more.
    async fn locked<T: Send + 'static>(
        &self,
        name: Name,
        work: impl FnOnce(&Files, &Name) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let shard = lock::shard(&name);
        // Within this process it goes by turns; a lock of another process is
        // tried for. No thread waits for either.
        let mut turn = Some(self.turns.take(shard).await);
        let mut work = Some(work);
        let name = Arc::new(name);
        for attempt in 0.. {
            let (held, todo, name) = (turn.take(), work.take(), Arc::clone(&name));
            let tried = self
                .apart(move |files| {
                    let Some(_lock) = files.try_lock(shard)? else {
                        return Ok(Err((held, todo)));
                    };
                    let todo = todo.ok_or(Problem::Late)?;
                    let done = todo(files, &name)?;
                    drop(held);
                    Ok(Ok(done))
                })
                .await?;
            match tried {
                Ok(done) => return Ok(done),
                Err(again) => (turn, work) = again,
            }
            tokio::time::sleep(lock::pause(attempt)).await;
        }
        Err(Problem::Late)
    }
}

/// Work on another thread, which is not begun any more if nobody waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
