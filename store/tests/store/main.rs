//! The module store, in a directory and in a bucket, and where components come from.

// Helpers of tests are not in the scope that clippy.toml exempts.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod directory;
mod fetch;
mod s3;
#[path = "../../../runtime/tests/keyvalue/s3_server.rs"]
#[allow(dead_code)]
mod s3_server;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nxt_wasm_store::{AppSettings, Deployment, Digest, HISTORY, Name, Record, Store, StoreError};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    let (digest, length) = store.put(&mut &bytes[..]).unwrap();
    assert_eq!(
        (digest.clone(), length),
        (Digest::of(bytes), bytes.len() as u64)
    );
    digest
}

fn get(store: &Store, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.get(digest, &mut bytes).map(|length| {
        assert_eq!(length, bytes.len() as u64);
        bytes
    })
}

/// Deploys what has `text` as its component.
fn deploy(store: &Store, app: &str, text: &str) -> Record {
    let digest = put(store, text.as_bytes());
    let settings = AppSettings {
        environment: BTreeMap::from([("VERSION".to_owned(), text.to_owned())]),
        ..AppSettings::default()
    };
    let deployment = Deployment::new(digest, text.len() as u64, settings);
    push(store, app, &deployment)
}

fn push(store: &Store, app: &str, deployment: &Deployment) -> Record {
    let name = name(app);
    let push = |record: Option<Record>| match record {
        None => Record::first(name.clone(), deployment.clone()),
        Some(mut record) => {
            record.push(deployment.clone());
            record
        }
    };
    store.update(&name, push).unwrap()
}

/// What every store does. `age` makes all components so old.
fn check(store: &Store, age: impl Fn()) {
    assert_eq!(store.names().unwrap(), []);
    assert_eq!(store.record(&name("shop")).unwrap(), None);
    let digest = put(store, b"one");
    put(store, b"one");
    assert_eq!(get(store, &digest).unwrap(), b"one");
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 3) as u8).collect();
    assert_eq!(get(store, &put(store, &large)).unwrap(), large);
    let missing = Digest::of(b"missing");
    assert!(matches!(get(store, &missing), Err(StoreError::NoComponent(d)) if d == missing));

    deploy(store, "shop", "a");
    let record = deploy(store, "shop", "b");
    deploy(store, "api", "c");
    assert_eq!(store.record(&name("shop")).unwrap(), Some(record.clone()));
    assert_eq!(record.current().unwrap().digest, Digest::of(b"b"));
    assert_eq!(record.history().len(), 2);
    assert_eq!(store.names().unwrap(), [name("api"), name("shop")]);

    // Young ones stay, whatever records say; old ones if a record has them.
    assert_eq!(
        store
            .collect(Duration::from_secs(3600), BTreeSet::new())
            .unwrap(),
        []
    );
    age();
    let collect = |in_use| store.collect(Duration::from_secs(3600), in_use).unwrap();
    assert_eq!(
        collect(BTreeSet::from([digest.clone()])),
        [Digest::of(&large)]
    );
    assert_eq!(collect(BTreeSet::new()), [digest]);
    assert!(get(store, &Digest::of(b"a")).is_ok());
    check_removal(store, "shop");
    assert_eq!(store.names().unwrap(), [name("api")]);
    // What is put again is young again.
    put(store, b"a");
    assert_eq!(collect(BTreeSet::new()), [Digest::of(b"b")]);
    assert_eq!(get(store, &Digest::of(b"c")).unwrap(), b"c");
}

/// An application is forgotten, unless somebody has deployed it since.
fn check_removal(store: &Store, app: &str) {
    let (app, seen) = (name(app), store.record(&name(app)).unwrap().unwrap());
    let newer = deploy(store, app.as_str(), "x");
    let error = store.remove(&app, &seen).unwrap_err();
    assert!(
        matches!(&error, StoreError::Busy(name) if *name == app),
        "{error}"
    );
    assert_eq!(store.record(&app).unwrap(), Some(newer.clone()));
    assert!(store.remove(&app, &newer).unwrap());
    assert!(!store.remove(&app, &newer).unwrap());
    assert_eq!(store.record(&app).unwrap(), None);
    // A later one begins anew.
    let first = deploy(store, app.as_str(), "y");
    assert_eq!(first.current().unwrap().number, 1);
    assert!(store.remove(&app, &first).unwrap());
}

/// Deployers at the same time, each with a store of its own.
fn check_deployers(open: impl Fn() -> Store + Sync) {
    let deploy_all = |from: u64| {
        let store = open();
        for number in from..from + 4 {
            let settings = AppSettings::default();
            let deployment = Deployment::new(Digest::of(b"x"), number, settings);
            push(&store, "shop", &deployment);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| deploy_all(100));
        scope.spawn(|| deploy_all(200));
    });
    let record = open().record(&name("shop")).unwrap().unwrap();
    let history = record.history();
    assert!(history.len() <= HISTORY);
    let numbers: Vec<u64> = history.iter().map(|d| d.number).collect();
    assert_eq!(numbers, [8, 7, 6, 5, 4, 3, 2, 1]);
    let mut sizes: Vec<u64> = history.iter().map(|d| d.size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [100, 101, 102, 103, 200, 201, 202, 203]);
}
