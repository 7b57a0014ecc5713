//! One client connection: requests in, responses out.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{self, NoBody, Rules};
use super::head::Head;
use super::input::{Input, NoHead};
use super::{reply, target};
use crate::codec::Reader;
use crate::request::Request;
use crate::router::app::{Event, Piece};
use crate::router::site::{Http, Routed, Site, Target};
use crate::router::{Router, bump};

/// What follows a response.
#[derive(PartialEq, Eq)]
enum Then {
    /// The next request.
    Next,
    /// The end, after what the client still sends.
    Close,
    /// The end, at once.
    Drop,
}

struct Connection<'a> {
    router: &'a Rc<Router>,
    listener: &'a str,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    input: Input,
}

/// Serves a connection to its end.
pub async fn serve(router: &Rc<Router>, listener: &str, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let mut connection = Connection {
        router,
        listener,
        stream,
        peer,
        local,
        input: Input::default(),
    };
    loop {
        match connection.request().await {
            Ok(Then::Next) => {}
            Ok(Then::Close) => return connection.linger().await,
            Ok(Then::Drop) | Err(_) => return,
        }
    }
}

impl Connection<'_> {
    async fn request(&mut self) -> io::Result<Then> {
        let site = Rc::clone(&self.router.site.borrow());
        let http = &site.http;
        let head = self
            .input
            .head(
                &mut self.stream,
                http.keep_unsafe_fields,
                http.idle_timeout,
                http.header_read_timeout,
            )
            .await;
        // The configuration may have changed while the client was silent.
        let site = Rc::clone(&self.router.site.borrow());
        match head {
            Ok(head) => {
                bump(&self.router.counts.requests);
                self.answer(&site, head).await
            }
            Err(NoHead::Refused(status)) => self.refuse(status, status != 505, false).await,
            Err(NoHead::Closed) => Ok(Then::Drop),
        }
    }

    async fn refuse(&mut self, status: u16, http11: bool, keep_alive: bool) -> io::Result<Then> {
        let (bytes, keep_alive) = reply::error(status, http11, keep_alive);
        self.stream.write_all(&bytes).await?;
        Ok(if keep_alive { Then::Next } else { Then::Close })
    }

    /// Lets the client read the response before the connection is reset by
    /// what it still sends.
    async fn linger(mut self) {
        const LONGEST: Duration = Duration::from_secs(5);
        let closing = async {
            self.stream.shutdown().await?;
            while !self
                .input
                .some(&mut self.stream, 64 << 10)
                .await?
                .is_empty()
            {}
            io::Result::Ok(())
        };
        let _ = timeout(LONGEST, closing).await;
    }

    async fn answer(&mut self, site: &Site, mut head: Head) -> io::Result<Then> {
        let http11 = head.is_http11();
        let keep_alive = keep_alive(&head);
        let Some(server_name) = server_name(&head) else {
            return self.refuse(400, http11, false).await;
        };
        let Some((path, query)) = target::split(&head.target) else {
            return self.refuse(400, http11, false).await;
        };
        let rules = Rules {
            max_size: site.http.max_body_size,
            in_memory: site.http.body_buffer_size,
            directory: &self.router.tmp,
            silence: site.http.body_read_timeout,
            chunked: site.http.chunked,
        };
        let framing = match body::framing(&mut head, &rules) {
            Ok(framing) => framing,
            Err(status) => return self.refuse(status, http11, false).await,
        };
        let received = body::receive(
            &mut head,
            framing,
            &mut self.input,
            &mut self.stream,
            &rules,
        )
        .await;
        let body = match received {
            Ok(body) => body,
            Err(NoBody::Refused(status)) => return self.refuse(status, http11, false).await,
            Err(NoBody::Closed) => return Ok(Then::Drop),
        };
        let routed = Routed {
            path: &path,
            method: &head.method,
            host: &server_name,
        };
        let app = match site.resolve(self.listener, &routed) {
            Target::App(app) => app,
            Target::Return(status, location) => {
                return self.redirect(status, location, http11, keep_alive).await;
            }
        };
        let request = Request {
            method: head.method,
            target: head.target,
            path,
            query,
            version: head.version,
            server_name,
            remote: self.peer.ip().to_string().into_bytes(),
            local_addr: self.local.ip().to_string().into_bytes(),
            local_port: self.local.port().to_string().into_bytes(),
            fields: head.fields,
            content_length: body.length,
            preread: body.preread,
        };
        let events = app.submit(&request, body.file);
        let limit = app.terms.timeout;
        Exchange {
            stream: &mut self.stream,
            http: &site.http,
            http11,
            keep_alive,
            limit,
            deadline: None,
        }
        .run(events)
        .await
    }

    async fn redirect(
        &mut self,
        status: u16,
        location: Option<String>,
        http11: bool,
        keep_alive: bool,
    ) -> io::Result<Then> {
        let mut fields: Vec<(&[u8], &[u8])> = vec![(b"Content-Length", b"0")];
        if let Some(location) = &location {
            fields.push((b"Location", location.as_bytes()));
        }
        let head = reply::Head {
            status,
            fields,
            content: &[],
        };
        let mut out = Vec::new();
        let framing = reply::head(&head, http11, keep_alive, &mut out);
        self.stream.write_all(&out).await?;
        Ok(if framing.keep_alive {
            Then::Next
        } else {
            Then::Close
        })
    }
}

