//! A store in a bucket.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nxt_wasm_store::{
    Access, Digest, FetchError, FetchOptions, Location, Store, StoreError, fetch,
};

use crate::s3_server::{BUCKET, KEY, S3Server, SECRET};
use crate::{check_deployers, check_removal, deploy, get, name, put};

fn url(server: &S3Server, path: &str) -> String {
    url_at(server.address, path)
}

fn url_at(address: SocketAddr, path: &str) -> String {
    format!("s3://{BUCKET}/{path}?endpoint=http://{address}&credentials=door")
}

fn open(server: &S3Server) -> Store {
    open_at(server.address)
}

fn open_at(address: SocketAddr) -> Store {
    let credentials = format!("{KEY}:{SECRET}");
    let access = Access {
        credentials: Some(&credentials),
        timeout: Duration::from_secs(10),
        ..Access::default()
    };
    Store::open(&url_at(address, "modules"), &access).unwrap()
}

/// The address of a server that passes everything on to another, and says in its lists
/// that objects are 20 years old. It ends with the process.
fn with_old_lists(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || pass_on(server, client));
        }
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    const DATE: &str = "<LastModified>20";
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut part = buffer[..n].to_vec();
        for at in 0..n.saturating_sub(DATE.len() + 2) {
            if part[at..].starts_with(DATE.as_bytes()) {
                part[at + DATE.len()..][..2].copy_from_slice(b"06");
            }
        }
        if to.write_all(&part).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn what_has_been_put_again_since_it_was_listed_stays() {
    let server = S3Server::start();
    let store = open_at(with_old_lists(server.address));
    let digest = put(&store, b"component");
    // By the list it is old. By itself, it is not.
    assert_eq!(
        store
            .collect(Duration::from_secs(3600), BTreeSet::new())
            .unwrap(),
        []
    );
    assert_eq!(get(&store, &digest).unwrap(), b"component");
    assert!(store.contains(&digest).unwrap());
    let gone = store.collect(Duration::ZERO, BTreeSet::new()).unwrap();
    assert_eq!(gone, std::slice::from_ref(&digest));
    assert!(!store.contains(&digest).unwrap());
}

#[test]
fn what_others_could_change_on_the_way_has_to_be_wanted() {
    let place = "modules/a?endpoint=http://192.0.2.1:9000";
    let url = format!("s3://{BUCKET}/{place}");
    let access = Access::default();
    let error = Store::open(&url, &access).err().unwrap();
    assert!(matches!(error, StoreError::PlainHttp), "{error}");
    let allowed = Access {
        allow_plain_http: true,
        ..access
    };
    Store::open(&url, &allowed).unwrap();
    let location: Location = url.parse().unwrap();
    assert!(location.is_exposed());
    let options = FetchOptions {
        credentials: None,
        authorities: None,
        max_bytes: 1,
        timeout: Duration::from_millis(100),
        allow_plain_http: false,
    };
    let error = fetch(&location, &options, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, FetchError::PlainHttp(_)), "{error}");
    for (endpoint, exposed) in [
        ("http://127.9.9.9:1", false),
        ("http://[::1]:1", false),
        ("http://localhost:1", false),
        ("https://192.0.2.1", false),
        ("http://[::ffff:192.0.2.1]:1", true),
        ("http://localhost.example.com", true),
        ("http://0.0.0.0:1", true),
    ] {
        let url = format!("s3://b/k?endpoint={endpoint}");
        let location: Location = url.parse().unwrap();
        assert_eq!(location.is_exposed(), exposed, "{endpoint}");
    }
}

#[test]
fn keeps_components_and_records() {
    let server = S3Server::start();
    let store = open(&server);
    assert_eq!(store.names().unwrap(), []);
    assert_eq!(store.record(&name("shop")).unwrap(), None);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 3) as u8).collect();
    let digest = put(&store, &large);
    assert_eq!(get(&store, &digest).unwrap(), large);
    let missing = get(&store, &Digest::of(b"missing"));
    assert!(matches!(missing, Err(StoreError::NoComponent(_))));
    let record = deploy(&store, "shop", "a");
    assert_eq!(store.record(&name("shop")).unwrap(), Some(record));
    assert_eq!(store.names().unwrap(), [name("shop")]);
    let keys: Vec<String> = server.objects.lock().unwrap().keys().cloned().collect();
    for key in [
        format!("modules/components/{digest}.wasm"),
        format!("modules/components/{}.wasm", Digest::of(b"a")),
        "modules/apps/shop.json".to_owned(),
    ] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!(store.component_path(&digest), None);

    // The server says of all objects that they have just been written.
    assert_eq!(
        store
            .collect(Duration::from_secs(3600), BTreeSet::new())
            .unwrap(),
        []
    );
    let collect = |in_use| store.collect(Duration::ZERO, in_use).unwrap();
    assert_eq!(collect(BTreeSet::from([digest.clone()])), []);
    assert_eq!(collect(BTreeSet::new()), [digest]);
    assert_eq!(get(&store, &Digest::of(b"a")).unwrap(), b"a");
    check_removal(&store, "shop");
    assert_eq!(store.names().unwrap(), []);
}

