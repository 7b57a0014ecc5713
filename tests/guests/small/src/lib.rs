//! Answers every request in as little memory as a Rust guest can do with.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wasi::http::proxy::export!(Small);

struct Small;

impl Guest for Small {
    fn handle(_: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(outparam, Ok(response));
        let Ok(out) = body.write() else { return };
        if out.blocking_write_and_flush(b"small\n").is_ok() {
            drop(out);
            let _ = OutgoingBody::finish(body, None);
        }
    }
}
