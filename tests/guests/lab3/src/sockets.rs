//! Routes about sockets and names, by WASI 0.3.

use std::net::SocketAddr;

use crate::bindings::wasi::sockets::ip_name_lookup;
use crate::bindings::wasi::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    TcpSocket, UdpSocket,
};
use crate::bindings::wit_stream;
use crate::reply::{self, Answer};
use crate::request::Request;

/// `/tcp?addr=IP:PORT&send=TEXT`: connects, sends, and answers all that comes.
pub async fn tcp(request: &Request) -> Answer {
    let Some((family, address)) = address(request) else {
        return reply::error("addr is not IP:PORT");
    };
    answer(exchange(family, address, request.text("send")).await)
}

async fn exchange(
    family: IpAddressFamily,
    address: IpSocketAddress,
    text: String,
) -> Result<Vec<u8>, ErrorCode> {
    let socket = TcpSocket::create(family)?;
    socket.connect(address).await?;
    let (mut output, data) = wit_stream::new();
    let sent = socket.send(data);
    let (input, received) = socket.receive();
    let write = async move {
        if !text.is_empty() {
            output.write_all(text.into_bytes()).await;
        }
    };
    let ((), bytes) = futures::join!(write, input.collect());
    sent.await?;
    received.await?;
    Ok(bytes)
}

/// `/udp?addr=IP:PORT&send=TEXT`: sends a packet and answers the first that comes.
pub async fn udp(request: &Request) -> Answer {
    let Some((family, address)) = address(request) else {
        return reply::error("addr is not IP:PORT");
    };
    let result = async {
        let socket = UdpSocket::create(family)?;
        socket
            .send(request.text("send").into_bytes(), Some(address))
            .await?;
        let (bytes, _sender) = socket.receive().await?;
        Ok(bytes)
    };
    answer(result.await)
}

/// `/listen?addr=IP:PORT`: binds and listens; `listening`. With `accept=1` it
/// waits for a connection, and answers what that sends.
pub async fn listen(request: &Request) -> Answer {
    let Some((family, address)) = address(request) else {
        return reply::error("addr is not IP:PORT");
    };
    let result = async {
        let socket = TcpSocket::create(family)?;
        socket.bind(address)?;
        let mut connections = socket.listen()?;
        if request.number("accept", 0) != 1 {
            return Ok(b"listening\n".to_vec());
        }
        let Some(connection) = connections.next().await else {
            return Ok(b"no more connections\n".to_vec());
        };
        let (input, received) = connection.receive();
        let bytes = input.collect().await;
        received.await?;
        Ok(bytes)
    };
    answer(result.await)
}

/// `/tcp-many?n=N`: makes N sockets and keeps them; how many there are, and the
/// error that came instead of more.
pub fn tcp_many(request: &Request) -> Answer {
    let mut sockets = Vec::new();
    for _ in 0..request.number("n", 1) {
        match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                let error = reply::name(error);
                return reply::text(format!("{} {error}\n", sockets.len()));
            }
        }
    }
    reply::text(format!("{}\n", sockets.len()))
}

/// `/resolve?name=NAME`: its addresses, one per line.
pub async fn resolve(request: &Request) -> Answer {
    match ip_name_lookup::resolve_addresses(request.text("name")).await {
        Ok(addresses) => {
            let lines = addresses.into_iter().map(|address| match address {
                IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}\n"),
                IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
                    format!("{}\n", std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h))
                }
            });
            reply::text(lines.collect::<String>())
        }
        Err(error) => reply::error(error),
    }
}

fn answer(result: Result<Vec<u8>, ErrorCode>) -> Answer {
    match result {
        Ok(bytes) => reply::text(bytes),
        Err(error) => reply::error(error),
    }
}

fn address(request: &Request) -> Option<(IpAddressFamily, IpSocketAddress)> {
    Some(match request.text("addr").parse().ok()? {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            let address = Ipv4SocketAddress {
                port: v4.port(),
                address: (a, b, c, d),
            };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    })
}
