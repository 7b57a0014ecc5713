//! Buckets as `UNIT_WASM_KEYVALUE` names them.
//!
//! Entries are separated by commas or white space. Each is `name=URL`, or a URL
//! alone for the bucket `default`. Whatever is no part of a URL's grammar is
//! written `%XX` in it. Errors do not repeat passwords.

use std::path::PathBuf;

use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Credentials, Place, RedisAddress, RedisPlace, S3Place, Secret,
};
use url::{Host, Url};

use crate::units;

/// What every URL may have after `?`.
const COMMON: [&str; 2] = ["readonly", "max-value"];
/// Bytes of the longest value that may be allowed: what a guest may hand over in
/// one call.
const MAX_VALUE: usize = 16 << 20;
/// Bytes of the longest prefix of names; those of objects have 1024.
const MAX_PREFIX: usize = 512;
/// The bucket of a URL without a name.
const DEFAULT: &str = "default";

/// A kind of store: the scheme of its URLs, and what else they may have
/// after `?`.
struct Kind {
    scheme: &'static str,
    options: &'static [&'static str],
    read: fn(&Url, &mut Options) -> Result<Place, String>,
}

const KINDS: [Kind; 5] = [
    Kind {
        scheme: "memory",
        options: &[],
        read: |url, _| match (url.has_host(), url.path()) {
            (false, "" | "/") => Ok(Place::Memory),
            _ => Err("memory: has nothing after the colon".to_owned()),
        },
    },
    Kind {
        scheme: "fs",
        options: &[],
        read: directory,
    },
    Kind {
        scheme: "redis",
        options: &["prefix", "credentials"],
        read: redis,
    },
    Kind {
        scheme: "rediss",
        options: &["prefix", "credentials"],
        read: redis,
    },
    Kind {
        scheme: "s3",
        options: &["region", "endpoint", "credentials"],
        read: s3,
    },
];

/// Reads a list of buckets.
///
/// # Errors
///
/// What is wrong with the first entry that cannot be used, and its name.
pub fn read(list: &str) -> Result<Vec<BucketGrant>, String> {
    let mut buckets: Vec<BucketGrant> = Vec::new();
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let (name, url) = name(entry);
        let bucket =
            bucket(name, url).map_err(|problem| format!("bucket \"{name}\": {problem}"))?;
        if buckets.iter().any(|other| other.name == bucket.name) {
            return Err(format!(
                "bucket \"{name}\": there is one of that name already"
            ));
        }
        buckets.push(bucket);
    }
    if buckets.is_empty() {
        return Err("there is no bucket in it".to_owned());
    }
    Ok(buckets)
}

/// Reads the URL of a place in an S3 store that is no bucket of keys and values.
///
/// # Errors
///
/// What is wrong with it.
pub fn s3_place(url: &str) -> Result<S3Place, String> {
    let kind = KINDS.iter().find(|kind| kind.scheme == "s3");
    let kind = kind.filter(|_| url.starts_with("s3:"));
    let kind = kind.ok_or("it does not begin with s3:")?;
    let url = parse(url)?;
    let mut options = Options::read(&url, kind)?;
    match s3(&url, &mut options)? {
        Place::S3(place) if options.0.is_empty() => Ok(place),
        _ => Err("s3: takes region, endpoint and credentials here, and nothing else".to_owned()),
    }
}

/// Whether a place is reached over plain HTTP on another machine: anybody on the way
/// could change what comes from there.
pub fn is_exposed(place: &S3Place) -> bool {
    let Some(endpoint) = &place.endpoint else {
        return false;
    };
    let Ok(url) = Url::parse(endpoint) else {
        return true;
    };
    let is_here = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() != "https" && !is_here
}

/// The name of an entry's bucket, and its URL.
fn name(entry: &str) -> (&str, &str) {
    match entry.split_once('=') {
        // The first may also be that of an option.
        Some((name, url)) if !name.contains([':', '?', '/']) => (name, url),
        _ => (DEFAULT, entry),
    }
}

fn bucket(name: &str, url: &str) -> Result<BucketGrant, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(good) {
        return Err("a name has 1 to 64 letters, digits, '.', '_' and '-'".to_owned());
    }
    let scheme = url.split(':').next().unwrap_or_default();
    let kind = KINDS.iter().find(|kind| kind.scheme == scheme);
    let Some(kind) = kind.filter(|_| url.contains(':')) else {
        let nearest = nearest(scheme, KINDS.iter().map(|kind| kind.scheme));
        // What follows a comma that should have been written %2C may be the
        // rest of a password.
        let scheme = if url.contains('@') { "..." } else { scheme };
        return Err(format!(
            "there is no scheme \"{scheme}\": the nearest one is {nearest}:"
        ));
    };
    let url = parse(url)?;
    let mut options = Options::read(&url, kind)?;
    let place = (kind.read)(&url, &mut options)?;
    let mut bucket = BucketGrant::new(name, place);
    bucket.readonly = match options.take("readonly").as_deref() {
        None => false,
        Some("" | "true") => true,
        Some("false") => false,
        Some(_) => return Err("readonly takes true or false, or nothing".to_owned()),
    };
    if let Some(text) = options.take("max-value") {
        bucket.max_value = units::size(&text)
            .filter(|n| (1..=MAX_VALUE).contains(n))
            .ok_or("max-value takes a size from 1 to 16MiB: 64KiB, 4MiB")?;
    }
    Ok(bucket)
}

