//! What a guest's call does, whichever draft it comes by.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};

use super::budget::Limit;
use super::call::{AT_ONCE, Call};
use super::names::MAX_KEY;
use super::number::Range;
use super::paging::Page;
use super::store::Seen;
use super::{DEFAULT, Keyvalue, Opened};
use crate::host::Asking;
use crate::output::Severity;
use crate::state::State;

/// A bucket that a guest has opened.
pub struct Bucket(Arc<Opened>);

/// A key that a guest wants to change if nobody else does.
pub struct Cas {
    bucket: Arc<Opened>,
    key: String,
    seen: Seen,
}

/// Why a call is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    NoSuchStore,
    AccessDenied,
    /// What the guest is told.
    Other(&'static str),
    /// The guest is ended.
    Trap(wasmtime::Error),
}

impl From<ResourceTableError> for Refusal {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

/// What has come of an attempt to swap.
pub(super) enum Swapped {
    Done,
    /// The value had changed. The key as it is now.
    Changed(Resource<Cas>),
}

pub(super) type Called<T> = Result<T, Refusal>;
pub(super) type Pairs = Vec<(String, Option<Vec<u8>>)>;

/// One request's view of the buckets.
pub(super) struct Guest<'a> {
    table: &'a mut ResourceTable,
    asking: Arc<Asking>,
    /// None while a component is only tried out.
    keyvalue: Option<Arc<Keyvalue>>,
}

/// For the linker: what functions get of a store's data.
pub(super) struct Calls;

impl HasData for Calls {
    type Data<'a> = Guest<'a>;
}

pub(super) fn guest(state: &mut State) -> Guest<'_> {
    let (table, hooks) = state.keyvalue();
    Guest {
        table,
        asking: Arc::clone(&hooks.asking),
        keyvalue: hooks.capabilities.keyvalue.clone(),
    }
}

