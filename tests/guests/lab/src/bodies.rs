//! Routes about bodies, in and out.

use std::fmt::Write as _;
use std::io;

use sha2::{Digest as _, Sha256};
use wasi::http::types::Fields;

use crate::reply::{Reply, plain_text, put};
use crate::request::Request;
use crate::system::pause;

const PIECE: usize = 64 * 1024;

/// `/echo?length=0|1`: passes the body back piece by piece, as it comes.
pub fn echo(request: &Request, reply: Reply) -> io::Result<()> {
    let headers = Fields::new();
    if let Some(content_type) = request.header("content-type") {
        put(&headers, "content-type", content_type);
    }
    if request.number("length", 0) == 1 {
        if let Some(length) = request.header("content-length") {
            put(&headers, "content-length", length);
        }
    }
    let mut input = request.body();
    let mut output = reply.start(headers)?;
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece)? {
            0 => return output.finish(),
            length => output.write(&piece[..length])?,
        }
        output.flush()?;
    }
}

/// `/sha256`: digest and length of the body.
pub fn sha256(request: &Request, reply: Reply) -> io::Result<()> {
    let mut input = request.body();
    let mut digest = Sha256::new();
    let mut total = 0;
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece)? {
            0 => break,
            length => {
                digest.update(&piece[..length]);
                total += length;
            }
        }
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    reply.text(format!("{text} {total}\n"))
}

/// `/download?bytes=N&chunk=K&length=0|1`: N bytes of a pattern in writes of K.
pub fn download(request: &Request, reply: Reply) -> io::Result<()> {
    let total = request.number("bytes", 0);
    let chunk = request.number("chunk", PIECE as u64).max(1);
    let headers = plain_text();
    if request.number("length", 0) == 1 {
        put(&headers, "content-length", total.to_string());
    }
    let mut body = reply.start(headers)?;
    let mut piece = Vec::new();
    let mut sent = 0;
    while sent < total {
        let end = total.min(sent.saturating_add(chunk));
        piece.clear();
        piece.extend((sent..end).map(pattern));
        body.write(&piece)?;
        sent = end;
    }
    body.finish()
}

/// Byte number `i` of a download.
fn pattern(i: u64) -> u8 {
    i.wrapping_mul(31)
        .wrapping_add((i >> 8).wrapping_mul(17))
        .wrapping_add(7) as u8
}

/// `/sse?events=N&interval=MS`: server-sent events, each flushed.
pub fn events(request: &Request, reply: Reply) -> io::Result<()> {
    let interval = request.number("interval", 0);
    let headers = Fields::new();
    put(&headers, "content-type", "text/event-stream");
    let mut body = reply.start(headers)?;
    for i in 0..request.number("events", 1) {
        if i > 0 {
            pause(interval);
        }
        body.write(format!("data: {i}\n\n").as_bytes())?;
        body.flush()?;
    }
    body.finish()
}

/// `/short?declared=N&sent=M`: a body of another length than was promised.
pub fn short(request: &Request, reply: Reply) -> io::Result<()> {
    let headers = plain_text();
    let declared = request.number("declared", 100);
    put(&headers, "content-length", declared.to_string());
    let mut body = reply.start(headers)?;
    body.write(&vec![b'x'; request.number("sent", 10) as usize])?;
    body.finish()
}

/// `/forever?chunk=K`: a body without end.
pub fn forever(request: &Request, reply: Reply) -> io::Result<()> {
    let piece = vec![b'x'; request.number("chunk", PIECE as u64) as usize];
    let mut body = reply.start(plain_text())?;
    loop {
        body.write(&piece)?;
    }
}

/// `/drop-body?bytes=N`: reads N bytes of the body and lets go of the rest.
pub fn drop_body(request: &Request, reply: Reply) -> io::Result<()> {
    let mut left = request.number("bytes", 0) as usize;
    let mut input = request.body();
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let limit = left.min(PIECE);
        match input.read(&mut piece[..limit])? {
            0 => break,
            length => left -= length,
        }
    }
    drop(input);
    reply.text("dropped\n")
}

/// `/hold-body?ms=N`: answers, after a while, and never looks at the body.
pub fn hold_body(request: &Request, reply: Reply) -> io::Result<()> {
    pause(request.number("ms", 0));
    reply.text("held\n")
}
