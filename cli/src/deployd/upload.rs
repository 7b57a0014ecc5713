//! Components that are sent.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes and time for what is not wanted.
const DRAIN_BYTES: usize = 8 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// Why nothing was received.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It is too long.
    #[error("the component has more than {0} bytes")]
    TooLarge(u64),
    /// Nothing came.
    #[error("there is no component in the request")]
    Empty,
    /// It broke off.
    #[error("the component was not received: {0}")]
    Broken(String),
    /// It cannot be kept.
    #[error("the component cannot be kept: {0}")]
    Keep(#[from] io::Error),
}

/// Writes the body of a request to a file in `folder`, which goes away with the result.
pub async fn receive(
    body: &mut Incoming,
    folder: &Path,
    most: u64,
) -> Result<NamedTempFile, UploadError> {
    if body.size_hint().lower() > most {
        return Err(UploadError::TooLarge(most));
    }
    let upload = NamedTempFile::new_in(folder)?;
    let mut file = tokio::fs::File::from_std(upload.reopen()?);
    let mut received = 0;
    loop {
        let frame = timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| UploadError::Broken("the client is silent".to_owned()))?;
        let Some(frame) = frame else {
            break;
        };
        let frame = frame.map_err(|e| UploadError::Broken(e.to_string()))?;
        if let Some(part) = frame.data_ref() {
            received += part.len() as u64;
            if received > most {
                return Err(UploadError::TooLarge(most));
            }
            file.write_all(part).await?;
        }
    }
    // What was written last may not be in the file yet.
    file.flush().await?;
    match received {
        0 => Err(UploadError::Empty),
        _ => Ok(upload),
    }
}

/// Reads what is left of a body that is not wanted, or the first part of it: who is
/// still sending would not see the answer.
pub async fn drain(body: &mut Incoming) {
    let drain = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let part = frame.data_ref().map_or(0, |part| part.len());
            match left.checked_sub(part) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // After that, it is the client's loss.
    let _ = timeout(DRAIN_TIME, drain).await;
}