fn parse(url: &str) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|e| format!("not a URL: {e}"))?;
    if url.fragment().is_some() {
        return Err("it has a #, which has to be written %23".to_owned());
    }
    Ok(url)
}

/// What a URL has after `?`.
struct Options(Vec<(String, String)>);

impl Options {
    fn read(url: &Url, kind: &Kind) -> Result<Self, String> {
        let mut options: Vec<(String, String)> = Vec::new();
        for pair in url.query().unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if pair.is_empty() {
                continue;
            }
            let known = || COMMON.iter().chain(kind.options).copied();
            if !known().any(|known| known == key) {
                return Err(format!(
                    "{}: has no option \"{key}\": the nearest one is {}",
                    kind.scheme,
                    nearest(key, known())
                ));
            }
            if options.iter().any(|(other, _)| other == key) {
                return Err(format!("there are two options {key}"));
            }
            options.push((key.to_owned(), decode(value, key)?));
        }
        Ok(Self(options))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(other, _)| other == key)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The name of the secret that is meant by `credentials`.
    fn credentials(&mut self) -> Result<Credentials, String> {
        match self.take("credentials") {
            None => Ok(Credentials::None),
            Some(name) if name.is_empty() => {
                Err("credentials takes the name of a secret of UNIT_WASM_SECRETS".to_owned())
            }
            Some(name) => Ok(Credentials::Named(name)),
        }
    }
}

fn decode(text: &str, what: &str) -> Result<String, String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| format!("{what}: not UTF-8"))
}

fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known
        .min_by_key(|known| strsim::damerau_levenshtein(known, text))
        .unwrap_or_default()
}

fn directory(url: &Url, _: &mut Options) -> Result<Place, String> {
    let form = || "fs: takes the absolute path of a directory: fs:/srv/values".to_owned();
    let path = decode(url.path(), "path")?;
    if url.host_str().is_some_and(|host| !host.is_empty()) || !path.starts_with('/') {
        return Err(form());
    }
    Ok(Place::Directory(PathBuf::from(path)))
}

fn redis(url: &Url, options: &mut Options) -> Result<Place, String> {
    let form = "takes a host, a port and a database: redis://127.0.0.1:6379/0";
    let wrong = || format!("{}: {form}", url.scheme());
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(wrong)?.to_owned();
    let port = url.port().unwrap_or(6379);
    let database = match url.path().trim_start_matches('/') {
        "" => 0,
        number => number.parse().ok().filter(|n| *n >= 0).ok_or_else(wrong)?,
    };
    let mut credentials = options.credentials()?;
    if let Some(password) = url.password() {
        if credentials != Credentials::None {
            return Err("it has a password and credentials".to_owned());
        }
        let user = decode(url.username(), "user")?;
        let password = decode(password, "password")?;
        credentials = Credentials::Given(Secret::new(format!("{user}:{password}")));
    } else if !url.username().is_empty() {
        return Err("it has a user without a password".to_owned());
    }
    let prefix = options.take("prefix").unwrap_or_default();
    if prefix.len() > MAX_PREFIX {
        return Err(format!("prefix: it has more than {MAX_PREFIX} bytes"));
    }
    Ok(Place::Redis(RedisPlace {
        address: match url.scheme() {
            "rediss" => RedisAddress::Tls(host, port),
            _ => RedisAddress::Tcp(host, port),
        },
        database,
        prefix,
        credentials,
    }))
}

fn s3(url: &Url, options: &mut Options) -> Result<Place, String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("s3: takes no password in it: credentials= names a secret".to_owned());
    }
    let bucket = url.host_str().filter(|host| !host.is_empty());
    let bucket = bucket.filter(|_| url.port().is_none());
    let bucket = bucket.ok_or("s3: takes the name of a bucket: s3://bucket/prefix")?;
    let prefix = decode(url.path(), "prefix")?;
    let prefix = prefix.trim_matches('/');
    if prefix.len() > MAX_PREFIX || prefix.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(format!(
            "the prefix may have {MAX_PREFIX} bytes, and no part of it may be \".\" or \"..\""
        ));
    }
    let endpoint = options
        .take("endpoint")
        .map(|text| endpoint(&text))
        .transpose()?;
    let region = match (options.take("region"), &endpoint) {
        (Some(region), _) if !region.is_empty() => region,
        // What stores that have no regions take.
        (None, Some(_)) => "us-east-1".to_owned(),
        _ => return Err("region is needed: the AWS region of the bucket".to_owned()),
    };
    Ok(Place::S3(S3Place {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        region,
        endpoint,
        credentials: options.credentials()?,
    }))
}

fn endpoint(text: &str) -> Result<String, String> {
    let form = "endpoint takes http:// or https://, a host and a port: http://127.0.0.1:9000";
    let url = Url::parse(text).map_err(|_| form)?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain {
        return Err(form.to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
