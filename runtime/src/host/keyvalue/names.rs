//! Keys as names of files and objects.
//!
//! A key is any text of up to 1024 bytes; a file name is not. Every key has
//! exactly one name, no two keys share one, and no name leads out of a
//! directory, hides in it, or depends on how a file system treats anything but
//! plain ASCII:
//!
//! - letters, digits and `-_.~:@=,` stand for themselves, but for a dot at the
//!   beginning; every other byte becomes `%` and two hexadecimal digits;
//! - the empty key is `%`;
//! - a name that gets longer than [`LONGEST`] is cut, and `+` and the key's
//!   SHA-256 follow. Such a name does not tell the key, so what is stored under
//!   it begins with the key ([`wrap`]).

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::artifact::hex;

/// Bytes of the longest key.
pub const MAX_KEY: usize = 1024;

/// Bytes of the longest name that tells its key; file systems take 255.
const LONGEST: usize = 200;
/// Bytes of a long name that come from the key.
const HEAD: usize = 120;

/// The name of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    text: String,
    /// The key, if the name does not tell it.
    key: Option<String>,
}

impl Name {
    pub fn of(key: &str) -> Self {
        let text = escape(key);
        if text.len() <= LONGEST {
            return Self { text, key: None };
        }
        let digest = hex(&Sha256::digest(key));
        let head = text.get(..HEAD).unwrap_or_default();
        // Not in the middle of an escaped byte.
        let cut = match head.rfind('%') {
            Some(at) if at + 3 > HEAD => at,
            _ => HEAD,
        };
        let head = head.get(..cut).unwrap_or_default();
        Self {
            text: format!("{head}+{digest}"),
            key: Some(key.to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Bytes that are stored in front of the value.
    pub fn overhead(&self) -> usize {
        self.key.as_ref().map_or(0, |key| 2 + key.len())
    }

    /// What to store for `value`.
    pub fn wrap(&self, value: Bytes) -> Bytes {
        let Some(key) = &self.key else { return value };
        let mut stored = BytesMut::with_capacity(self.overhead() + value.len());
        // A key has at most 1024 bytes.
        stored.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
        stored.put_slice(key.as_bytes());
        stored.put_slice(&value);
        stored.freeze()
    }

    /// The value in what is stored under this name, or `None` if that has been
    /// stored for another key.
    pub fn unwrap(&self, stored: Bytes) -> Option<Bytes> {
        match &self.key {
            None => Some(stored),
            Some(key) => (stored_key(&stored)? == key).then(|| stored.slice(self.overhead()..)),
        }
    }
}

/// What a name tells about its key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The key itself.
    Key(String),
    /// That it is in what is stored under the name.
    Inside,
}

/// Reads a name. `None` if no key has this name.
pub(super) fn tell(name: &str) -> Option<Told> {
    if let Some((head, digest)) = name.split_once('+') {
        let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let fits = digest.len() == 64 && digest.bytes().all(hexadecimal) && head.len() <= HEAD;
        return fits.then_some(Told::Inside);
    }
    let key = unescape(name)?;
    // Only what `escape` makes: other spellings of the same key are not names.
    (escape(&key) == name && name.len() <= LONGEST).then_some(Told::Key(key))
}

/// The key in front of a value that is stored under a name that does not tell
/// it. `stored` may be the beginning only.
pub(super) fn stored_key(stored: &[u8]) -> Option<&str> {
    let (length, rest) = stored.split_first_chunk::<2>()?;
    let key = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    std::str::from_utf8(key).ok()
}

/// Bytes at the beginning of a stored value in which its key is.
pub(super) const KEY_BYTES: usize = 2 + MAX_KEY;

fn escape(key: &str) -> String {
    if key.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => name.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b'=' | b',' => name.push(char::from(byte)),
            _ => {
                name.push('%');
                for digit in [byte >> 4, byte & 0xf] {
                    let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                    name.push(digit.to_ascii_uppercase());
                }
            }
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut key = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        key.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? << 4 | digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn odd_keys() -> Vec<String> {
        let mut keys: Vec<String> = [
            "",
            ".",
            "..",
            "...",
            "/",
            "//",
            "../x",
            "../../etc/passwd",
            "a/b",
            "a/",
            "/a",
            "a b",
            "\0",
            "a\0b",
            "\n",
            "%",
            "%2E",
            "%2e",
            "%%",
            "+",
            "a+b",
            "key",
            "KEY",
            "Key",
            "ä",
            "a\u{308}",
            "ä\u{308}",
            "\u{202e}",
            "日本",
            "\\",
            "*",
            "?",
            "~",
            "-",
            "--",
            "-rf",
            ".unit-wasm",
            "con",
            "user:42",
            "a=b,c",
            "\u{feff}",
        ]
        .map(str::to_owned)
        .into();
        for n in [66, 67, 100, 199, 200, 201, 255, 256, 1023, 1024] {
            keys.push("x".repeat(n));
            keys.push("/".repeat(n));
            keys.push(format!("{}y", "x".repeat(n - 1)));
        }
        keys
    }

    #[test]
    fn every_key_has_a_name_of_its_own_that_stays_where_it_is() {
        let keys = odd_keys();
        let distinct: HashSet<&String> = keys.iter().collect();
        let mut names = HashSet::new();
        for key in &distinct {
            let name = Name::of(key);
            let text = name.as_str();
            assert!(!text.is_empty() && text.len() <= LONGEST, "{key:?}");
            assert!(!text.starts_with('.') && !text.contains('/'), "{text}");
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert!(names.insert(text.to_owned()), "{key:?} is {text}");

            let value = Bytes::from_static(b"value");
            let stored = name.wrap(value.clone());
            match tell(text) {
                Some(Told::Key(told)) => assert_eq!(&told, *key),
                Some(Told::Inside) => assert_eq!(stored_key(&stored), Some(key.as_str())),
                None => panic!("{text} tells nothing"),
            }
            assert_eq!(stored.len(), name.overhead() + 5);
            assert_eq!(name.unwrap(stored), Some(value));
        }
    }

    #[test]
    fn names_that_no_key_has() {
        for name in [
            "",
            ".",
            "..",
            ".unit-wasm",
            "a b",
            "ä",
            "%4",
            "%zz",
            "%61",
            "%2e",
            "a+b",
            "+",
            "a%",
            "%FF",
        ] {
            assert_eq!(tell(name), None, "{name}");
        }
        assert_eq!(tell(&"x".repeat(LONGEST + 1)), None);
    }

    #[test]
    fn a_long_name_holds_values_of_its_own_key_only() {
        let (one, other) = ("x".repeat(300), format!("{}y", "x".repeat(299)));
        let stored = Name::of(&one).wrap(Bytes::from_static(b"1"));
        assert_eq!(Name::of(&other).unwrap(stored.clone()), None);
        assert_eq!(Name::of(&one).unwrap(Bytes::from_static(b"\xff")), None);
        assert_eq!(stored_key(&stored), Some(one.as_str()));
    }
}
