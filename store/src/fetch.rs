//! Reading a component from where it is.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nxt_wasm_runtime::keyvalue::{
    Common, Credentials, KeyvalueGrant, KeyvalueLimits, S3Place, Secret,
};
use nxt_wasm_runtime::{DnsConfig, roots};
use opendal::ErrorKind;
use url::{Host, Url};

use crate::location::{Location, PLAIN_HTTP, check_https};

/// Redirects of `https` that are followed.
pub const MAX_REDIRECTS: u32 = 3;

/// Under which conditions something is read.
#[derive(Clone, Debug)]
pub struct FetchOptions<'a> {
    /// What [`Location::credentials`] names: `KEYID:SECRET[:SESSION]`.
    pub credentials: Option<&'a str>,
    /// A PEM file's contents: authorities that are trusted beside those of the machine.
    pub authorities: Option<&'a [u8]>,
    /// Bytes that it may have.
    pub max_bytes: u64,
    /// For all of it.
    pub timeout: Duration,
    /// Whether it may come over plain HTTP from another machine.
    pub allow_plain_http: bool,
}

/// Why a component cannot be had. Begins with where it was looked for.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is not there.
    #[error("{0}: there is nothing of that name")]
    Missing(String),
    /// It is longer than allowed.
    #[error("{location}: it has more than {most} bytes")]
    TooLarge {
        /// Where it is.
        location: String,
        /// Bytes allowed.
        most: u64,
    },
    /// It has not come in time.
    #[error("{location}: not received within {} s", timeout.as_secs_f64())]
    Timeout {
        /// Where it is.
        location: String,
        /// The time allowed.
        timeout: Duration,
    },
    /// Credentials that are missing, or cannot be used.
    #[error("{location}: {problem}")]
    Credentials {
        /// Where it is.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// The authorities to trust cannot be read.
    #[error("{location}: {problem}")]
    Trust {
        /// Where it is.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// Others could change it on the way.
    #[error("{0}: {PLAIN_HTTP}")]
    PlainHttp(String),
    /// A server answered with something else than 200.
    #[error("{location}: the server answers {status}")]
    Status {
        /// Where it is.
        location: String,
        /// The status.
        status: StatusCode,
    },
    /// A redirect that is not followed.
    #[error("{location}: a redirect that is not followed: {problem}")]
    Redirect {
        /// Where it came from.
        location: String,
        /// Why not.
        problem: String,
    },
    /// The file, the connection or the server failed.
    #[error("{location}: {problem}")]
    Failed {
        /// Where it is.
        location: String,
        /// What happened.
        problem: String,
    },
    /// What was received cannot be written.
    #[error("cannot write what was received: {0}")]
    Write(io::Error),
}

/// Copies what is at `location` to `to`, and says how many bytes that were. What was
/// written before an error is to be thrown away.
///
/// Blocks, with an event loop of its own on this thread, so not to be called within
/// another one. Starts no thread.
///
/// # Errors
///
/// Why it cannot be had.
pub fn fetch(
    location: &Location,
    options: &FetchOptions<'_>,
    to: &mut (dyn Write + Send),
) -> Result<u64, FetchError> {
    let mut target = Target {
        location: location.to_string(),
        most: options.max_bytes,
        received: 0,
        to,
    };
    if location.is_exposed() && !options.allow_plain_http {
        return Err(FetchError::PlainHttp(target.location));
    }
    match location {
        Location::File(path) => copy_file(path, &mut target)?,
        Location::S3(place) => in_time(options, &mut target, async |target| {
            fetch_object(place, options, target).await
        })?,
        Location::Https(url) => in_time(options, &mut target, async |target| {
            fetch_url(url, options, target).await
        })?,
    }
    target.to.flush().map_err(FetchError::Write)?;
    Ok(target.received)
}

/// Where the bytes go, and how many more of them may.
struct Target<'a> {
    /// Where they come from, for errors.
    location: String,
    most: u64,
    received: u64,
    to: &'a mut (dyn Write + Send),
}

