//! Buckets in memory.

use std::sync::Arc;

use bytes::Bytes;
use nxt_wasm_runtime::DnsConfig;
use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Common, KeyvalueGrant, KeyvalueLimits, Place, Problem, Store,
};

use crate::{conformance, open};

#[tokio::test]
async fn memory_conforms() {
    // It is the process's alone, so there is one object for it.
    conformance::all(&[Arc::new(open(&Place::Memory))]).await;
}

#[tokio::test]
async fn buckets_are_apart_and_bounded_together() {
    let grant = KeyvalueGrant {
        limits: KeyvalueLimits {
            memory: 1 << 20,
            ..KeyvalueLimits::default()
        },
        ..KeyvalueGrant::default()
    };
    let common = Common::new(&grant, DnsConfig::default()).unwrap();
    let bucket = |name| Store::open(&BucketGrant::new(name, Place::Memory), &common).unwrap();
    let (one, other) = (bucket("one"), bucket("other"));
    let half = Bytes::from(vec![0; 500_000]);
    one.set("k", half.clone()).await.unwrap();
    assert_eq!(other.get("k", 1 << 20).await, Ok(None));
    other.set("k", half.clone()).await.unwrap();
    let full = other.set("l", half.clone()).await.unwrap_err();
    assert!(matches!(full, Problem::Full(_)), "{full}");
    assert!(full.to_string().contains("UNIT_WASM_KEYVALUE_MEMORY"));
    one.delete("k").await.unwrap();
    other.set("l", half).await.unwrap();
}
