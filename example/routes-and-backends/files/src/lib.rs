//! Files of the directory that it is granted: `GET /files/PATH` and `HEAD` send
//! one, `PUT` stores one if the directory can be written to.
//!
//! A component of WASI 0.3: a file's stream is handed on as the body of the
//! response, and the body of a request as what is written. No byte of either
//! comes by here.

mod path;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit-0.3",
        world: "unit:wasm-p3/service",
        generate_all,
    });
}

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::filesystem::preopens::get_directories;
use crate::bindings::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode as FileError, OpenFlags, PathFlags,
};
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, HeaderError, Method, Request, Response,
};
use crate::bindings::{wit_future, wit_stream};

bindings::export!(Files with_types_in bindings);

struct Files;

impl Guest for Files {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let Some(path) = path::below("/files/", &target) else {
            return refuse(400, "not a path");
        };
        match request.get_method() {
            Method::Get => send(&path, true).await,
            Method::Head => send(&path, false).await,
            Method::Put => store(&path, request).await,
            _ => refuse(405, "GET, HEAD or PUT"),
        }
    }
}

async fn send(path: &str, with_body: bool) -> Result<Response, ErrorCode> {
    let (file, size) = match find(path).await {
        Ok(found) => found,
        Err(error) => return explain(path, &error),
    };
    let headers = headers(path::content_type(path), size)?;
    // The length says whether all of the file has arrived: if it cannot be read
    // to its end, the host breaks the response off.
    let body = with_body.then(|| file.read_via_stream(0).0);
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, body, no_trailers);
    Ok(response)
}

/// An ordinary file and its size.
async fn find(path: &str) -> Result<(Descriptor, u64), FileError> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await?;
    let stat = file.stat().await?;
    match stat.type_ {
        DescriptorType::RegularFile => Ok((file, stat.size)),
        _ => Err(FileError::NoEntry),
    }
}

async fn store(path: &str, request: Request) -> Result<Response, ErrorCode> {
    let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let file = match open(path, how, DescriptorFlags::WRITE).await {
        Ok(file) => file,
        Err(error) => return explain(path, &error),
    };
    let (_, fine) = wit_future::new(|| Ok(()));
    let (body, end) = Request::consume_body(request, fine);
    if let Err(error) = file.write_via_stream(body, 0).await {
        return explain(path, &error);
    }
    // Only this says whether that was the whole body.
    end.await?;
    answer(201, "stored")
}

/// Opens what has that path in the first directory that was granted. That path
/// cannot leave it: the host sees to it, symbolic links included.
async fn open(
    path: &str,
    how: OpenFlags,
    access: DescriptorFlags,
) -> Result<Descriptor, FileError> {
    let Some((directory, _)) = get_directories().into_iter().next() else {
        return Err(FileError::Other(Some("no directory is granted".into())));
    };
    directory
        .open_at(PathFlags::SYMLINK_FOLLOW, path.into(), how, access)
        .await
}

/// What the client is told of a failure; the operator is told all, in the log.
fn explain(path: &str, error: &FileError) -> Result<Response, ErrorCode> {
    match error {
        FileError::NoEntry
        | FileError::NotDirectory
        | FileError::IsDirectory
        | FileError::NameTooLong => return refuse(404, "no such file"),
        _ => eprintln!("{path:?}: {error:?}"),
    }
    match error {
        FileError::Access | FileError::NotPermitted | FileError::ReadOnly => {
            refuse(403, "not permitted")
        }
        _ => refuse(500, "the file cannot be used"),
    }
}

fn refuse(status: u16, why: &str) -> Result<Response, ErrorCode> {
    answer_with(status, format!("{{\"error\":\"{why}\"}}\n"))
}

fn answer(status: u16, what: &str) -> Result<Response, ErrorCode> {
    answer_with(status, format!("{{\"status\":\"{what}\"}}\n"))
}

fn answer_with(status: u16, text: String) -> Result<Response, ErrorCode> {
    let headers = headers("application/json", text.len() as u64)?;
    let (mut body, contents) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), no_trailers);
    response
        .set_status_code(status)
        .map_err(|()| ErrorCode::InternalError(Some(format!("status {status}"))))?;
    // The host reads the body once it has the response.
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    Ok(response)
}

fn headers(content_type: &str, length: u64) -> Result<Fields, ErrorCode> {
    let length = length.to_string();
    let entries = [("content-type", content_type), ("content-length", &length)];
    let entries = entries.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    let refused =
        |error: HeaderError| ErrorCode::InternalError(Some(format!("headers: {error:?}")));
    Fields::from_list(&entries).map_err(refused)
}
