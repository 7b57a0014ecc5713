//! Files of WASI 0.3: the quota on what one request writes, and bounds on what it
//! has open.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::component::{
    Access, Accessor, Destination, FutureConsumer, FutureReader, Lift, Linker, Lower, Resource,
    Source, StreamProducer, StreamReader, StreamResult, VecBuffer,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntry as Entry, ErrorCode, Filesize,
    HostDescriptorWithStore, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::Asking;
use super::filesystem::{ENTRY, Quota};
use super::relay::within;
use crate::output::Severity;
use crate::state::State;

const NAME: &str = "wasi:filesystem/types@0.3.0";

/// Entries of a directory given at once, if it is not known how many are wanted.
const ENTRIES: usize = 32;

/// What an asynchronous function of the interface returns.
type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn outcome<T>(result: FilesystemResult<T>) -> Outcome<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn quota(accessor: &Accessor<State>) -> Arc<Quota> {
    accessor.with(|mut access| Arc::clone(&access.data_mut().quota))
}

/// Counts one new directory entry, and takes it back if there is none.
async fn new_entry<T>(
    quota: &Quota,
    make: impl Future<Output = FilesystemResult<T>>,
) -> Outcome<T> {
    if !quota.take(ENTRY) {
        return Ok((Err(ErrorCode::Quota),));
    }
    let made = make.await;
    if made.is_err() {
        quota.give_back(ENTRY);
    }
    outcome(made)
}

/// Wasmtime's functions.
type Wasi = WasiFilesystem;

fn files(accessor: &Accessor<State>) -> Accessor<State, WasiFilesystem> {
    accessor.with_getter::<WasiFilesystem>(State::filesystem)
}

async fn set_size(
    accessor: &Accessor<State>,
    (file, size): (Resource<Descriptor>, Filesize),
) -> Outcome<()> {
    let (quota, files) = (quota(accessor), files(accessor));
    let before = match Wasi::stat(&files, Resource::new_borrow(file.rep())).await {
        Ok(stat) => stat.size,
        Err(error) => return outcome(Err(error)),
    };
    let growth = size.saturating_sub(before);
    if !quota.take(growth) {
        return Ok((Err(ErrorCode::Quota),));
    }
    let set = Wasi::set_size(&files, file, size).await;
    if set.is_err() {
        quota.give_back(growth);
    }
    outcome(set)
}

async fn open_at(
    accessor: &Accessor<State>,
    (directory, flags, path, open, access): (
        Resource<Descriptor>,
        PathFlags,
        String,
        OpenFlags,
        DescriptorFlags,
    ),
) -> Outcome<Resource<Descriptor>> {
    let files = files(accessor);
    let opening = Wasi::open_at(&files, directory, flags, path, open, access);
    if open.contains(OpenFlags::CREATE) {
        new_entry(&quota(accessor), opening).await
    } else {
        outcome(opening.await)
    }
}

async fn create_directory_at(
    accessor: &Accessor<State>,
    (directory, path): (Resource<Descriptor>, String),
) -> Outcome<()> {
    let files = files(accessor);
    let making = Wasi::create_directory_at(&files, directory, path);
    new_entry(&quota(accessor), making).await
}

async fn symlink_at(
    accessor: &Accessor<State>,
    (directory, old, new): (Resource<Descriptor>, String, String),
) -> Outcome<()> {
    let files = files(accessor);
    let making = Wasi::symlink_at(&files, directory, old, new);
    new_entry(&quota(accessor), making).await
}

async fn link_at(
    accessor: &Accessor<State>,
    (directory, flags, old, new_directory, new): (
        Resource<Descriptor>,
        PathFlags,
        String,
        Resource<Descriptor>,
        String,
    ),
) -> Outcome<()> {
    let files = files(accessor);
    let linking = Wasi::link_at(&files, directory, flags, old, new_directory, new);
    new_entry(&quota(accessor), linking).await
}

type Store<'a> = StoreContextMut<'a, State>;

/// What a function that takes a stream returns: what will have come of it.
type Written = wasmtime::Result<(FutureReader<Result<(), ErrorCode>>,)>;

fn write_via_stream(
    mut store: Store<'_>,
    (file, data, offset): (Resource<Descriptor>, StreamReader<u8>, Filesize),
) -> Written {
    // What is between the end of the file and `offset` becomes a part of it.
    let size = match store.data_mut().filesystem().table.get(&file)? {
        // Of an open file, which takes no waiting.
        Descriptor::File(file) => file.file.metadata().map_or(0, |found| found.len()),
        Descriptor::Dir(_) => offset,
    };
    counted(store, offset.saturating_sub(size), data, |access, data| {
        Wasi::write_via_stream(access, file, data, offset)
    })
}

