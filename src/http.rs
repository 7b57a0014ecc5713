//! Unit's bytes and the types of the `http` crate: what may pass in either
//! direction. No FFI here.

use std::fmt;

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, uri};

/// A request as Unit describes it.
pub struct Head<'a, F> {
    /// The method as sent.
    pub method: &'a [u8],
    /// The target as sent.
    pub target: &'a [u8],
    /// Host name from the Host field, without port, or `localhost`.
    pub server_name: &'a [u8],
    /// Whether the client's connection is encrypted.
    pub tls: bool,
    /// Names and values of the header fields.
    pub fields: F,
}

/// A request that has no form in the `http` crate, and so cannot be handed to
/// a guest. The client gets 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not a token.
    #[error("the method is not a token")]
    Method,
    /// Not an origin-form or absolute target of printable ASCII.
    #[error("the request target is not a valid URI")]
    Target,
    /// The Host field has something that no host name has.
    #[error("the host name is not valid")]
    Host,
    /// Not a token.
    #[error("a header field's name is not valid")]
    FieldName,
    /// Has control characters.
    #[error("a header field's value is not valid")]
    FieldValue,
}

/// Translates a request's head.
///
/// Header values may have any bytes but control characters. The authority is
/// Unit's server name; a guest that wants the port finds it in `host`.
///
/// # Errors
///
/// The part that cannot be translated.
pub fn request<'a, F>(head: Head<'a, F>) -> Result<Request<()>, BadRequest>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let method = Method::from_bytes(head.method).map_err(|_| BadRequest::Method)?;
    let target = Uri::try_from(head.target).map_err(|_| BadRequest::Target)?;
    let path = match target.path_and_query() {
        Some(path) => path.clone(),
        // CONNECT, which Unit does not pass on, and `http://host?query`.
        None => return Err(BadRequest::Target),
    };
    let authority = uri::Authority::try_from(head.server_name).map_err(|_| BadRequest::Host)?;
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if head.tls {
        uri::Scheme::HTTPS
    } else {
        uri::Scheme::HTTP
    });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);

    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadRequest::Target)?;
    let headers = request.headers_mut();
    headers
        .try_reserve(head.fields.size_hint().0)
        .map_err(|_| BadRequest::FieldName)?;
    for (name, value) in head.fields {
        let name = HeaderName::from_bytes(name).map_err(|_| BadRequest::FieldName)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| BadRequest::FieldValue)?;
        headers
            .try_append(name, value)
            .map_err(|_| BadRequest::FieldName)?;
    }
    Ok(request)
}

/// How the body of a response is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body may be sent, whatever the guest produces.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Until it ends; Unit adds the framing.
    Stream,
}

/// Why a guest's response cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadResponse {
    /// 1xx, or above 599.
    Status(StatusCode),
    /// Unit holds the length of a name in a byte.
    FieldName(String),
    /// More than one Content-Length, or not a number.
    ContentLength,
    /// Unit cannot send a head of that size.
    TooLarge(usize),
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => {
                write!(
                    f,
                    "status {} is not that of a final response",
                    status.as_u16()
                )
            }
            Self::FieldName(name) => write!(
                f,
                "a header field name has {} bytes, 255 is the most that Unit can send: {}...",
                name.len(),
                name.get(..40).unwrap_or(name)
            ),
            Self::ContentLength => f.write_str("the content-length field is not a single number"),
            Self::TooLarge(size) => write!(
                f,
                "the header fields have {size} bytes, {MAX_HEAD} is the most that is sent"
            ),
        }
    }
}

/// Most bytes of a response head. Unit's own bound is 10 MiB, but the router
/// and every client would have to hold it.
const MAX_HEAD: usize = 256 * 1024;

/// Fields that are about the connection, which is Unit's, and `Status`, which
/// Unit would take for the response status.
fn is_dropped(name: &HeaderName) -> bool {
    static DROPPED: [HeaderName; 9] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("status"),
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    DROPPED.contains(name)
}

/// Checks the head of a guest's response, takes out what must not be sent,
/// and says how the body is framed.
///
/// # Errors
///
/// Why it cannot be sent at all.
pub fn check_response<B>(
    method_is_head: bool,
    response: &mut Response<B>,
) -> Result<Framing, BadResponse> {
    let status = response.status();
    if status.is_informational() || status.as_u16() > 599 {
        return Err(BadResponse::Status(status));
    }
    let headers = response.headers_mut();
    let dropped: Vec<HeaderName> = headers.keys().filter(|n| is_dropped(n)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    if let Some(name) = headers.keys().find(|n| n.as_str().len() > 255) {
        return Err(BadResponse::FieldName(name.as_str().to_owned()));
    }
    let size = headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len())
        .sum();
    if size > MAX_HEAD {
        return Err(BadResponse::TooLarge(size));
    }
    let length = content_length(headers)?;
    let without_body =
        method_is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    if without_body {
        return Ok(Framing::None);
    }
    Ok(length.map_or(Framing::Stream, Framing::Length))
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadResponse> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    match value.to_str().map(str::parse) {
        Ok(Ok(length)) if valid && values.next().is_none() => Ok(Some(length)),
        _ => Err(BadResponse::ContentLength),
    }
}

/// The fields that can name a request, in the order of preference.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const REQUEST_ID: &str = "x-request-id";

/// The id of a request: what the client calls it, or `fallback`.
///
/// A `traceparent` gives its trace id; else an `x-request-id` that is short
/// and harmless is taken as it is.
pub fn request_id(headers: &HeaderMap, fallback: impl FnOnce() -> String) -> String {
    let value = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    if let Some(id) = value(TRACEPARENT).and_then(trace_id) {
        return id.to_owned();
    }
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match value(REQUEST_ID) {
        Some(id) if (1..=64).contains(&id.len()) && id.chars().all(harmless) => id.to_owned(),
        _ => fallback(),
    }
}

/// The trace id of a W3C `traceparent`, if it is a valid one.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let hex = |part: &str, length| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let version = parts.next().filter(|p| hex(p, 2) && *p != "ff")?;
    let trace = parts.next().filter(|p| hex(p, 32))?;
    let parent = parts.next().filter(|p| hex(p, 16))?;
    parts.next().filter(|p| hex(p, 2))?;
    let nonzero = |id: &str| id.bytes().any(|b| b != b'0');
    let ends = version != "00" || parts.next().is_none();
    (nonzero(trace) && nonzero(parent) && ends).then_some(trace)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