impl Guest<'_> {
    pub fn open(&mut self, name: &str) -> Called<Resource<Bucket>> {
        let keyvalue = self.keyvalue.as_ref().ok_or(Refusal::NoSuchStore)?;
        if let Err(limit) = self.asking.keyvalue.open(&keyvalue.limits) {
            return Err(self.limited(limit));
        }
        let name = if name.is_empty() { DEFAULT } else { name };
        let Some(bucket) = keyvalue.buckets.get(name) else {
            let mut name = name.to_owned();
            name.truncate(name.floor_char_boundary(64));
            self.tell(
                Severity::Warn,
                &format!(
                    "the guest asks for a bucket `{name}`, which UNIT_WASM_KEYVALUE does not name"
                ),
            );
            return Err(Refusal::NoSuchStore);
        };
        Ok(self.table.push(Bucket(Arc::clone(bucket)))?)
    }

    pub fn drop_bucket(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }

    pub async fn get(&mut self, bucket: &Resource<Bucket>, key: &str) -> Called<Option<Vec<u8>>> {
        let call = self.begin(bucket, "get", [key])?;
        let value = call.run(call.get(key)).await?;
        Ok(value.map(Vec::from))
    }

    pub async fn set(
        &mut self,
        bucket: &Resource<Bucket>,
        key: &str,
        value: Vec<u8>,
    ) -> Called<()> {
        let call = self.begin(bucket, "set", [key])?;
        call.may_write([&value])?;
        call.run(call.stored(call.store().set(key, value.into())))
            .await
    }

    pub async fn delete(&mut self, bucket: &Resource<Bucket>, key: &str) -> Called<()> {
        let call = self.begin(bucket, "delete", [key])?;
        call.may_write([])?;
        call.run(call.stored(call.store().delete(key))).await
    }

    pub async fn exists(&mut self, bucket: &Resource<Bucket>, key: &str) -> Called<bool> {
        let call = self.begin(bucket, "exists", [key])?;
        call.run(call.stored(call.store().exists(key))).await
    }

    pub async fn list(
        &mut self,
        bucket: &Resource<Bucket>,
        cursor: Option<&str>,
    ) -> Called<Page<String>> {
        let call = self.begin(bucket, "list-keys", [""])?;
        call.run(call.stored(call.store().list(cursor))).await
    }

    pub async fn list_numbered(
        &mut self,
        bucket: &Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Called<Page<u64>> {
        let call = self.begin(bucket, "list-keys", [""])?;
        call.run(call.stored(call.store().list_numbered(cursor)))
            .await
    }

    pub async fn get_many(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Called<Pairs> {
        let call = self.begin(bucket, "get-many", keys.iter().map(String::as_str))?;
        let values = futures::stream::iter(keys).map(async |key| {
            let value = call.get(&key).await?;
            Ok((key, value.map(Vec::from)))
        });
        call.run(values.buffered(call.at_once()).try_collect())
            .await
    }

    pub async fn set_many(
        &mut self,
        bucket: &Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Called<()> {
        let call = self.begin(
            bucket,
            "set-many",
            pairs.iter().map(|(key, _)| key.as_str()),
        )?;
        call.may_write(pairs.iter().map(|(_, value)| value))?;
        let all = futures::stream::iter(pairs).map(Ok);
        let all = all.try_for_each_concurrent(call.at_once(), async |(key, value)| {
            call.stored(call.store().set(&key, value.into())).await
        });
        call.run(all).await
    }

    pub async fn delete_many(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Called<()> {
        let call = self.begin(bucket, "delete-many", keys.iter().map(String::as_str))?;
        call.may_write([])?;
        let all = futures::stream::iter(keys).map(Ok);
        let all = all.try_for_each_concurrent(AT_ONCE, async |key| {
            call.stored(call.store().delete(&key)).await
        });
        call.run(all).await
    }

    pub async fn increment(
        &mut self,
        bucket: &Resource<Bucket>,
        key: &str,
        delta: i64,
        range: Range,
    ) -> Called<i64> {
        let call = self.begin(bucket, "increment", [key])?;
        call.may_write([])?;
        call.run(call.stored(call.store().increment(key, delta, range)))
            .await
    }

    pub async fn observe(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> Called<Resource<Cas>> {
        let call = self.begin(bucket, "cas.new", [key.as_str()])?;
        let seen = call.run(call.observe(&key)).await?;
        let bucket = call.bucket;
        Ok(self.table.push(Cas { bucket, key, seen })?)
    }

    pub fn current(&mut self, cas: &Resource<Cas>) -> Called<Option<Vec<u8>>> {
        let seen = &self.table.get(cas)?.seen;
        Ok(seen.value.as_ref().map(|value| value.to_vec()))
    }

    pub async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Called<Swapped> {
        let Cas { bucket, key, seen } = self.table.delete(cas)?;
        let call = self.begin_on(bucket, "swap", [key.as_str()])?;
        call.may_write([&value])?;
        let done = call.stored(call.store().replace(&key, &seen, value.into()));
        if call.run(done).await? {
            return Ok(Swapped::Done);
        }
        let seen = call.run(call.observe(&key)).await?;
        let bucket = call.bucket;
        Ok(Swapped::Changed(self.table.push(Cas {
            bucket,
            key,
            seen,
        })?))
    }

    pub fn drop_cas(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }

    fn begin<'k>(
        &self,
        bucket: &Resource<Bucket>,
        what: &'static str,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Called<Call> {
        let bucket = Arc::clone(&self.table.get(bucket)?.0);
        self.begin_on(bucket, what, keys)
    }

    /// A call on a bucket that is about `keys`, each of which is an operation.
    fn begin_on<'k>(
        &self,
        bucket: Arc<Opened>,
        what: &'static str,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Called<Call> {
        let keyvalue = self.keyvalue.clone().ok_or(Refusal::NoSuchStore)?;
        let mut operations = 0;
        for key in keys {
            if key.len() > MAX_KEY {
                return Err(Refusal::Other("the key is longer than 1024 bytes"));
            }
            operations += 1;
        }
        let asking = &self.asking;
        if let Err(limit) = asking.keyvalue.operations(operations, &keyvalue.limits) {
            return Err(self.limited(limit));
        }
        Ok(Call {
            asking: Arc::clone(asking),
            keyvalue,
            bucket,
            what,
        })
    }

    fn limited(&self, limit: Limit) -> Refusal {
        if let Some(keyvalue) = &self.keyvalue {
            self.tell(Severity::Warn, &limit.for_operator(&keyvalue.limits));
        }
        Refusal::Other(limit.for_guest())
    }

    fn tell(&self, severity: Severity, text: &str) {
        self.asking.notice(severity, &format!("keyvalue: {text}"));
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