fn append_via_stream(
    store: Store<'_>,
    (file, data): (Resource<Descriptor>, StreamReader<u8>),
) -> Written {
    counted(store, 0, data, |access, data| {
        Wasi::append_via_stream(access, file, data)
    })
}

/// Lets `write` have what comes by `data`, as far as the quota goes after `gap`
/// bytes.
fn counted(
    mut store: Store<'_>,
    gap: u64,
    mut data: StreamReader<u8>,
    write: impl FnOnce(
        Access<'_, State, WasiFilesystem>,
        StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>>,
) -> Written {
    let quota = Arc::clone(&store.data().quota);
    let open = Open::new(&store.data().hooks.asking);
    let Some(open) = open.filter(|_| quota.take(gap)) else {
        data.close(&mut store)?;
        let refused = async { Ok::<_, wasmtime::Error>(Err(ErrorCode::Quota)) };
        return Ok((FutureReader::new(&mut store, refused)?,));
    };
    let (passed_on, exceeded) = within(&mut store, data, quota)?;
    let written = write(
        Access::<State, WasiFilesystem>::new(store.as_context_mut(), State::filesystem),
        passed_on,
    )?;
    let outcome = told(&mut store, written, open)?;
    let outcome = async move {
        let outcome = outcome.await.unwrap_or(Err(ErrorCode::Io));
        Ok::<_, wasmtime::Error>(match exceeded.load(Ordering::Relaxed) {
            true => Err(ErrorCode::Quota),
            false => outcome,
        })
    };
    Ok((FutureReader::new(&mut store, outcome)?,))
}

/// Streams of files and directories that one request may have open. They need no
/// handle of the guest's to go on.
const STREAMS: u32 = 256;

/// One of them.
struct Open(Arc<Asking>);

impl Open {
    fn new(asking: &Arc<Asking>) -> Option<Self> {
        if Asking::count(&asking.file_streams, STREAMS) {
            return Some(Self(Arc::clone(asking)));
        }
        let text = format!("a stream of a file refused: {STREAMS} are open (fixed)");
        asking.notice(Severity::Warn, &text);
        None
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.file_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a function that gives a stream returns, and what will have come of it.
type Streamed<T> = wasmtime::Result<((StreamReader<T>, FutureReader<Result<(), ErrorCode>>),)>;

fn refused<T>(mut store: Store<'_>, code: ErrorCode) -> Streamed<T>
where
    T: Lower + Lift + Send + Sync + 'static,
{
    let nothing = StreamReader::new(&mut store, std::iter::empty())?;
    let outcome = async move { Ok::<_, wasmtime::Error>(Err(code)) };
    Ok(((nothing, FutureReader::new(&mut store, outcome)?),))
}

fn read_via_stream(
    mut store: Store<'_>,
    (file, offset): (Resource<Descriptor>, Filesize),
) -> Streamed<u8> {
    let Some(open) = Open::new(&store.data().hooks.asking) else {
        return refused(store, ErrorCode::InsufficientMemory);
    };
    let access = Access::<State, WasiFilesystem>::new(store.as_context_mut(), State::filesystem);
    let (data, read) = Wasi::read_via_stream(access, file, offset)?;
    let outcome = told(&mut store, read, open)?;
    let outcome = async move { Ok::<_, wasmtime::Error>(outcome.await.unwrap_or(Ok(()))) };
    Ok(((data, FutureReader::new(&mut store, outcome)?),))
}

/// Reads the whole directory at once, as for WASI 0.2. Wasmtime's own has a thread
/// wait for the guest to take each entry, of which there are few.
fn read_directory(mut store: Store<'_>, (directory,): (Resource<Descriptor>,)) -> Streamed<Entry> {
    let directory = match store.data_mut().filesystem().table.get(&directory)? {
        Descriptor::Dir(directory) => Arc::clone(&directory.dir),
        Descriptor::File(_) => return refused(store, ErrorCode::NotDirectory),
    };
    let Some(open) = Open::new(&store.data().hooks.asking) else {
        return refused(store, ErrorCode::InsufficientMemory);
    };
    let (sender, outcome) = oneshot::channel();
    let listing = Listing {
        reading: Some(spawn_blocking(move || entries(&directory))),
        entries: Vec::new().into_iter(),
        outcome: Some(sender),
        _open: open,
    };
    let entries = StreamReader::new(&mut store, listing)?;
    // The stream was dropped before its end.
    let outcome = async move { Ok::<_, wasmtime::Error>(outcome.await.unwrap_or(Ok(()))) };
    Ok(((entries, FutureReader::new(&mut store, outcome)?),))
}

/// Entries of a directory, without `.` and `..`.
fn entries(directory: &File) -> Result<Vec<Entry>, ErrorCode> {
    let io = |error: rustix::io::Errno| ErrorCode::from(std::io::Error::from(error));
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            rustix::fs::FileType::Unknown => {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let found = rustix::fs::statat(directory, name, flags).map_err(io)?;
                rustix::fs::FileType::from_raw_mode(found.st_mode)
            }
            kind => kind,
        };
        let name = name.to_str().map_err(|_| ErrorCode::IllegalByteSequence)?;
        entries.push(Entry {
            type_: kind_of(kind),
            name: name.to_owned(),
        });
    }
    Ok(entries)
}

fn kind_of(kind: rustix::fs::FileType) -> DescriptorType {
    use rustix::fs::FileType;
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Other(None),
    }
}

/// A directory as a stream.
struct Listing {
    reading: Option<JoinHandle<Result<Vec<Entry>, ErrorCode>>>,
    entries: std::vec::IntoIter<Entry>,
    outcome: Option<oneshot::Sender<Result<(), ErrorCode>>>,
    _open: Open,
}

impl<D: 'static> StreamProducer<D> for Listing {
    type Item = Entry;
    type Buffer = VecBuffer<Entry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Entry, VecBuffer<Entry>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(reading) = &mut self.reading {
            let read = match Pin::new(reading).poll(cx) {
                Poll::Ready(read) => read.unwrap_or(Err(ErrorCode::Io)),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            };
            self.reading = None;
            match read {
                Ok(entries) => self.entries = entries.into_iter(),
                Err(code) => {
                    if let Some(outcome) = self.outcome.take() {
                        // Nobody has to want to know.
                        let _ = outcome.send(Err(code));
                    }
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
            }
        }
        let room = destination.remaining(store).unwrap_or(ENTRIES).max(1);
        let next: Vec<Entry> = self.entries.by_ref().take(room).collect();
        let result = match next.is_empty() {
            true => StreamResult::Dropped,
            false => StreamResult::Completed,
        };
        destination.set_buffer(next.into());
        Poll::Ready(Ok(result))
    }
}

