//! `wasi:keyvalue@0.2.0-draft` as guests see it: the draft before, in which
//! cursors are numbers, `get-many` leaves keys without a value out, and there
//! is no compare-and-swap.

use wasmtime::component::{Linker, Resource};

use self::bindings::wasi::keyvalue0_2_0_draft::{atomics, batch, store};
use super::calls::{Bucket, Called, Calls, Guest, Refusal};
use super::number::Range;
use crate::state::State;

#[allow(missing_docs, reason = "generated")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package nxt:keyvalue;
            world draft {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
            }
        ",
        path: "../wit",
        world: "nxt:keyvalue/draft",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store@0.2.0-draft.bucket": crate::host::keyvalue::calls::Bucket,
        },
        trappable_error_type: {
            "wasi:keyvalue/store@0.2.0-draft.error" => crate::host::keyvalue::calls::Refusal,
        },
    });
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Draft::add_to_linker::<State, Calls>(linker, super::calls::guest)
}

impl store::Host for Guest<'_> {
    async fn open(&mut self, identifier: String) -> Called<Resource<Bucket>> {
        Guest::open(self, &identifier)
    }

    fn convert_error(&mut self, refusal: Refusal) -> wasmtime::Result<store::Error> {
        match refusal {
            Refusal::NoSuchStore => Ok(store::Error::NoSuchStore),
            Refusal::AccessDenied => Ok(store::Error::AccessDenied),
            Refusal::Other(text) => Ok(store::Error::Other(text.to_owned())),
            Refusal::Trap(error) => Err(error),
        }
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
        cursor: Option<u64>,
    ) -> Called<store::KeyResponse> {
        let page = self.list_numbered(&bucket, cursor).await?;
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
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Called<Vec<Option<(String, Vec<u8>)>>> {
        let pairs = Guest::get_many(self, &bucket, keys).await?;
        let present = |(key, value): (String, Option<Vec<u8>>)| Some((key, value?));
        Ok(pairs.into_iter().map(present).collect())
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
        delta: u64,
    ) -> Called<u64> {
        // More cannot be stored: Redis's numbers are signed.
        let delta = i64::try_from(delta).map_err(|_| Refusal::Other(OUT_OF_BOUNDS))?;
        let sum = Guest::increment(self, &bucket, &key, delta, Range::Unsigned).await?;
        u64::try_from(sum).map_err(|_| Refusal::Other(OUT_OF_BOUNDS))
    }
}

const OUT_OF_BOUNDS: &str = "the number would be out of bounds";