impl Target<'_> {
    fn take(&mut self, part: &[u8]) -> Result<(), FetchError> {
        self.received += part.len() as u64;
        if self.received > self.most {
            return Err(self.too_large());
        }
        self.to.write_all(part).map_err(FetchError::Write)
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge {
            location: self.location.clone(),
            most: self.most,
        }
    }

    fn failed(&self, problem: impl Into<String>) -> FetchError {
        FetchError::Failed {
            location: self.location.clone(),
            problem: problem.into(),
        }
    }
}

/// Runs what `work` makes on an event loop, until the time is over.
fn in_time<'t, 'a>(
    options: &FetchOptions<'_>,
    target: &'t mut Target<'a>,
    work: impl AsyncFnOnce(&mut Target<'a>) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    let late = FetchError::Timeout {
        location: target.location.clone(),
        timeout: options.timeout,
    };
    let event_loop = event_loop().map_err(|e| target.failed(e.to_string()))?;
    let result =
        event_loop.block_on(async { tokio::time::timeout(options.timeout, work(target)).await });
    result.unwrap_or(Err(late))
}

/// An event loop for this thread.
pub(crate) fn event_loop() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Opens a file that may be read: no pipe or device, which could keep us waiting.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

fn copy_file(path: &Path, target: &mut Target<'_>) -> Result<(), FetchError> {
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let mut file = match open_regular(path) {
        Err(error) if missing(&error) => {
            return Err(FetchError::Missing(target.location.clone()));
        }
        file => file.map_err(|e| target.failed(e.to_string()))?,
    };
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => target.take(buffer.get(..n).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(target.failed(error.to_string())),
        }
    }
}

/// What connections take. `tls` says whether authorities are needed.
pub(crate) fn common(
    tls: bool,
    authorities: Option<&[u8]>,
    timeout: Duration,
) -> Result<Common, String> {
    let authorities = match tls {
        true => roots(authorities, true).map_err(|e| format!("certificate authorities: {e}"))?,
        false => Vec::new(),
    };
    let grant = KeyvalueGrant {
        limits: KeyvalueLimits {
            timeout,
            ..KeyvalueLimits::default()
        },
        authorities,
        ..KeyvalueGrant::default()
    };
    Common::new(&grant, DnsConfig::from_system())
}

/// The place with its credentials.
pub(crate) fn with_credentials(
    place: &S3Place,
    credentials: Option<&str>,
) -> Result<S3Place, String> {
    let mut place = place.clone();
    if let Credentials::Named(name) = &place.credentials {
        let missing = || format!("there is no secret \"{name}\", which it takes as credentials");
        let secret = credentials.ok_or_else(missing)?;
        place.credentials = Credentials::Given(Secret::new(secret));
    }
    Ok(place)
}

/// Whether a store is reached over TLS.
pub(crate) fn is_tls(place: &S3Place) -> bool {
    let endpoint = place.endpoint.as_ref();
    endpoint.is_none_or(|endpoint| endpoint.starts_with("https:"))
}

async fn fetch_object(
    place: &S3Place,
    options: &FetchOptions<'_>,
    target: &mut Target<'_>,
) -> Result<(), FetchError> {
    let location = &target.location;
    let credentials = |problem| FetchError::Credentials {
        location: location.clone(),
        problem,
    };
    let trust = |problem| FetchError::Trust {
        location: location.clone(),
        problem,
    };
    let mut place = with_credentials(place, options.credentials).map_err(credentials)?;
    let key = std::mem::take(&mut place.prefix);
    let common = common(is_tls(&place), options.authorities, options.timeout).map_err(trust)?;
    // One more than it may have, by which we know.
    let most = usize::try_from(options.max_bytes).unwrap_or(usize::MAX - 1);
    let objects = common
        .objects(&place, most.saturating_add(1))
        .map_err(credentials)?;
    copy_object(&objects, &key, async |part| target.take(&part))
        .await
        .map_err(|error| match error {
            CopyError::Store(error) => match error.kind() {
                ErrorKind::NotFound => FetchError::Missing(target.location.clone()),
                _ => target.failed(error.to_string()),
            },
            CopyError::Take(error) => error,
        })
}

