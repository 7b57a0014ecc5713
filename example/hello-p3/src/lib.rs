//! Answers every request with a description of that request, in JSON.
//!
//! A component of WASI 0.3: `handle` is an async function, and one instance can
//! serve many requests at a time.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit-0.3",
        world: "wasi:http/service@0.3.0",
        generate_all,
    });
}

use serde_json::{Map, Value, json};

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, HeaderError, Method, Request, Response,
};
use crate::bindings::{wit_future, wit_stream};

bindings::export!(Hello with_types_in bindings);

struct Hello;

impl Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let method = name_of(request.get_method());
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));

        // What a component prints is in the server's log.
        eprintln!("hello-p3: {method} {path}");

        let query: Map<String, Value> = form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
            .collect();
        let headers = describe(&request.get_headers());
        let body = read_body(request).await?;
        let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".into());
        let description = json!({
            "language": "rust",
            "method": method,
            "path": path,
            "query": query,
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
            "greeting": greeting,
        });
        respond(format!("{description:#}\n"))
    }
}

fn name_of(method: Method) -> String {
    match method {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Delete => "DELETE".into(),
        Method::Connect => "CONNECT".into(),
        Method::Options => "OPTIONS".into(),
        Method::Trace => "TRACE".into(),
        Method::Patch => "PATCH".into(),
        Method::Other(name) => name,
    }
}

/// Header fields as a JSON object; values of equal names are joined.
fn describe(headers: &Fields) -> Map<String, Value> {
    let mut described: Map<String, Value> = Map::new();
    for (name, value) in headers.copy_all() {
        let value = String::from_utf8_lossy(&value);
        match described.get_mut(&name) {
            Some(Value::String(values)) => {
                values.push_str(", ");
                values.push_str(&value);
            }
            _ => {
                described.insert(name, value.into());
            }
        }
    }
    described
}

/// The request's body, all of it.
async fn read_body(request: Request) -> Result<Vec<u8>, ErrorCode> {
    // A future that says that we had no trouble with the request: its writer is
    // dropped right here, which gives the default.
    let (_, fine) = wit_future::new(|| Ok(()));
    let (stream, end) = Request::consume_body(request, fine);
    let body = stream.collect().await;
    // Only this says whether that was the whole body.
    end.await?;
    Ok(body)
}

fn respond(text: String) -> Result<Response, ErrorCode> {
    let entries = [
        ("content-type".to_string(), b"application/json".to_vec()),
        (
            "content-length".to_string(),
            text.len().to_string().into_bytes(),
        ),
    ];
    let headers = Fields::from_list(&entries).map_err(refused)?;

    let (mut body, contents) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), no_trailers);

    // The host reads the body once it has the response, so it is written by a
    // task that goes on after `handle` has returned.
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    Ok(response)
}

fn refused(error: HeaderError) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("headers: {error:?}")))
}
