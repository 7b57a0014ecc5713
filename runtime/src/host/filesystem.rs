//! A quota on what one request writes to files.
//!
//! The functions of `wasi:filesystem/types` by which anything comes into being
//! are put in place of Wasmtime's, ask the quota first, and then do what those
//! do. Everything else of the interface is Wasmtime's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, DescriptorFlags, ErrorCode, Filesize, HostDescriptor, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynOutputStream, FsResult, OutputStream, Pollable, StreamError, StreamResult,
};

use crate::host::Asking;
use crate::output::Severity;
use crate::state::State;

/// What a new directory entry counts: about what it takes on a disk, so that
/// empty files in great number end somewhere too.
pub(super) const ENTRY: u64 = 4096;

const NAME: &str = "wasi:filesystem/types@0.2.12";

/// Bytes that one request may still write.
pub(crate) struct Quota {
    limit: u64,
    left: AtomicU64,
    told: AtomicBool,
    asking: Arc<Asking>,
}

impl Quota {
    pub fn new(limit: u64, asking: Arc<Asking>) -> Self {
        Self {
            limit,
            left: AtomicU64::new(limit),
            told: AtomicBool::new(false),
            asking,
        }
    }

    /// A further request begins.
    pub fn renew(&self) {
        self.left.store(self.limit, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
    }

    /// Takes `bytes` of what is left, or nothing.
    pub fn take(&self, bytes: u64) -> bool {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok();
        if !taken && !self.told.swap(true, Ordering::Relaxed) {
            let text = format!(
                "writing to files refused: more than {} bytes in one request \
                 (UNIT_WASM_WRITE_QUOTA)",
                self.limit
            );
            self.asking.notice(Severity::Warn, &text);
        }
        taken
    }

    /// Gives back what was not written after all.
    pub fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    fn check(&self, bytes: u64) -> Result<(), ErrorCode> {
        self.take(bytes).then_some(()).ok_or(ErrorCode::Quota)
    }
}

/// A stream into a file that asks the quota before each write.
struct Counted {
    stream: DynOutputStream,
    quota: Arc<Quota>,
}

#[derive(Debug, thiserror::Error)]
#[error("the request has used up its quota for writing to files")]
struct QuotaExceeded;

#[wasmtime_wasi::async_trait]
impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !self.quota.take(bytes.len() as u64) {
            return Err(StreamError::LastOperationFailed(QuotaExceeded.into()));
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

type Store<'a> = StoreContextMut<'a, State>;

/// What a function of the interface returns: a value or an error code; an error
/// that is none ends the guest.
type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn outcome<T>(result: FsResult<T>) -> Outcome<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn quota(store: &Store<'_>) -> Arc<Quota> {
    Arc::clone(&store.data().quota)
}

/// Bytes between the end of `file` and `offset`, which a write there would make
/// a part of the file.
async fn gap(
    view: &mut WasiFilesystemCtxView<'_>,
    file: &Resource<Descriptor>,
    offset: Filesize,
) -> FsResult<u64> {
    if offset == 0 {
        return Ok(0);
    }
    let stat = view.stat(Resource::new_borrow(file.rep())).await?;
    Ok(offset.saturating_sub(stat.size))
}

async fn write(
    mut store: Store<'_>,
    (file, bytes, offset): (Resource<Descriptor>, Vec<u8>, Filesize),
) -> Outcome<Filesize> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    let gap = match gap(&mut view, &file, offset).await {
        Ok(gap) => gap,
        Err(error) => return outcome(Err(error)),
    };
    let length = bytes.len() as u64;
    let wanted = length.saturating_add(gap);
    if let Err(code) = quota.check(wanted) {
        return Ok((Err(code),));
    }
    let written = view.write(file, bytes, offset).await;
    quota.give_back(match &written {
        Ok(n) => length.saturating_sub(*n),
        Err(_) => wanted,
    });
    outcome(written)
}

/// Counts what is between the end of the file and `offset` at once: when the
/// first bytes come, they come by way of the stream.
async fn write_via_stream(
    mut store: Store<'_>,
    (file, offset): (Resource<Descriptor>, Filesize),
) -> Outcome<Resource<DynOutputStream>> {
    let quota = quota(&store);
    let gap = match gap(&mut store.data_mut().filesystem(), &file, offset).await {
        Ok(gap) => gap,
        Err(error) => return outcome(Err(error)),
    };
    if let Err(code) = quota.check(gap) {
        return Ok((Err(code),));
    }
    counted(store, |view| view.write_via_stream(file, offset))
}

async fn set_size(
    mut store: Store<'_>,
    (file, size): (Resource<Descriptor>, Filesize),
) -> Outcome<()> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    let same = Resource::new_borrow(file.rep());
    let before = match view.stat(same).await {
        Ok(stat) => stat.size,
        Err(error) => return outcome(Err(error)),
    };
    let growth = size.saturating_sub(before);
    if let Err(code) = quota.check(growth) {
        return Ok((Err(code),));
    }
    let set = view.set_size(file, size).await;
    if set.is_err() {
        quota.give_back(growth);
    }
    outcome(set)
}

