//! Core dumps of guests that trapped, for debuggers that read WebAssembly's.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::{ExternType, Module, Store, WasmCoreDump};

use crate::limits::MIB;
use crate::output::Severity;
use crate::request::RequestContext;
use crate::state::State;

/// Where core dumps go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoredumpGrant {
    /// The directory. It has to exist, and processes have to be able to write it.
    pub directory: PathBuf,
    /// Of one application; older ones are removed.
    pub count: usize,
    /// Guests with more bytes of memory leave none, and no file is larger.
    pub size: usize,
    /// Begins the names of the files.
    pub app: String,
}

impl Default for CoredumpGrant {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            count: 10,
            size: 64 * MIB,
            app: "app".to_owned(),
        }
    }
}

/// Time between two dumps of one process. Making one keeps the event loop from
/// other requests.
const PAUSE: Duration = Duration::from_secs(1);

/// After this time an unfinished file is one of a process that has ended.
const ABANDONED: Duration = Duration::from_secs(600);

/// Ends the names of the files.
const SUFFIX: &str = ".coredump";

/// Ends them while they are being written.
const UNFINISHED: &str = ".part";

/// Writes core dumps.
pub(crate) struct Coredumps {
    grant: CoredumpGrant,
    writer: Mutex<Writer>,
}

/// What writes the files of a process, one at a time: a disk may be slow, and
/// dumps are large.
#[derive(Default)]
enum Writer {
    #[default]
    Idle,
    Busy,
    /// Has been idle since.
    IdleSince(Instant),
}

impl Coredumps {
    pub fn new(grant: CoredumpGrant) -> Self {
        Self {
            grant,
            writer: Mutex::default(),
        }
    }

    /// Writes a dump of the guest in `store` that ended with `error`, if that is of
    /// a trap and there was none a moment ago. The file is written by a thread of
    /// its own, which tells the log.
    pub fn take(
        self: &Arc<Self>,
        error: &wasmtime::Error,
        store: &mut Store<State>,
        who: &RequestContext,
    ) {
        let Some(dump) = error.downcast_ref::<WasmCoreDump>() else {
            return;
        };
        let tell = |text: &str| who.log.notice(&who.id, Severity::Info, text);
        if dump.modules().iter().any(is_adapter) {
            let text = "no core dump: Wasmtime 48 cannot make one of a component that is \
                        composed of several";
            return tell(text);
        }
        let used = store.data().memory.peak();
        if used > self.grant.size {
            let text = format!(
                "no core dump: the guest had {used} bytes of memory (UNIT_WASM_COREDUMP_SIZE)"
            );
            return tell(&text);
        }
        if !self.begin() {
            return;
        }
        let bytes = dump.serialize(store, &self.grant.app);
        if bytes.len() > self.grant.size {
            self.end();
            let text = format!(
                "no core dump: it would have {} bytes (UNIT_WASM_COREDUMP_SIZE)",
                bytes.len()
            );
            return tell(&text);
        }
        let (dumps, request) = (Arc::clone(self), who.clone());
        let write = move || {
            let RequestContext { id, log, .. } = request;
            let grant = &dumps.grant;
            let written = grant.write(&id, &bytes);
            drop(bytes);
            match written {
                Ok(path) => {
                    let text = format!("core dump in {}", path.display());
                    log.notice(&id, Severity::Info, &text);
                }
                Err(error) => {
                    let directory = grant.directory.display();
                    let text = format!("no core dump in {directory} (UNIT_WASM_COREDUMP): {error}");
                    log.notice(&id, Severity::Warn, &text);
                }
            }
            grant.remove_surplus();
            dumps.end();
        };
        let thread = thread::Builder::new().name("wasm-coredump".into());
        if let Err(error) = thread.spawn(write) {
            self.end();
            tell(&format!("no core dump: {error}"));
        }
    }

    /// Whether one may be made now; if so, [`Coredumps::end`] has to follow.
    fn begin(&self) -> bool {
        let mut writer = self.writer();
        let may = match &*writer {
            Writer::Idle => true,
            Writer::Busy => false,
            Writer::IdleSince(end) => end.elapsed() >= PAUSE,
        };
        if may {
            *writer = Writer::Busy;
        }
        may
    }

