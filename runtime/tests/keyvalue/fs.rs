//! Buckets in directories.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nxt_wasm_runtime::keyvalue::{BucketGrant, Place, Problem, Range, Store};
use rustix::fs::{FlockOperation, Mode};
use tokio::time::timeout;

use crate::{common, conformance, open};

/// What a process of these tests is to do, and where.
const ROLE: &str = "KEYVALUE_TEST_ROLE";
const DIRECTORY: &str = "KEYVALUE_TEST_DIRECTORY";
/// Keys that killed writers have been at, and the longest of their values.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const LONGEST: usize = 300_000;
/// Increments of each process.
const ROUNDS: i64 = 100;

fn place(directory: &Path) -> Place {
    Place::Directory(directory.to_owned())
}

fn refusal(directory: &Path, readonly: bool) -> String {
    let bucket = BucketGrant {
        readonly,
        ..BucketGrant::new("test", place(directory))
    };
    match Store::open(&bucket, &common()) {
        Err(problem) => problem,
        Ok(_) => panic!("{} can be used", directory.display()),
    }
}

#[tokio::test]
async fn a_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    conformance::all(&[
        Arc::new(open(&place)),
        Arc::new(open(&place)),
        Arc::new(open(&place)),
    ])
    .await;
}

#[tokio::test]
async fn values_are_plain_files_of_the_user_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&place(directory.path()));
    store.set("user:42", "hello".into()).await.unwrap();
    let file = directory.path().join("user:42");
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let own = std::fs::metadata(directory.path().join(".unit-wasm")).unwrap();
    assert_eq!(own.permissions().mode() & 0o777, 0o700);
    // And what others put there can be read.
    std::fs::write(directory.path().join("a%2Fb"), "from outside").unwrap();
    let value = store.get("a/b", 100).await;
    assert_eq!(value, Ok(Some("from outside".into())));
}

#[tokio::test]
async fn only_plain_files_are_values() {
    let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let at = |name: &str| directory.path().join(name);
    symlink(&secret, at("link")).unwrap();
    symlink(outside.path(), at("linked")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::write(at("not a name"), "x").unwrap();
    std::fs::write(at(".hidden"), "x").unwrap();

    let store = open(&place(directory.path()));
    for key in ["link", "linked", "directory", "pipe", "socket"] {
        let value = timeout(Duration::from_secs(10), store.get(key, 100)).await;
        assert_eq!(value.unwrap(), Ok(None), "{key}");
        assert_eq!(store.exists(key).await, Ok(false), "{key}");
        store.delete(key).await.unwrap();
        assert!(at(key).symlink_metadata().is_ok(), "{key}");
    }
    assert_eq!(store.list(None).await.unwrap().keys, Vec::<String>::new());
    // A value takes the place of a link, not of what it leads to.
    store.set("link", "mine".into()).await.unwrap();
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    assert_eq!(store.get("link", 100).await, Ok(Some("mine".into())));
}

#[tokio::test]
async fn directories_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    for readonly in [false, true] {
        let text = refusal(&missing, readonly);
        assert!(
            text.contains("missing: the directory cannot be opened: No such file"),
            "{text}"
        );
        assert!(!missing.exists());
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let text = refusal(&file, readonly);
        assert!(text.contains("Not a directory"), "{text}");
    }
    // Something else is where our own directory should be.
    let taken = directory.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join(".unit-wasm"), "x").unwrap();
    let text = refusal(&taken, false);
    assert!(text.contains("cannot be written to"), "{text}");
    // As on a file system for which capitals are small letters.
    let alike = directory.path().join("alike");
    std::fs::create_dir(&alike).unwrap();
    std::fs::write(alike.join(".UNIT-WASM"), "x").unwrap();
    let text = refusal(&alike, false);
    assert!(text.contains("capitals"), "{text}");
}

#[tokio::test]
async fn a_readonly_bucket_leaves_its_directory_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("k"), "v").unwrap();
    let bucket = BucketGrant {
        readonly: true,
        ..BucketGrant::new("test", place(directory.path()))
    };
    let store = Store::open(&bucket, &common()).unwrap();
    assert_eq!(store.get("k", 10).await, Ok(Some("v".into())));
    assert_eq!(store.list(None).await.unwrap().keys, ["k"]);
    assert!(store.set("k", "w".into()).await.is_err());
    assert!(store.delete("k").await.is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn it_goes_on_by_its_descriptor_and_notices_when_that_is_of_no_use() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    std::fs::create_dir(&old).unwrap();
    let store = open(&place(&old));
    // As after a change of the root directory.
    std::fs::rename(&old, &new).unwrap();
    store.set("k", "v".into()).await.unwrap();
    assert_eq!(std::fs::read(new.join("k")).unwrap(), b"v");
    std::fs::remove_dir_all(&new).unwrap();
    for problem in [
        store.get("k", 10).await.unwrap_err(),
        store.exists("k").await.unwrap_err(),
        store.list(None).await.unwrap_err(),
    ] {
        assert!(problem.to_string().contains("removed"), "{problem}");
    }
    assert!(store.set("k", "v".into()).await.is_err());
}

