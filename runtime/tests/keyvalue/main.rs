//! The stores behind `wasi:keyvalue`, each as the host functions use it: all of
//! them have to pass `conformance`; what only one of them can do wrong is in a
//! file of its own. A real `redis-server` is used if there is one, and an S3
//! server in this process.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod conformance;
mod fs;
mod guest;
mod memory;
mod redis;
mod redis_server;
mod s3;
mod s3_server;
mod tls;

use std::time::Duration;

use nxt_wasm_runtime::DnsConfig;
use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Common, KeyvalueGrant, KeyvalueLimits, Place, Store,
};

/// A store of its own at `place`, as another process would have it.
fn open(place: &Place) -> Store {
    open_bucket(&BucketGrant::new("test", place.clone()))
}

fn open_bucket(bucket: &BucketGrant) -> Store {
    Store::open(bucket, &common()).unwrap()
}

fn common() -> Common {
    Common::new(&grant(), DnsConfig::default()).unwrap()
}

fn grant() -> KeyvalueGrant {
    KeyvalueGrant {
        limits: KeyvalueLimits {
            timeout: Duration::from_secs(20),
            ..KeyvalueLimits::default()
        },
        ..KeyvalueGrant::default()
    }
}
