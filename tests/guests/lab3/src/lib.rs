//! A guest of WASI 0.3 with a route for everything the tests want a guest to do.
//!
//! All parameters come in the query. Errors that the guest can see are answered
//! with status 200 and `{"error": NAME}`, or a text that begins with `refused:`.
//! Where lab has a route for the same, its name and parameters are understood too.
//!
//! | routes | what they are about | where |
//! |---|---|---|
//! | `/` | hello | here |
//! | `/request` `/reflect` `/status` `/headers` `/bigheaders` | heads | answers.rs |
//! | `/error` `/trailers` `/no-trailers` | ends of responses | answers.rs |
//! | `/echo` `/splice` `/sha256` `/drop-body` `/hold-body` | bodies that come in | bodies.rs |
//! | `/bytes` `/sse` `/short` `/forever` `/gone` `/sent` `/leak-body` | bodies that go out | bodies.rs |
//! | `/count` `/counter` `/concurrent` `/instance-state` `/tasks` | sharing an instance | system.rs |
//! | `/sleep` `/sleep-sync` `/clock` `/random` | time and chance | system.rs |
//! | `/env` `/args` `/stdin` `/print` `/print3` `/stdout` `/stderr` `/print-forever` | surroundings | system.rs |
//! | `/spin` `/spin-after-head` `/fill` `/burn` `/deep` | too much CPU or stack | faults.rs |
//! | `/stall` `/stall-body` | waiting for ever | faults.rs |
//! | `/alloc` `/alloc-forever` `/handles-forever` | too much memory | faults.rs |
//! | `/trap` `/panic` `/abort` `/exit` `/half` | failing | faults.rs |
//! | `/after` `/after-spin` `/after-trap` | after the response | faults.rs |
//! | `/fetch` `/fetch-many` `/fetch-post` | requests to others | outgoing.rs |
//! | `/read` `/write` `/append` `/list` `/file` | files | files.rs |
//! | `/resize` `/make` `/streams` | files: sizes, directories and links, many streams | files.rs |
//! | `/tcp` `/tcp-many` `/udp` `/listen` `/resolve` | sockets and names | sockets.rs |

mod answers;
mod bodies;
mod faults;
mod files;
mod outgoing;
mod reply;
mod request;
mod sockets;
mod system;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit-0.3",
        world: "unit:wasm-p3/service",
        generate_all,
    });
}

use crate::bindings::exports::wasi::http::handler::Guest;
use crate::bindings::wasi::http::types;
use crate::reply::Answer;
use crate::request::Request;
use crate::system::InFlight;

bindings::export!(Lab with_types_in bindings);

struct Lab;

impl Guest for Lab {
    async fn handle(request: types::Request) -> Answer {
        let _in_flight = InFlight::enter();
        dispatch(Request::new(request)).await
    }
}

async fn dispatch(owned: Request) -> Answer {
    let path = owned.path().to_string();
    let request = &owned;
    match path.as_str() {
        "/" => reply::text("lab\n"),

        "/request" => answers::request(request),
        "/reflect" => answers::reflect(request),
        "/status" => answers::status(request),
        "/headers" => answers::headers(request),
        "/bigheaders" => answers::big_headers(request),
        "/error" => answers::error(request),
        "/trailers" => answers::trailers(),
        "/no-trailers" => answers::no_trailers(request),

        "/echo" => bodies::echo(owned),
        "/splice" => bodies::splice(owned),
        "/sha256" => bodies::sha256(owned).await,
        "/drop-body" => bodies::drop_body(owned).await,
        "/hold-body" => bodies::hold_body(owned).await,
        "/bytes" | "/download" => bodies::bytes(request),
        "/sse" => bodies::events(request),
        "/short" => bodies::short(request),
        "/forever" => bodies::forever(request),
        "/gone" => bodies::gone(request),
        "/sent" => bodies::sent(request),
        "/leak-body" => bodies::leak(request),

        "/count" => system::count(),
        "/counter" => system::counter(),
        "/concurrent" => system::concurrent(request).await,
        "/instance-state" => system::instance_state(request).await,
        "/tasks" => system::tasks(request).await,
        "/sleep" => system::sleep(request).await,
        "/sleep-sync" => system::sleep_sync(request),
        "/clock" => system::clock(),
        "/random" => system::random(request),
        "/env" => system::env(request),
        "/args" => system::args(),
        "/stdin" => system::read_stdin().await,
        "/print" => system::print(request),
        "/print3" => system::print3(request).await,
        "/stdout" => system::stdout_as_lab(request),
        "/stderr" => system::stderr_as_lab(request),
        "/print-forever" => system::print_forever(),

        "/spin" => faults::spin(),
        "/fill" => faults::fill(),
        "/spin-after-head" => faults::spin_after_head(),
        "/burn" | "/compute" => faults::burn(request),
        "/deep" | "/recurse" => faults::deep(),
        "/stall" | "/hang" => faults::stall().await,
        "/stall-body" => faults::stall_body(),
        "/alloc" => faults::allocate(request),
        "/alloc-forever" => faults::allocate_forever(),
        "/handles-forever" => faults::handles_forever(),
        "/trap" => faults::trap(),
        "/panic" => panic!("lab3 was asked to panic"),
        "/abort" => std::process::abort(),
        "/exit" => faults::exit(request),
        "/half" | "/midbody" => faults::half(request),
        "/after" => faults::after(request),
        "/after-spin" => faults::after_spin(),
        "/after-trap" => faults::after_trap(),

        "/fetch" => outgoing::fetch(request).await,
        "/fetch-many" => outgoing::fetch_many(request).await,
        "/fetch-post" => outgoing::fetch_post(owned).await,

        "/read" => files::read(request).await,
        "/write" => files::write(request).await,
        "/append" => files::append(request).await,
        "/list" => files::list(request).await,
        "/file" => files::file(request),
        "/resize" => files::resize(request).await,
        "/make" => files::make(request).await,
        "/streams" => files::streams(request).await,

        "/tcp" => sockets::tcp(request).await,
        "/tcp-many" => sockets::tcp_many(request),
        "/udp" => sockets::udp(request).await,
        "/listen" => sockets::listen(request).await,
        "/resolve" => sockets::resolve(request).await,

        _ => reply::status(404, "no such route\n"),
    }
}
