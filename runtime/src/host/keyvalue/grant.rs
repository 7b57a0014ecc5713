//! What the operator has granted: named buckets, and how much of them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::outbound::{self, TrustError};

/// Bytes of the longest value of a bucket that does not say otherwise.
pub const DEFAULT_MAX_VALUE: usize = 1 << 20;

/// The `wasi:keyvalue` buckets of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyvalueGrant {
    /// Each with a name of its own. `default` is what guests get that name none.
    pub buckets: Vec<BucketGrant>,
    /// How much of them a request may use.
    pub limits: KeyvalueLimits,
    /// DER certificates of the authorities that vouch for servers. Only needed
    /// if [`KeyvalueGrant::needs_authorities`].
    pub authorities: Vec<Vec<u8>>,
}

/// Bounds on what one request does with buckets, and on `memory:` buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyvalueLimits {
    /// Buckets opened per request.
    pub opened: u32,
    /// Operations per request; each key of a batch is one.
    pub operations: u32,
    /// Bytes of values that a request may read.
    pub bytes_read: u64,
    /// Bytes of values that a request may write.
    pub bytes_written: u64,
    /// For one operation, or one batch.
    pub timeout: Duration,
    /// Bytes that all `memory:` buckets of a process may hold.
    pub memory: usize,
}

impl Default for KeyvalueLimits {
    fn default() -> Self {
        Self {
            opened: 16,
            operations: 1000,
            bytes_read: 64 << 20,
            bytes_written: 16 << 20,
            timeout: Duration::from_secs(10),
            memory: 64 << 20,
        }
    }
}

/// One bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketGrant {
    /// As guests name it.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Writing is refused.
    pub readonly: bool,
    /// Bytes of the longest value that may be written, or read.
    pub max_value: usize,
}

impl BucketGrant {
    /// A bucket that may be written to, for values of the default length.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self {
            name: name.into(),
            place,
            readonly: false,
            max_value: DEFAULT_MAX_VALUE,
        }
    }
}

/// Where a bucket's values are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the memory of each process.
    Memory,
    /// In files of this directory.
    Directory(PathBuf),
    /// In a Redis server.
    Redis(RedisPlace),
    /// In an object store that speaks the S3 protocol.
    S3(S3Place),
}

/// A database of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisPlace {
    /// How to reach the server.
    pub address: RedisAddress,
    /// Number of the database.
    pub database: i64,
    /// What the names of its keys begin with.
    pub prefix: String,
    /// `password` or `user:password`.
    pub credentials: Credentials,
}

/// How to reach a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// Name or address, and port.
    Tcp(String, u16),
    /// The same over TLS.
    Tls(String, u16),
}

/// A bucket of an S3 store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    /// Its name there.
    pub bucket: String,
    /// What the names of its objects begin with, as a path without slashes
    /// around it.
    pub prefix: String,
    /// The store's region, part of each signature.
    pub region: String,
    /// `http://` or `https://`, host and port; AWS if there is none.
    pub endpoint: Option<String>,
    /// `KEYID:SECRET` or `KEYID:SECRET:SESSION`; requests are not signed
    /// without.
    pub credentials: Credentials,
}

/// What a server wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// The secret of this name, which [`KeyvalueGrant::resolve`] is to find.
    Named(String),
    /// This.
    Given(Secret),
}

impl Credentials {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::None | Self::Given(_) => None,
        }
    }
}

/// A text that is not shown in debugging output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Credentials that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is no secret of that name.
    #[error("bucket `{bucket}`: there is no secret `{secret}`")]
    Missing {
        /// The bucket that names it.
        bucket: String,
        /// Its name.
        secret: String,
    },
    /// Not of the form that the store takes.
    #[error("bucket `{bucket}`: its credentials have another form than {form}")]
    Form {
        /// The bucket they are for.
        bucket: String,
        /// The form they should have.
        form: &'static str,
    },
}

