//! Routes about TCP, by the standard library as programs use it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::request::Request;

/// An error as one line.
pub fn failed(stage: &str, error: &io::Error) -> String {
    format!("error: {stage} {:?}\n", error.kind())
}

/// `/tcp?addr=HOST:PORT&send=TEXT&expect=N`: connects, sends the text, ends its
/// side if `expect` is not given, and answers what it reads: N bytes, or all.
pub fn exchange(request: &Request) -> String {
    let mut stream = match TcpStream::connect(request.text("addr")) {
        Ok(stream) => stream,
        Err(error) => return failed("connect", &error),
    };
    if let Err(error) = stream.write_all(request.text("send").as_bytes()) {
        return failed("write", &error);
    }
    let mut answer = Vec::new();
    let read = match request.number("expect", 0) {
        0 => stream
            .shutdown(std::net::Shutdown::Write)
            .and_then(|()| stream.read_to_end(&mut answer)),
        bytes => stream.take(bytes).read_to_end(&mut answer),
    };
    match read {
        Ok(_) => String::from_utf8_lossy(&answer).into_owned(),
        Err(error) => failed("read", &error),
    }
}

/// `/scan?addr=IP:PORT&n=N`: tries to connect to N ports, beginning with that
/// one, and answers how many it reached.
pub fn scan(request: &Request) -> String {
    let Ok(first) = request.text("addr").parse::<SocketAddr>() else {
        return "error: addr is not IP:PORT\n".into();
    };
    let ports = (0..request.number("n", 1)).map(|number| {
        let port = u64::from(first.port()) + number;
        SocketAddr::new(first.ip(), (port % 65536) as u16)
    });
    let reached = ports.filter(|address| TcpStream::connect(address).is_ok());
    format!("{}\n", reached.count())
}

/// `/tcp-many?addr=HOST:PORT&n=N&ms=T`: opens up to N connections, keeps them
/// for so long, and answers how many there are, and why there are no more.
pub fn open_many(request: &Request) -> String {
    let address = request.text("addr");
    let mut open = Vec::new();
    let mut why = String::new();
    for _ in 0..request.number("n", 1) {
        match TcpStream::connect(&address) {
            Ok(stream) => open.push(stream),
            Err(error) => {
                why = failed("connect", &error);
                break;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(request.number("ms", 0)));
    format!("{}\n{why}", open.len())
}
