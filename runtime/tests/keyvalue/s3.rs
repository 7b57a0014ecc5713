//! Buckets in an S3 store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Credentials, Place, Problem, Range, S3Place, Secret,
};

use crate::s3_server::{BUCKET, KEY, S3Server, SECRET};
use crate::{conformance, open, open_bucket};

fn s3(server: &S3Server, prefix: &str) -> S3Place {
    S3Place {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://{}", server.address)),
        credentials: Credentials::Given(Secret::new(format!("{KEY}:{SECRET}"))),
    }
}

fn place(server: &S3Server, prefix: &str) -> Place {
    Place::S3(s3(server, prefix))
}

#[tokio::test]
async fn s3_conforms() {
    let server = S3Server::start();
    let place = place(&server, "some/where");
    conformance::all(&[Arc::new(open(&place)), Arc::new(open(&place))]).await;
}

#[tokio::test]
async fn objects_are_under_their_prefix() {
    let server = S3Server::start();
    let (inside, outside) = (open(&place(&server, "in")), open(&place(&server, "")));
    inside.set("../x y", "1".into()).await.unwrap();
    outside.set("k", "2".into()).await.unwrap();
    let names: Vec<String> = server.objects.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, ["in/%2E.%2Fx%20y", "k"]);
    assert_eq!(inside.list(None).await.unwrap().keys, ["../x y"]);
    // What lies deeper is no key of the other.
    assert_eq!(outside.list(None).await.unwrap().keys, ["k"]);
    let problem = outside.list(Some("in/../x")).await;
    assert_eq!(problem, Err(Problem::Cursor));
}

