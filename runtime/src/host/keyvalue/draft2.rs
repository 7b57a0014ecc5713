//! `wasi:keyvalue@0.2.0-draft2` as guests see it.

use wasmtime::component::{Linker, Resource};

use self::bindings::wasi::keyvalue0_2_0_draft2::{atomics, batch, store};
use super::calls::{Bucket, Called, Calls, Cas, Guest, Pairs, Refusal, Swapped};
use super::number::Range;
use crate::state::State;

#[allow(missing_docs, reason = "generated")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package nxt:keyvalue;
            world draft2 {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
            }
        ",
        path: "../wit",
        world: "nxt:keyvalue/draft2",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store@0.2.0-draft2.bucket": crate::host::keyvalue::calls::Bucket,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": crate::host::keyvalue::calls::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store@0.2.0-draft2.error" => crate::host::keyvalue::calls::Refusal,
        },
    });
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Draft2::add_to_linker::<State, Calls>(linker, super::calls::guest)
}

fn error(refusal: Refusal) -> wasmtime::Result<store::Error> {
    match refusal {
        Refusal::NoSuchStore => Ok(store::Error::NoSuchStore),
        Refusal::AccessDenied => Ok(store::Error::AccessDenied),
        Refusal::Other(text) => Ok(store::Error::Other(text.to_owned())),
        Refusal::Trap(error) => Err(error),
    }
}

impl store::Host for Guest<'_> {
    async fn open(&mut self, identifier: String) -> Called<Resource<Bucket>> {
        Guest::open(self, &identifier)
    }

    fn convert_error(&mut self, refusal: Refusal) -> wasmtime::Result<store::Error> {
        error(refusal)
    }
}

impl store::HostBucket for Guest<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Called<Option<Vec<u8>>> {
        Guest::get(self, &bucket, &key).await
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Called<()> {
        Guest::set(self, &bucket, &key, value).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Called<()> {
        Guest::delete(self, &bucket, &key).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Called<bool> {
        Guest::exists(self, &bucket, &key).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Called<store::KeyResponse> {
        let page = self.list(&bucket, cursor.as_deref()).await?;
        Ok(store::KeyResponse {
            keys: page.keys,
            cursor: page.next,
        })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.drop_bucket(bucket)
    }
}

impl batch::Host for Guest<'_> {
    async fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Called<Pairs> {
        Guest::get_many(self, &bucket, keys).await
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Called<()> {
        Guest::set_many(self, &bucket, pairs).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Called<()> {
        Guest::delete_many(self, &bucket, keys).await
    }
}

impl atomics::Host for Guest<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Called<i64> {
        Guest::increment(self, &bucket, &key, delta, Range::Signed).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        Ok(match Guest::swap(self, cas, value).await {
            Ok(Swapped::Done) => Ok(()),
            Ok(Swapped::Changed(cas)) => Err(atomics::CasError::CasFailed(cas)),
            Err(refusal) => Err(atomics::CasError::StoreError(error(refusal)?)),
        })
    }
}

impl atomics::HostCas for Guest<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Called<Resource<Cas>> {
        self.observe(&bucket, key).await
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Called<Option<Vec<u8>>> {
        Guest::current(self, &cas)
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.drop_cas(cas)
    }
}
