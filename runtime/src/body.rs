//! Request bodies as a guest reads them: piece by piece, never as a whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// Bytes read from a body file at once.
const PIECE: usize = 64 * 1024;

/// A request body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The file that holds it could not be read.
    #[error("cannot read the request body: {0}")]
    Read(#[from] std::io::Error),
    /// The file that holds it is shorter than the request says.
    #[error("the request body ends {missing} bytes early")]
    Short {
        /// Bytes that should have been there.
        missing: u64,
    },
}

impl From<BodyError> for wasmtime_wasi_http::Error {
    fn from(error: BodyError) -> Self {
        Self::InternalError(Some(error.to_string()))
    }
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// No body, or one that is in memory already.
    Bytes(Bytes),
    /// A body in a file.
    File(FileBody),
}

impl RequestBody {
    /// A request without a body.
    pub fn empty() -> Self {
        Self::Bytes(Bytes::new())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::File(file) => file.next_piece().transpose(),
        };
        Poll::Ready(piece.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.left,
        })
    }
}

/// A body in a file, read from the file's beginning whatever its position.
///
/// The file is expected to be a regular one, mostly in the page cache:
/// pieces are read where they are polled, without a thread of their own.
#[derive(Debug)]
pub struct FileBody {
    file: File,
    offset: u64,
    left: u64,
}

impl FileBody {
    /// The first `length` bytes of `file`.
    pub fn new(file: File, length: u64) -> Self {
        Self {
            file,
            offset: 0,
            left: length,
        }
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = BytesMut::zeroed(wanted);
        let got = loop {
            match self.file.read_at(&mut piece, self.offset) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let got = got.inspect_err(|_| self.left = 0)?;
        if got == 0 {
            let missing = std::mem::take(&mut self.left);
            return Err(BodyError::Short { missing });
        }
        piece.truncate(got);
        self.offset += got as u64;
        self.left = self.left.saturating_sub(got as u64);
        Ok(Some(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    fn file_with(bytes: &[u8]) -> File {
        let fd = rustix::fs::memfd_create("body", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        file
    }

    async fn collect(body: RequestBody) -> Result<Vec<u8>, BodyError> {
        Ok(body.collect().await?.to_bytes().to_vec())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_arrives_whole_and_in_pieces() {
        let data: Vec<u8> = (0..3 * PIECE + 17).map(|i| (i % 251) as u8).collect();
        let mut body = RequestBody::File(FileBody::new(file_with(&data), data.len() as u64));
        assert_eq!(body.size_hint().exact(), Some(data.len() as u64));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), PIECE);
        let rest = collect(body).await.unwrap();
        assert_eq!([first.to_vec(), rest].concat(), data);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_short_file_is_an_error_not_an_end() {
        let body = RequestBody::File(FileBody::new(file_with(b"abc"), 5));
        let error = collect(body).await.unwrap_err();
        assert!(matches!(error, BodyError::Short { missing: 2 }));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_than_the_length_is_read() {
        let body = RequestBody::File(FileBody::new(file_with(b"abcdef"), 3));
        assert_eq!(collect(body).await.unwrap(), b"abc");
        assert!(RequestBody::empty().is_end_stream());
    }
}
