//! A guest with a route for everything the tests want a guest to do: answer in
//! every shape, use every interface, and fail in every way.
//!
//! All parameters come in the query. Failures that the guest can see and that
//! are what a test asks about are answered with status 200 and a text that
//! begins with `error:` or `refused:`.

mod answers;
mod bodies;
mod faults;
mod files;
mod network;
mod reply;
mod request;
mod system;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{IncomingRequest, ResponseOutparam};

use crate::reply::Reply;
use crate::request::Request;

wasi::http::proxy::export!(Lab);

struct Lab;

impl Guest for Lab {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let request = Request::new(request);
        if let Err(error) = dispatch(&request, Reply::new(outparam)) {
            // Nearly always a client that went away.
            eprintln!("lab: {}: {error}", request.path());
        }
    }
}

fn dispatch(request: &Request, reply: Reply) -> std::io::Result<()> {
    match request.path() {
        "/" => reply.text("lab\n"),

        "/request" => answers::request(request, reply),
        "/status" => answers::status(request, reply),
        "/headers" => answers::headers(request, reply),
        "/bigheaders" => answers::big_headers(request, reply),

        "/echo" => bodies::echo(request, reply),
        "/sha256" => bodies::sha256(request, reply),
        "/download" => bodies::download(request, reply),
        "/sse" => bodies::events(request, reply),
        "/short" => bodies::short(request, reply),
        "/forever" => bodies::forever(request, reply),
        "/drop-body" => bodies::drop_body(request, reply),
        "/hold-body" => bodies::hold_body(request, reply),

        "/env" => system::environment(reply),
        "/args" => system::arguments(reply),
        "/stdin" => system::stdin(reply),
        "/stdout" => system::stdout(request, reply),
        "/stderr" => system::stderr(request, reply),
        "/print-forever" => system::print_forever(),
        "/sleep" => system::sleep(request, reply),
        "/counter" => system::counter(reply),
        "/clock" => system::clock(reply),
        "/random" => system::random(request, reply),

        "/file" => files::file(request, reply),
        "/connect" => network::connect(request, reply),
        "/fetch" => network::fetch(request, reply),

        "/spin" => faults::spin(),
        "/fill" => faults::fill(),
        "/hang" => faults::hang(),
        "/compute" => faults::compute(request, reply),
        "/alloc" => faults::allocate(request, reply),
        "/alloc-forever" => faults::allocate_forever(),
        "/handles-forever" => faults::handles_forever(),
        "/recurse" => faults::recurse(reply),
        "/panic" => panic!("lab was asked to panic"),
        "/trap" => faults::trap(),
        "/abort" => std::process::abort(),
        "/exit" => faults::exit(request),
        "/silent" => faults::silent(reply),
        "/twice" => faults::twice(reply),
        "/midbody" => faults::mid_body(request, reply),
        "/after" => faults::after(request, reply),

        _ => reply.status(404).text("no such route\n"),
    }
}
