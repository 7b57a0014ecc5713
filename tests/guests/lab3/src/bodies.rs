//! Routes about bodies, in and out.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::bindings::wasi::http::types::Fields;
use crate::reply::{self, Answer, plain_text, put};
use crate::request::{Body, Request};
use crate::system::pause;

const PIECE: usize = 64 * 1024;

/// Headers of a response that gives the request's body back.
fn headers_of(request: &Request) -> Fields {
    let headers = Fields::new();
    if let Some(content_type) = request.header("content-type") {
        put(&headers, "content-type", content_type);
    }
    if request.number("length", 0) == 1 {
        if let Some(length) = request.header("content-length") {
            put(&headers, "content-length", length);
        }
    }
    headers
}

/// `/echo?length=0|1`: passes the body back piece by piece, as it comes, and its
/// trailers.
pub fn echo(request: Request) -> Answer {
    let headers = headers_of(&request);
    let mut input = request.body();
    reply::stream(headers, |mut output| async move {
        while let Some(piece) = input.read(PIECE).await {
            output.write(piece).await?;
        }
        output.end(input.trailers().await).await;
        Ok(())
    })
}

/// `/splice?length=0|1`: the body's own stream is the response's.
pub fn splice(request: Request) -> Answer {
    reply::splice(200, headers_of(&request), request.into_parts())
}

/// `/sha256`: digest and length of the body.
pub async fn sha256(request: Request) -> Answer {
    let mut input = request.body();
    let mut digest = Sha256::new();
    let mut total = 0;
    while let Some(piece) = input.read(PIECE).await {
        digest.update(&piece);
        total += piece.len();
    }
    if let Err(error) = input.trailers().await {
        return reply::error(error);
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    reply::text(format!("{text} {total}\n"))
}

/// `/bytes?n=N&chunk=K&length=0|1`: N bytes of a pattern in writes of K.
pub fn bytes(request: &Request) -> Answer {
    let total = request.number_of("n", "bytes", 0);
    let chunk = request.number("chunk", PIECE as u64).max(1);
    let headers = plain_text();
    if request.number("length", 0) == 1 {
        put(&headers, "content-length", total.to_string());
    }
    reply::stream(headers, move |mut body| async move {
        let mut sent = 0;
        while sent < total {
            let end = total.min(sent.saturating_add(chunk));
            body.write((sent..end).map(pattern).collect::<Vec<u8>>())
                .await?;
            sent = end;
        }
        body.finish().await;
        Ok(())
    })
}

/// Byte number `i` of `/bytes`, the same as in lab.
fn pattern(i: u64) -> u8 {
    i.wrapping_mul(31)
        .wrapping_add((i >> 8).wrapping_mul(17))
        .wrapping_add(7) as u8
}

/// `/sse?events=N&ms=MS`: server-sent events, with pauses.
pub fn events(request: &Request) -> Answer {
    let interval = request.number_of("ms", "interval", 0);
    let events = request.number("events", 1);
    let headers = Fields::new();
    put(&headers, "content-type", "text/event-stream");
    reply::stream(headers, move |mut body| async move {
        for i in 0..events {
            if i > 0 {
                pause(interval).await;
            }
            body.write(format!("data: {i}\n\n")).await?;
        }
        body.finish().await;
        Ok(())
    })
}

/// `/short?n=N&length=M`: a body of another length than was promised.
pub fn short(request: &Request) -> Answer {
    let headers = plain_text();
    let declared = request.number_of("length", "declared", 100);
    let sent = request.number_of("n", "sent", 10) as usize;
    put(&headers, "content-length", declared.to_string());
    reply::stream(headers, move |mut body| async move {
        body.write(vec![b'x'; sent]).await?;
        body.finish().await;
        Ok(())
    })
}

/// `/forever?chunk=K`: a body without end.
pub fn forever(request: &Request) -> Answer {
    let chunk = request.number("chunk", PIECE as u64) as usize;
    reply::stream(plain_text(), move |mut body| async move {
        loop {
            body.write(vec![b'x'; chunk]).await?;
        }
    })
}

/// `/gone?ms=N`: pieces with pauses of N ms for ever, until nobody reads them; a
/// line on stderr then says so.
pub fn gone(request: &Request) -> Answer {
    let interval = request.number("ms", 10);
    reply::stream(plain_text(), move |mut body| async move {
        let mut total = 0;
        loop {
            match body.write_once(vec![b'x'; 1000]).await {
                Ok(taken) => total += taken,
                Err(gone) => {
                    eprintln!("gone: stream closed after {total} bytes");
                    return Err(gone);
                }
            }
            pause(interval).await;
        }
    })
}

/// `/sent?n=N`: N bytes; a line on stderr says how the host says that sending
/// them went.
pub fn sent(request: &Request) -> Answer {
    let total = request.number("n", 10) as usize;
    let (response, mut body, sent) = reply::start(plain_text());
    wit_bindgen::spawn_local(async move {
        if body.write(vec![b'x'; total]).await.is_ok() {
            body.finish().await;
        }
        match sent.await {
            Ok(()) => eprintln!("sent: ok"),
            Err(error) => eprintln!("sent: {}", reply::name(error)),
        }
    });
    Ok(response)
}

/// `/leak-body?bytes=N`: N bytes of a body that is never ended, by a guest that
/// has returned.
pub fn leak(request: &Request) -> Answer {
    let total = request.number("bytes", 1000) as usize;
    reply::stream(plain_text(), move |mut body| async move {
        let written = body.write(vec![b'x'; total]).await;
        std::mem::forget(body);
        written
    })
}

/// `/drop-body?bytes=N`: reads N bytes of the body and lets go of the rest.
pub async fn drop_body(request: Request) -> Answer {
    let mut left = request.number("bytes", 0) as usize;
    let mut input: Body = request.body();
    while left > 0 {
        match input.read(left.min(PIECE)).await {
            Some(piece) => left -= piece.len(),
            None => break,
        }
    }
    drop(input);
    reply::text("dropped\n")
}

/// `/hold-body?ms=N`: answers, after a while, and never looks at the body.
pub async fn hold_body(request: Request) -> Answer {
    pause(request.number("ms", 0)).await;
    reply::text("held\n")
}
