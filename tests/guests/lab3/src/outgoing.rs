//! Routes about requests that the guest makes.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use serde_json::json;
use wit_bindgen::StreamReader;

use crate::bindings::wasi::http::client;
use crate::bindings::wasi::http::types::{self, Fields, Method, Response, Scheme};
use crate::bindings::wit_future;
use crate::reply::{self, Answer, put};
use crate::request::{Body, Request, Trailers, all_is_well};

/// `/fetch?url=URL&method=M`: status, type and body of what comes back; the body
/// is passed on as it is. Or the error.
pub async fn fetch(request: &Request) -> Answer {
    let method = request.text("method");
    match send(&method, &request.text("url"), Fields::new(), None).await {
        Ok(response) => pass_on(response),
        Err(error) => reply::error(error),
    }
}

/// `/fetch-post?url=URL`: the same, with the request's body as the body.
pub async fn fetch_post(request: Request) -> Answer {
    let url = request.text("url");
    let headers = Fields::new();
    for name in ["content-type", "content-length"] {
        if let Some(value) = request.header(name) {
            put(&headers, name, value);
        }
    }
    match send("POST", &url, headers, Some(request.into_parts())).await {
        Ok(response) => pass_on(response),
        Err(error) => reply::error(error),
    }
}

/// `/fetch-many?url=URL&n=N&together=K`: fetches it N times, K at a time, and
/// answers how often each status or error came, and how many bytes in all.
pub async fn fetch_many(request: &Request) -> Answer {
    let url = request.text("url");
    let n = request.number("n", 1);
    let together = request.number("together", n).max(1) as usize;
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut bytes = 0;
    let mut fetches =
        futures::stream::iter((0..n).map(|_| fetch_all(&url))).buffer_unordered(together);
    while let Some((outcome, length)) = fetches.next().await {
        *outcomes.entry(outcome).or_default() += 1;
        bytes += length;
    }
    reply::json(&json!({ "outcomes": outcomes, "bytes": bytes }))
}

/// The status or error of a GET, and its body's length.
async fn fetch_all(url: &str) -> (String, usize) {
    let response = match send("GET", url, Fields::new(), None).await {
        Ok(response) => response,
        Err(error) => return (error, 0),
    };
    let status = response.get_status_code().to_string();
    let body = Body::new(Response::consume_body(response, all_is_well()));
    match body.collect().await {
        Ok(bytes) => (status, bytes.len()),
        Err(error) => (reply::name(error), 0),
    }
}

async fn send(
    method: &str,
    url: &str,
    headers: Fields,
    body: Option<(StreamReader<u8>, Trailers)>,
) -> Result<Response, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_string()),
    };
    let path_start = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_start);
    let path = if path.is_empty() { "/" } else { path };

    let (contents, trailers) = match body {
        Some((contents, trailers)) => (Some(contents), trailers),
        // Its writer, dropped, says in the background that there are none.
        None => (None, wit_future::new(|| Ok(None)).1),
    };
    let (request, _sent) = types::Request::new(headers, contents, trailers, None);
    request
        .set_method(&method_of(method))
        .map_err(|()| "the method is refused")?;
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "the scheme is refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "the authority is refused")?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| "the path is refused")?;
    client::send(request).await.map_err(reply::name)
}

fn method_of(name: &str) -> Method {
    match name {
        "" | "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_string()),
    }
}

fn pass_on(response: Response) -> Answer {
    let status = response.get_status_code();
    let headers = Fields::new();
    for value in response.get_headers().get("content-type") {
        put(&headers, "content-type", value);
    }
    reply::splice(
        status,
        headers,
        Response::consume_body(response, all_is_well()),
    )
}
