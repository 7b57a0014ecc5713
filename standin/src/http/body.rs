//! Receiving a request body whole, in memory or in an unlinked file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{Mode, OFlags, open, unlink};
use tokio::io::AsyncRead;
use tokio::time::timeout;

use super::head::{Head, Refused};
use super::input::Input;
use crate::request::Field;

/// How a body is received.
pub struct Rules<'a> {
    /// Larger ones are answered with 413.
    pub max_size: u64,
    /// Up to this size a body stays in memory.
    pub in_memory: u64,
    /// Where files are made.
    pub directory: &'a Path,
    /// How long a client may be silent.
    pub silence: Duration,
    /// Whether chunked bodies are taken.
    pub chunked: bool,
}

/// A received body.
#[derive(Debug, Default)]
pub struct Body {
    /// Its length.
    pub length: u64,
    /// All of it, if it is small.
    pub preread: Vec<u8>,
    /// Else a file with all of it, at offset 0.
    pub file: Option<OwnedFd>,
}

/// Why there is no body.
pub enum NoBody {
    /// The client is gone.
    Closed,
    /// It is answered with this status.
    Refused(Refused),
}

impl From<io::Error> for NoBody {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// What the head says about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Reads the framing fields; `Transfer-Encoding` is taken out of the head.
pub fn framing(head: &mut Head, rules: &Rules<'_>) -> Result<Framing, Refused> {
    let mut lengths = head.values("Content-Length");
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(_), Some(_)) => return Err(400),
        (Some(digits), None) => {
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(400);
            }
            let digits = std::str::from_utf8(digits).map_err(|_| 400u16)?;
            Some(digits.parse::<u64>().map_err(|_| 400u16)?)
        }
    };
    if length.is_some_and(|length| length > rules.max_size) {
        return Err(413);
    }
    drop(lengths);
    let mut chunked = None;
    for encoding in head.values("Transfer-Encoding") {
        if encoding != b"chunked" {
            chunked = Some(Err(501));
        } else if chunked == Some(Ok(())) {
            return Err(400);
        } else {
            chunked = Some(Ok(()));
        }
    }
    match chunked {
        None => return Ok(Framing::Length(length.unwrap_or(0))),
        Some(Err(status)) => return Err(status),
        Some(Ok(())) if !rules.chunked => return Err(411),
        Some(Ok(())) if length.is_some() || !head.is_http11() => return Err(400),
        Some(Ok(())) => {}
    }
    head.fields.retain(|field| !field.is("Transfer-Encoding"));
    Ok(Framing::Chunked)
}

/// Receives the body. The head of a chunked one gets a `Content-Length`.
pub async fn receive(
    head: &mut Head,
    framing: Framing,
    input: &mut Input,
    stream: &mut (impl AsyncRead + Unpin),
    rules: &Rules<'_>,
) -> Result<Body, NoBody> {
    match framing {
        Framing::Length(0) => Ok(Body::default()),
        Framing::Length(length) if length <= rules.in_memory => {
            let mut preread = Vec::new();
            copy(length, input, stream, rules.silence, &mut preread).await?;
            Ok(Body {
                length,
                preread,
                file: None,
            })
        }
        Framing::Length(length) => {
            let mut file = temporary(rules.directory)?;
            copy(length, input, stream, rules.silence, &mut file).await?;
            finish(file, length)
        }
        Framing::Chunked => {
            let mut file = temporary(rules.directory)?;
            let length = chunks(input, stream, rules, &mut file).await?;
            head.fields.push(Field {
                name: b"Content-Length".into(),
                value: length.to_string().into_bytes(),
            });
            finish(file, length)
        }
    }
}

fn finish(mut file: File, length: u64) -> Result<Body, NoBody> {
    if length == 0 {
        return Ok(Body::default());
    }
    file.seek(SeekFrom::Start(0))
        .map_err(|_| NoBody::Refused(500))?;
    Ok(Body {
        length,
        preread: Vec::new(),
        file: Some(file.into()),
    })
}

async fn copy(
    mut left: u64,
    input: &mut Input,
    stream: &mut (impl AsyncRead + Unpin),
    silence: Duration,
    out: &mut impl Write,
) -> Result<(), NoBody> {
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let piece = timeout(silence, input.some(stream, most))
            .await
            .map_err(|_| NoBody::Refused(408))??;
        if piece.is_empty() {
            return Err(NoBody::Closed);
        }
        out.write_all(&piece).map_err(|_| NoBody::Refused(500))?;
        left -= piece.len() as u64;
    }
    Ok(())
}

