//! What the HTTP peer answers.
//!
//! | route | answer |
//! |---|---|
//! | `/` | `peer` and the version of HTTP |
//! | `/request` | method, target, version, header fields and length of body |
//! | `/echo` | the body, as it comes, with its trailers |
//! | `/bytes?n=N` | N bytes of the pattern that the lab guest's `/download` has |
//! | `/pieces?n=N&size=B&ms=T` | N pieces of B bytes, with a pause of T before each but the first |
//! | `/component?name=hello` | the component of that example |
//! | `/slow?ms=T` | `slow`, after that time |
//! | `/status?code=N` | that status |
//! | `/redirect?to=URL&code=N` | a redirect |
//! | `/trailers` | a body and a trailer `x-check: done` |
//! | `/headers?n=N&size=B` | N header fields of B bytes each |
//! | `/die?when=head` | none: the connection is closed |
//! | `/die?when=body&n=N` | N bytes of 1,000,000 that were promised, then the same |

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use tokio::sync::mpsc;

use super::http::version_name;
use crate::guests::{self, Download};

type Body = BoxBody<Bytes, io::Error>;

pub async fn answer(request: Request<Incoming>) -> io::Result<Response<Body>> {
    let query = Query::of(&request);
    let pause = Duration::from_millis(query.number("ms"));
    let response = match request.uri().path() {
        "/" => text(format!("peer {}\n", version_name(request.version()))),
        "/request" => describe(request).await,
        "/echo" => Response::new(request.into_body().map_err(io::Error::other).boxed()),
        "/bytes" => bytes(Download::default().bytes(query.number("n") as usize)),
        "/pieces" => pieces(query.number("n"), query.number("size") as usize, pause),
        "/component" => component(&query.text("name")),
        "/slow" => {
            tokio::time::sleep(pause).await;
            text("slow\n")
        }
        "/status" => with_status(query.number("code"), text("status\n")),
        "/redirect" => {
            let code = query.text("code").parse().unwrap_or(302);
            with_header(with_status(code, text("")), "location", &query.text("to"))
        }
        "/trailers" => trailers(),
        "/headers" => many_headers(query.number("n"), query.number("size") as usize),
        "/die" if query.text("when") == "body" => dying_body(query.number("n") as usize),
        "/die" => return Err(io::Error::other("dying as told")),
        _ => with_status(404, text("no such route\n")),
    };
    Ok(response)
}

/// The query of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(n, v)| (n.to_owned(), decode(v))).collect())
    }

    fn text(&self, name: &str) -> String {
        let found = self.0.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}

fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        decoded.push(u8::from_str_radix(hex, 16).expect("a percent-encoded byte"));
        decoded.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(decoded).expect("a query in UTF-8")
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn bytes(bytes: Vec<u8>) -> Response<Body> {
    Response::new(whole(bytes.into()))
}

fn component(name: &str) -> Response<Body> {
    match name {
        "hello" => bytes(std::fs::read(guests::hello()).expect("the component")),
        _ => with_status(404, text("no such component\n")),
    }
}

fn text(text: impl Into<String>) -> Response<Body> {
    let response = bytes(text.into().into_bytes());
    with_header(response, "content-type", "text/plain")
}

fn with_status(response_code: u64, mut response: Response<Body>) -> Response<Body> {
    let code = u16::try_from(response_code).expect("a status");
    *response.status_mut() = code.try_into().expect("a status");
    response
}

fn with_header(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    let value = value.parse().expect("a field value");
    response.headers_mut().append(name, value);
    response
}

async fn describe(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let version = version_name(head.version);
    let mut lines = format!("{} {} {version}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        lines += &format!("{name}: {value}\n");
    }
    let length = match body.collect().await {
        Ok(body) => body.to_bytes().len().to_string(),
        Err(_) => "broken".to_owned(),
    };
    text(format!("{lines}body {length}\n"))
}

/// A body of what is sent into the channel.
fn streamed(frames: mpsc::Receiver<io::Result<Frame<Bytes>>>) -> Body {
    let stream = futures::stream::unfold(frames, |mut frames| async {
        let frame = frames.recv().await?;
        Some((frame, frames))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

fn pieces(count: u64, size: usize, pause: Duration) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut content = Download::default();
        for number in 0..count {
            if number > 0 {
                tokio::time::sleep(pause).await;
            }
            let piece = Frame::data(content.bytes(size).into());
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    });
    Response::new(streamed(receiver))
}

fn trailers() -> Response<Body> {
    let (sender, receiver) = mpsc::channel(2);
    let mut fields = HeaderMap::new();
    fields.insert("x-check", "done".parse().expect("a field value"));
    for frame in [Frame::data(Bytes::from("body\n")), Frame::trailers(fields)] {
        sender.try_send(Ok(frame)).expect("room for two");
    }
    with_header(Response::new(streamed(receiver)), "trailer", "x-check")
}

fn many_headers(count: u64, size: usize) -> Response<Body> {
    let mut response = text("headers\n");
    for number in 0..count {
        let name = format!("x-many-{number}");
        let name: hyper::header::HeaderName = name.parse().expect("a field name");
        let value = "x".repeat(size).parse().expect("a field value");
        response.headers_mut().insert(name, value);
    }
    response
}

fn dying_body(sent: usize) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let piece = Frame::data(Download::default().bytes(sent).into());
        if sender.send(Ok(piece)).await.is_ok() {
            // So that it goes out before the end does.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = sender.send(Err(io::Error::other("dying as told"))).await;
        }
    });
    with_header(
        Response::new(streamed(receiver)),
        "content-length",
        "1000000",
    )
}