#[test]
fn deployers_do_not_lose_each_others_updates() {
    let server = S3Server::start();
    check_deployers(|| open(&server));
}

#[test]
fn a_server_without_conditional_writes_is_refused() {
    let server = S3Server::start();
    server.faults.no_conditions.store(true, Ordering::SeqCst);
    let store = open(&server);
    let error = store.update(&name("shop"), |_| unreachable_record());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("If-Match"), "{error}");
}

fn unreachable_record() -> nxt_wasm_store::Record {
    let settings = nxt_wasm_store::AppSettings::default();
    let deployment = nxt_wasm_store::Deployment::new(Digest::of(b"x"), 1, settings);
    nxt_wasm_store::Record::first(name("shop"), deployment)
}

#[test]
fn damage_is_noticed_and_failures_for_the_moment_are_not() {
    let server = S3Server::start();
    let store = open(&server);
    let digest = put(&store, b"component");
    let key = format!("modules/components/{digest}.wasm");
    let damaged = "componenx".into();
    server.objects.lock().unwrap().insert(key, damaged);
    assert!(matches!(get(&store, &digest), Err(StoreError::Damaged(_))));
    server.faults.failing.store(1, Ordering::SeqCst);
    put(&store, b"component");
    assert_eq!(get(&store, &digest).unwrap(), b"component");
    server.faults.failing.store(1000, Ordering::SeqCst);
    let error = store.put(&mut &b"x"[..]).unwrap_err().to_string();
    assert!(
        error.contains("SlowDown") && !error.contains(SECRET),
        "{error}"
    );
}

#[test]
fn credentials_that_are_missing_or_wrong() {
    let server = S3Server::start();
    let url = url(&server, "modules");
    assert_eq!(Store::credentials(&url).as_deref(), Some("door"));
    let error = Store::open(&url, &Access::default()).err().unwrap();
    assert!(error.to_string().contains("no secret \"door\""), "{error}");
    let wrong = format!("{KEY}:{SECRET}x");
    let access = Access {
        credentials: Some(&wrong),
        ..Access::default()
    };
    let store = Store::open(&url, &access).unwrap();
    let error = store.put(&mut &b"x"[..]).unwrap_err().to_string();
    assert!(!error.contains(SECRET), "{error}");
    assert!(server.objects.lock().unwrap().is_empty());
}

#[test]
fn a_component_is_fetched_from_a_bucket() {
    let server = S3Server::start();
    let key = "some/app 1+2.wasm".to_owned();
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    server
        .objects
        .lock()
        .unwrap()
        .insert(key, bytes.clone().into());
    let credentials = format!("{KEY}:{SECRET}");
    let ask = |path: &str, most: u64, credentials: Option<&str>| {
        let location: Location = url(&server, path).parse().unwrap();
        assert_eq!(location.credentials(), Some("door"));
        let options = FetchOptions {
            credentials,
            authorities: None,
            max_bytes: most,
            timeout: Duration::from_secs(10),
            allow_plain_http: false,
        };
        let mut received = Vec::new();
        fetch(&location, &options, &mut received).map(|length| {
            assert_eq!(length, received.len() as u64);
            received
        })
    };
    let door = Some(credentials.as_str());
    let path = "some/app%201+2.wasm";
    assert_eq!(ask(path, 100_000, door).unwrap(), bytes);
    assert!(matches!(
        ask(path, 99_999, door),
        Err(FetchError::TooLarge { .. })
    ));
    assert!(matches!(ask("none", 1, door), Err(FetchError::Missing(_))));
    assert!(matches!(
        ask(path, 1, None),
        Err(FetchError::Credentials { .. })
    ));
    let form = ask(path, 1, Some("hunter2")).unwrap_err().to_string();
    assert!(
        form.contains("KEYID:SECRET") && !form.contains("hunter2"),
        "{form}"
    );
    server.faults.failing.store(1, Ordering::SeqCst);
    let failed = ask(path, 100_000, door).unwrap_err();
    assert!(matches!(failed, FetchError::Failed { .. }), "{failed}");
    let text = failed.to_string();
    assert!(
        text.contains("SlowDown") && !text.contains(SECRET),
        "{text}"
    );
}