/// Whether the client wants the connection kept.
fn keep_alive(head: &Head) -> bool {
    let mut keep = head.is_http11();
    for value in head.values("Connection") {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        if value.contains("close") {
            keep = false;
        }
        if value.contains("keep-alive") {
            keep = true;
        }
    }
    keep
}

/// The `Host` without port, in lower case; `None` if it is malformed.
fn server_name(head: &Head) -> Option<Vec<u8>> {
    let mut hosts = head.values("Host");
    let Some(host) = hosts.next() else {
        return Some(b"localhost".to_vec());
    };
    if hosts.next().is_some() || host.contains(&b'/') {
        return None;
    }
    if host.windows(2).any(|pair| pair == b"..") {
        return None;
    }
    let end = if host.starts_with(b"[") {
        host.iter().position(|byte| *byte == b']').map(|at| at + 1)
    } else {
        host.iter().position(|byte| *byte == b':')
    };
    let name = host.get(..end.unwrap_or(host.len())).unwrap_or(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Some(b"localhost".to_vec());
    }
    Some(name.to_ascii_lowercase())
}

/// A request that an application answers.
struct Exchange<'a> {
    stream: &'a mut TcpStream,
    http: &'a Http,
    http11: bool,
    keep_alive: bool,
    /// `limits.timeout`.
    limit: Option<Duration>,
    deadline: Option<Instant>,
}