/// Objects that no key has, more of them than a page has keys, do not end a list
/// before its end, wherever a page ends among them.
#[tokio::test]
async fn keys_are_listed_past_objects_of_others() {
    let server = S3Server::start();
    let store = open(&place(&server, "in"));
    // Makes the object on which conditional writes are tried.
    store.increment("n", 1, Range::Signed).await.unwrap();
    {
        let mut objects = server.objects.lock().unwrap();
        let mut put = |name: String| drop(objects.insert(format!("in/{name}"), "1".into()));
        (0..1500).for_each(|n| put(format!("a{n:04} foreign")));
        (0..999).for_each(|n| put(format!("b{n:04}")));
        (0..1500).for_each(|n| put(format!("c{n:04}/foreign")));
        (0..1200).for_each(|n| put(format!("d{n:04}")));
        put("z foreign".to_owned());
    }
    let mut expected: Vec<String> = (0..999).map(|n| format!("b{n:04}")).collect();
    expected.extend((0..1200).map(|n| format!("d{n:04}")));
    expected.push("n".to_owned());

    let (mut keys, mut cursor) = (Vec::new(), None);
    for _ in 0..10 {
        let page = store.list(cursor.as_deref()).await.unwrap();
        keys.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    assert_eq!(keys, expected);

    let (mut keys, mut cursor) = (Vec::new(), None);
    for _ in 0..10 {
        let page = store.list_numbered(cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn passing_failures_are_not_seen_and_others_say_what_it_is() {
    let server = S3Server::start();
    let store = open(&place(&server, ""));
    let fail = |times| server.faults.failing.store(times, Ordering::SeqCst);
    fail(2);
    store.set("k", "v".into()).await.unwrap();
    fail(2);
    assert_eq!(store.get("k", 10).await, Ok(Some("v".into())));
    fail(1);
    assert_eq!(store.exists("k").await, Ok(true));
    fail(2);
    assert_eq!(store.list(None).await.unwrap().keys, ["k"]);
    fail(usize::MAX);
    let problem = store.get("k", 10).await.unwrap_err();
    assert!(problem.to_string().contains("SlowDown"), "{problem}");
    fail(0);

    let wrong = |change: fn(&mut S3Place)| {
        let mut place = s3(&server, "");
        change(&mut place);
        open(&Place::S3(place))
    };
    for (store, expected) in [
        (wrong(|p| p.bucket = "other".into()), "NoSuchBucket"),
        (
            wrong(|p| p.credentials = Credentials::Given(Secret::new("AKIDTEST:wrong"))),
            "SignatureDoesNotMatch",
        ),
        (wrong(|p| p.credentials = Credentials::None), "AccessDenied"),
        (
            wrong(|p| p.endpoint = Some("http://127.0.0.1:1".into())),
            "refused",
        ),
    ] {
        let problem = store.get("k", 10).await.unwrap_err();
        assert!(problem.to_string().contains(expected), "{problem}");
        let problem = store.set("k", Bytes::new()).await.unwrap_err();
        assert!(!problem.to_string().contains("wrong"), "{problem}");
    }
}

#[tokio::test]
async fn a_store_without_conditions_is_told_at_the_first_atomic_operation() {
    for ignores in [true, false] {
        let server = S3Server::start();
        let faults = &server.faults;
        faults.no_conditions.store(ignores, Ordering::SeqCst);
        faults.refuses_conditions.store(!ignores, Ordering::SeqCst);
        let store = open(&place(&server, ""));
        store.set("n", "1".into()).await.unwrap();
        let problem = store.increment("n", 1, Range::Signed).await.unwrap_err();
        assert!(matches!(problem, Problem::Unsupported(_)), "{problem}");
        let seen = store.observe("n", 10).await.unwrap();
        let problem = store.replace("n", &seen, "2".into()).await.unwrap_err();
        assert!(matches!(problem, Problem::Unsupported(_)), "{problem}");
        assert_eq!(store.get("n", 10).await, Ok(Some("1".into())));
        assert_eq!(store.list(None).await.unwrap().keys, ["n"]);
    }
}

#[tokio::test]
async fn writes_that_collide_are_decided_by_the_store() {
    let server = S3Server::start();
    let store = open(&place(&server, ""));
    store.increment("n", 1, Range::Signed).await.unwrap();
    server.faults.conflicts.store(5, Ordering::SeqCst);
    assert_eq!(store.increment("n", 1, Range::Signed).await, Ok(2));
    assert_eq!(server.faults.conflicts.load(Ordering::SeqCst), 0);
}

/// Far too much for a value is not even received.
#[tokio::test]
async fn objects_that_are_too_large() {
    let server = S3Server::start();
    let bucket = BucketGrant {
        max_value: 1000,
        ..BucketGrant::new("test", place(&server, ""))
    };
    let store = open_bucket(&bucket);
    let large = Bytes::from(vec![0; 32 << 20]);
    server.objects.lock().unwrap().insert("k".into(), large);
    assert_eq!(store.get("k", 1000).await, Err(Problem::TooLarge(1000)));
    assert_eq!(store.exists("k").await, Ok(true));
}

#[tokio::test]
async fn connections_are_bounded_and_used_again() {
    let server = S3Server::start();
    let store = open(&place(&server, ""));
    let value = Bytes::from(vec![b'x'; 200_000]);
    store.set("k", value.clone()).await.unwrap();
    let read_all = async |given_up: fn(u64) -> bool| {
        futures::stream::iter(0..300)
            .for_each_concurrent(None, async |n| {
                let read = store.get("k", 1 << 20);
                if given_up(n) {
                    let _ = tokio::time::timeout(Duration::from_millis(n / 3), read).await;
                } else {
                    assert_eq!(read.await, Ok(Some(value.clone())));
                }
            })
            .await;
    };
    // More than there are connections for.
    read_all(|_| false).await;
    let most = server.seen.most_connections.load(Ordering::SeqCst);
    assert!((2..=2 * 64).contains(&most), "{most}");
    // What is given up makes room too, and is not left open.
    for _ in 0..3 {
        read_all(|n| n % 2 == 0).await;
    }
    let open = || server.seen.connections.load(Ordering::SeqCst);
    for _ in 0..1000 {
        if open() <= 2 * 64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(open() <= 2 * 64, "{}", open());
}