fn counted(
    mut store: Store<'_>,
    open: impl FnOnce(&mut WasiFilesystemCtxView<'_>) -> FsResult<Resource<DynOutputStream>>,
) -> Outcome<Resource<DynOutputStream>> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    let opened = open(&mut view).and_then(|handle| {
        let stream = view.table.delete(handle)?;
        let counted: DynOutputStream = Box::new(Counted { stream, quota });
        Ok(view.table.push(counted)?)
    });
    outcome(opened)
}

/// Counts one new directory entry, and takes it back if there is none.
async fn new_entry<T>(quota: &Quota, make: impl Future<Output = FsResult<T>>) -> Outcome<T> {
    if let Err(code) = quota.check(ENTRY) {
        return Ok((Err(code),));
    }
    let made = make.await;
    if made.is_err() {
        quota.give_back(ENTRY);
    }
    outcome(made)
}

async fn open_at(
    mut store: Store<'_>,
    (directory, flags, path, open, access): (
        Resource<Descriptor>,
        PathFlags,
        String,
        OpenFlags,
        DescriptorFlags,
    ),
) -> Outcome<Resource<Descriptor>> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    let opening = view.open_at(directory, flags, path, open, access);
    if open.contains(OpenFlags::CREATE) {
        new_entry(&quota, opening).await
    } else {
        outcome(opening.await)
    }
}

async fn create_directory_at(
    mut store: Store<'_>,
    (directory, path): (Resource<Descriptor>, String),
) -> Outcome<()> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    new_entry(&quota, view.create_directory_at(directory, path)).await
}

async fn symlink_at(
    mut store: Store<'_>,
    (directory, old, new): (Resource<Descriptor>, String, String),
) -> Outcome<()> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    new_entry(&quota, view.symlink_at(directory, old, new)).await
}

async fn link_at(
    mut store: Store<'_>,
    (directory, flags, old, new_directory, new): (
        Resource<Descriptor>,
        PathFlags,
        String,
        Resource<Descriptor>,
        String,
    ),
) -> Outcome<()> {
    let quota = quota(&store);
    let mut view = store.data_mut().filesystem();
    let linking = view.link_at(directory, flags, old, new_directory, new);
    new_entry(&quota, linking).await
}

/// Puts the counting functions into `linker`, which has Wasmtime's already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(NAME)?;
    types.func_wrap_async("[method]descriptor.write", |store, params| {
        Box::new(write(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.set-size", |store, params| {
        Box::new(set_size(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.open-at", |store, params| {
        Box::new(open_at(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.create-directory-at", |store, params| {
        Box::new(create_directory_at(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.symlink-at", |store, params| {
        Box::new(symlink_at(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.link-at", |store, params| {
        Box::new(link_at(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.write-via-stream", |store, params| {
        Box::new(write_via_stream(store, params))
    })?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |store, (file,): (Resource<Descriptor>,)| {
            counted(store, |view| view.append_via_stream(file))
        },
    )?;
    types.func_wrap(
        "filesystem-error-code",
        |mut store, (error,): (Resource<wasmtime::Error>,)| {
            let mut view = store.data_mut().filesystem();
            if view.table.get(&error)?.is::<QuotaExceeded>() {
                return Ok((Some(ErrorCode::Quota),));
            }
            Ok((types::Host::filesystem_error_code(&mut view, error)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
