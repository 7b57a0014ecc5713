//! Buckets in Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nxt_wasm_runtime::DnsConfig;
use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Common, Credentials, KeyvalueGrant, KeyvalueLimits, Place, Problem, Range,
    RedisAddress, RedisPlace, Secret, Store,
};
use tokio::time::timeout;

use crate::redis_server::RedisServer;
use crate::{conformance, open};

fn redis(address: SocketAddr, prefix: &str) -> RedisPlace {
    RedisPlace {
        address: RedisAddress::Tcp(address.ip().to_string(), address.port()),
        database: 1,
        prefix: prefix.to_owned(),
        credentials: Credentials::None,
    }
}

fn place(address: SocketAddr, prefix: &str) -> Place {
    Place::Redis(redis(address, prefix))
}

#[tokio::test]
async fn redis_conforms() {
    let Some(server) = RedisServer::start(None) else {
        return;
    };
    // What is beside the bucket is not in it.
    let beside = open(&place(server.address, ""));
    for n in 0..3000 {
        let key = format!("beside {n}");
        beside.set(&key, Bytes::new()).await.unwrap();
    }
    let place = place(server.address, "app*[1]:");
    let stores = [Arc::new(open(&place)), Arc::new(open(&place))];
    conformance::all(&stores).await;
    beside.set("app1:k", Bytes::new()).await.unwrap();
    assert_eq!(
        stores[0].list(None).await.unwrap().keys,
        Vec::<String>::new()
    );
    stores[0].set("k", "v".into()).await.unwrap();
    let value = beside.get("app*[1]:k", 10).await;
    assert_eq!(value, Ok(Some("v".into())));
}

/// Each thread has an event loop, and uses the same store.
#[test]
fn event_loops_share_a_store() {
    let Some(server) = RedisServer::start(None) else {
        return;
    };
    let store = Arc::new(open(&place(server.address, "")));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                let event_loop = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                event_loop.block_on(async {
                    for _ in 0..100 {
                        store.increment("n", 1, Range::Signed).await.unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    // This loop is not the first one of this thread's to use it.
    for _ in 0..2 {
        let event_loop = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let value = event_loop.block_on(store.get("n", 10));
        assert_eq!(value, Ok(Some("400".into())));
    }
}

#[tokio::test]
async fn logins() {
    let Some(server) = RedisServer::start(Some("pass:word")) else {
        return;
    };
    let with = |credentials: Credentials| {
        open(&Place::Redis(RedisPlace {
            credentials,
            ..redis(server.address, "")
        }))
    };
    let given = |text: &str| with(Credentials::Given(Secret::new(text)));
    for good in [":pass:word", "default:pass:word"] {
        given(good).set("k", "v".into()).await.unwrap();
    }
    for bad in [
        with(Credentials::None),
        given("default:wrong"),
        given("wrong"),
    ] {
        let problem = bad.set("k", "v".into()).await.unwrap_err();
        assert!(matches!(problem, Problem::Failed(_)), "{problem}");
        assert!(!problem.to_string().contains("wrong"), "{problem}");
    }
}

#[tokio::test]
async fn it_comes_back_when_the_server_does() {
    let Some(mut server) = RedisServer::start(None) else {
        return;
    };
    let store = open(&place(server.address, ""));
    store.set("k", "v".into()).await.unwrap();
    server.stop();
    let problem = store.get("k", 10).await.unwrap_err();
    assert!(matches!(problem, Problem::Failed(_)), "{problem}");
    server.restart();
    assert_eq!(store.get("k", 10).await, Ok(None));
    store.set("n", "1".into()).await.unwrap();

    // One that has been away while nothing was asked: what must not be done
    // twice is not even tried on a connection that may be dead.
    server.stop();
    server.restart();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(store.increment("n", 1, Range::Signed).await, Ok(1));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let Some(server) = RedisServer::start(None) else {
        return;
    };
    let store = open(&place(server.address, ""));
    store.set("k", "v".into()).await.unwrap();
    server.freeze(true);
    // Whoever calls it waits for so long only.
    let late = timeout(Duration::from_millis(1500), store.get("k", 10)).await;
    assert!(late.is_err());
    server.freeze(false);
    assert_eq!(store.get("k", 10).await, Ok(Some("v".into())));
    assert_eq!(store.increment("n", 1, Range::Signed).await, Ok(1));
}

#[tokio::test]
async fn a_connection_that_is_not_answered() {
    // Something that takes connections and says nothing.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let grant = KeyvalueGrant {
        limits: KeyvalueLimits {
            timeout: Duration::from_millis(300),
            ..KeyvalueLimits::default()
        },
        ..KeyvalueGrant::default()
    };
    let common = Common::new(&grant, DnsConfig::default()).unwrap();
    let bucket = BucketGrant::new("test", place(address, ""));
    let store = Store::open(&bucket, &common).unwrap();
    let problem = timeout(Duration::from_secs(20), store.get("k", 10)).await;
    let problem = problem.unwrap().unwrap_err();
    let expected = format!("connecting to {address}: timed out");
    assert_eq!(problem.to_string(), expected);
}

#[tokio::test]
async fn keys_of_another_kind() {
    let Some(server) = RedisServer::start(None) else {
        return;
    };
    let mut raw = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    raw.write_all(b"SELECT 1\r\nRPUSH list a\r\nSET \"\\xff\" x\r\n")
        .await
        .unwrap();
    let mut answers = [0; 14];
    raw.read_exact(&mut answers).await.unwrap();
    assert_eq!(&answers, b"+OK\r\n:1\r\n+OK\r\n");
    let store = open(&place(server.address, ""));
    for problem in [
        store.get("list", 10).await.unwrap_err(),
        store.increment("list", 1, Range::Signed).await.unwrap_err(),
        store
            .increment("list", 1, Range::Unsigned)
            .await
            .unwrap_err(),
    ] {
        assert!(problem.to_string().contains("WRONGTYPE"), "{problem}");
    }
    // A key that is no text is nobody's.
    assert_eq!(store.list(None).await.unwrap().keys, ["list"]);
    for cursor in ["x", "-1", "1.5"] {
        assert_eq!(store.list(Some(cursor)).await, Err(Problem::Cursor));
    }
}
