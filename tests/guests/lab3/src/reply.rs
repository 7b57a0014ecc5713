//! The response: returned at once, its body is written by a task that goes on.

use std::fmt::Debug;
use std::future::Future;

use serde_json::{Value, json};
use wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};

use crate::bindings::wasi::http::types::{ErrorCode, Fields, Response};
use crate::bindings::{wit_future, wit_stream};
use crate::request::Trailers;

/// What `handle` returns.
pub type Answer = Result<Response, ErrorCode>;

/// Nobody reads the body any more.
pub struct Gone;

pub struct Body {
    stream: StreamWriter<u8>,
    trailers: FutureWriter<Result<Option<Fields>, ErrorCode>>,
}

impl Body {
    /// Hands all the bytes to the host, waiting while it takes none.
    pub async fn write(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), Gone> {
        match self.stream.write_all(bytes.into()).await.is_empty() {
            true => Ok(()),
            false => Err(Gone),
        }
    }

    /// Hands over some of the bytes, in a single write: how many were taken.
    pub async fn write_once(&mut self, bytes: Vec<u8>) -> Result<usize, Gone> {
        match self.stream.write(bytes).await {
            (StreamResult::Complete(taken), _) => Ok(taken),
            _ => Err(Gone),
        }
    }

    /// Ends the body: `Ok(None)` in good order, `Err` breaks it off. Returns when
    /// the host has taken the end.
    pub async fn end(self, trailers: Result<Option<Fields>, ErrorCode>) {
        let writer = self.close();
        // Nobody there to take it: the client has gone.
        let _ = writer.write(trailers).await;
    }

    pub async fn finish(self) {
        self.end(Ok(None)).await;
    }

    /// Ends the stream alone; the trailers are still to be given.
    pub fn close(self) -> FutureWriter<Result<Option<Fields>, ErrorCode>> {
        drop(self.stream);
        self.trailers
    }
}

/// A response, the body to write, and the future of how sending it went.
pub fn start(headers: Fields) -> (Response, Body, FutureReader<Result<(), ErrorCode>>) {
    let (stream, contents) = wit_stream::new();
    // The default is what the writer gives when it is dropped: a body that is
    // not ended by `finish` is broken off.
    let (trailers, end) = wit_future::new(|| {
        Err(ErrorCode::InternalError(Some(
            "lab3 dropped the body".into(),
        )))
    });
    let (response, sent) = Response::new(headers, Some(contents), end);
    (response, Body { stream, trailers }, sent)
}

/// A response whose body is written by `write`, after it was returned.
pub fn stream<F>(headers: Fields, write: impl FnOnce(Body) -> F) -> Answer
where
    F: Future<Output = Result<(), Gone>> + 'static,
{
    let (response, body, _sent) = start(headers);
    let task = write(body);
    wit_bindgen::spawn_local(async move {
        // Gone is what a client does that goes away.
        let _ = task.await;
    });
    Ok(response)
}

/// A whole answer of that status and type.
fn whole(status: u16, content_type: &str, bytes: Vec<u8>) -> Answer {
    let headers = Fields::new();
    put(&headers, "content-type", content_type);
    put(&headers, "content-length", bytes.len().to_string());
    let response = stream(headers, |mut body| async move {
        if !bytes.is_empty() {
            body.write(bytes).await?;
        }
        body.finish().await;
        Ok(())
    })?;
    // Any status that is used here is one that the host takes.
    let _ = response.set_status_code(status);
    Ok(response)
}

/// A whole answer of type text/plain.
pub fn text(text: impl Into<Vec<u8>>) -> Answer {
    whole(200, "text/plain", text.into())
}

pub fn status(status: u16, body: &str) -> Answer {
    whole(status, "text/plain", body.into())
}

pub fn json(value: &Value) -> Answer {
    whole(200, "application/json", format!("{value}\n").into_bytes())
}

/// Passes a stream on as the body, without looking at it.
pub fn splice(
    status: u16,
    headers: Fields,
    (contents, trailers): (StreamReader<u8>, Trailers),
) -> Answer {
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    let _ = response.set_status_code(status);
    Ok(response)
}

/// `{"error": NAME}` for an error of any interface.
pub fn error(error: impl Debug) -> Answer {
    json(&json!({ "error": name(error) }))
}

/// The name of an error, without that of its type.
pub fn name(error: impl Debug) -> String {
    let name = format!("{error:?}");
    match name.split_once("::") {
        Some((_, name)) => name.to_string(),
        None => name.trim_matches('"').to_string(),
    }
}

pub fn plain_text() -> Fields {
    let headers = Fields::new();
    put(&headers, "content-type", "text/plain");
    headers
}

/// Adds a header field that every host takes.
pub fn put(headers: &Fields, name: &str, value: impl AsRef<[u8]>) {
    headers
        .append(name, value.as_ref())
        .expect("an ordinary header field");
}
