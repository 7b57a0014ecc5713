//! A store in a directory.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nxt_wasm_store::{Access, Digest, Store, StoreError};

use crate::{check, check_deployers, deploy, get, name, put};

fn open(path: &Path) -> Store {
    let access = Access {
        create: true,
        ..Access::default()
    };
    Store::open(path.to_str().unwrap(), &access).unwrap()
}

fn make_old(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let old = SystemTime::now() - Duration::from_secs(7200);
        let file = File::open(entry.unwrap().path()).unwrap();
        file.set_modified(old).unwrap();
    }
}

#[test]
fn keeps_components_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/store");
    let store = open(&path);
    check(&store, || make_old(&path.join("components")));
    assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
}

#[test]
fn deployers_do_not_lose_each_others_updates() {
    let dir = tempfile::tempdir().unwrap();
    check_deployers(|| open(dir.path()));
}

#[test]
fn components_may_be_read_by_all_and_records_by_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    deploy(&store, "shop", "a");
    let component = store.component_path(&Digest::of(b"a")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&component), 0o444);
    assert_eq!(mode(component.parent().unwrap()), 0o755);
    assert_eq!(mode(&dir.path().join("apps")), 0o700);
    assert_eq!(mode(&dir.path().join("apps/shop.json")), 0o600);
}

#[test]
fn damage_is_noticed_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let digest = put(&store, b"component");
    let path = store.component_path(&digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"componenx").unwrap();
    assert!(matches!(get(&store, &digest), Err(StoreError::Damaged(_))));
    put(&store, b"component");
    assert_eq!(get(&store, &digest).unwrap(), b"component");

    deploy(&store, "shop", "a");
    fs::write(dir.path().join("apps/shop.json"), "{\"format\": 1").unwrap();
    let error = store.record(&name("shop")).unwrap_err().to_string();
    assert!(error.contains("the record of \"shop\""), "{error}");
    // What its components were is not known, so that none is removed.
    make_old(&dir.path().join("components"));
    assert!(
        store
            .collect(Duration::from_secs(1), BTreeSet::new())
            .is_err()
    );
    assert_eq!(get(&store, &Digest::of(b"a")).unwrap(), b"a");
}

#[test]
fn a_store_is_made_when_asked_for_alone() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("fs:{}/none", dir.path().display());
    let error = Store::open(&url, &Access::default()).err().unwrap();
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    assert!(!dir.path().join("none").exists());
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let error = Store::open(other.to_str().unwrap(), &Access::default());
    assert!(matches!(error.err().unwrap(), StoreError::Missing(_)));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    for bad in ["https://example.com/", "redis://127.0.0.1/0", "s3://b"] {
        assert!(Store::open(bad, &Access::default()).is_err(), "{bad}");
    }
}

#[test]
fn what_others_may_write_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let apps = dir.path().join("apps");
    fs::set_permissions(&apps, Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(dir.path().to_str().unwrap(), &Access::default());
    let error = error.err().unwrap();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
}

#[test]
fn what_killed_writers_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let left = dir.path().join("tmp/left");
    fs::write(&left, "half").unwrap();
    store.collect(Duration::ZERO, BTreeSet::new()).unwrap();
    assert!(left.exists(), "its writer may be at work");
    make_old(&dir.path().join("tmp"));
    store.collect(Duration::ZERO, BTreeSet::new()).unwrap();
    assert!(!left.exists());
    // Components stay where no record is.
    let digest = put(&store, b"component");
    fs::write(&left, "half").unwrap();
    make_old(&dir.path().join("tmp"));
    make_old(&dir.path().join("components"));
    store.sweep().unwrap();
    assert!(!left.exists() && store.contains(&digest).unwrap());
}

#[test]
fn a_component_gets_its_name_when_nobody_collects() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let collector = File::options()
        .append(true)
        .create(true)
        .open(dir.path().join("lock"))
        .unwrap();
    rustix::fs::flock(&collector, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let put = scope.spawn(|| put(&store, b"component"));
        // It has all its bytes, and no name.
        let writing = || fs::read_dir(dir.path().join("tmp")).unwrap().next();
        while writing().is_none_or(|file| file.unwrap().metadata().unwrap().len() < 9) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(!store.contains(&Digest::of(b"component")).unwrap());
        drop(collector);
        assert!(store.contains(&put.join().unwrap()).unwrap());
    });
}
