//! Lets in who has the right token, and passes the request on to another handler.
//!
//! A component of WASI 0.3 that exports `wasi:http/handler` and imports it too:
//! it is composed with the component that it protects. The token is in the
//! environment variable TOKEN; as long as there is none, nobody is let in.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit-0.3",
        world: "wasi:http/middleware@0.3.0",
        generate_all,
    });
}

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::http::handler as next;
use crate::bindings::wasi::http::types::{ErrorCode, Fields, HeaderError, Request, Response};
use crate::bindings::wit_future;

bindings::export!(Middleware with_types_in bindings);

struct Middleware;

impl Guest for Middleware {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        if !allowed(&request.get_headers()) {
            return unauthorized();
        }
        let response = next::handle(request).await?;
        served_by_us(response)
    }
}

/// Whether there is one `authorization`, and it has the token.
fn allowed(headers: &Fields) -> bool {
    let Ok(token) = std::env::var("TOKEN") else {
        return false;
    };
    let wanted = format!("Bearer {token}").into_bytes();
    match headers.get("authorization").as_slice() {
        [given] => !token.is_empty() && same(given, &wanted),
        _ => false,
    }
}

/// Compares all bytes in any case: how long it takes does not tell how many of
/// them are right.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differences == 0
}

fn unauthorized() -> Result<Response, ErrorCode> {
    let headers = Fields::new();
    headers
        .append("www-authenticate", b"Bearer")
        .map_err(refused)?;
    // Its writer is dropped right here, which gives the default: no trailers.
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, None, no_trailers);
    set_status(&response, 401)?;
    Ok(response)
}

/// The same response with one more header field. The body's stream is handed on
/// as it is: none of its bytes come by here.
fn served_by_us(response: Response) -> Result<Response, ErrorCode> {
    let status = response.get_status_code();
    // A copy, as the headers of a response cannot be changed.
    let headers = response.get_headers().clone();
    headers
        .append("x-served-by", b"middleware")
        .map_err(refused)?;

    let (_, fine) = wit_future::new(|| Ok(()));
    let (contents, trailers) = Response::consume_body(response, fine);
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    set_status(&response, status)?;
    Ok(response)
}

fn set_status(response: &Response, status: u16) -> Result<(), ErrorCode> {
    response
        .set_status_code(status)
        .map_err(|()| ErrorCode::InternalError(Some(format!("status {status}"))))
}

fn refused(error: HeaderError) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("headers: {error:?}")))
}
