//! The route about names.

use std::net::{Ipv4Addr, Ipv6Addr};

use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;
use wasi::sockets::network::{ErrorCode, IpAddress};

use crate::request::Request;

/// `/dns?name=NAME`: its addresses, one per line.
pub fn resolve(request: &Request) -> String {
    match addresses(&request.text("name")) {
        Ok(found) => found.iter().map(|address| format!("{address}\n")).collect(),
        Err(code) => format!("error: {}\n", code.name()),
    }
}

fn addresses(name: &str) -> Result<Vec<String>, ErrorCode> {
    let stream = resolve_addresses(&instance_network(), name)?;
    let mut found = Vec::new();
    loop {
        match stream.resolve_next_address() {
            Ok(None) => return Ok(found),
            Ok(Some(address)) => found.push(shown(address)),
            Err(ErrorCode::WouldBlock) => stream.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}

fn shown(address: IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).to_string(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
            Ipv6Addr::new(a, b, c, d, e, f, g, h).to_string()
        }
    }
}