/// Gives the value of a future, and keeps what is open until then.
fn told(
    store: &mut Store<'_>,
    future: FutureReader<Result<(), ErrorCode>>,
    open: Open,
) -> wasmtime::Result<oneshot::Receiver<Result<(), ErrorCode>>> {
    let (sender, told) = oneshot::channel();
    future.pipe(store, Told(Some((sender, open))))?;
    Ok(told)
}

/// Takes the value of a future.
struct Told(Option<(oneshot::Sender<Result<(), ErrorCode>>, Open)>);

impl<D: 'static> FutureConsumer<D> for Told {
    type Item = Result<(), ErrorCode>;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut store: StoreContextMut<'_, D>,
        mut source: Source<'_, Self::Item>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut value = None;
        source.read(&mut store, &mut value)?;
        if let (Some((sender, _open)), Some(value)) = (self.0.take(), value) {
            // Nobody wants to know any more if this fails.
            let _ = sender.send(value);
        }
        Poll::Ready(Ok(()))
    }
}

/// Puts the counting functions into `linker`, which has Wasmtime's already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(NAME)?;
    types.func_wrap_concurrent("[method]descriptor.set-size", |accessor, params| {
        Box::pin(set_size(accessor, params))
    })?;
    types.func_wrap_concurrent("[method]descriptor.open-at", |accessor, params| {
        Box::pin(open_at(accessor, params))
    })?;
    types.func_wrap_concurrent(
        "[method]descriptor.create-directory-at",
        |accessor, params| Box::pin(create_directory_at(accessor, params)),
    )?;
    types.func_wrap_concurrent("[method]descriptor.symlink-at", |accessor, params| {
        Box::pin(symlink_at(accessor, params))
    })?;
    types.func_wrap_concurrent("[method]descriptor.link-at", |accessor, params| {
        Box::pin(link_at(accessor, params))
    })?;
    types.func_wrap("[method]descriptor.read-via-stream", read_via_stream)?;
    types.func_wrap("[method]descriptor.read-directory", read_directory)?;
    types.func_wrap("[method]descriptor.write-via-stream", write_via_stream)?;
    types.func_wrap("[method]descriptor.append-via-stream", append_via_stream)?;
    linker.allow_shadowing(false);
    Ok(())
}
