//! The file of a component.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of the largest file that is looked at.
const LARGEST: u64 = 1 << 30;

/// Why a file is not even looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is a folder, a pipe, a device.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// No component has so much.
    #[error("{path} has {found} bytes, more than the {LARGEST} that are looked at")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// The operating system refused something.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

/// The bytes of a file, which may be a component.
pub struct Component {
    /// The open file, for whoever reads it by itself.
    pub file: File,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Component {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let failed = |error| ReadError::Io {
            path: path.to_owned(),
            error,
        };
        let file = open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(ReadError::NotAFile(path.to_owned()));
        }
        if metadata.len() > LARGEST {
            return Err(ReadError::TooLarge {
                path: path.to_owned(),
                found: metadata.len(),
            });
        }
        let mut bytes = Vec::new();
        // It may be growing.
        (&file)
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Self { file, bytes })
    }
}

/// Opens without waiting for the other end, should it be a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
