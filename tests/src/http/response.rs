//! Response heads and whole responses.

use super::find;

/// Status line and header fields of a response.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Names and values in the order of arrival, as bytes.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Head {
    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<Vec<u8>> {
        let fields = self.headers.iter();
        let same = fields.filter(|(given, _)| given.eq_ignore_ascii_case(name.as_bytes()));
        same.map(|(_, value)| value.clone()).collect()
    }

    /// The first value of a field, as text.
    pub fn first(&self, name: &str) -> Option<String> {
        let values = self.all(name);
        Some(String::from_utf8_lossy(values.first()?).into_owned())
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status and header fields.
    pub head: Head,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Panics unless the status is 200, showing what came instead.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status(), 200, "body: {:?}", self.text());
        self
    }
}

pub(super) fn parse_head(bytes: &[u8]) -> Result<Head, String> {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let mut rest = bytes;
    let mut lines = Vec::new();
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let first = String::from_utf8_lossy(lines[0]).into_owned();
    let mut words = first.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(shown());
    }
    let code = words.next().filter(|code| code.len() == 3);
    let status = code.and_then(|code| code.parse().ok()).ok_or_else(shown)?;
    let mut headers = Vec::new();
    for line in &lines[1..] {
        let colon = find(line, b":").filter(|at| *at > 0).ok_or_else(shown)?;
        let name = line[..colon].to_vec();
        let value = line[colon + 1..].trim_ascii().to_vec();
        headers.push((name, value));
    }
    Ok(Head { status, headers })
}
