//! One outgoing request and its response.

use std::fmt::Write as _;
use std::io::Write as _;

use sha2::{Digest as _, Sha256};
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use wasi::io::streams::{InputStream, StreamError};

use crate::request::Request;

const PIECE: usize = 64 * 1024;

/// Why there is no response, as one line: `error: STAGE ErrorCode::NAME`.
#[derive(Debug)]
pub struct Failed(pub String);

impl Failed {
    pub fn at(stage: &str, code: ErrorCode) -> Failed {
        Failed(format!("error: {stage} {code:?}\n"))
    }

    fn refused(what: &str) -> Failed {
        Failed(format!("error: {what} is refused\n"))
    }
}

/// A request that is under way.
pub struct Sent {
    future: FutureIncomingResponse,
    /// Whether the host took all of its body.
    whole: bool,
}

/// What becomes of the body of the request that came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// It is sent on, unless there is a `send` in the query.
    Forward,
    /// It is left alone: there are several requests, and it can be read once.
    Leave,
}

/// Hands the request that `/fetch` describes to the host, with its body.
pub fn send(request: &Request, url: &str, incoming: Incoming) -> Result<Sent, Failed> {
    let outgoing = describe(request, url)?;
    let body = outgoing.body().expect("the body is taken once");
    let options = options(request);
    let future =
        outgoing_handler::handle(outgoing, options).map_err(|code| Failed::at("handle", code))?;
    let whole = match request.text("leave").as_str() {
        // A body without an end.
        "body" => false,
        _ => write_body(request, body, incoming)?,
    };
    Ok(Sent { future, whole })
}

/// Waits for the response.
pub fn receive(sent: &Sent) -> Result<IncomingResponse, Failed> {
    sent.future.subscribe().block();
    let ready = sent.future.get().expect("the host says that it is ready");
    ready
        .expect("the response is taken once")
        .map_err(|code| Failed::at("response", code))
}

fn describe(request: &Request, url: &str) -> Result<OutgoingRequest, Failed> {
    let (scheme, rest) = url.split_once("://").ok_or(Failed::refused("the URL"))?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_string()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let method = match request.text("method").as_str() {
        "" | "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        other => Method::Other(other.to_string()),
    };

    let outgoing = OutgoingRequest::new(fields(request, b"header")?);
    outgoing
        .set_method(&method)
        .map_err(|()| Failed::refused("the method"))?;
    outgoing
        .set_scheme(Some(&scheme))
        .map_err(|()| Failed::refused("the scheme"))?;
    outgoing
        .set_authority(Some(authority))
        .map_err(|()| Failed::refused("the authority"))?;
    outgoing
        .set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
        .map_err(|()| Failed::refused("the path"))?;
    Ok(outgoing)
}

/// The fields in all parameters `parameter`, each as `NAME:VALUE`.
fn fields(request: &Request, parameter: &[u8]) -> Result<Fields, Failed> {
    let fields = Fields::new();
    for (_, text) in request.query().iter().filter(|(name, _)| name == parameter) {
        let colon = text.iter().position(|&byte| byte == b':');
        let (name, value) = text.split_at(colon.unwrap_or(text.len()));
        let name = String::from_utf8_lossy(name);
        let value = value.strip_prefix(b":").unwrap_or(value);
        fields
            .append(&name, value)
            .map_err(|error| Failed(format!("error: header {name}: {error}\n")))?;
    }
    Ok(fields)
}

/// None if there is nothing to say: Wasmtime 48 keeps the options of a request
/// until the guest ends, and a guest can only have so many resources.
fn options(request: &Request) -> Option<RequestOptions> {
    let given = |name: &str| {
        let milliseconds: u64 = request.text(name).parse().ok()?;
        Some(milliseconds * 1_000_000)
    };
    let connect = given("connect_ms");
    let first_byte = given("first_byte_ms");
    let between_bytes = given("between_ms");
    connect.or(first_byte).or(between_bytes)?;
    let options = RequestOptions::new();
    // A host that cannot do one of them would say so.
    options
        .set_connect_timeout(connect)
        .expect("connect timeout");
    options
        .set_first_byte_timeout(first_byte)
        .expect("first byte timeout");
    options
        .set_between_bytes_timeout(between_bytes)
        .expect("between bytes timeout");
    Some(options)
}

/// The body is `send=N` bytes, or else what came in. It ends with what `trailer`
/// says. False if the host did not take all of it, which need not be a failure:
/// a server may answer and hang up without reading to the end.
fn write_body(request: &Request, body: OutgoingBody, incoming: Incoming) -> Result<bool, Failed> {
    let mut output = body.write().expect("the stream is taken once");
    let mut whole = true;
    match request.number("send", 0) as usize {
        0 if incoming == Incoming::Leave => {}
        0 => {
            let mut input = request.body();
            let mut piece = vec![0; PIECE];
            while let Ok(length @ 1..) = input.read(&mut piece) {
                whole = output.write_all(&piece[..length]).is_ok();
                if !whole {
                    break;
                }
            }
        }
        mut left => {
            let piece = vec![b'x'; PIECE];
            while left > 0 && whole {
                let length = left.min(PIECE);
                whole = output.write_all(&piece[..length]).is_ok();
                left -= length;
            }
        }
    }
    drop(output);
    let trailers = fields(request, b"trailer")?;
    let trailers = Some(trailers).filter(|fields| !fields.entries().is_empty());
    match OutgoingBody::finish(body, trailers) {
        Err(code) if whole => Err(Failed::at("send", code)),
        _ => Ok(whole),
    }
}

/// Everything about a response, line by line: `upload=short` if the host did not
/// take all of the request, `status=`, each header field as `header NAME=VALUE`,
/// `length=` and `sha256=` of the body, `body=` if it is short, each trailer as
/// `trailer NAME=VALUE`, and `error:`.
pub fn report(sent: Sent) -> Result<String, Failed> {
    let response = receive(&sent)?;
    let mut text = String::new();
    if !sent.whole {
        text += "upload=short\n";
    }
    let _ = writeln!(text, "status={}", response.status());
    list(&mut text, "header", response.headers());
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut digest = Sha256::new();
    let mut total = 0;
    let mut start = Vec::new();
    let end = read_all(&stream, |piece| {
        digest.update(piece);
        total += piece.len();
        start.extend_from_slice(&piece[..piece.len().min(1000_usize.saturating_sub(start.len()))]);
    });
    let _ = writeln!(text, "length={total}");
    let digest = digest.finalize();
    let _ = writeln!(
        text,
        "sha256={}",
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    if total < 1000 {
        let _ = writeln!(text, "body={}", String::from_utf8_lossy(&start));
    }
    if let Err(Failed(why)) = end {
        return Ok(text + &why);
    }
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(Some(fields)))) => list(&mut text, "trailer", fields),
        Some(Ok(Ok(None))) => {}
        Some(Ok(Err(code))) => text += &Failed::at("trailers", code).0,
        Some(Err(())) | None => text += "error: trailers are not ready\n",
    }
    Ok(text)
}

fn list(text: &mut String, what: &str, fields: Fields) {
    for (name, value) in fields.entries() {
        let _ = writeln!(text, "{what} {name}={}", String::from_utf8_lossy(&value));
    }
}

/// Reads to the end.
pub fn read_all(stream: &InputStream, mut piece: impl FnMut(&[u8])) -> Result<(), Failed> {
    loop {
        match stream.blocking_read(PIECE as u64) {
            Ok(bytes) => piece(&bytes),
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => Failed::at("body", code),
                    None => Failed(format!("error: body {}\n", error.to_debug_string())),
                });
            }
        }
    }
}
