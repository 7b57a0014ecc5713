//! Routes about the heads of requests and responses, and about trailers.

use std::fmt::Write as _;

use serde_json::json;

use crate::bindings::wasi::http::types::{ErrorCode, Fields};
use crate::reply::{self, Answer, plain_text, put};
use crate::request::Request;
use crate::system::pause;

/// `/request`: the request as the guest sees it, header values in hex.
pub fn request(request: &Request) -> Answer {
    let mut text = format!(
        "method={}\npath={}\nauthority={}\nscheme={}\n",
        request.method(),
        request.target(),
        request.authority(),
        request.scheme(),
    );
    for (name, value) in request.headers() {
        text.push_str(&name);
        text.push('=');
        for byte in value {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    reply::text(text)
}

/// `/reflect`: the same as JSON.
pub fn reflect(request: &Request) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pair = |name: String, value: &[u8]| json!([name, text(value)]);
    let query: Vec<_> = request
        .query()
        .iter()
        .map(|(name, value)| pair(text(name), value))
        .collect();
    let headers: Vec<_> = request
        .headers()
        .into_iter()
        .map(|(name, value)| pair(name, &value))
        .collect();
    reply::json(&json!({
        "method": request.method(),
        "path": request.path(),
        "query": query,
        "headers": headers,
        "authority": request.authority(),
        "scheme": request.scheme(),
    }))
}

/// `/status?code=N&body=TEXT`: content-length is set when `body` is given.
pub fn status(request: &Request) -> Answer {
    let code = request.number("code", 200);
    let headers = plain_text();
    let text = request.text("body");
    if request.has("body") {
        put(&headers, "content-length", text.len().to_string());
    }
    let (response, mut body, _sent) = reply::start(headers);
    let taken = u16::try_from(code).is_ok_and(|code| response.set_status_code(code).is_ok());
    if !taken {
        return reply::text(format!("refused: status {code}\n"));
    }
    wit_bindgen::spawn_local(async move {
        let _ = body.write(text).await;
        body.finish().await;
    });
    Ok(response)
}

/// `/headers?name=N&value=V&...`: each pair is a header field of the response,
/// text/plain is added when they name no content type.
pub fn headers(request: &Request) -> Answer {
    let headers = Fields::new();
    for pair in request.query().chunks(2) {
        let [(first, name), (second, value)] = pair else {
            return reply::text("refused: a name without a value\n");
        };
        if (first.as_slice(), second.as_slice()) != (b"name", b"value") {
            return reply::text("refused: the query is not pairs of name and value\n");
        }
        // A WIT string is UTF-8: other bytes cannot be a field's name at all.
        let Ok(name) = std::str::from_utf8(name) else {
            return reply::text("refused: the name is not UTF-8\n");
        };
        if let Err(error) = headers.append(name, value) {
            return reply::text(format!("refused: {}\n", reply::name(error)));
        }
    }
    if !headers.has("content-type") {
        put(&headers, "content-type", "text/plain");
    }
    answer_with(headers, "headers\n")
}

/// `/bigheaders?count=N&size=K`: N header fields of K bytes each.
pub fn big_headers(request: &Request) -> Answer {
    let value = vec![b'x'; request.number("size", 100) as usize];
    let headers = plain_text();
    for i in 0..request.number("count", 1) {
        if let Err(error) = headers.append(&format!("x-big-{i}"), &value) {
            return reply::text(format!("refused: {}\n", reply::name(error)));
        }
    }
    answer_with(headers, "bigheaders\n")
}

fn answer_with(headers: Fields, text: &'static str) -> Answer {
    reply::stream(headers, move |mut body| async move {
        body.write(text).await?;
        body.finish().await;
        Ok(())
    })
}

/// `/error?text=T`: no response, but an error of the handler.
pub fn error(request: &Request) -> Answer {
    let text = request.has("text").then(|| request.text("text"));
    Err(ErrorCode::InternalError(text))
}

/// `/trailers`: a response with a trailer.
pub fn trailers() -> Answer {
    let headers = plain_text();
    put(&headers, "trailer", "x-trailer");
    reply::stream(headers, |mut body| async move {
        body.write("trailers\n").await?;
        let trailers = Fields::new();
        put(&trailers, "x-trailer", "at the end");
        body.end(Ok(Some(trailers))).await;
        Ok(())
    })
}

/// `/no-trailers?ms=N`: what comes after the body is said N ms late, and never
/// without `ms`. `/no-trailers?error=1`: it is an error.
pub fn no_trailers(request: &Request) -> Answer {
    let wait = request.has("ms").then(|| request.number("ms", 0));
    let fail = request.number("error", 0) == 1;
    reply::stream(plain_text(), move |mut body| async move {
        body.write("no trailers\n").await?;
        let trailers = body.close();
        let end = match fail {
            true => Err(ErrorCode::InternalError(Some("no trailers".into()))),
            false => Ok(None),
        };
        match wait {
            Some(ms) => pause(ms).await,
            None if fail => {}
            None => {
                // Dropped, it would write its default.
                std::mem::forget(trailers);
                return Ok(());
            }
        }
        let _ = trailers.write(end).await;
        Ok(())
    })
}
