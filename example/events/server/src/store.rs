//! The key-value store, with the two ways in which values change.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::wasi::keyvalue::atomics::{self, Cas, CasError};
use crate::bindings::wasi::keyvalue::batch;
use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};

pub struct Store {
    bucket: Bucket,
}

/// Why something is not in the store.
pub enum Refusal {
    /// There is no room for it, and waiting does not make any.
    TooMany(&'static str),
    NotNow(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::NotNow(why)
    }
}

impl Store {
    pub fn open() -> Result<Self, String> {
        // The bucket that is called `default`.
        let bucket = store::open("").map_err(told)?;
        Ok(Self { bucket })
    }

    pub fn exists(&self, key: &str) -> Result<bool, String> {
        self.bucket.exists(key).map_err(told)
    }

    /// Values in the order of the keys.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, String> {
        let pairs = batch::get_many(&self.bucket, keys).map_err(told)?;
        Ok(pairs.into_iter().map(|(_, value)| value).collect())
    }

    pub fn delete_many(&self, keys: &[String]) -> Result<(), String> {
        batch::delete_many(&self.bucket, keys).map_err(told)
    }

    /// A value that is kept as JSON.
    pub fn load<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T, String> {
        parse(self.bucket.get(key).map_err(told)?.as_deref())
    }

    /// Makes a key that is not there; false if it is, and then nothing has changed.
    pub fn create(&self, key: &str, value: &[u8]) -> Result<bool, String> {
        let handle = Cas::new(&self.bucket, key).map_err(told)?;
        if handle.current().map_err(told)?.is_some() {
            return Ok(false);
        }
        match atomics::swap(handle, value) {
            Ok(()) => Ok(true),
            Err(CasError::CasFailed(_)) => Ok(false),
            Err(CasError::StoreError(error)) => Err(told(error)),
        }
    }

    /// Changes a value that is kept as JSON, from what it is at that moment: if
    /// somebody else was faster, `change` is called again. With `None` it leaves
    /// the value as it is.
    pub fn update<T, R>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut T) -> Option<R>,
    ) -> Result<Option<R>, String>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        let mut handle = Cas::new(&self.bucket, key).map_err(told)?;
        loop {
            let mut value: T = parse(handle.current().map_err(told)?.as_deref())?;
            let Some(result) = change(&mut value) else {
                return Ok(None);
            };
            let bytes = serde_json::to_vec(&value).map_err(broken)?;
            match atomics::swap(handle, &bytes) {
                Ok(()) => return Ok(Some(result)),
                Err(CasError::CasFailed(again)) => handle = again,
                Err(CasError::StoreError(error)) => return Err(told(error)),
            }
        }
    }
}

fn parse<T: DeserializeOwned + Default>(value: Option<&[u8]>) -> Result<T, String> {
    match value {
        Some(bytes) => serde_json::from_slice(bytes).map_err(broken),
        None => Ok(T::default()),
    }
}

fn broken(error: impl Display) -> String {
    format!("a value in the store is broken: {error}")
}

fn told(error: Error) -> String {
    match error {
        Error::NoSuchStore => "there is no store".into(),
        Error::AccessDenied => "the store is read-only".into(),
        Error::Other(why) => format!("the store: {why}"),
    }
}
