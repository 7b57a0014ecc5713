//! A guest that uses sockets, looks up names and writes files.
//!
//! All parameters come in the query. What a guest can see of a failure is
//! answered with status 200 and a line that begins with `error:`.

#[path = "../../lab/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab/src/request.rs"]
#[allow(dead_code)]
mod request;

mod databases;
mod files;
mod lookup;
mod sockets;
mod tcp;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(CapsNet);

struct CapsNet;

impl Guest for CapsNet {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        if let Err(error) = dispatch(&request, Reply::new(outparam)) {
            eprintln!("caps-net: {}: {error}", request.path());
        }
    }
}

fn dispatch(request: &Request, reply: Reply) -> std::io::Result<()> {
    match request.path() {
        "/" => reply.text("caps-net\n"),

        "/tcp" => reply.text(tcp::exchange(request)),
        "/tcp-many" => reply.text(tcp::open_many(request)),
        "/scan" => reply.text(tcp::scan(request)),
        "/redis" => reply.text(databases::redis(request)),
        "/postgres" => reply.text(databases::postgres(request)),
        "/udp" => reply.text(sockets::udp(request)),
        "/listen" => reply.text(sockets::listen(request)),
        "/dns" => reply.text(lookup::resolve(request)),

        "/write" => reply.text(files::write(request)),
        "/many-files" => reply.text(files::many(request)),

        _ => reply.status(404).text("no such route\n"),
    }
}
