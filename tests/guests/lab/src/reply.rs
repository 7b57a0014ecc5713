//! The response: its head is set at once, its body streams.

use std::io::{self, Write as _};

use wasi::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasi::io::streams::OutputStream;

/// The chance to answer, used up by answering.
pub struct Reply {
    outparam: ResponseOutparam,
    status: u16,
}

impl Reply {
    pub fn new(outparam: ResponseOutparam) -> Reply {
        Reply {
            outparam,
            status: 200,
        }
    }

    pub fn status(self, status: u16) -> Reply {
        Reply { status, ..self }
    }

    pub fn into_outparam(self) -> ResponseOutparam {
        self.outparam
    }

    /// A whole answer of type text/plain.
    pub fn text(self, text: impl AsRef<[u8]>) -> io::Result<()> {
        let text = text.as_ref();
        let headers = plain_text();
        put(&headers, "content-length", text.len().to_string());
        let mut body = self.start(headers)?;
        body.write(text)?;
        body.finish()
    }

    /// Sends status and headers off; the body is to follow. A status that the
    /// host refuses is answered with a `refused:` text instead.
    pub fn start(self, headers: Fields) -> io::Result<Body> {
        let response = OutgoingResponse::new(headers);
        if response.set_status_code(self.status).is_err() {
            let status = self.status;
            Reply::new(self.outparam).text(format!("refused: status {status}\n"))?;
            return Err(io::Error::other("the host refuses the status"));
        }
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(self.outparam, Ok(response));
        Ok(Body {
            stream: body.write().expect("the stream is taken once"),
            body,
        })
    }
}

pub struct Body {
    // Before the body it belongs to: a child is dropped first.
    stream: OutputStream,
    body: OutgoingBody,
}

impl Body {
    /// Hands bytes to the host, waiting while it takes none.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits until the host has passed on what it was handed.
    pub fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.stream)
    }

    /// Ends the body in good order. Dropping it instead breaks it off.
    pub fn finish(self) -> io::Result<()> {
        let Body { stream, body } = self;
        drop(stream);
        OutgoingBody::finish(body, None)
            .map_err(|error| io::Error::other(format!("finish: {error:?}")))
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
