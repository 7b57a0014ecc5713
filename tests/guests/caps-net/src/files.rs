//! Routes that write files, by each of the functions that WASI has for it.

use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags, filesystem_error_code,
};
use wasi::io::streams::{InputStream, OutputStream, StreamError};

use crate::request::Request;

/// What a stream takes at once when it is told to flush.
const PIECE: u64 = 4096;

/// `/write?path=P&bytes=N&how=stream|append|pwrite|truncate|write_zeroes|splice&chunk=K`:
/// writes N bytes to a file in pieces of K; `splice` takes all of the file `from`.
/// Answers `written=` and, when the host refuses more, `error:`.
pub fn write(request: &Request) -> String {
    let file = match create(&request.text("path")) {
        Ok(file) => file,
        Err(code) => return format!("written=0\nerror: open {}\n", code.name()),
    };
    let mut written = 0;
    match write_by(request, &file, &mut written) {
        Ok(()) => format!("written={written}\n"),
        Err(why) => format!("written={written}\nerror: {why}\n"),
    }
}

fn write_by(request: &Request, file: &Descriptor, written: &mut u64) -> Result<(), String> {
    let bytes = request.number("bytes", 0);
    let chunk = request.number("chunk", PIECE).max(1);
    let code = |code: ErrorCode| code.name().to_string();
    match request.text("how").as_str() {
        "pwrite" => {
            while *written < bytes {
                let length = chunk.min(bytes - *written) as usize;
                let done = file.write(&vec![b'x'; length], *written).map_err(code)?;
                // As a program does that loops until all is written.
                if done == 0 {
                    return Err("nothing is taken".into());
                }
                *written += done;
            }
            Ok(())
        }
        "truncate" => {
            file.set_size(bytes).map_err(code)?;
            *written = bytes;
            Ok(())
        }
        "append" => to_stream(
            &file.append_via_stream().map_err(code)?,
            bytes,
            chunk,
            written,
        ),
        "stream" => to_stream(
            &file.write_via_stream(0).map_err(code)?,
            bytes,
            chunk,
            written,
        ),
        "write_zeroes" => {
            let stream = file.write_via_stream(0).map_err(code)?;
            while *written < bytes {
                let length = chunk.min(PIECE).min(bytes - *written);
                stream
                    .blocking_write_zeroes_and_flush(length)
                    .map_err(said)?;
                *written += length;
            }
            Ok(())
        }
        "splice" => {
            let stream = file.write_via_stream(0).map_err(code)?;
            let from = open(
                &request.text("from"),
                OpenFlags::empty(),
                DescriptorFlags::READ,
            );
            let input = from
                .and_then(|from| from.read_via_stream(0))
                .map_err(code)?;
            splice(&input, &stream, chunk, written)
        }
        _ => Err("how".into()),
    }
}

fn to_stream(
    stream: &OutputStream,
    bytes: u64,
    chunk: u64,
    written: &mut u64,
) -> Result<(), String> {
    let piece = vec![b'x'; chunk.min(PIECE) as usize];
    while *written < bytes {
        let length = piece.len().min((bytes - *written) as usize);
        stream
            .blocking_write_and_flush(&piece[..length])
            .map_err(said)?;
        *written += length as u64;
    }
    Ok(())
}

/// Copies without looking.
fn splice(
    input: &InputStream,
    output: &OutputStream,
    chunk: u64,
    written: &mut u64,
) -> Result<(), String> {
    loop {
        match output.blocking_splice(input, chunk) {
            Ok(length) => *written += length,
            Err(StreamError::Closed) => break,
            Err(error) => return Err(said(error)),
        }
    }
    output.blocking_flush().map_err(said)
}

/// What a stream's error says about files, or else about itself.
fn said(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".into(),
        StreamError::LastOperationFailed(error) => match filesystem_error_code(&error) {
            Some(code) => code.name().to_string(),
            None => error.to_debug_string(),
        },
    }
}

/// `/many-files?dir=D&n=N`: makes N empty files, and answers how many it made,
/// and why there are no more.
pub fn many(request: &Request) -> String {
    let directory = request.text("dir");
    let mut made = 0;
    while made < request.number("n", 1) {
        match create(&format!("{directory}/file-{made}")) {
            Ok(_) => made += 1,
            Err(code) => return format!("{made}\nerror: {}\n", code.name()),
        }
    }
    format!("{made}\n")
}

/// Opens a file for writing, and makes it if need be.
fn create(path: &str) -> Result<Descriptor, ErrorCode> {
    open(path, OpenFlags::CREATE, DescriptorFlags::WRITE)
}

fn open(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    let directories = get_directories();
    let found = directories.iter().find_map(|(directory, at)| {
        let rest = path.strip_prefix(at.as_str())?.strip_prefix('/')?;
        Some((directory, rest))
    });
    let (directory, rest) = found.ok_or(ErrorCode::NoEntry)?;
    directory.open_at(PathFlags::empty(), rest, how, flags)
}
