//! The path and query of a request target.

/// The decoded, normalised path and the raw query; `None` if the target is
/// malformed.
pub fn split(target: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let end = target.iter().position(|byte| *byte == b'#');
    let target = target.get(..end.unwrap_or(target.len()))?;
    let mark = target.iter().position(|byte| *byte == b'?');
    let (path, query) = match mark {
        Some(mark) => (target.get(..mark)?, target.get(mark + 1..)?),
        None => (target, &[][..]),
    };
    Some((normalise(&decode(path)?)?, query.to_vec()))
}

/// Decodes `%XX`; a NUL is refused.
pub fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        let mut byte = *byte;
        if byte == b'%' {
            let high = digit(bytes.next())?;
            byte = (high * 16 + digit(bytes.next())?) as u8;
            if byte == 0 {
                return None;
            }
        }
        out.push(byte);
    }
    Some(out)
}

/// Resolves `.` and `..`, and merges slashes.
fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut directory = true;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        directory = true;
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop()?;
            }
            name => {
                kept.push(name);
                directory = false;
            }
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for name in &kept {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    if directory {
        out.push(b'/');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Option<String> {
        split(target.as_bytes()).map(|(path, _)| String::from_utf8(path).unwrap())
    }

    #[test]
    fn paths_are_decoded_and_normalised() {
        for (target, expected) in [
            ("/", "/"),
            ("/a?b", "/a"),
            ("/a%20b%2Fc", "/a b/c"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a%3Fb#c", "/a?b"),
            ("/%2e%2e/", ""),
            ("/..", ""),
            ("/%0", ""),
            ("/%zz", ""),
            ("/%00", ""),
        ] {
            assert_eq!(path(target).unwrap_or_default(), expected, "{target}");
        }
    }

    #[test]
    fn queries_stay_as_they_are() {
        let (_, query) = split(b"/?a=%20\xff?#f").unwrap();
        assert_eq!(query, b"a=%20\xff?");
    }
}
