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

/// `/write?path=P&n=N`: makes it N bytes long, in pieces. With `offset=O` it keeps
/// what it has, and N bytes are written there.
pub async fn write(request: &Request) -> Answer {
    fill(request, false).await
}

/// `/append?path=P&n=N`: adds N bytes to its end.
pub async fn append(request: &Request) -> Answer {
    fill(request, true).await
}

async fn fill(request: &Request, append: bool) -> Answer {
    let how = match append || request.has("offset") {
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
        false => file.write_via_stream(data, request.number("offset", 0)),
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

/// `/resize?path=P&n=N`: sets its size, as a file opened for writing, or with
/// `read=1` for reading only.
pub async fn resize(request: &Request) -> Answer {
    let access = match request.number("read", 0) {
        0 => DescriptorFlags::WRITE,
        _ => DescriptorFlags::READ,
    };
    let resized = match open(request, OpenFlags::empty(), access).await {
        Ok(file) => file.set_size(request.number("n", 0)).await,
        Err(error) => Err(error),
    };
    match resized {
        Ok(()) => reply::text("ok\n"),
        Err(error) => reply::error(error),
    }
}

/// `/make?what=W&path=P,P[&to=T]`: a `directory`, a `symlink` with the text T or a
/// hard `link` to the file T at each path. A line for each: `ok` or the error.
pub async fn make(request: &Request) -> Answer {
    let mut lines = String::new();
    for path in request.text("path").split(',') {
        let line = match make_one(request, path).await {
            Ok(()) => "ok".to_string(),
            Err(error) => reply::name(error),
        };
        lines += &(line + "\n");
    }
    reply::text(lines)
}

async fn make_one(request: &Request, path: &str) -> Result<(), ErrorCode> {
    let (folder, name) = place(path)?;
    let to = request.text("to");
    match request.text("what").as_str() {
        "directory" => folder.create_directory_at(name).await,
        "symlink" => folder.symlink_at(to, name).await,
        "link" => {
            let (from, old) = place(&to)?;
            from.link_at(PathFlags::empty(), old, &folder, name).await
        }
        _ => Err(ErrorCode::Invalid),
    }
}

/// `/streams?path=P&n=N&how=H`: N streams at the same time, to `read`, `write` or
/// `append` to the file P, or to `list` the folder. Then drops them, and says how
/// many there were and why not the last that was refused: `N ok` or `N ERROR`.
pub async fn streams(request: &Request) -> Answer {
    let how = request.text("how");
    let (open_flags, access) = match how.as_str() {
        "list" => (OpenFlags::DIRECTORY, DescriptorFlags::READ),
        "read" => (OpenFlags::empty(), DescriptorFlags::READ),
        _ => (OpenFlags::empty(), DescriptorFlags::WRITE),
    };
    let file = match open(request, open_flags, access).await {
        Ok(file) => file,
        Err(error) => return reply::error(error),
    };
    let (mut data, mut entries, mut inputs, mut ends) = (vec![], vec![], vec![], vec![]);
    for _ in 0..request.number("n", 1) {
        ends.push(match how.as_str() {
            "read" => {
                let (stream, end) = file.read_via_stream(0);
                data.push(stream);
                end
            }
            "list" => {
                let (stream, end) = file.read_directory();
                entries.push(stream);
                end
            }
            _ => {
                let (input, stream) = wit_stream::new::<u8>();
                inputs.push(input);
                match how.as_str() {
                    "append" => file.append_via_stream(stream),
                    _ => file.write_via_stream(stream, 0),
                }
            }
        });
    }
    drop((data, entries, inputs));
    let (mut open, mut refused) = (0, "ok".to_string());
    for end in ends {
        match end.await {
            Ok(()) => open += 1,
            Err(error) => refused = reply::name(error),
        }
    }
    reply::text(format!("{open} {refused}\n"))
}

/// Opens `path` in the preopened folder that it begins with.
async fn open(
    request: &Request,
    how: OpenFlags,
    access: DescriptorFlags,
) -> Result<Descriptor, ErrorCode> {
    let (folder, rest) = place(&request.text("path"))?;
    let follow = PathFlags::SYMLINK_FOLLOW;
    folder.open_at(follow, rest, how, access).await
}

/// The preopened folder that `path` begins with, and the rest of it.
fn place(path: &str) -> Result<(Descriptor, String), ErrorCode> {
    for (folder, name) in get_directories() {
        let Some(rest) = path.strip_prefix(name.trim_end_matches('/')) else {
            continue;
        };
        let rest = match rest.trim_start_matches('/') {
            "" => ".",
            rest => rest,
        };
        return Ok((folder, rest.to_string()));
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
