//! A guest that makes outgoing requests.
//!
//! All parameters come in the query. What a guest can see of a failure is
//! answered with status 200 and a line that begins with `error:`.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod exchange;
mod fetch;
mod many;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsHttp);

struct CapsHttp;

impl Guest for CapsHttp {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        if let Err(error) = dispatch(&request, Reply::new(outparam)) {
            eprintln!("caps-http: {}: {error}", request.path());
        }
    }
}

fn dispatch(request: &Request, reply: Reply) -> std::io::Result<()> {
    match request.path() {
        "/" => reply.text("caps-http\n"),

        "/fetch" => reply.text(fetch::fetch(request)),
        "/fetch-many" => reply.text(many::fetch(request)),
        "/fetch-stream" => fetch::stream(request, reply),
        "/fetch-drop" => reply.text(fetch::break_off(request)),

        _ => reply.status(404).text("no such route\n"),
    }
}
