//! Routes about reaching out.

use std::io::{self, Read as _};
use std::net::SocketAddr;

use wasi::http::outgoing_handler;
use wasi::http::types::{Fields, IncomingResponse, OutgoingRequest, Scheme};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasi::sockets::tcp_create_socket::create_tcp_socket;

use crate::reply::Reply;
use crate::request::Request;

/// `/connect?addr=IP:PORT`: `connected` or the error.
pub fn connect(request: &Request, reply: Reply) -> io::Result<()> {
    let Ok(address) = request.text("addr").parse() else {
        return reply.text("error: addr is not IP:PORT\n");
    };
    match connect_tcp(address) {
        Ok(()) => reply.text("connected\n"),
        Err(error) => reply.text(format!("error: {}\n", error.name())),
    }
}

fn connect_tcp(address: SocketAddr) -> Result<(), ErrorCode> {
    let (family, address) = match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            let address = IpSocketAddress::Ipv4(Ipv4SocketAddress {
                port: v4.port(),
                address: (a, b, c, d),
            });
            (IpAddressFamily::Ipv4, address)
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            });
            (IpAddressFamily::Ipv6, address)
        }
    };

    let socket = create_tcp_socket(family)?;
    socket.start_connect(&instance_network(), address)?;
    loop {
        match socket.finish_connect() {
            Ok(_streams) => return Ok(()),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

/// `/fetch?url=URL`: status and body of a GET, or the error.
pub fn fetch(request: &Request, reply: Reply) -> io::Result<()> {
    match get(&request.text("url")) {
        Ok(response) => {
            let mut text = format!("status={}\n", response.status()).into_bytes();
            let body = response.consume().expect("the body is taken once");
            let mut stream = body.stream().expect("the stream is taken once");
            match stream.read_to_end(&mut text) {
                Ok(_) => reply.text(text),
                Err(error) => reply.text(format!("error: {error}\n")),
            }
        }
        Err(error) => reply.text(format!("error: {error}\n")),
    }
}

fn get(url: &str) -> Result<IncomingResponse, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_string()),
    };
    let path_start = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_start);
    let path = if path.is_empty() { "/" } else { path };

    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "the scheme is refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "the authority is refused")?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| "the path is refused")?;

    let response = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    response.subscribe().block();
    response
        .get()
        .ok_or("the response is not ready after all")?
        .expect("the response is taken once")
        .map_err(|error| format!("{error:?}"))
}
