//! Digests, which components are named by.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn from_hash(hash: Sha256) -> Self {
        let digest = hash.finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a digest is a SHA-256: 64 digits 0-9 and a-f".to_owned())
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Copies what it reads, and has its digest and length in the end. An error of
/// kind `FileTooLarge` after `most` bytes.
pub(crate) fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    most: u64,
) -> io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut length = 0_u64;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_hash(hash), length)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += n as u64;
        if length > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let part = buffer.get(..n).unwrap_or_default();
        hash.update(part);
        to.write_all(part)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_64_lower_case_digits() {
        let digest = Digest::of(b"abc");
        assert!(digest.as_str().starts_with("ba7816bf8f01cfea"));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
        for bad in ["", "abc", &"A".repeat(64), &"../x".repeat(16)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Digest>("\"../../etc/passwd\"").is_err());
    }

    #[test]
    fn a_copy_is_bounded_and_has_the_digest_of_what_was_copied() {
        let mut copied = Vec::new();
        let (digest, length) = copy(&mut &b"abc"[..], &mut copied, 3).unwrap();
        assert_eq!(
            (digest, length, &copied[..]),
            (Digest::of(b"abc"), 3, &b"abc"[..])
        );
        let error = copy(&mut &b"abcd"[..], &mut Vec::new(), 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
