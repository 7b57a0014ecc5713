//! Where a component is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nxt_wasm_runtime::keyvalue::{Credentials, S3Place};
use nxt_wasm_settings::buckets;
use url::Url;

/// Why a store that is reached like that is refused.
pub(crate) const PLAIN_HTTP: &str = "the endpoint is http: on another machine, and anybody on the \
     way could change what comes from there: use https:";

/// A place that a component can be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of this machine: a path, or `fs:/path`.
    File(PathBuf),
    /// An object: `s3://bucket/key?region=...`. The key is the prefix of the place.
    S3(S3Place),
    /// `https://host/path`.
    Https(Url),
}

/// A text that names no place. It repeats nothing that may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing at all.
    #[error("it is empty: a path, fs:/path, s3://bucket/key or https://host/path is needed")]
    Empty,
    /// A scheme that is not known.
    #[error(
        "there is no scheme \"{0}:\": there are fs:, s3: and https: (a file with such a name \
         is ./{0}:...)"
    )]
    Scheme(String),
    /// Something that is not encrypted.
    #[error("http: is not taken, as anybody on the way could change the component: use https:")]
    Http,
    /// Not the form that URLs of this scheme have.
    #[error("{scheme}: {problem}")]
    Form {
        /// The scheme.
        scheme: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Location {
    /// The name of the secret that has the credentials, if some are needed.
    pub fn credentials(&self) -> Option<&str> {
        match self {
            Self::S3(place) => match &place.credentials {
                Credentials::Named(name) => Some(name),
                _ => None,
            },
            Self::File(_) | Self::Https(_) => None,
        }
    }

    /// Whether it is reached over plain HTTP on another machine, so that anybody on the
    /// way could change the component.
    pub fn is_exposed(&self) -> bool {
        matches!(self, Self::S3(place) if buckets::is_exposed(place))
    }

    /// The file, if it is one of this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::S3(_) | Self::Https(_) => None,
        }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let Some((scheme, rest)) = scheme(text) else {
            return Ok(Self::File(PathBuf::from(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "fs" => file(rest).map(Self::File),
            "s3" => s3(text).map(Self::S3),
            "https" => https(text).map(Self::Https),
            "http" => Err(LocationError::Http),
            other => Err(LocationError::Scheme(other.to_owned())),
        }
    }
}

/// The scheme of a URL, and what follows it. A path with a colon in it has none,
/// unless what follows the colon is a slash.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let first = scheme.chars().next()?;
    let is_scheme = first.is_ascii_alphabetic() && scheme.chars().all(good);
    let known = ["fs", "s3", "https", "http"];
    let known = known.iter().any(|k| k.eq_ignore_ascii_case(scheme));
    (is_scheme && (known || rest.starts_with('/'))).then_some((scheme, rest))
}

fn form(scheme: &'static str, problem: impl Into<String>) -> LocationError {
    LocationError::Form {
        scheme,
        problem: problem.into(),
    }
}

/// The path of `fs:`, with `%XX` for what would have another meaning in a URL.
pub(crate) fn file(rest: &str) -> Result<PathBuf, LocationError> {
    let wrong = || form("fs", "takes an absolute path: fs:/srv/wasm/app.wasm");
    let path = match rest.strip_prefix("//") {
        // fs:///path
        Some(path) => path,
        None => rest,
    };
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(wrong());
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8();
    let path = path.map_err(|_| form("fs", "the path is not UTF-8"))?;
    if path.contains('\0') || path.trim_matches('/').is_empty() {
        return Err(wrong());
    }
    Ok(PathBuf::from(path.into_owned()))
}

fn s3(text: &str) -> Result<S3Place, LocationError> {
    let problem = |problem: String| {
        let problem = problem.strip_prefix("s3: ").unwrap_or(&problem).to_owned();
        form("s3", problem)
    };
    let place = buckets::s3_place(text).map_err(problem)?;
    if place.prefix.is_empty() {
        return Err(form(
            "s3",
            "takes the name of an object: s3://bucket/app.wasm",
        ));
    }
    Ok(place)
}

fn https(text: &str) -> Result<Url, LocationError> {
    let url = Url::parse(text).map_err(|e| form("https", format!("not a URL: {e}")))?;
    check_https(&url)?;
    Ok(url)
}

/// What a URL has to be like that is asked, by us or by a server.
pub(crate) fn check_https(url: &Url) -> Result<(), LocationError> {
    match url.scheme() {
        "https" => {}
        "http" => return Err(LocationError::Http),
        other => return Err(LocationError::Scheme(other.to_owned())),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(form("https", "takes no user and no password in it"));
    }
    if url.fragment().is_some() {
        return Err(form("https", "it has a #, which has to be written %23"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(form("https", "takes a host: https://host/path"));
    }
    Ok(())
}

/// For messages: what follows `?` is left out, as it may be a signature.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::S3(place) => write!(f, "s3://{}/{}", place.bucket, place.prefix),
            Self::Https(url) => {
                let mut shown = url.clone();
                shown.set_query(url.query().map(|_| "..."));
                shown.fmt(f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, LocationError> {
        text.parse()
    }

    #[test]
    fn paths_are_files() {
        for path in [
            "a.wasm",
            "/srv/a.wasm",
            "./s3:a",
            "../a b.wasm",
            "a:b.wasm",
            "/a/https:b",
        ] {
            assert_eq!(parse(path), Ok(Location::File(path.into())), "{path}");
        }
        for url in [
            "fs:/srv/a%20b.wasm",
            "fs:///srv/a%20b.wasm",
            "FS:/srv/a b.wasm",
        ] {
            assert_eq!(
                parse(url),
                Ok(Location::File("/srv/a b.wasm".into())),
                "{url}"
            );
        }
        for bad in [
            "fs:a.wasm",
            "fs:",
            "fs:/",
            "fs://host/a",
            "fs:/a?b",
            "fs:/%ff",
            "fs:/a%00",
        ] {
            let error = parse(bad);
            // A host in a URL of files is a path that is not absolute.
            assert!(error.is_err(), "{bad}: {error:?}");
        }
    }

    #[test]
    fn objects_are_named_as_buckets_are() {
        let url = "s3://b/some/app%20x.wasm?endpoint=http://127.0.0.1:9000&credentials=door";
        let location = parse(url).unwrap();
        assert_eq!(location.credentials(), Some("door"));
        assert_eq!(location.to_string(), "s3://b/some/app x.wasm");
        let Location::S3(place) = location else {
            panic!("another kind");
        };
        assert_eq!(place.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        for (bad, problem) in [
            ("s3://b/k", "s3: region is needed"),
            ("s3://b?region=r", "s3: takes the name of an object"),
            ("s3://b/../k?region=r", ""),
            ("s3://b/k?region=r&x=1", "has no option \"x\""),
            (
                "s3://b/k?region=r&readonly",
                "region, endpoint and credentials",
            ),
        ] {
            match parse(bad) {
                Err(error) => assert!(error.to_string().contains(problem), "{bad}: {error}"),
                // URLs have no `..`, it is resolved.
                Ok(location) => assert_eq!(location.to_string(), "s3://b/k"),
            }
        }
    }

    #[test]
    fn https_alone_is_asked_over_the_network() {
        let location = parse("https://example.com/app.wasm?X-Signature=hunter2").unwrap();
        assert_eq!(location.to_string(), "https://example.com/app.wasm?...");
        assert_eq!(parse("http://example.com/a"), Err(LocationError::Http));
        assert_eq!(
            parse("ftp://example.com/a"),
            Err(LocationError::Scheme("ftp".into()))
        );
        assert!(parse("https://example.com/a#b").is_err());
        assert!(parse("https://").is_err());
        assert_eq!(parse(""), Err(LocationError::Empty));
    }

    #[test]
    fn no_error_has_a_password() {
        for bad in [
            "https://me:hunter2@example.com/app.wasm",
            "https://hunter2@example.com/app.wasm",
            "s3://KEY:hunter2@bucket/app.wasm?region=r",
            "s3://bucket/app.wasm?region=r&secret=hunter2",
            "https://me:hunter2@exa mple.com/",
            "ftp://me:hunter2@example.com/",
            "http://me:hunter2@example.com/",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
