//! Parsing the head of a request, line by line as it arrives.

use crate::request::Field;

/// A parsed head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Upper-case letters, `-` and `_`.
    pub method: Vec<u8>,
    /// As sent; begins with a slash.
    pub target: Vec<u8>,
    /// `HTTP/1.x`.
    pub version: Vec<u8>,
    /// As sent.
    pub fields: Vec<Field>,
}

impl Head {
    /// Whether the protocol is newer than HTTP/1.0.
    pub fn is_http11(&self) -> bool {
        self.version != b"HTTP/1.0"
    }

    /// The values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.is(name))
            .map(|field| field.value.as_slice())
    }
}

/// A status that refuses the request.
pub type Refused = u16;

/// Takes a head apart.
#[derive(Default)]
pub struct Parser {
    head: Head,
    begun: bool,
    keep_unsafe: bool,
}

/// Longest name of a field.
const NAME: usize = 255;

impl Parser {
    /// Whether fields with unusual names are kept, is the caller's choice.
    pub fn new(keep_unsafe: bool) -> Self {
        Self {
            keep_unsafe,
            ..Self::default()
        }
    }

    /// Consumes whole lines from `bytes`. Returns how many bytes they had, and
    /// the head if the empty line was among them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Head>), Refused> {
        let mut consumed = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                if !self.begun {
                    check_method(rest)?;
                }
                return Ok((consumed, None));
            };
            consumed += end + 1;
            let line = rest.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !self.begun {
                if !line.is_empty() {
                    self.request_line(line)?;
                    self.begun = true;
                }
            } else if line.is_empty() {
                self.begun = false;
                return Ok((consumed, Some(std::mem::take(&mut self.head))));
            } else {
                self.field(line)?;
            }
        }
    }

    /// How much of an unfinished line is a field's name, colon and blanks:
    /// that is parsed by itself.
    pub fn name_length(&self, line: &[u8]) -> usize {
        let colon = line.iter().position(|byte| !is_name(*byte)).unwrap_or(0);
        if !self.begun || line.get(colon) != Some(&b':') {
            return 0;
        }
        let value = line.get(colon + 1..).unwrap_or_default();
        let blanks = value.iter().take_while(|byte| b" \t".contains(byte));
        colon + 1 + blanks.count()
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Refused> {
        check_method(line)?;
        let space = |byte: &u8| *byte == b' ';
        let first = line.iter().position(space).ok_or(400u16)?;
        let last = line.iter().rposition(space).ok_or(400u16)?;
        let method = line.get(..first).unwrap_or_default();
        let target = line.get(first..last).unwrap_or_default().trim_ascii();
        let version = line.get(last + 1..).unwrap_or_default();
        if method.is_empty() || !target.starts_with(b"/") {
            return Err(400);
        }
        if target.iter().any(|byte| *byte < 0x20) {
            return Err(400);
        }
        match version {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => {}
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(505),
            _ => return Err(400),
        }
        self.head.method = method.to_vec();
        self.head.target = target.to_vec();
        self.head.version = version.to_vec();
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refused> {
        let colon = line.iter().position(|byte| !is_name(*byte));
        let colon = colon.ok_or(400u16)?;
        if line.get(colon) != Some(&b':') || colon == 0 {
            return Err(400);
        }
        if colon > NAME {
            return Err(431);
        }
        let name = line.get(..colon).unwrap_or_default();
        let value = line.get(colon + 1..).unwrap_or_default();
        if value.iter().any(|byte| *byte < 0x20 && *byte != b'\t') {
            return Err(400);
        }
        let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
        let start = value.iter().position(|byte| !blank(byte));
        let end = value.iter().rposition(|byte| !blank(byte));
        let value = match (start, end) {
            (Some(start), Some(end)) => value.get(start..=end).unwrap_or_default(),
            _ => &[],
        };
        let usual = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        if self.keep_unsafe || name.iter().all(usual) {
            self.head.fields.push(Field {
                name: name.to_vec(),
                value: value.to_vec(),
            });
        }
        Ok(())
    }
}

fn check_method(line: &[u8]) -> Result<(), Refused> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let usual = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-' || *byte == b'_';
    if method.iter().all(usual) {
        Ok(())
    } else {
        Err(400)
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Head, Refused> {
        let (consumed, head) = Parser::default().feed(text)?;
        assert_eq!(consumed, text.len());
        Ok(head.expect("a whole head"))
    }

    fn fields(head: &Head) -> Vec<(&[u8], &[u8])> {
        let fields = head.fields.iter();
        fields
            .map(|field| (&field.name[..], &field.value[..]))
            .collect()
    }

    #[test]
    fn bytes_case_and_duplicates_stay() {
        let head = parse(b"GET /\xff%20 HTTP/1.1\r\nX-a:  \xe9 \r\nx-A:\r\nCookie: a=b\n\r\n");
        let head = head.unwrap();
        assert_eq!(head.target, b"/\xff%20");
        assert_eq!(
            fields(&head),
            [
                (&b"X-a"[..], &b"\xe9"[..]),
                (b"x-A", b""),
                (b"Cookie", b"a=b")
            ]
        );
    }

    #[test]
    fn unusual_names_are_dropped() {
        let head = parse(b"GET / HTTP/1.0\r\nX_Under: 1\r\nX-Dash: 2\r\n\r\n").unwrap();
        assert_eq!(fields(&head), [(&b"X-Dash"[..], &b"2"[..])]);
        assert!(!head.is_http11());
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, status) in [
            (&b"\x16\x03\x01"[..], 400),
            (b"get / HTTP/1.1\r\n", 400),
            (b"GET x HTTP/1.1\r\n", 400),
            (b"GET /\r\n", 400),
            (b"GET / HTTP/2.0\r\n", 505),
            (b"GET / HTTP/1.1\r\nno colon\r\n", 400),
            (b"GET / HTTP/1.1\r\n: v\r\n", 400),
            (b"GET / HTTP/1.1\r\nA: \x01\r\n", 400),
        ] {
            let refused = Parser::default().feed(text).unwrap_err();
            assert_eq!(refused, status, "{text:?}");
        }
        let long = [b"GET / HTTP/1.1\r\n".as_slice(), &[b'a'; 256], b": v\r\n"].concat();
        assert_eq!(Parser::default().feed(&long), Err(431));
    }

    #[test]
    fn heads_may_come_in_pieces() {
        let text = b"POST /p HTTP/1.1\r\nA: b\r\n\r\nrest";
        let mut parser = Parser::default();
        let mut start = 0;
        for end in 0..text.len() {
            let (consumed, head) = parser.feed(&text[start..end]).unwrap();
            start += consumed;
            if let Some(head) = head {
                assert_eq!(head.method, b"POST");
                assert_eq!(&text[start..], b"rest");
                return;
            }
        }
        panic!("the head did not end");
    }
}
