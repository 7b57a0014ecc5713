//! A large download by one client, and what the process holds meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::memory::{only, resident};
use crate::options::Options;
use crate::peers::{Peers, Who};
use crate::table::median;

const SIZE: u64 = 1 << 30;

/// The process is looked at each time that so much has arrived.
const LOOK: u64 = 32 << 20;

/// Downloads per peer.
const TIMES: usize = 3;

/// The speed, and how much the process has grown at most.
pub fn measure(_: &Options, peers: &Peers, who: Who, app: &str) -> Result<(String, f64), String> {
    let mut speeds = Vec::new();
    let mut growth = 0;
    for _ in 0..TIMES {
        let (speed, grown) = once(peers, who, app)?;
        speeds.push(speed);
        growth = growth.max(grown);
    }
    let speed = median(speeds);
    let grown = growth as f64 / 1024.0;
    Ok((format!("{speed:.0} MB/s, +{grown:.1} MiB"), speed))
}

fn once(peers: &Peers, who: Who, app: &str) -> Result<(f64, u64), String> {
    let server = peers.server(who, app).ok_or("no such application")?;
    let process = only(peers, who, app)?;
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(server.addr).map_err(io)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .map_err(io)?;
    let before = resident(process)?.total;
    let request = format!(
        "GET /download?bytes={SIZE}&length=1 HTTP/1.1\r\nHost: localhost\r\n\
         Connection: close\r\n\r\n"
    );
    let begin = Instant::now();
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut buffer = vec![0; 256 << 10];
    let (mut got, mut head, mut most, mut next) = (0, 0, before, LOOK);
    loop {
        let size = stream.read(&mut buffer).map_err(io)?;
        if size == 0 {
            break;
        }
        if got == 0 {
            head = head_size(buffer.get(..size).unwrap_or_default())?;
        }
        got += size as u64;
        if got >= next {
            next += LOOK;
            most = most.max(resident(process)?.total);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    if got != head + SIZE {
        return Err(format!("{} bytes of {SIZE}", got.saturating_sub(head)));
    }
    Ok((SIZE as f64 / 1e6 / seconds, most - before))
}

/// Length of the head, which Unit sends in one piece.
fn head_size(bytes: &[u8]) -> Result<u64, String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    match end {
        Some(end) if bytes.starts_with(b"HTTP/1.1 200 ") => Ok(end as u64 + 4),
        _ => Err(format!("{:.60}", String::from_utf8_lossy(bytes))),
    }
}
