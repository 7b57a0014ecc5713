//! Requests, as bytes.

/// `text` as a value in a query.
pub fn encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    let encode = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02x}"),
    };
    text.bytes().map(encode).collect()
}

/// A request to send; the caller is free to make it a bad one.
#[derive(Clone, Debug)]
pub struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    version: &'static str,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Request {
    /// A request without a body.
    pub fn new(method: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.as_ref().to_vec(),
            target: target.as_ref().to_vec(),
            version: "HTTP/1.1",
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
        }
    }

    /// `GET target`.
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    /// `HEAD target`.
    pub fn head(target: impl AsRef<[u8]>) -> Self {
        Self::new("HEAD", target)
    }

    /// `POST target` with a body of known length.
    pub fn post(target: impl AsRef<[u8]>, body: impl Into<Vec<u8>>) -> Self {
        Self::with_body("POST", target, body)
    }

    /// A request of any method with a body of known length.
    pub fn with_body(
        method: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        let mut request = Self::new(method, target).header("content-length", length);
        request.body = body;
        request
    }

    /// `POST target` with a chunked body.
    pub fn post_chunked(target: impl AsRef<[u8]>, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new("POST", target).header("transfer-encoding", "chunked");
        request.body = body.into();
        request.chunked = true;
        request
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let field = (name.as_ref().to_vec(), value.as_ref().to_vec());
        self.headers.push(field);
        self
    }

    /// Asks the server to close the connection afterwards.
    #[must_use]
    pub fn close(self) -> Self {
        self.header("connection", "close")
    }

    /// Speaks HTTP/1.0.
    #[must_use]
    pub fn http10(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    /// The bytes of the request line and the header fields.
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut out = [&self.method[..], b" ", &self.target, b" "].concat();
        out.extend_from_slice(self.version.as_bytes());
        out.extend_from_slice(b"\r\n");
        let named = |name: &str| {
            let mut names = self.headers.iter().map(|(name, _)| name);
            names.any(|given| given.eq_ignore_ascii_case(name.as_bytes()))
        };
        if !named("host") {
            out.extend_from_slice(b"Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// All bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.head_bytes();
        if !self.chunked {
            out.extend_from_slice(&self.body);
            return out;
        }
        // Chunks of uneven sizes, none of them a power of two.
        for (index, piece) in self.body.chunks(10_007).enumerate() {
            let split = piece.len() * (index % 7 + 1) / 8;
            let (left, right) = piece.split_at(split);
            for part in [left, right].into_iter().filter(|part| !part.is_empty()) {
                out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }
}
