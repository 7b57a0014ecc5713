//! The request, its query and its body.

use crate::bindings::wasi::http::types::{self, ErrorCode, Fields, Method, Scheme};
use crate::bindings::wit_future;
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

/// A body's end: its trailers, or what went wrong.
pub type Trailers = FutureReader<Result<Option<Fields>, ErrorCode>>;

pub struct Request {
    inner: types::Request,
    target: String,
    path: String,
    query: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Request {
    pub fn new(inner: types::Request) -> Request {
        let target = inner.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        Request {
            path: path.to_string(),
            query,
            target,
            inner,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn authority(&self) -> String {
        self.inner.get_authority().unwrap_or_default()
    }

    pub fn method(&self) -> String {
        match self.inner.get_method() {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
            Method::Post => "POST".into(),
            Method::Put => "PUT".into(),
            Method::Delete => "DELETE".into(),
            Method::Connect => "CONNECT".into(),
            Method::Options => "OPTIONS".into(),
            Method::Trace => "TRACE".into(),
            Method::Patch => "PATCH".into(),
            Method::Other(name) => name,
        }
    }

    pub fn scheme(&self) -> String {
        match self.inner.get_scheme() {
            Some(Scheme::Http) => "http".into(),
            Some(Scheme::Https) => "https".into(),
            Some(Scheme::Other(name)) => name,
            None => String::new(),
        }
    }

    /// Header fields in the order they were received.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.inner.get_headers().copy_all()
    }

    /// The first header field of that name.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.get_headers().get(name).into_iter().next()
    }

    /// The query's pairs, percent-decoded, in order.
    pub fn query(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.query
    }

    /// Whether the query has a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(key, _)| key == name.as_bytes())
    }

    /// The first parameter of that name, as text; empty when there is none.
    pub fn text(&self, name: &str) -> String {
        self.query
            .iter()
            .find(|(key, _)| key == name.as_bytes())
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }

    /// The first parameter of that name, as a number; `default` when there is
    /// none or it is no number.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name).parse().unwrap_or(default)
    }

    /// The same of a parameter that lab calls by another name.
    pub fn number_of(&self, name: &str, name_in_lab: &str, default: u64) -> u64 {
        self.number(name, self.number(name_in_lab, default))
    }

    /// The request's body as the host gives it.
    pub fn into_parts(self) -> (StreamReader<u8>, Trailers) {
        types::Request::consume_body(self.inner, all_is_well())
    }

    /// The request's body, to be read.
    pub fn body(self) -> Body {
        let (stream, trailers) = self.into_parts();
        Body { stream, trailers }
    }
}

/// What says to the other side that nothing went wrong here. Its writer, dropped,
/// writes the default in the background.
pub fn all_is_well() -> FutureReader<Result<(), ErrorCode>> {
    wit_future::new(|| Ok(())).1
}

pub struct Body {
    stream: StreamReader<u8>,
    trailers: Trailers,
}

impl Body {
    pub fn new((stream, trailers): (StreamReader<u8>, Trailers)) -> Body {
        Body { stream, trailers }
    }

    /// Waits for up to `limit` bytes; `None` at the end.
    pub async fn read(&mut self, limit: usize) -> Option<Vec<u8>> {
        match self.stream.read(Vec::with_capacity(limit)).await {
            (StreamResult::Complete(_), piece) => Some(piece),
            _ => None,
        }
    }

    /// To be asked at the end: the body's trailers, or what cut it short.
    pub async fn trailers(self) -> Result<Option<Fields>, ErrorCode> {
        drop(self.stream);
        self.trailers.await
    }

    /// All of it, and the error that cut it short.
    pub async fn collect(mut self) -> Result<Vec<u8>, ErrorCode> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.read(64 * 1024).await {
            bytes.extend(piece);
        }
        self.trailers().await?;
        Ok(bytes)
    }
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}
