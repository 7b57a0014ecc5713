//! The request, its query and its body.

use std::io;

use wasi::http::types::{IncomingBody, IncomingRequest, Method, Scheme};
use wasi::io::streams::InputStream;

pub struct Request {
    inner: IncomingRequest,
    path: String,
    query: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Request {
    pub fn new(inner: IncomingRequest) -> Request {
        let target = inner.path_with_query().unwrap_or_default();
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
            inner,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn target(&self) -> String {
        self.inner.path_with_query().unwrap_or_default()
    }

    pub fn authority(&self) -> String {
        self.inner.authority().unwrap_or_default()
    }

    pub fn method(&self) -> String {
        match self.inner.method() {
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
        match self.inner.scheme() {
            Some(Scheme::Http) => "http".into(),
            Some(Scheme::Https) => "https".into(),
            Some(Scheme::Other(name)) => name,
            None => String::new(),
        }
    }

    /// Header fields in the order they were received.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.inner.headers().entries()
    }

    /// The first header field of that name.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.headers().get(name).into_iter().next()
    }

    /// The query's pairs, percent-decoded, in order.
    pub fn query(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.query
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

    /// The request's body. A guest can take it once.
    pub fn body(&self) -> Body {
        let body = self.inner.consume().expect("the body is taken once");
        Body {
            stream: body.stream().expect("the stream is taken once"),
            _body: body,
        }
    }
}

pub struct Body {
    // Before the body it belongs to: a child is dropped first.
    stream: InputStream,
    _body: IncomingBody,
}

impl Body {
    /// Waits for some bytes and says how many there are; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.stream, buffer)
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