/// Why an object was not copied.
pub(crate) enum CopyError<E> {
    /// The store's failure.
    Store(opendal::Error),
    /// The taker's.
    Take(E),
}

/// Hands over an object, part by part.
pub(crate) async fn copy_object<E>(
    objects: &opendal::Operator,
    key: &str,
    mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
) -> Result<(), CopyError<E>> {
    let stream = async { objects.reader(key).await?.into_stream(..).await };
    let mut stream = stream.await.map_err(CopyError::Store)?;
    while let Some(part) = stream.try_next().await.map_err(CopyError::Store)? {
        for part in part {
            take(part).await.map_err(CopyError::Take)?;
        }
    }
    Ok(())
}

async fn fetch_url(
    url: &Url,
    options: &FetchOptions<'_>,
    target: &mut Target<'_>,
) -> Result<(), FetchError> {
    let trust = |problem| FetchError::Trust {
        location: target.location.clone(),
        problem,
    };
    let common = common(true, options.authorities, options.timeout).map_err(trust)?;
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        // It closes when the connection is dropped, at the end of this turn.
        let response = ask(&common, &url, target).await?;
        match next(&response, &url) {
            Next::Take => return take_body(response, target).await,
            Next::Status(status) if matches!(status.as_u16(), 404 | 410) => {
                return Err(FetchError::Missing(target.location.clone()));
            }
            Next::Status(status) => {
                return Err(FetchError::Status {
                    location: target.location.clone(),
                    status,
                });
            }
            Next::Go(other) => url = other,
            Next::Refused(problem) => {
                return Err(FetchError::Redirect {
                    location: target.location.clone(),
                    problem,
                });
            }
        }
    }
    Err(FetchError::Redirect {
        location: target.location.clone(),
        problem: format!("there are more than {MAX_REDIRECTS}"),
    })
}

async fn ask(
    common: &Common,
    url: &Url,
    target: &Target<'_>,
) -> Result<hyper::Response<Incoming>, FetchError> {
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(host) => host.to_string(),
        None => return Err(target.failed("there is no host")),
    };
    let port = url.port_or_known_default().unwrap_or(443);
    let stream = common.connect(&host, port, true).await;
    let stream = stream.map_err(|e| target.failed(format!("connecting to {host}:{port}: {e}")))?;
    let failed = |e: &dyn std::error::Error| target.failed(causes(e));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "nxt-wasm")
        .header(header::ACCEPT, "application/wasm, */*")
        .header(header::ACCEPT_ENCODING, "identity")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    sender.send_request(request).await.map_err(|e| failed(&e))
}

/// What is to be done about a response.
enum Next {
    Take,
    Status(StatusCode),
    Go(Url),
    Refused(String),
}

fn next(response: &hyper::Response<Incoming>, url: &Url) -> Next {
    match response.status().as_u16() {
        200 => Next::Take,
        301 | 302 | 303 | 307 | 308 => {
            let to = response.headers().get(header::LOCATION);
            let to = to.and_then(|to| to.to_str().ok());
            match to.and_then(|to| url.join(to).ok()) {
                None => Next::Refused("it says no URL".to_owned()),
                Some(mut to) => {
                    to.set_fragment(None);
                    match check_https(&to) {
                        Ok(()) => Next::Go(to),
                        Err(error) => Next::Refused(error.to_string()),
                    }
                }
            }
        }
        _ => Next::Status(response.status()),
    }
}

async fn take_body(
    response: hyper::Response<Incoming>,
    target: &mut Target<'_>,
) -> Result<(), FetchError> {
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != HeaderValue::from_static("identity")) {
        return Err(target.failed("the server has compressed it, which was not asked for"));
    }
    let length = response.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > target.most) {
        return Err(target.too_large());
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| target.failed(causes(&e)))?;
        if let Some(part) = frame.data_ref() {
            target.take(part)?;
        }
    }
    Ok(())
}

/// An error and its causes in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Waits for `work` on an event loop, so long and no longer.
pub(crate) fn wait<T>(
    event_loop: &tokio::runtime::Runtime,
    timeout: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    event_loop.block_on(async { tokio::time::timeout(timeout, work).await.ok() })
}
