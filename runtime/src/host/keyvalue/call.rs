//! A call under way, under the limits of its request.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use super::budget::Limit;
use super::calls::{Called, Refusal};
use super::problem::Problem;
use super::store::{Seen, Store};
use super::{Keyvalue, Opened};
use crate::host::Asking;
use crate::output::Severity;

/// Operations of a batch that are under way at once, at most.
pub(super) const AT_ONCE: usize = 16;
/// Bytes of values that these may have together, if more than one is.
const BYTES_AT_ONCE: usize = 16 << 20;
/// Bytes of what the operator is told of a store's failure.
const DETAIL: usize = 600;

/// A call under way.
pub(super) struct Call {
    pub asking: Arc<Asking>,
    pub keyvalue: Arc<Keyvalue>,
    pub bucket: Arc<Opened>,
    /// The function's name.
    pub what: &'static str,
}

/// Why a call does not get on.
pub(super) enum Stop {
    Problem(Problem),
    Limit(Limit),
}

impl Call {
    pub fn store(&self) -> &Store {
        &self.bucket.store
    }

    /// How many operations of a batch may be under way together.
    pub fn at_once(&self) -> usize {
        (BYTES_AT_ONCE / self.bucket.max_value.max(1)).clamp(1, AT_ONCE)
    }

    /// Sees to it that these values may be written, and that anything may.
    pub fn may_write<'v>(&self, values: impl IntoIterator<Item = &'v Vec<u8>>) -> Called<()> {
        if self.bucket.readonly {
            return Err(Refusal::AccessDenied);
        }
        let mut bytes = 0_usize;
        for value in values {
            if value.len() > self.bucket.max_value {
                let text = format!(
                    "a value of {} bytes, and max-value={}",
                    value.len(),
                    self.bucket.max_value
                );
                self.tell(Severity::Warn, &text);
                return Err(Refusal::Other("the value is too large"));
            }
            bytes = bytes.saturating_add(value.len());
        }
        self.asking
            .keyvalue
            .write(bytes, &self.keyvalue.limits)
            .map_err(|limit| self.refuse(Stop::Limit(limit)))
    }

    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Stop> {
        Ok(self.observe(key).await?.value)
    }

    pub async fn observe(&self, key: &str) -> Result<Seen, Stop> {
        let (used, limits) = (&self.asking.keyvalue, &self.keyvalue.limits);
        let readable = usize::try_from(used.readable(limits)).unwrap_or(usize::MAX);
        let most = self.bucket.max_value.min(readable);
        let seen = match self.store().observe(key, most).await {
            Err(Problem::TooLarge(_)) if most < self.bucket.max_value => {
                return Err(Stop::Limit(Limit::Read));
            }
            seen => seen.map_err(Stop::Problem)?,
        };
        let bytes = seen.value.as_ref().map_or(0, Bytes::len);
        used.read(bytes, limits).map_err(Stop::Limit)?;
        Ok(seen)
    }

    pub async fn stored<T>(
        &self,
        operation: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Stop> {
        operation.await.map_err(Stop::Problem)
    }

    /// Waits for what the call does, not for ever.
    pub async fn run<T>(&self, operation: impl Future<Output = Result<T, Stop>>) -> Called<T> {
        timeout(self.keyvalue.limits.timeout, operation)
            .await
            .unwrap_or(Err(Stop::Problem(Problem::Late)))
            .map_err(|stop| self.refuse(stop))
    }

    /// Tells the operator why, and the guest that.
    fn refuse(&self, stop: Stop) -> Refusal {
        match stop {
            Stop::Limit(limit) => {
                self.tell(Severity::Warn, &limit.for_operator(&self.keyvalue.limits));
                Refusal::Other(limit.for_guest())
            }
            Stop::Problem(problem) => {
                if problem.concerns_operator() {
                    let mut text = match &problem {
                        Problem::Late => format!(
                            "no answer after {:?} (UNIT_WASM_KEYVALUE_TIMEOUT)",
                            self.keyvalue.limits.timeout
                        ),
                        problem => problem.to_string(),
                    };
                    text.truncate(text.floor_char_boundary(DETAIL));
                    self.tell(Severity::Error, &text);
                }
                Refusal::Other(problem.for_guest())
            }
        }
    }

    fn tell(&self, severity: Severity, text: &str) {
        let (bucket, what) = (&self.bucket.name, self.what);
        let text = format!("keyvalue bucket `{bucket}`: {what}: {text}");
        self.asking.notice(severity, &text);
    }
}
