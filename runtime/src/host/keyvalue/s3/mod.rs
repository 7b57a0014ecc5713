//! Buckets in an object store that speaks the S3 protocol, through OpenDAL.
//!
//! An object per key, named as [`names`] says. Atomic operations are
//! conditional writes: `If-Match` with the entity tag that was read, or
//! `If-None-Match`. Stores that do not know these may ignore them without a
//! word, so the first atomic operation of a process finds out with an object
//! of our own whether this one does.

mod transport;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use opendal::options::{ListOptions, WriteOptions};
use opendal::services::S3 as Service;
use opendal::{EntryMode, Error, ErrorKind, HttpTransporter, OperationContext, Operator};
use tokio::sync::OnceCell;

use self::transport::Transport;
use super::dial::Dialer;
use super::grant::S3Place;
use super::names::{self, Name, Told};
use super::number::{self, Range};
use super::paging::{ByHash, PAGE, Page, Pick};
use super::problem::Problem;
use super::store::Seen;

/// An object that no key has, to try conditional writes on. It stays there:
/// processes that took it away would disturb each other.
const PROBE: &str = ".unit-wasm-probe";
/// Attempts at what may be sent again, with pauses between them.
const ATTEMPTS: u32 = 3;
/// Objects asked for at once, for keys that their names do not tell.
const AT_ONCE: usize = 16;

/// One bucket.
pub(super) struct S3 {
    operator: Operator,
    /// Whether conditions are respected, once that is known.
    conditional: OnceCell<bool>,
}

impl S3 {
    /// Connects when it is first used.
    pub fn new(
        bucket: &str,
        place: &S3Place,
        max_value: usize,
        dialer: Dialer,
    ) -> Result<Self, String> {
        Ok(Self {
            operator: operator(bucket, place, max_value, dialer)?,
            conditional: OnceCell::new(),
        })
    }

    pub async fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, Problem> {
        Ok(self.observe(key, most).await?.value)
    }

    pub async fn observe(&self, key: &str, most: usize) -> Result<Seen, Problem> {
        let name = Name::of(key);
        let limit = most.saturating_add(name.overhead());
        let Some((stored, tag)) = again(|| self.read(name.as_str(), limit)).await? else {
            return Ok(Seen::default());
        };
        if stored.len() > limit {
            return Err(Problem::TooLarge(most));
        }
        Ok(Seen {
            value: name.unwrap(stored),
            tag,
        })
    }

