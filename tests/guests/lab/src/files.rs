//! The route about files.

use std::ffi::{CString, c_char, c_int};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

use crate::reply::Reply;
use crate::request::Request;

/// `/file?op=OP&path=P[&data=D][&to=T]`: what the operation gives, `ok`, or
/// `error:` and the kind of error.
pub fn file(request: &Request, reply: Reply) -> io::Result<()> {
    match operate(request) {
        Ok(content) => reply.text(content),
        Err(error) => reply.text(format!("error: {:?}\n", error.kind())),
    }
}

fn operate(request: &Request) -> io::Result<Vec<u8>> {
    let path = request.text("path");
    let data = request.text("data");
    match request.text("op").as_str() {
        "read" => return fs::read(path),
        "list" => return list(&path),
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
fn list(path: &str) -> io::Result<Vec<u8>> {
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
