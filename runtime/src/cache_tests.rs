use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of the test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nxt-cache-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.0.join("cache"), uid()).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.join("cache")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn one(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files.into_iter().next().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The user that runs the tests.
fn uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn key(number: u32) -> String {
    format!("{number:064x}-{:016x}", 7)
}

fn code(bytes: &[u8]) -> File {
    let fd = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file
}

fn read(file: &File) -> Vec<u8> {
    artifact::read_all(file).unwrap()
}

/// What a lookup finds, and why it did not take others.
fn find(cache: &Cache, key: &str) -> (Option<Vec<u8>>, Vec<String>) {
    let Lookup { file, refused } = cache.find(key);
    let refused = refused.iter().map(ToString::to_string).collect();
    (file.as_ref().map(read), refused)
}

fn found(bytes: &[u8]) -> (Option<Vec<u8>>, Vec<String>) {
    (Some(bytes.to_vec()), Vec::new())
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn refusal(path: &Path) -> String {
    match Cache::open(path, uid()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_was_stored_is_found() {
    let folder = Folder::new();
    let cache = folder.cache();
    assert_eq!(find(&cache, &key(1)), (None, Vec::new()));
    let stored = cache.store(&key(1), &code(b"one")).unwrap();
    assert_eq!(read(&stored), b"one");
    // Processes that run as other users inherit it.
    let flags = rustix::fs::fcntl_getfl(&stored).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
    assert_eq!(find(&cache, &key(1)), found(b"one"));
    assert_eq!(find(&cache, &key(2)), (None, Vec::new()));
    cache.store(&key(1), &code(b"another")).unwrap();
    assert_eq!(find(&cache, &key(1)), found(b"another"));
    assert_eq!(fs::metadata(folder.one()).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let folder = Folder::new();
    let path = folder.0.join("cache");
    drop(folder.cache());
    for bad in [0o777, 0o775, 0o757, 0o1777] {
        mode(&path, bad);
        let text = refusal(&path);
        assert!(text.contains("can be written by others"), "{text}");
        assert!(text.contains(&format!("{bad:04o}")), "{text}");
    }
    mode(&path, 0o755);
    drop(folder.cache());
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let folder = Folder::new();
    drop(folder.cache());
    let metadata = fs::metadata(folder.0.join("cache")).unwrap();
    let (mine, other) = (metadata.uid(), metadata.uid() + 1);
    assert!(check_owner(&folder.0, &metadata, mine).is_ok());
    // Root's is as good as one's own.
    let error = check_owner(&folder.0, &metadata, other);
    assert_eq!(error.is_ok(), mine == 0);
    if mine == 0 {
        std::os::unix::fs::chown(folder.0.join("cache"), Some(4711), None).unwrap();
        let text = refusal(&folder.0.join("cache"));
        assert!(text.contains("belongs to user 4711"), "{text}");
        assert!(Cache::open(&folder.0.join("cache"), 4711).is_ok());
    }
}

#[test]
fn a_directory_is_given_away_wherever_it_is() {
    if uid() != 0 {
        return;
    }
    let folder = Folder::new();
    let path = folder.0.join("cache");
    let cache = folder.cache();
    // Another one has taken its place.
    let aside = folder.0.join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let cache = cache.give_to(4711).unwrap();
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!((owner(&aside), owner(&path)), (4711, 0));
    cache.store(&key(1), &code(b"code")).unwrap();
    std::os::unix::fs::chown(
        fs::read_dir(&aside)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path(),
        Some(4711),
        None,
    )
    .unwrap();
    assert_eq!(find(&cache, &key(1)), found(b"code"));
}

#[test]
fn what_is_no_directory_is_refused() {
    let folder = Folder::new();
    fs::write(folder.0.join("file"), "").unwrap();
    drop(folder.cache());
    symlink(folder.0.join("cache"), folder.0.join("link")).unwrap();
    for name in ["file", "link"] {
        let text = refusal(&folder.0.join(name));
        assert!(text.ends_with("is not a directory"), "{text}");
    }
    let text = refusal(&folder.0.join("file/cache"));
    assert!(text.contains("ot a directory"), "{text}");
}

#[test]
fn damaged_files_are_refused_and_removed() {
    let folder = Folder::new();
    let cache = folder.cache();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(100_000),
        |bytes| bytes.push(0),
        |bytes| bytes[99_999] ^= 1,
    ];
    for damage in damages {
        cache.store(&key(1), &code(&[7; 200_000])).unwrap();
        let path = folder.one();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let (file, refused) = find(&cache, &key(1));
        assert_eq!(file, None);
        assert!(refused[0].contains("is damaged"), "{refused:?}");
        assert!(refused[0].contains(path.to_str().unwrap()), "{refused:?}");
        assert!(folder.files().is_empty());
    }
}

#[test]
fn files_that_others_could_have_written_are_refused_and_removed() {
    let folder = Folder::new();
    let cache = folder.cache();
    type Tampering = Box<dyn Fn(&Path)>;
    let mut tamperings: Vec<(&str, Tampering)> = vec![
        (
            "can be written by others",
            Box::new(|path| mode(path, 0o666)),
        ),
        (
            "can be written by others",
            Box::new(|path| mode(path, 0o664)),
        ),
        (
            "symbolic links",
            Box::new(|path| {
                let aside = path.parent().unwrap().with_file_name("aside");
                fs::rename(path, &aside).unwrap();
                symlink(&aside, path).unwrap();
            }),
        ),
    ];
    if uid() == 0 {
        let chown = |path: &Path| std::os::unix::fs::chown(path, Some(4711), None).unwrap();
        tamperings.push(("belongs to user 4711", Box::new(chown)));
    }
    for (why, tamper) in tamperings {
        cache.store(&key(1), &code(b"code")).unwrap();
        tamper(&folder.one());
        let (file, refused) = find(&cache, &key(1));
        assert_eq!(file, None, "{why}");
        assert!(refused[0].contains(why), "{refused:?}");
        assert!(folder.files().is_empty());
    }
}

#[test]
fn an_entry_under_another_name_is_refused() {
    let folder = Folder::new();
    let cache = folder.cache();
    cache.store(&key(1), &code(b"one")).unwrap();
    let path = folder.one();
    let name = path.file_name().unwrap().to_str().unwrap();
    fs::rename(&path, path.with_file_name(name.replace(&key(1), &key(2)))).unwrap();
    let (file, refused) = find(&cache, &key(2));
    assert_eq!((file, refused.len()), (None, 1));
}

#[test]
fn a_pipe_does_not_block() {
    let folder = Folder::new();
    let cache = folder.cache();
    let name = format!("{}.{}.cwasm", key(1), "0".repeat(64));
    rustix::fs::mknodat(
        &cache.directory,
        &name,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(cache.find(&key(1)).refused.len(), 1);
}

/// Many at once store and find entries of the same key with different bytes,
/// and sweep all the time: whatever is found is whole.
#[test]
fn racing_for_an_entry() {
    let folder = Folder::new();
    drop(folder.cache());
    let round = |number: u8| {
        let cache = folder.cache();
        for _ in 0..50 {
            let bytes = vec![number; 10_000 + usize::from(number) * 1_000];
            let stored = cache.store(&key(1), &code(&bytes)).unwrap();
            assert_eq!(read(&stored), bytes);
            let Lookup { file, refused } = cache.find(&key(1));
            assert!(refused.is_empty(), "{refused:?}");
            if let Some(file) = file {
                let bytes = read(&file);
                let number = bytes[0];
                assert_eq!(bytes.len(), 10_000 + usize::from(number) * 1_000);
                assert!(bytes.iter().all(|&byte| byte == number));
            }
            cache.sweep(15_000, &[]).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || round(number));
        }
    });
    let left: Vec<_> = folder.files();
    let all = left.iter().map(|path| path.file_name().unwrap().to_str());
    for name in all {
        let name = name.unwrap();
        assert!(matches!(kind(name), Some(Kind::Entry { .. })), "{name}");
    }
}

#[test]
fn the_least_recently_used_are_swept() {
    let folder = Folder::new();
    let cache = folder.cache();
    let age = |number: u32, seconds: u64| {
        let is = |path: &PathBuf| path.to_str().unwrap().contains(&key(number));
        let path = folder.files().into_iter().find(is).unwrap();
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    for number in 1..=4 {
        cache.store(&key(number), &code(&[0; 100])).unwrap();
        age(number, u64::from(10 * number));
    }
    let others = ["note", "x.cwasm", "x.sha256"].map(|name| folder.0.join("cache").join(name));
    others
        .iter()
        .for_each(|path| fs::write(path, [0; 500]).unwrap());
    let left = || -> Vec<u32> {
        let files = folder.files();
        let has = |number: &u32| {
            let key = key(*number);
            files
                .iter()
                .any(|path| path.to_str().unwrap().contains(&key))
        };
        (1..=5).filter(has).collect()
    };
    // Used now, and so no longer the oldest.
    assert_eq!(find(&cache, &key(4)), found(&[0; 100]));
    cache.store(&key(5), &code(&[0; 100])).unwrap();
    assert_eq!(cache.sweep(500, &[&key(5)]).unwrap(), 0);
    assert_eq!(left(), [1, 2, 3, 4, 5]);
    assert_eq!(cache.sweep(499, &[&key(5)]).unwrap(), 1);
    assert_eq!(left(), [1, 2, 4, 5]);
    assert_eq!(cache.sweep(250, &[&key(5)]).unwrap(), 2);
    assert_eq!(left(), [4, 5]);
    // However old, and however small the limit is.
    age(5, 1_000_000);
    assert_eq!(cache.sweep(0, &[&key(5)]).unwrap(), 1);
    assert_eq!(left(), [5]);
    assert!(others.iter().all(|path| path.exists()), "strangers removed");
    // A component and its artifact.
    cache.store(&key(4), &code(&[0; 100])).unwrap();
    cache.store(&key(3), &code(&[0; 100])).unwrap();
    age(4, 2_000_000);
    assert_eq!(cache.sweep(0, &[&key(5), &key(4)]).unwrap(), 1);
    assert_eq!(left(), [4, 5]);
}

#[test]
fn what_dead_processes_leave_is_swept() {
    let folder = Folder::new();
    let cache = folder.cache();
    cache.store(&key(1), &code(b"made")).unwrap();
    let [old, new] = ["0", "1"].map(|digit| {
        let name = format!("{}.{}.tmp", key(1), digit.repeat(16));
        let path = folder.0.join("cache").join(name);
        fs::write(&path, "part").unwrap();
        path
    });
    let time = SystemTime::now() - ABANDONED - Duration::from_secs(10);
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(time)
        .unwrap();
    cache.sweep(1 << 30, &[]).unwrap();
    assert!(!old.exists());
    assert!(new.exists(), "somebody may be at it");
}

#[test]
fn a_shortage_is_not_blamed_on_the_file() {
    let io = |errno: Errno| CacheError::Io {
        path: "/x".into(),
        error: errno.into(),
    };
    assert!(io(Errno::MFILE).is_shortage());
    assert!(io(Errno::IO).is_shortage());
    assert!(!io(Errno::LOOP).is_shortage());
    assert!(!CacheError::Damaged("/x".into()).is_shortage());
}