    fn end(&self) {
        *self.writer() = Writer::IdleSince(Instant::now());
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a module is one that Wasmtime puts between two components. Its globals
/// are of a kind that `WasmCoreDump::serialize` panics at.
fn is_adapter(module: &Module) -> bool {
    let mut imports = module.imports();
    imports.any(|import| import.module() == "flags" && matches!(import.ty(), ExternType::Global(_)))
}

impl CoredumpGrant {
    /// Writes a file for the request `id`.
    fn write(&self, id: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |now| now.as_millis());
        // Names sort by age, and nothing in one has a meaning in a path.
        let name = format!("{}{millis:014}-{}{SUFFIX}", self.prefix(), plain(id));
        let path = self.directory.join(name);
        let unfinished = path.with_extension(UNFINISHED.trim_start_matches('.'));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        let written = write_all(&mut file, bytes).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|()| path)
    }

    fn prefix(&self) -> String {
        let plain = plain(&self.app);
        if plain == self.app {
            return format!("{plain}-");
        }
        // Other names can look like this one.
        let mut hasher = DefaultHasher::new();
        self.app.hash(&mut hasher);
        format!("{plain}_{:08x}-", hasher.finish() >> 32)
    }

    /// Removes the oldest files of this application, and what was never finished. What
    /// cannot be removed stays, and hinders nothing.
    fn remove_surplus(&self) {
        let prefix = self.prefix();
        let mut names = Vec::new();
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let rest = name.strip_prefix(&prefix).unwrap_or_default();
            // Another application's name may begin like this one's.
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 14 && rest.ends_with(SUFFIX) {
                names.push(name.to_owned());
            } else if digits == 14 && rest.ends_with(UNFINISHED) {
                let modified = entry.metadata().and_then(|metadata| metadata.modified());
                let age = modified.ok().and_then(|time| time.elapsed().ok());
                if age.is_some_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        names.sort();
        let surplus = names.len().saturating_sub(self.count);
        for name in names.iter().take(surplus) {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

/// The letters and digits of a name, no more than some.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    text.chars().take(64).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_of_an_application_stay() {
        let dir = tempfile::tempdir().unwrap();
        let grant = |app: &str| CoredumpGrant {
            directory: dir.path().to_owned(),
            count: 2,
            app: app.to_owned(),
            ..CoredumpGrant::default()
        };
        grant("a-1").write("other", b"x").unwrap();
        for id in ["first", "../second", "third"] {
            grant("a").write(id, b"x").unwrap();
            grant("a").remove_surplus();
            // Names have milliseconds.
            thread::sleep(Duration::from_millis(3));
        }
        let left = names(dir.path());
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(
            left.iter()
                .any(|n| n.starts_with("a-") && n.ends_with("___second.coredump"))
        );
        assert!(left.iter().any(|n| n.ends_with("-third.coredump")));
        assert!(left.iter().any(|n| n.ends_with("-other.coredump")));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let grant = CoredumpGrant {
            directory: PathBuf::from("/no/such/directory"),
            ..CoredumpGrant::default()
        };
        let error = grant.write("id", b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_be_removed_hinders_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let grant = CoredumpGrant {
            directory: dir.path().to_owned(),
            count: 1,
            app: "a".to_owned(),
            ..CoredumpGrant::default()
        };
        // A directory cannot be removed as a file is.
        fs::create_dir(dir.path().join("a-00000000000000-x.coredump")).unwrap();
        for id in ["first", "second"] {
            grant.write(id, b"x").unwrap();
            grant.remove_surplus();
            thread::sleep(Duration::from_millis(3));
        }
        let left = names(dir.path());
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[1].ends_with("-second.coredump"));
    }

    #[test]
    fn names_that_look_alike_are_told_apart() {
        let prefix = |app: &str| {
            let app = app.to_owned();
            let default = CoredumpGrant::default();
            CoredumpGrant { app, ..default }.prefix()
        };
        assert_eq!(prefix("shop"), "shop-");
        assert_eq!(prefix("a_b"), "a_b-");
        let others = [prefix("a.b"), prefix("a b")];
        assert!(others.iter().all(|prefix| prefix.starts_with("a_b_")));
        assert_ne!(others[0], others[1]);
    }

    #[test]
    fn dumps_are_not_taken_in_a_row() {
        let dumps = Coredumps::new(CoredumpGrant::default());
        assert!(dumps.begin());
        assert!(!dumps.begin(), "one is being written");
        dumps.end();
        assert!(!dumps.begin(), "one was just written");
    }
}