impl KeyvalueGrant {
    /// Finds credentials that are given by name. `secret` yields the secret of
    /// a name.
    ///
    /// # Errors
    ///
    /// The first credentials that are missing or cannot be what they should be.
    pub fn resolve(
        &mut self,
        secret: impl Fn(&str) -> Option<String>,
    ) -> Result<(), CredentialsError> {
        for bucket in &mut self.buckets {
            let credentials = match &mut bucket.place {
                Place::Memory | Place::Directory(_) => continue,
                Place::Redis(redis) => &mut redis.credentials,
                Place::S3(s3) => &mut s3.credentials,
            };
            if let Credentials::Named(name) = credentials {
                let found = secret(name).ok_or_else(|| CredentialsError::Missing {
                    bucket: bucket.name.clone(),
                    secret: name.clone(),
                })?;
                *credentials = Credentials::Given(Secret(found));
            }
            if let (Place::S3(s3), name) = (&bucket.place, &bucket.name) {
                s3.keys(name)?;
            }
        }
        Ok(())
    }

    /// The names of credentials that [`KeyvalueGrant::resolve`] will ask for.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        self.buckets
            .iter()
            .filter_map(|bucket| match &bucket.place {
                Place::Memory | Place::Directory(_) => None,
                Place::Redis(redis) => redis.credentials.name(),
                Place::S3(s3) => s3.credentials.name(),
            })
    }

    /// Whether a bucket is at a server.
    pub fn needs_network(&self) -> bool {
        let at_server = |b: &BucketGrant| matches!(b.place, Place::Redis(_) | Place::S3(_));
        self.buckets.iter().any(at_server)
    }

    /// Whether a bucket is reached over TLS.
    pub fn needs_authorities(&self) -> bool {
        self.buckets.iter().any(|bucket| match &bucket.place {
            Place::Memory | Place::Directory(_) => false,
            Place::Redis(redis) => matches!(redis.address, RedisAddress::Tls(..)),
            Place::S3(s3) => s3
                .endpoint
                .as_ref()
                .is_none_or(|endpoint| endpoint.starts_with("https:")),
        })
    }

    /// Takes the certificates that this machine trusts and those of `extra`, the
    /// contents of a PEM file, if any are needed. Reads files only, so it may be
    /// called before a fork; it has to be before the process changes its root
    /// directory.
    ///
    /// # Errors
    ///
    /// If `extra` has a certificate that cannot be used, or none; or if there
    /// are no certificates at all.
    pub fn load_authorities(&mut self, extra: Option<&[u8]>) -> Result<(), TrustError> {
        if self.needs_authorities() {
            self.authorities = outbound::roots(extra, true)?;
        }
        Ok(())
    }
}

/// Key id, secret and session token.
pub(super) type Keys = (String, String, Option<String>);

impl S3Place {
    /// What requests are signed with, or `None` if they are not.
    pub(super) fn keys(&self, bucket: &str) -> Result<Option<Keys>, CredentialsError> {
        let form = || CredentialsError::Form {
            bucket: bucket.to_owned(),
            form: "KEYID:SECRET or KEYID:SECRET:SESSION",
        };
        let text = match &self.credentials {
            Credentials::None => return Ok(None),
            Credentials::Named(secret) => {
                return Err(CredentialsError::Missing {
                    bucket: bucket.to_owned(),
                    secret: secret.clone(),
                });
            }
            Credentials::Given(secret) => secret.reveal().trim(),
        };
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(id), Some(secret), session) if !id.is_empty() && !secret.is_empty() => {
                Ok(Some((id, secret, session.filter(|s| !s.is_empty()))))
            }
            _ => Err(form()),
        }
    }
}

impl RedisPlace {
    /// User and password, if there are any.
    pub(super) fn login(
        &self,
        bucket: &str,
    ) -> Result<Option<(Option<String>, String)>, CredentialsError> {
        match &self.credentials {
            Credentials::None => Ok(None),
            Credentials::Named(secret) => Err(CredentialsError::Missing {
                bucket: bucket.to_owned(),
                secret: secret.clone(),
            }),
            Credentials::Given(secret) => Ok(Some(match secret.reveal().split_once(':') {
                None => (None, secret.reveal().to_owned()),
                Some(("", password)) => (None, password.to_owned()),
                Some((user, password)) => (Some(user.to_owned()), password.to_owned()),
            })),
        }
    }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