impl Exchange<'_> {
    /// The next event; `None` when the application has taken too long.
    async fn next(&mut self, events: &mut UnboundedReceiver<Event>) -> Option<Event> {
        let next = match self.deadline {
            Some(deadline) => timeout_at(deadline, events.recv()).await.ok()?,
            None => events.recv().await,
        };
        self.deadline = self.limit.map(|limit| Instant::now() + limit);
        Some(next.unwrap_or(Event::Failed))
    }

    async fn run(mut self, mut events: UnboundedReceiver<Event>) -> io::Result<Then> {
        let piece = loop {
            match self.next(&mut events).await {
                Some(Event::Taken) => {}
                Some(Event::Head(piece)) => break piece,
                Some(Event::Data(_) | Event::Failed) | None => return self.unavailable().await,
            }
        };
        let Some(head) = reply::Head::decode(&piece.payload) else {
            return self.unavailable().await;
        };
        let mut out = Vec::new();
        let framing = reply::head(&head, self.http11, self.keep_alive, &mut out);
        content(head.content, framing.chunked, piece.last, &mut out);
        self.write(&out).await?;
        let mut last = piece.last;
        drop(piece);
        while !last {
            match self.next(&mut events).await {
                Some(Event::Data(piece)) => {
                    last = piece.last;
                    self.piece(piece, framing.chunked).await?;
                }
                Some(Event::Taken) => {}
                Some(Event::Head(_) | Event::Failed) | None => return Ok(Then::Drop),
            }
        }
        Ok(if framing.keep_alive {
            Then::Next
        } else {
            Then::Close
        })
    }

    async fn unavailable(&mut self) -> io::Result<Then> {
        let (bytes, keep_alive) = reply::error(503, self.http11, self.keep_alive);
        self.write(&bytes).await?;
        Ok(if keep_alive { Then::Next } else { Then::Close })
    }

    async fn piece(&mut self, mut piece: Piece, chunked: bool) -> io::Result<()> {
        let mut out = Vec::new();
        if !piece.in_chunks {
            content(&piece.payload, chunked, piece.last, &mut out);
            return self.write(&out).await;
        }
        let mut left = Reader::new(&piece.payload).u32().unwrap_or(0) as usize;
        if chunked {
            self.write(format!("{left:x}\r\n").as_bytes()).await?;
        }
        while left > 0 {
            piece.credit.read(left, &mut out)?;
            if out.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(out.len());
            self.write(&out).await?;
        }
        out.clear();
        if chunked {
            out.extend_from_slice(b"\r\n");
        }
        content(&[], chunked, piece.last, &mut out);
        self.write(&out).await
    }

    /// Writes all, as long as the client takes some now and then.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(self.http.send_timeout, self.stream.write(bytes)).await??;
            bytes = bytes.get(written..).unwrap_or_default();
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

fn content(bytes: &[u8], chunked: bool, last: bool, out: &mut Vec<u8>) {
    if !chunked {
        out.extend_from_slice(bytes);
        return;
    }
    if !bytes.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
    if last {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Field;

    fn head(version: &str, fields: &[(&str, &str)]) -> Head {
        Head {
            version: version.into(),
            fields: fields
                .iter()
                .map(|(name, value)| Field {
                    name: (*name).into(),
                    value: (*value).into(),
                })
                .collect(),
            ..Head::default()
        }
    }

    #[test]
    fn connections_are_kept_as_clients_ask() {
        assert!(keep_alive(&head("HTTP/1.1", &[])));
        assert!(!keep_alive(&head("HTTP/1.0", &[])));
        assert!(!keep_alive(&head("HTTP/1.1", &[("connection", "Close")])));
        assert!(keep_alive(&head(
            "HTTP/1.0",
            &[("Connection", "Keep-Alive")]
        )));
    }

    #[test]
    fn the_server_name_is_the_plain_host() {
        let name = |host: &str| server_name(&head("HTTP/1.1", &[("Host", host)]));
        assert_eq!(name("Example.COM:80").unwrap(), b"example.com");
        assert_eq!(name("example.com.").unwrap(), b"example.com");
        assert_eq!(name("[::1]:80").unwrap(), b"[::1]");
        assert_eq!(name("").unwrap(), b"localhost");
        assert_eq!(name("a/b"), None);
        assert_eq!(name("a..b"), None);
        assert_eq!(server_name(&head("HTTP/1.1", &[])).unwrap(), b"localhost");
        let twice = [("Host", "a"), ("Host", "a")];
        assert_eq!(server_name(&head("HTTP/1.1", &twice)), None);
    }

    #[test]
    fn chunks_are_framed() {
        let mut out = Vec::new();
        content(b"0123456789abcdef", true, false, &mut out);
        content(b"", true, true, &mut out);
        assert_eq!(out, b"10\r\n0123456789abcdef\r\n0\r\n\r\n");
    }
}
