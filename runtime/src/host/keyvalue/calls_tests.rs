use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::OutputStreamKind;
use crate::host::dns::{DnsConfig, Resolver};
use crate::host::keyvalue::{BucketGrant, KeyvalueGrant, KeyvalueLimits, Place};
use crate::host::keyvalue::{RedisAddress, RedisPlace};
use crate::output::GuestLog;

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl GuestLog for Notices {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}

    fn notice(&self, _: &str, severity: Severity, text: &str) {
        self.0.lock().unwrap().push(format!("{severity:?} {text}"));
    }
}

/// A request with buckets.
struct Request {
    table: ResourceTable,
    asking: Arc<Asking>,
    keyvalue: Arc<Keyvalue>,
    notices: Arc<Notices>,
}

impl Request {
    fn new(buckets: Vec<BucketGrant>, limits: KeyvalueLimits) -> Self {
        let grant = KeyvalueGrant {
            buckets,
            limits,
            ..KeyvalueGrant::default()
        };
        let resolver = Arc::new(Resolver::new(DnsConfig::default()));
        Self::of(Arc::new(Keyvalue::new(&grant, resolver).unwrap()))
    }

    fn of(keyvalue: Arc<Keyvalue>) -> Self {
        let notices = Arc::<Notices>::default();
        Self {
            table: ResourceTable::new(),
            asking: Arc::new(Asking::alone("r", Arc::clone(&notices) as _)),
            keyvalue,
            notices,
        }
    }

    fn guest(&mut self) -> Guest<'_> {
        Guest {
            table: &mut self.table,
            asking: Arc::clone(&self.asking),
            keyvalue: Some(Arc::clone(&self.keyvalue)),
        }
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.0.lock().unwrap())
    }
}

fn memory(name: &str) -> BucketGrant {
    BucketGrant::new(name, Place::Memory)
}

fn text<T>(called: Called<T>) -> String {
    match called {
        Ok(_) => "done".into(),
        Err(Refusal::NoSuchStore) => "no-such-store".into(),
        Err(Refusal::AccessDenied) => "access-denied".into(),
        Err(Refusal::Other(text)) => text.into(),
        Err(Refusal::Trap(error)) => format!("trap: {error}"),
    }
}

#[tokio::test]
async fn what_one_request_writes_the_next_one_reads() {
    let mut request = Request::new(vec![memory("default")], KeyvalueLimits::default());
    let mut guest = request.guest();
    let bucket = guest.open("").unwrap();
    guest.set(&bucket, "k", b"v".to_vec()).await.ok().unwrap();
    for name in ["", "default"] {
        let again = guest.open(name).unwrap();
        let value = guest.get(&again, "k").await.ok().unwrap();
        assert_eq!(value, Some(b"v".to_vec()));
    }
    let mut next = Request::of(Arc::clone(&request.keyvalue));
    let mut guest = next.guest();
    let bucket = guest.open("").unwrap();
    assert!(guest.exists(&bucket, "k").await.ok().unwrap());
    assert_eq!(request.told(), Vec::<String>::new());
}

#[tokio::test]
async fn buckets_that_are_not_there_and_buckets_that_are_only_read() {
    let readonly = BucketGrant {
        readonly: true,
        ..memory("readonly")
    };
    let mut request = Request::new(vec![readonly], KeyvalueLimits::default());
    let mut guest = request.guest();
    assert_eq!(text(guest.open("")), "no-such-store");
    assert_eq!(text(guest.open("other")), "no-such-store");
    let bucket = guest.open("readonly").unwrap();
    assert_eq!(text(guest.get(&bucket, "k").await), "done");
    assert_eq!(text(guest.exists(&bucket, "k").await), "done");
    assert_eq!(text(guest.list(&bucket, None).await), "done");
    assert_eq!(text(guest.list_numbered(&bucket, None).await), "done");
    assert_eq!(
        text(guest.get_many(&bucket, vec!["k".into()]).await),
        "done"
    );
    let cas = guest.observe(&bucket, "k".into()).await.ok().unwrap();
    for refused in [
        text(guest.set(&bucket, "k", Vec::new()).await),
        text(guest.delete(&bucket, "k").await),
        text(
            guest
                .set_many(&bucket, vec![("k".into(), Vec::new())])
                .await,
        ),
        text(guest.delete_many(&bucket, vec!["k".into()]).await),
        text(guest.increment(&bucket, "k", 1, Range::Signed).await),
        text(guest.swap(cas, Vec::new()).await),
    ] {
        assert_eq!(refused, "access-denied");
    }
    let told = request.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("bucket `other`"), "{told:?}");
    assert!(told[1].contains("UNIT_WASM_KEYVALUE"), "{told:?}");
}