/// Nobody waits on a thread for a lock that another process holds.
#[tokio::test(flavor = "current_thread")]
async fn a_lock_held_elsewhere_delays_writers_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&place(directory.path())));
    store.set("k", "1".into()).await.unwrap();
    let locks = directory.path().join(".unit-wasm/lock");
    let held: Vec<std::fs::File> = (0..64)
        .map(|n| {
            let file = std::fs::File::create(locks.join(format!("{n:02}"))).unwrap();
            rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
            file
        })
        .collect();
    let writers: Vec<_> = (0..50)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.increment("k", 1, Range::Signed).await })
        })
        .collect();
    let given_up = timeout(Duration::from_millis(50), store.set("k", "lost".into())).await;
    assert!(given_up.is_err());
    // With more writers waiting than there are threads.
    for _ in 0..100 {
        assert_eq!(store.get("k", 10).await, Ok(Some("1".into())));
    }
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    drop(held);
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(store.get("k", 10).await, Ok(Some("51".into())));
}

#[tokio::test]
async fn what_killed_writers_have_left_is_removed_after_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    drop(open(&place));
    let temporary = directory.path().join(".unit-wasm/tmp");
    let leave = |name: &str, age: u64| {
        let file = std::fs::File::create(temporary.join(name)).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(time).unwrap();
    };
    leave("old", 4000);
    leave("new", 3000);
    let store = open(&place);
    let left: Vec<_> = std::fs::read_dir(&temporary)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["new"]);
    assert_eq!(store.list(None).await.unwrap().keys, Vec::<String>::new());
}

/// A process of these tests, ended with it.
struct Process(Child);

impl Process {
    fn start(role: &str, directory: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fs::in_another_process", "--ignored"])
            .env(ROLE, role)
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the processes do that the tests below start.
#[tokio::test]
#[ignore = "run in processes of their own by the other tests"]
async fn in_another_process() {
    let (Ok(role), Some(directory)) = (std::env::var(ROLE), std::env::var_os(DIRECTORY)) else {
        return;
    };
    let store = open(&place(Path::new(&directory)));
    if role == "counter" {
        for _ in 0..ROUNDS {
            store.increment("counter", 1, Range::Signed).await.unwrap();
        }
        return;
    }
    // Values of all lengths, each of one byte.
    for n in 0_usize.. {
        let length = n * 7919 % LONGEST;
        let value = vec![u8::try_from(n % 251).unwrap(); length];
        let key = KEYS[n % KEYS.len()];
        store.set(key, value.into()).await.unwrap();
    }
}

#[tokio::test]
async fn processes_lose_no_increment() {
    let directory = tempfile::tempdir().unwrap();
    let mut processes: Vec<Process> = (0..4)
        .map(|_| Process::start("counter", directory.path()))
        .collect();
    let store = open(&place(directory.path()));
    for _ in 0..ROUNDS {
        store
            .increment("counter", 1, Range::Unsigned)
            .await
            .unwrap();
    }
    for process in &mut processes {
        assert!(process.0.wait().unwrap().success());
    }
    let sum = store.get("counter", 20).await.unwrap().unwrap();
    assert_eq!(sum, (5 * ROUNDS).to_string());
}

#[tokio::test]
async fn killed_writers_leave_whole_values() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&place(directory.path()));
    let mut changes = std::collections::BTreeSet::new();
    for round in 0..15 {
        let writer = Process::start("writer", directory.path());
        // Until it is at work, and then at some time of it.
        let before = marks(directory.path());
        while marks(directory.path()) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        drop(writer);
        for key in KEYS {
            let Some(value) = store.get(key, LONGEST).await.unwrap() else {
                continue;
            };
            assert!(value.len() < LONGEST);
            assert!(value.windows(2).all(|pair| pair[0] == pair[1]), "{key}");
            changes.insert(value.len());
        }
        let page = store.list(None).await.unwrap();
        assert!(page.keys.iter().all(|key| KEYS.contains(&key.as_str())));
    }
    assert!(changes.len() > 1, "the writers have written nothing");
    // The lock of a killed writer is nobody's.
    let seen = store.observe("a", LONGEST).await.unwrap();
    let replaced = store.replace("a", &seen, Bytes::from_static(b"x")).await;
    assert_eq!(replaced, Ok(true));
    let refused = store.get("a", 0).await;
    assert_eq!(refused, Err(Problem::TooLarge(0)));
}

/// Which files the keys have at the moment.
fn marks(directory: &Path) -> Vec<Option<(u64, i64)>> {
    let mark = |key: &str| {
        let metadata = std::fs::metadata(directory.join(key)).ok()?;
        Some((metadata.ino(), metadata.mtime_nsec()))
    };
    KEYS.map(mark).into()
}
