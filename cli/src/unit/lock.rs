//! One deployment at a time for each Unit.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::client::Address;

/// How long others may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a file that was just made may be closed to others.
const GRACE: Duration = Duration::from_secs(1);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file cannot be used.
    #[error("the lock file {path}: {error} (--lock names another one)")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Somebody else has it.
    #[error("another deployment is under way, which has {0} locked")]
    Taken(PathBuf),
}

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The file for a Unit, unless another is asked for: beside its socket, or for an
/// address in the folder of temporary files.
pub fn default_path(address: &Address) -> PathBuf {
    match address {
        Address::Unix(path) => {
            let mut path = path.clone().into_os_string();
            path.push(".deploy-lock");
            path.into()
        }
        Address::Tcp(host, port) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
            let host = host.replace(|c| !plain(c), "_");
            std::env::temp_dir().join(format!("nxt-wasm-deploy-{host}-{port}.lock"))
        }
    }
}

/// Waits for the lock. The file is made if it is not there, for all who may use the
/// Unit at `address`.
pub fn take(path: &Path, address: &Address) -> Result<Lock, LockError> {
    take_within(path, address, PATIENCE)
}

fn take_within(path: &Path, address: &Address, patience: Duration) -> Result<Lock, LockError> {
    let failed = |error| LockError::File {
        path: path.to_owned(),
        error,
    };
    let begin = Instant::now();
    let mut file = loop {
        match open(path, address) {
            // Somebody has just made it, and has yet to say who may open it.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && begin.elapsed() < GRACE =>
            {
                std::thread::sleep(PAUSE);
            }
            opened => break opened.map_err(failed)?,
        }
    };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, path) => return Ok(Lock { _file: file }),
            // Somebody has removed it.
            Ok(()) => file = open(path, address).map_err(failed)?,
            Err(Errno::WOULDBLOCK) if begin.elapsed() < patience => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => return Err(LockError::Taken(path.to_owned())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Opens the file for reading, which is enough to lock it. Not through a link, and no
/// pipe: in a folder of temporary files, others may have put something there.
fn open(path: &Path, address: &Address) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let mut made = false;
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut new = options.clone();
            match new.write(true).create_new(true).mode(0o600).open(path) {
                // Another deployment was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
                new => {
                    made = new.is_ok();
                    new
                }
            }
        }
        found => found,
    }?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // Of others, only the one beside the socket is certainly ours to change: it can have
    // been made before the socket was.
    let beside = matches!(address, Address::Unix(_)) && path == default_path(address);
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.nlink() == 1;
    if made || beside && ours {
        // Nothing is lost if the group is none of ours: the file stays private.
        let _ = share(&file, address);
    }
    Ok(file)
}

/// Lets those lock the file who may use Unit's control socket.
fn share(file: &File, address: &Address) -> io::Result<()> {
    let mode = match address {
        Address::Unix(socket) => {
            let socket = fs::metadata(socket)?;
            fchown(file, None, Some(socket.gid()))?;
            // Whoever may write to it.
            0o600 | (socket.mode() & 0o022) << 1
        }
        Address::Tcp(..) => 0o644,
    };
    file.set_permissions(Permissions::from_mode(mode))
}

/// Whether a file is still the one that has this path.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |found: fs::Metadata| (found.dev(), found.ino());
    let (file, there) = (file.metadata(), fs::symlink_metadata(path));
    file.is_ok_and(|file| there.is_ok_and(|there| place(file) == place(there)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Address::Unix(dir.path().join("control.sock"));
        let path = default_path(&socket);
        assert_eq!(path, dir.path().join("control.sock.deploy-lock"));
        let first = take(&path, &socket).unwrap();
        let second = take_within(&path, &socket, Duration::from_millis(120));
        assert!(matches!(second, Err(LockError::Taken(_))));
        // One that is gone keeps nobody out.
        fs::remove_file(&path).unwrap();
        let third = take_within(&path, &socket, Duration::ZERO).unwrap();
        assert!(!is_at(&first._file, &path) && is_at(&third._file, &path));
        drop((first, third));
        take_within(&path, &socket, Duration::ZERO).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for bad in [link.as_path(), dir.path()] {
            let taken = take(bad, &socket);
            assert!(matches!(taken, Err(LockError::File { .. })));
        }
    }

    #[test]
    fn who_may_use_the_socket_may_take_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let address = Address::Unix(socket.clone());
        let path = default_path(&address);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        // Unit is not there yet.
        take(&path, &address).unwrap();
        assert_eq!(mode(&path), 0o600);
        let _unit = UnixListener::bind(&socket).unwrap();
        for (of_socket, of_lock) in [(0o600, 0o600), (0o660, 0o640), (0o666, 0o644)] {
            fs::set_permissions(&socket, Permissions::from_mode(of_socket)).unwrap();
            take(&path, &address).unwrap();
            assert_eq!(mode(&path), of_lock);
        }
        // All users of a port have the same file.
        let tcp = Address::Tcp("::1".to_owned(), 8081);
        let name = default_path(&tcp);
        assert!(name.ends_with("nxt-wasm-deploy-__1-8081.lock"), "{name:?}");
        let path = dir.path().join("tcp");
        take(&path, &tcp).unwrap();
        assert_eq!(mode(&path), 0o644);
    }

    #[test]
    fn what_was_there_already_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let _unit = UnixListener::bind(&socket).unwrap();
        let own = dir.path().join("own.lock");
        let secret = dir.path().join("secret");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        for (path, bits) in [(&own, 0o666), (&secret, 0o600)] {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
        }
        let unix = Address::Unix(socket);
        take(&own, &unix).unwrap();
        assert_eq!(mode(&own), 0o666);
        // What somebody has put where the lock would be made, in a folder that all
        // may write to or beside the socket.
        for address in [Address::Tcp("::1".to_owned(), 8081), unix] {
            let path = match &address {
                Address::Unix(_) => default_path(&address),
                Address::Tcp(..) => dir.path().join("tcp"),
            };
            fs::hard_link(&secret, &path).unwrap();
            fs::set_permissions(
                dir.path().join("control.sock"),
                Permissions::from_mode(0o666),
            )
            .unwrap();
            take(&path, &address).unwrap();
            assert_eq!(mode(&secret), 0o600);
        }
    }

    /// Only root can be somebody else.
    #[test]
    fn members_of_the_group_of_the_socket_take_the_lock_of_root() {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        use rustix::{process::Gid, process::Uid};
        const GROUP: u32 = 64_321;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let socket = dir.path().join("control.sock");
        let _unit = UnixListener::bind(&socket).unwrap();
        if std::os::unix::fs::chown(&socket, None, Some(GROUP)).is_err() {
            return;
        }
        fs::set_permissions(&socket, Permissions::from_mode(0o660)).unwrap();
        let address = Address::Unix(socket);
        let path = default_path(&address);
        take(&path, &address).unwrap();
        let take_as = |group: u32| {
            let (path, address) = (path.clone(), address.clone());
            // The rights of this thread alone.
            let thread = std::thread::spawn(move || {
                let (user, group) = (Uid::from_raw(64_320), Gid::from_raw(group));
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
                take_within(&path, &address, Duration::ZERO).map(drop)
            });
            thread.join().unwrap()
        };
        take_as(GROUP).unwrap();
        let other = take_as(GROUP + 1);
        assert!(matches!(other, Err(LockError::File { .. })), "{other:?}");
    }
}