#[tokio::test]
async fn limits_of_a_request_name_their_settings() {
    let limits = KeyvalueLimits {
        opened: 2,
        operations: 10,
        bytes_read: 10,
        bytes_written: 12,
        ..KeyvalueLimits::default()
    };
    let mut request = Request::new(vec![memory("b")], limits);
    let mut guest = request.guest();
    let bucket = guest.open("b").unwrap();
    guest.open("b").unwrap();
    assert_eq!(
        text(guest.open("b")),
        "this request has opened too many buckets"
    );
    let key = "k".repeat(MAX_KEY + 1);
    let too_long = guest.get(&bucket, &key).await;
    assert_eq!(text(too_long), "the key is longer than 1024 bytes");

    let pairs = vec![("a".into(), vec![0; 6]), ("b".into(), vec![0; 7])];
    let written = text(guest.set_many(&bucket, pairs).await);
    assert_eq!(written, "this request has written too many bytes");
    assert!(!guest.exists(&bucket, "a").await.ok().unwrap());
    let pairs = vec![("a".into(), vec![0; 6]), ("b".into(), vec![0; 6])];
    assert_eq!(text(guest.set_many(&bucket, pairs).await), "done");

    // 5 operations are left: 2 + 2 + 1.
    let both = || vec!["a".to_owned(), "b".to_owned()];
    let read = text(guest.get_many(&bucket, both()).await);
    assert_eq!(read, "this request has read too many bytes");
    assert_eq!(text(guest.delete_many(&bucket, both()).await), "done");
    let done = text(guest.delete_many(&bucket, both()).await);
    assert_eq!(done, "this request has made too many operations");
    assert_eq!(text(guest.exists(&bucket, "a").await), "done");
    let done = text(guest.exists(&bucket, "a").await);
    assert_eq!(done, "this request has made too many operations");

    let told = request.told();
    for setting in ["OPEN", "BYTES_WRITTEN", "BYTES_READ", "OPERATIONS"] {
        let setting = format!("UNIT_WASM_KEYVALUE_{setting}");
        assert!(told.iter().any(|t| t.contains(&setting)), "{told:?}");
    }
    // The next one begins anew.
    let mut next = Request::of(Arc::clone(&request.keyvalue));
    assert_eq!(text(next.guest().open("b")), "done");
}

#[tokio::test]
async fn values_that_are_too_long_for_their_bucket() {
    let small = BucketGrant {
        max_value: 4,
        ..memory("small")
    };
    let mut request = Request::new(vec![small], KeyvalueLimits::default());
    let mut guest = request.guest();
    let bucket = guest.open("small").unwrap();
    assert_eq!(text(guest.set(&bucket, "k", vec![0; 4]).await), "done");
    let refused = text(guest.set(&bucket, "k", vec![0; 5]).await);
    assert_eq!(refused, "the value is too large");
    let pairs = vec![("a".into(), vec![0; 1]), ("b".into(), vec![0; 5])];
    let refused = text(guest.set_many(&bucket, pairs).await);
    assert_eq!(refused, "the value is too large");
    let cas = guest.observe(&bucket, "k".into()).await.ok().unwrap();
    let refused = text(guest.swap(cas, vec![0; 5]).await);
    assert_eq!(refused, "the value is too large");
    assert!(!guest.exists(&bucket, "a").await.ok().unwrap());

    // Somebody else has written a longer one.
    let store = &request.keyvalue.buckets["small"].store;
    store.set("k", Bytes::from_static(b"12345")).await.unwrap();
    let mut guest = request.guest();
    let refused = text(guest.get(&bucket, "k").await);
    assert_eq!(refused, "the stored value is too large");
    let told = request.told();
    assert!(
        told[0].contains("bucket `small`: set: a value of 5 bytes"),
        "{told:?}"
    );
    assert!(told.last().unwrap().starts_with("Error "), "{told:?}");
}

#[tokio::test]
async fn a_failed_swap_hands_back_what_there_is_now() {
    let mut request = Request::new(vec![memory("b")], KeyvalueLimits::default());
    let mut guest = request.guest();
    let bucket = guest.open("b").unwrap();
    let cas = guest.observe(&bucket, "k".into()).await.ok().unwrap();
    assert_eq!(guest.current(&cas).ok().unwrap(), None);
    guest.set(&bucket, "k", b"1".to_vec()).await.ok().unwrap();
    guest.drop_bucket(bucket).unwrap();
    let Ok(Swapped::Changed(cas)) = guest.swap(cas, b"2".to_vec()).await else {
        panic!("swapped")
    };
    assert_eq!(guest.current(&cas).ok().unwrap(), Some(b"1".to_vec()));
    let swapped = guest.swap(cas, b"3".to_vec()).await;
    assert!(matches!(swapped, Ok(Swapped::Done)));
    let bucket = guest.open("b").unwrap();
    let value = guest.get(&bucket, "k").await.ok().unwrap();
    assert_eq!(value, Some(b"3".to_vec()));
    guest.drop_bucket(bucket).unwrap();
    assert!(request.table.is_empty());
}

#[tokio::test]
async fn guests_are_told_nothing_about_where_a_store_is() {
    let redis = |port| {
        Place::Redis(RedisPlace {
            address: RedisAddress::Tcp("127.0.0.1".into(), port),
            database: 0,
            prefix: String::new(),
            credentials: Default::default(),
        })
    };
    // Nobody listens at the one; the other says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let buckets = vec![
        BucketGrant::new("refusing", redis(1)),
        BucketGrant::new("silent", redis(port)),
    ];
    let limits = KeyvalueLimits {
        timeout: Duration::from_millis(200),
        ..KeyvalueLimits::default()
    };
    let mut request = Request::new(buckets, limits);
    let mut guest = request.guest();
    let bucket = guest.open("refusing").unwrap();
    assert_eq!(text(guest.get(&bucket, "k").await), "the store failed");
    let bucket = guest.open("silent").unwrap();
    let late = text(guest.get(&bucket, "k").await);
    assert_eq!(late, "the store did not answer in time");
    let told = request.told();
    let refused = "Error keyvalue bucket `refusing`: get: connecting to 127.0.0.1:1: ";
    assert!(told[0].starts_with(refused), "{told:?}");
    assert!(told[1].contains("UNIT_WASM_KEYVALUE_TIMEOUT"), "{told:?}");
}
