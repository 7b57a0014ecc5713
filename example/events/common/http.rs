//! What the three components have in common: requests and responses of WASI 0.3.

use std::future::Future;

use wit_bindgen::{FutureReader, StreamReader, StreamResult};

use crate::bindings::wasi::http::client;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme,
};
use crate::bindings::{wit_future, wit_stream};

/// The type of a list of events: CloudEvents 1.0, JSON batch format.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// What `handle` returns.
pub type Answer = Result<Response, ErrorCode>;

/// As much of the body of a response as is looked at.
const MOST_OF_A_RESPONSE: usize = 4096;

const PIECE: usize = 64 * 1024;

const CONNECT_MS: u64 = 1000;

/// Method and path, without the query.
pub fn target(request: &Request) -> (&'static str, String) {
    let method = match request.get_method() {
        Method::Get | Method::Head => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        _ => "other",
    };
    let path = request.get_path_with_query().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    (method, path.to_string())
}

/// The body of a request of at most `most` bytes; or the answer to one that is
/// longer.
pub async fn body(request: Request, most: usize) -> Result<Vec<u8>, Answer> {
    let (_, fine) = wit_future::new(|| Ok(()));
    match read(Request::consume_body(request, fine), most).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(respond(413, &format!("At most {most} bytes.\n"))),
        Err(error) => Err(Err(error)),
    }
}

/// What a stream has, if it has at most `most` bytes.
async fn read(
    (mut stream, end): (
        StreamReader<u8>,
        FutureReader<Result<Option<Fields>, ErrorCode>>,
    ),
    most: usize,
) -> Result<Option<Vec<u8>>, ErrorCode> {
    let mut bytes = Vec::new();
    while let (StreamResult::Complete(_), piece) = stream.read(Vec::with_capacity(PIECE)).await {
        bytes.extend(piece);
        if bytes.len() > most {
            return Ok(None);
        }
    }
    drop(stream);
    // Only this says whether that was the whole body.
    end.await?;
    Ok(Some(bytes))
}

/// An answer. Who is told that something does not work may try again in a second.
pub fn respond(status: u16, text: &str) -> Answer {
    respond_then(status, text, async {})
}

/// An answer, and what is to be done once the client has it.
pub fn respond_then(status: u16, text: &str, then: impl Future<Output = ()> + 'static) -> Answer {
    let kind = match text.starts_with('{') {
        true => "application/json",
        false => "text/plain",
    };
    let headers = fields(kind, text.len());
    if status == 503 {
        headers
            .append("retry-after", b"1")
            .expect("an ordinary field");
    }
    let (mut body, contents) = wit_stream::new();
    // Its writer is dropped right here, which gives the default.
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), no_trailers);
    response
        .set_status_code(status)
        .expect("an ordinary status");
    let text = text.as_bytes().to_vec();
    wit_bindgen::spawn_local(async move {
        body.write_all(text).await;
        // That is the end of the response.
        drop(body);
        then.await;
    });
    Ok(response)
}

fn fields(content_type: &str, length: usize) -> Fields {
    let headers = Fields::new();
    let length = length.to_string();
    for (name, value) in [("content-type", content_type), ("content-length", &length)] {
        headers
            .append(name, value.as_bytes())
            .expect("an ordinary field");
    }
    headers
}

/// Sends a request; gives the status and the beginning of the body of what comes
/// back. An error is told as text.
pub async fn send(
    method: &Method,
    url: &str,
    content_type: &str,
    body: Vec<u8>,
    patience_ms: u64,
) -> Result<(u16, String), String> {
    let (scheme, rest) = url.split_once("://").ok_or("a URL without a scheme")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_string()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };

    let options = RequestOptions::new();
    let patience = patience_ms * 1_000_000;
    options
        .set_connect_timeout(Some(CONNECT_MS * 1_000_000))
        .and_then(|()| options.set_first_byte_timeout(Some(patience)))
        .and_then(|()| options.set_between_bytes_timeout(Some(patience)))
        .map_err(|error| format!("timeouts: {error:?}"))?;

    let (mut writer, contents) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let headers = fields(content_type, body.len());
    let (request, _sent) = Request::new(headers, Some(contents), no_trailers, Some(options));
    request
        .set_method(method)
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| format!("not a URL: {url}"))?;
    wit_bindgen::spawn_local(async move {
        writer.write_all(body).await;
    });
    let response = client::send(request).await;
    let response = response.map_err(|error| format!("{error:?}"))?;

    let status = response.get_status_code();
    let (_, fine) = wit_future::new(|| Ok(()));
    let text = read(Response::consume_body(response, fine), MOST_OF_A_RESPONSE).await;
    let text = text.map_err(|error| format!("{error:?}"))?;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    Ok((status, text))
}

/// A setting in the environment of the application.
pub fn setting(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not in the environment"))
}