async fn chunks(
    input: &mut Input,
    stream: &mut (impl AsyncRead + Unpin),
    rules: &Rules<'_>,
    out: &mut impl Write,
) -> Result<u64, NoBody> {
    let mut total = 0u64;
    loop {
        let digits = line(input, stream, rules).await?;
        let size = chunk_size(&digits).ok_or(NoBody::Refused(400))?;
        if size == 0 {
            break;
        }
        total = total.saturating_add(size);
        if total > rules.max_size {
            return Err(NoBody::Refused(413));
        }
        copy(size, input, stream, rules.silence, out).await?;
        if !line(input, stream, rules).await?.is_empty() {
            return Err(NoBody::Refused(400));
        }
    }
    // As in Unit, there must be no trailer.
    if !line(input, stream, rules).await?.is_empty() {
        return Err(NoBody::Refused(400));
    }
    Ok(total)
}

async fn line(
    input: &mut Input,
    stream: &mut (impl AsyncRead + Unpin),
    rules: &Rules<'_>,
) -> Result<BytesMut, NoBody> {
    const LONGEST: usize = 4096;
    timeout(rules.silence, input.line(stream, LONGEST))
        .await
        .map_err(|_| NoBody::Refused(408))?
        .map_err(|_| NoBody::Refused(400))
}

/// The size of a chunk; as in Unit, extensions are refused.
fn chunk_size(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A file that has no name any more.
fn temporary(directory: &Path) -> Result<File, NoBody> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "nxt-standin-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let path = directory.join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let refused = |error: rustix::io::Errno| {
        let text = format!("cannot make {}: {error}", path.display());
        crate::log::log(crate::log::Level::Alert, text);
        NoBody::Refused(500)
    };
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(refused)?;
    unlink(&path).map_err(refused)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn rules(directory: &Path) -> Rules<'_> {
        Rules {
            max_size: 100,
            in_memory: 10,
            directory,
            silence: Duration::from_secs(1),
            chunked: true,
        }
    }

    fn head(fields: &[(&str, &str)]) -> Head {
        let field = |(name, value): &(&str, &str)| Field {
            name: (*name).into(),
            value: (*value).into(),
        };
        Head {
            version: b"HTTP/1.1".into(),
            fields: fields.iter().map(field).collect(),
            ..Head::default()
        }
    }

    fn received(mut head: Head, mut text: &[u8]) -> Result<(Head, Vec<u8>, bool), Refused> {
        let directory = std::env::temp_dir();
        let rules = rules(&directory);
        let framing = framing(&mut head, &rules)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut input = Input::default();
        let result = receive(&mut head, framing, &mut input, &mut text, &rules);
        match runtime.block_on(result) {
            Err(NoBody::Refused(status)) => Err(status),
            Err(NoBody::Closed) => Err(0),
            Ok(body) => {
                let in_file = body.file.is_some();
                let mut bytes = body.preread;
                if let Some(file) = body.file {
                    File::from(file).read_to_end(&mut bytes).unwrap();
                }
                assert_eq!(bytes.len() as u64, body.length);
                Ok((head, bytes, in_file))
            }
        }
    }

    #[test]
    fn small_bodies_stay_in_memory() {
        let (_, bytes, in_file) = received(head(&[("content-length", "3")]), b"abcd").unwrap();
        assert_eq!((&bytes[..], in_file), (&b"abc"[..], false));
        let (_, bytes, in_file) = received(head(&[("Content-Length", "11")]), &[7; 20]).unwrap();
        assert_eq!((&bytes[..], in_file), (&[7u8; 11][..], true));
    }

    #[test]
    fn chunked_bodies_get_a_length() {
        let head = head(&[("Transfer-Encoding", "chunked"), ("A", "b")]);
        let text = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        let (head, bytes, in_file) = received(head, text).unwrap();
        assert_eq!(bytes, b"abc0123456789");
        assert!(in_file);
        let names: Vec<_> = head.fields.iter().map(|field| &field.name[..]).collect();
        assert_eq!(names, [&b"A"[..], b"Content-Length"]);
        assert_eq!(head.fields[1].value, b"13");
    }

    #[test]
    fn wrong_framing_is_refused() {
        let te = ("Transfer-Encoding", "chunked");
        for (fields, text, status) in [
            (
                &[("Content-Length", "1"), ("Content-Length", "1")][..],
                &b""[..],
                400,
            ),
            (&[("Content-Length", "+1")], b"", 400),
            (&[("Content-Length", "101")], b"", 413),
            (&[("Content-Length", "5")], b"abc", 0),
            (&[("Transfer-Encoding", "gzip")], b"", 501),
            (&[te, ("Content-Length", "1")], b"", 400),
            (&[te], b"x\r\n", 400),
            (&[te], b"65\r\n", 413),
            (&[te], b"1\r\nab\r\n", 400),
            (&[te], b"1;x\r\na\r\n", 400),
            (&[te], b"1\na\n0\n\n", 400),
            (&[te], b"0\r\nT: t\r\n\r\n", 400),
        ] {
            assert_eq!(
                received(head(fields), text).unwrap_err(),
                status,
                "{fields:?}"
            );
        }
    }
}
