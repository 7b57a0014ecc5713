//! Who may deploy.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of the shortest token: what can be guessed is none.
const SHORTEST: usize = 16;
/// Bytes of a file of tokens.
const LONGEST: u64 = 64 << 10;

/// Tokens that are known, as digests.
pub struct Tokens(Vec<[u8; 32]>);

impl Tokens {
    /// Reads a file: one on each line, `#` begins a comment.
    pub fn read(path: &Path) -> Result<Self, String> {
        let read = || -> Result<Self, String> {
            let file = File::options()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(path)
                .map_err(|e| e.to_string())?;
            let found = file.metadata().map_err(|e| e.to_string())?;
            let me = rustix::process::geteuid().as_raw();
            if !found.is_file() {
                return Err("not a regular file".to_owned());
            }
            if found.uid() != me && found.uid() != 0 {
                return Err(format!("it belongs to user {}: chown {me}", found.uid()));
            }
            if found.mode() & 0o077 != 0 {
                return Err("others can read or change it: chmod 600".to_owned());
            }
            if found.len() > LONGEST {
                return Err(format!("it has more than {LONGEST} bytes"));
            }
            let mut text = String::new();
            file.take(LONGEST)
                .read_to_string(&mut text)
                .map_err(|e| e.to_string())?;
            Self::parse(&text)
        };
        read().map_err(|problem| format!("--token-file {}: {problem}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let token = line.trim();
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            if token.len() < SHORTEST || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!(
                    "line {number}: a token has at least {SHORTEST} characters and no space: \
                     `openssl rand -hex 32` makes one"
                ));
            }
            tokens.push(Sha256::digest(token).into());
        }
        match tokens.is_empty() {
            true => Err("there is no token in it".to_owned()),
            false => Ok(Self(tokens)),
        }
    }

    /// Whether the value of a field `Authorization` has one of them. How long that
    /// takes says nothing about them.
    pub fn allow(&self, authorization: Option<&[u8]>) -> bool {
        let (scheme, token) = authorization
            .and_then(|value| value.split_at_checked(b"bearer ".len()))
            .unwrap_or_default();
        let digest = Sha256::digest(token.trim_ascii());
        let known = self.0.iter().fold(subtle::Choice::from(0), |known, token| {
            known | token.as_slice().ct_eq(digest.as_slice())
        });
        scheme.eq_ignore_ascii_case(b"bearer ") & bool::from(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn who_has_a_token_may() {
        let text = format!("# CI\n{TOKEN}\n\n  {TOKEN}2  \n");
        let tokens = Tokens::parse(&text).unwrap();
        for good in [
            format!("Bearer {TOKEN}"),
            format!("bearer {TOKEN}2"),
            format!("Bearer  {TOKEN} "),
        ] {
            assert!(tokens.allow(Some(good.as_bytes())), "{good}");
        }
        for bad in [
            String::new(),
            "Bearer ".to_owned(),
            TOKEN.to_owned(),
            format!("Basic  {TOKEN}"),
            format!("Bearer {TOKEN}3"),
            format!("Bearer {}", &TOKEN[..15]),
            "Bearer # CI".to_owned(),
        ] {
            assert!(!tokens.allow(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!tokens.allow(None));
    }

    #[test]
    fn files_of_tokens() {
        for bad in ["", "# none\n", "short", "with a space in it"] {
            assert!(Tokens::parse(bad).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, TOKEN).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o640);
        let error = Tokens::read(&path).err().unwrap();
        assert!(
            error.contains("chmod 600") && !error.contains(TOKEN),
            "{error}"
        );
        mode(0o600);
        Tokens::read(&path).unwrap();
        assert!(Tokens::read(dir.path()).is_err());
        // None of them is left out.
        std::fs::write(&path, format!("{TOKEN}\n").repeat(4000)).unwrap();
        let error = Tokens::read(&path).err().unwrap();
        assert!(error.contains("more than 65536 bytes"), "{error}");
        // Only root can give it to somebody else.
        if std::os::unix::fs::chown(&path, Some(64_321), None).is_ok() {
            let error = Tokens::read(&path).err().unwrap();
            assert!(error.contains("belongs to user 64321"), "{error}");
        }
    }
}