    /// The object of a name, at least its first `limit` + 1 bytes, and its tag.
    async fn read(
        &self,
        name: &str,
        limit: usize,
    ) -> Result<Option<(Bytes, Option<String>)>, Error> {
        let found = async {
            // Not a part of it: a store has no first part of an empty object.
            let mut stream = self.operator.reader(name).await?.into_stream(..).await?;
            let tag = stream.metadata().await?.etag().map(str::to_owned);
            let mut stored = Vec::new();
            while let Some(part) = stream.try_next().await? {
                stored.extend_from_slice(&part.to_bytes());
                if stored.len() > limit {
                    break;
                }
            }
            Ok::<_, Error>((stored.into(), tag))
        };
        match found.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn exists(&self, key: &str) -> Result<bool, Problem> {
        let name = Name::of(key);
        again(|| self.operator.exists(name.as_str())).await
    }

    pub async fn set(&self, key: &str, value: Bytes) -> Result<(), Problem> {
        let name = Name::of(key);
        let stored = name.wrap(value);
        again(|| self.operator.write(name.as_str(), stored.clone())).await?;
        Ok(())
    }

    pub async fn delete(&self, key: &str) -> Result<(), Problem> {
        let name = Name::of(key);
        again(|| self.operator.delete(name.as_str())).await
    }

    pub async fn list(&self, cursor: Option<&str>) -> Result<Page<String>, Problem> {
        if cursor.is_some_and(|cursor| names::tell(cursor).is_none()) {
            return Err(Problem::Cursor);
        }
        let mut page = again(|| self.names(cursor)).await?;
        page.keys = self.keys(page.keys).await?;
        Ok(page)
    }

    pub async fn list_by_hash(&self, cursor: Option<u64>) -> Result<Page<u64>, Problem> {
        let mut pick = ByHash::after(cursor);
        let mut from = None;
        loop {
            let part = again(|| self.names(from.as_deref())).await?;
            part.keys.iter().for_each(|name| pick.offer(name));
            from = part.next;
            if from.is_none() {
                break;
            }
        }
        let mut page = pick.finish();
        page.keys = self.keys(page.keys).await?;
        Ok(page)
    }

    /// A page of names that keys can have, in the order of the store. Other
    /// objects are passed over: none of them can be a cursor.
    async fn names(&self, after: Option<&str>) -> Result<Page<String>, Error> {
        let options = ListOptions {
            limit: Some(PAGE),
            start_after: after.map(str::to_owned),
            recursive: true,
            ..ListOptions::default()
        };
        let mut lister = self.operator.lister_options("", options).await?;
        let mut keys = Vec::new();
        while let Some(entry) = lister.try_next().await? {
            let name = entry.path();
            if entry.metadata().mode() == EntryMode::DIR || names::tell(name).is_none() {
                continue;
            }
            keys.push(name.to_owned());
            if keys.len() == PAGE {
                let next = Some(name.to_owned());
                return Ok(Page { keys, next });
            }
        }
        Ok(Page { keys, next: None })
    }

    /// The keys that have these names.
    async fn keys(&self, names: Vec<String>) -> Result<Vec<String>, Problem> {
        let keys = futures::stream::iter(names).map(async |name| match names::tell(&name) {
            Some(Told::Key(key)) => Ok(Some(key)),
            Some(Told::Inside) => self.key_inside(&name).await,
            None => Ok(None),
        });
        let keys = keys.buffer_unordered(AT_ONCE);
        let keys: Vec<Option<String>> = keys.try_collect().await?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// The key in the object of this name, if it is that of the name. The
    /// object may have gone.
    async fn key_inside(&self, name: &str) -> Result<Option<String>, Problem> {
        let start = again(|| self.read(name, names::KEY_BYTES)).await?;
        Ok(start.and_then(|(start, _)| {
            names::stored_key(&start)
                .filter(|key| Name::of(key).as_str() == name)
                .map(str::to_owned)
        }))
    }

    pub async fn increment(&self, key: &str, delta: i64, range: Range) -> Result<i64, Problem> {
        for attempt in 0.. {
            let seen = match self.observe(key, number::LONGEST).await {
                Err(Problem::TooLarge(_)) => return Err(Problem::NotANumber),
                seen => seen?,
            };
            let sum = number::add(seen.value.as_deref(), delta, range)?;
            if self.replace(key, &seen, sum.to_string().into()).await? {
                return Ok(sum);
            }
            tokio::time::sleep(pause(attempt)).await;
        }
        Err(Problem::Late)
    }

    pub async fn replace(&self, key: &str, seen: &Seen, value: Bytes) -> Result<bool, Problem> {
        self.check_conditions().await?;
        let name = Name::of(key);
        let stored = name.wrap(value);
        let condition = match (&seen.value, &seen.tag) {
            (None, None) => absent(),
            (_, Some(tag)) => unchanged(tag),
            (Some(_), None) => {
                let text = "the store gives its objects no entity tags";
                return Err(Problem::Unsupported(text.into()));
            }
        };
        for attempt in 0.. {
            let options = condition.clone();
            let written = self
                .operator
                .write_options(name.as_str(), stored.clone(), options)
                .await;
            match written {
                Ok(_) => return Ok(true),
                // It was not there any more.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) if error.kind() == ErrorKind::ConditionNotMatch => return Ok(false),
                // Another write is under way: it is not known yet which is first.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                // Whether it was written may not be known; so not again.
                Err(error) => return Err(problem(&error)),
            }
            tokio::time::sleep(pause(attempt)).await;
        }
        Err(Problem::Late)
    }

    /// Makes sure that the store respects conditions.
    async fn check_conditions(&self) -> Result<(), Problem> {
        let respected = self.conditional.get_or_try_init(|| self.try_conditions());
        if *respected.await? {
            return Ok(());
        }
        let text = "the store ignores, or does not know, conditional writes \
            (If-Match and If-None-Match), without which nothing is atomic";
        Err(Problem::Unsupported(text.into()))
    }

    async fn try_conditions(&self) -> Result<bool, Problem> {
        again(|| self.operator.write(PROBE, Bytes::new())).await?;
        for condition in [absent(), unchanged("\"00000000000000000000000000000000\"")] {
            // Another process may try the same at this moment, which is a conflict.
            let write = || {
                self.operator
                    .write_options(PROBE, Bytes::new(), condition.clone())
            };
            match repeated(write).await {
                Ok(_) => return Ok(false),
                Err(error) => match error.kind() {
                    ErrorKind::ConditionNotMatch => {}
                    ErrorKind::Unsupported => return Ok(false),
                    _ if error.to_string().contains("NotImplemented") => return Ok(false),
                    _ => return Err(problem(&error)),
                },
            }
        }
        Ok(true)
    }
}

/// The objects of `place`, under its prefix. None that is longer than `most` bytes
/// is received. Errors name it `bucket`.
pub(super) fn operator(
    bucket: &str,
    place: &S3Place,
    most: usize,
    dialer: Dialer,
) -> Result<Operator, String> {
    let mut service = Service::default()
        .bucket(&place.bucket)
        .root(&place.prefix)
        .region(&place.region)
        // Nothing from the process environment, from files of whoever
        // started unitd, or from the machine's metadata service.
        .disable_config_load()
        .disable_ec2_metadata();
    if let Some(endpoint) = &place.endpoint {
        service = service.endpoint(endpoint);
    }
    service = match place.keys(bucket).map_err(|e| e.to_string())? {
        None => service.skip_signature(),
        Some((id, secret, session)) => {
            let service = service.access_key_id(&id).secret_access_key(&secret);
            match session {
                None => service,
                Some(session) => service.session_token(&session),
            }
        }
    };
    let transport = HttpTransporter::new(Transport::new(dialer, most));
    let context = OperationContext::new().with_http_transport(transport);
    let operator = Operator::new(service).map_err(|e| e.to_string())?;
    Ok(operator.with_context(context))
}

fn absent() -> WriteOptions {
    WriteOptions {
        if_not_exists: true,
        ..WriteOptions::default()
    }
}

fn unchanged(tag: &str) -> WriteOptions {
    WriteOptions {
        if_match: Some(tag.to_owned()),
        ..WriteOptions::default()
    }
}

/// Does what may be done twice, again if it fails for the moment.
async fn again<T, F: Future<Output = Result<T, Error>>>(
    operation: impl FnMut() -> F,
) -> Result<T, Problem> {
    let result = repeated(operation).await;
    result.map_err(|error| problem(&error))
}

/// The same, with what the library says of the last failure.
async fn repeated<T, F: Future<Output = Result<T, Error>>>(
    mut operation: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        match operation().await {
            Err(error) if error.is_temporary() && attempt < ATTEMPTS => {
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Longer after each attempt, up to some 200 ms, and not the same for all.
fn pause(attempt: u32) -> Duration {
    super::store::jitter(Duration::from_millis(5 << attempt.min(5)))
}

fn problem(error: &Error) -> Problem {
    Problem::Failed(error.to_string())
}
