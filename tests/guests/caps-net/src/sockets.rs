//! Routes about sockets that tell the outcome of each single step.

use std::net::SocketAddr;

use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::io::poll::{Pollable, poll};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasi::sockets::tcp_create_socket::create_tcp_socket;
use wasi::sockets::udp::{OutgoingDatagram, UdpSocket};
use wasi::sockets::udp_create_socket::create_udp_socket;

use crate::request::Request;

/// Steps and their outcomes, up to the first that fails.
#[derive(Default)]
struct Steps(String);

impl Steps {
    fn take<T>(&mut self, step: &str, outcome: Result<T, ErrorCode>) -> Result<T, Stop> {
        let said = match &outcome {
            Ok(_) => "ok",
            Err(code) => code.name(),
        };
        self.0 += &format!("{step}: {said}\n");
        outcome.map_err(|_| Stop)
    }
}

/// A step has failed.
struct Stop;

/// `/listen?addr=IP:PORT&accept=MS`: binds a TCP socket, listens, and waits so
/// long for a connection, which it sends `hello`. The steps are `create`, `bind`,
/// `listen` and `accept`; `local: ADDRESS` says where it listens.
pub fn listen(request: &Request) -> String {
    let mut steps = Steps::default();
    let _ = try_listen(request, &mut steps);
    steps.0
}

fn try_listen(request: &Request, steps: &mut Steps) -> Result<(), Stop> {
    let Some(address) = address(&request.text("addr")) else {
        return steps.take("addr", Err(ErrorCode::InvalidArgument));
    };
    let socket = steps.take("create", create_tcp_socket(family(address)))?;
    let bound = socket
        .start_bind(&instance_network(), address)
        .and_then(|()| complete(&socket.subscribe(), || socket.finish_bind()));
    steps.take("bind", bound)?;
    let listening = socket
        .start_listen()
        .and_then(|()| complete(&socket.subscribe(), || socket.finish_listen()));
    steps.take("listen", listening)?;
    if let Ok(local) = socket.local_address() {
        steps.0 += &format!("local: {}\n", shown(local));
    }
    let patience = request.number("accept", 0);
    if patience > 0 {
        let accepted = within(patience, &socket.subscribe(), || socket.accept());
        let (_connection, _input, output) = steps.take("accept", accepted)?;
        let sent = output.blocking_write_and_flush(b"hello");
        steps.take("send", sent.map_err(|_| ErrorCode::Unknown))?;
    }
    Ok(())
}

/// `/udp?addr=IP:PORT&send=TEXT&bind=IP:PORT&unconnected=1&ms=T`: sends a
/// datagram and waits so long for one. The steps are `create`, `bind` (to any
/// address, unless `bind` names one), `stream`, `send` and `receive`; `from
/// ADDRESS: TEXT` is what came.
pub fn udp(request: &Request) -> String {
    let mut steps = Steps::default();
    let _ = try_udp(request, &mut steps);
    steps.0
}

fn try_udp(request: &Request, steps: &mut Steps) -> Result<(), Stop> {
    let Some(remote) = address(&request.text("addr")) else {
        return steps.take("addr", Err(ErrorCode::InvalidArgument));
    };
    let any = match family(remote) {
        IpAddressFamily::Ipv4 => "0.0.0.0:0",
        IpAddressFamily::Ipv6 => "[::]:0",
    };
    let local = address(&request.text("bind")).or(address(any));
    let socket = steps.take("create", create_udp_socket(family(remote)))?;
    steps.take("bind", bind_udp(&socket, local.expect("an address")))?;
    let unconnected = request.number("unconnected", 0) == 1;
    let (to, named) = match unconnected {
        true => (None, Some(remote)),
        false => (Some(remote), None),
    };
    let (incoming, outgoing) = steps.take("stream", socket.stream(to))?;
    let datagram = OutgoingDatagram {
        data: request.text("send").into_bytes(),
        remote_address: named,
    };
    outgoing.subscribe().block();
    let sent = outgoing
        .check_send()
        .and_then(|_| outgoing.send(&[datagram]));
    steps.take("send", sent)?;

    let received = within(request.number("ms", 2000), &incoming.subscribe(), || {
        let mut all = incoming.receive(1)?;
        all.pop().ok_or(ErrorCode::WouldBlock)
    });
    let datagram = steps.take("receive", received)?;
    let text = String::from_utf8_lossy(&datagram.data).into_owned();
    steps.0 += &format!("from {}: {text}\n", shown(datagram.remote_address));
    Ok(())
}

fn bind_udp(socket: &UdpSocket, local: IpSocketAddress) -> Result<(), ErrorCode> {
    socket.start_bind(&instance_network(), local)?;
    complete(&socket.subscribe(), || socket.finish_bind())
}

fn complete<T>(
    ready: &Pollable,
    mut step: impl FnMut() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            outcome => return outcome,
        }
    }
}

/// Tries until it is done or the time is over, which is `Timeout`.
fn within<T>(
    milliseconds: u64,
    ready: &Pollable,
    mut step: impl FnMut() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    let over = subscribe_duration(milliseconds * 1_000_000);
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) if over.ready() => return Err(ErrorCode::Timeout),
            Err(ErrorCode::WouldBlock) => drop(poll(&[ready, &over])),
            outcome => return outcome,
        }
    }
}

fn address(text: &str) -> Option<IpSocketAddress> {
    Some(match text.parse().ok()? {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress {
                port: v4.port(),
                address: (a, b, c, d),
            })
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            })
        }
    })
}

fn shown(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(v4) => {
            let (a, b, c, d) = v4.address;
            SocketAddr::from(([a, b, c, d], v4.port)).to_string()
        }
        IpSocketAddress::Ipv6(v6) => {
            let (a, b, c, d, e, f, g, h) = v6.address;
            SocketAddr::from(([a, b, c, d, e, f, g, h], v6.port)).to_string()
        }
    }
}

fn family(address: IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}
