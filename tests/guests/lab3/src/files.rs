//! Routes about files, by WASI 0.3.

use std::ffi::{CString, c_char, c_int};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

use crate::bindings::wasi::filesystem::preopens::get_directories;
use crate::bindings::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags,
};
use crate::bindings::{wit_future, wit_stream};
use crate::reply::{self, Answer, plain_text};
use crate::request::Request;

const PIECE: usize = 64 * 1024;

/// `/read?path=P`: what is in it, or the error. With `splice=1` the file's own
/// stream is the response's.
pub async fn read(request: &Request) -> Answer {
    let file = match open(request, OpenFlags::empty(), DescriptorFlags::READ).await {
        Ok(file) => file,
        Err(error) => return reply::error(error),
    };
    let (stream, end) = file.read_via_stream(0);
    if request.number("splice", 0) == 1 {
        let trailers = wit_future::new(|| Ok(None)).1;
        return reply::splice(200, plain_text(), (stream, trailers));
    }
    let bytes = stream.collect().await;
    match end.await {
        Ok(()) => reply::text(bytes),
        Err(error) => reply::error(error),
    }
}

/// `/write?path=P&n=N`: makes it N bytes long, in pieces.
pub async fn write(request: &Request) -> Answer {
    fill(request, false).await
}

/// `/append?path=P&n=N`: adds N bytes to its end.
pub async fn append(request: &Request) -> Answer {
    fill(request, true).await
}

async fn fill(request: &Request, append: bool) -> Answer {
    let how = match append {
        true => OpenFlags::CREATE,
        false => OpenFlags::CREATE | OpenFlags::TRUNCATE,
    };
    let file = match open(request, how, DescriptorFlags::WRITE).await {
        Ok(file) => file,
        Err(error) => return reply::error(error),
    };
    let (mut stream, data) = wit_stream::new();
    let done = match append {
        true => file.append_via_stream(data),
        false => file.write_via_stream(data, 0),
    };
    let mut left = request.number("n", 0) as usize;
    while left > 0 {
        let piece = left.min(PIECE);
        // What is not taken is for `done` to explain.
        if !stream.write_all(vec![b'x'; piece]).await.is_empty() {
            break;
        }
        left -= piece;
    }
    drop(stream);
    match done.await {
        Ok(()) => reply::text("ok\n"),
        Err(error) => reply::error(error),
    }
}

/// `/list?path=P`: names in a folder, sorted, one per line.
pub async fn list(request: &Request) -> Answer {
    let folder = match open(request, OpenFlags::DIRECTORY, DescriptorFlags::READ).await {
        Ok(folder) => folder,
        Err(error) => return reply::error(error),
    };
    let (entries, end) = folder.read_directory();
    let entries = entries.collect().await;
    if let Err(error) = end.await {
        return reply::error(error);
    }
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name + "\n").collect();
    names.sort();
    reply::text(names.concat())
}

/// Opens `path` in the preopened folder that it begins with.
async fn open(
    request: &Request,
    how: OpenFlags,
    access: DescriptorFlags,
) -> Result<Descriptor, ErrorCode> {
    let path = request.text("path");
    for (folder, name) in get_directories() {
        let Some(rest) = path.strip_prefix(name.trim_end_matches('/')) else {
            continue;
        };
        let rest = match rest.trim_start_matches('/') {
            "" => ".",
            rest => rest,
        };
        return folder
            .open_at(PathFlags::SYMLINK_FOLLOW, rest.to_string(), how, access)
            .await;
    }
    Err(ErrorCode::Other(Some("no folder is granted there".into())))
}

/// `/file?op=OP&path=P[&data=D][&to=T]`, by WASI 0.2 as in lab: what the operation gives, `ok`, or
/// `error:` and the kind of error.
pub fn file(request: &Request) -> Answer {
    match operate(request) {
        Ok(content) => reply::text(content),
        Err(error) => reply::text(format!("error: {:?}\n", error.kind())),
    }
}

fn operate(request: &Request) -> io::Result<Vec<u8>> {
    let path = request.text("path");
    let data = request.text("data");
    match request.text("op").as_str() {
        "read" => return fs::read(path),
        "list" => return names(&path),
        "stat" => return stat(&path),
        "write" => fs::write(path, data)?,
        "append" => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?
            .write_all(data.as_bytes())?,
        "remove" => fs::remove_file(path)?,
        "symlink" => symlink(&request.text("to"), &path)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(b"ok\n".to_vec())
}

/// Names in a folder, sorted, one per line.
fn names(path: &str) -> io::Result<Vec<u8>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned() + "\n"))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.concat().into_bytes())
}

/// Kind and size; a symbolic link is not followed.
fn stat(path: &str) -> io::Result<Vec<u8>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => "dir",
        kind if kind.is_symlink() => "symlink",
        _ => "file",
    };
    Ok(format!("{kind} {}\n", metadata.len()).into_bytes())
}

/// Makes `link` a symbolic link to `target`. What std has for WASI is unstable.
fn symlink(target: &str, link: &str) -> io::Result<()> {
    unsafe extern "C" {
        // wasi-libc, which std links.
        fn symlink(target: *const c_char, link: *const c_char) -> c_int;
    }
    let target = CString::new(target)?;
    let link = CString::new(link)?;
    // SAFETY: both are strings ended by NUL, alive during the call.
    match unsafe { symlink(target.as_ptr(), link.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
