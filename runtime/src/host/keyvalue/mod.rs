//! `wasi:keyvalue`: buckets of keys and values, kept by the host.
//!
//! The two published drafts of the interface are linked side by side, over one
//! implementation:
//!
//! - [`draft2`], [`draft`]: the interfaces as guests see them;
//! - [`calls`], [`call`]: what a call does, under the limits of its request;
//! - [`store`]: one bucket's store, of which there are four kinds: [`memory`],
//!   [`fs`], [`redis`] and, through OpenDAL, [`s3`].
//!
//! A store sees each operation once and keeps nothing back: what a guest has
//! written it reads, through whichever handle, and so does the next request.

mod budget;
mod call;
mod calls;
mod dial;
mod draft;
mod draft2;
mod fs;
mod grant;
mod memory;
mod names;
mod number;
mod paging;
mod problem;
mod redis;
mod s3;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::Linker;

pub use self::grant::{
    BucketGrant, Credentials, CredentialsError, DEFAULT_MAX_VALUE, KeyvalueGrant, KeyvalueLimits,
    Place, RedisAddress, RedisPlace, S3Place, Secret,
};
pub use self::names::MAX_KEY;
pub use self::number::Range;
pub use self::paging::{PAGE, Page};
pub use self::problem::Problem;
pub use self::store::{Common, Seen, Store};

pub(crate) use self::budget::Used;
use crate::error::LoadError;
use crate::host::dns::Resolver;
use crate::state::State;

/// What guests get that open a bucket without a name.
const DEFAULT: &str = "default";

/// The buckets of a process.
pub(crate) struct Keyvalue {
    buckets: BTreeMap<String, Arc<Opened>>,
    limits: KeyvalueLimits,
}

/// One of them.
struct Opened {
    name: String,
    store: Store,
    readonly: bool,
    max_value: usize,
}

impl Keyvalue {
    /// Opens all buckets. Connects to nothing, and needs no event loop.
    pub fn new(grant: &KeyvalueGrant, resolver: Arc<Resolver>) -> Result<Self, LoadError> {
        let failed = |bucket: &str, problem| LoadError::Keyvalue {
            bucket: bucket.to_owned(),
            problem,
        };
        let common = Common::with(grant, resolver).map_err(|problem| failed("*", problem))?;
        let mut buckets = BTreeMap::new();
        for bucket in &grant.buckets {
            let store = Store::open(bucket, &common);
            let opened = Opened {
                name: bucket.name.clone(),
                store: store.map_err(|problem| failed(&bucket.name, problem))?,
                readonly: bucket.readonly,
                max_value: bucket.max_value,
            };
            buckets.insert(bucket.name.clone(), Arc::new(opened));
        }
        Ok(Self {
            buckets,
            limits: grant.limits.clone(),
        })
    }
}

/// Adds the interfaces of both drafts.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    draft2::link(linker)?;
    draft::link(linker)
}
