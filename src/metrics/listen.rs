//! `GET /metrics` on a socket of the operator's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::service::Service;
use crate::unit::Level;

/// Clients at a time.
const CLIENTS: usize = 8;
/// Time that one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Binds `addr`, which other processes of the same user may have bound as well:
/// each gets some of the clients, and knows the numbers of all.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Whether processes will be able to listen at `addr`. To be asked with the rights
/// that they have.
///
/// # Errors
///
/// The operating system's.
pub fn check(addr: SocketAddr) -> io::Result<()> {
    bind(addr).map(drop)
}

/// Listens at `addr`, from now on, and answers until it is dropped.
pub fn listen(addr: SocketAddr, service: Arc<Service>) -> impl Future<Output = ()> {
    // Not when it is first polled: who has had an answer of the application, may ask.
    let listener = bind(addr).and_then(|socket| socket.listen(64));
    answer_all(addr, listener, service)
}

async fn answer_all(addr: SocketAddr, listener: io::Result<TcpListener>, service: Arc<Service>) {
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            let text = format!("no metrics: cannot listen at {addr} (UNIT_WASM_METRICS): {error}");
            return service.app.log(Level::Error, &text);
        }
    };
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = accept(&listener).await;
        let service = Arc::clone(&service);
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request| {
                let response = answer(&request, &service);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), answer);
            // What becomes of it is the client's business.
            let _ = timeout(PATIENCE, connection).await;
            drop(permit);
        });
    }
}

async fn accept(listener: &TcpListener) -> tokio::net::TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

fn answer(request: &Request<Incoming>, service: &Service) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return short(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = short(StatusCode::METHOD_NOT_ALLOWED, "GET is allowed\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let text = service.metrics.as_ref();
    match text.map(|metrics| metrics.text(&service.state())) {
        Some(Ok(text)) => {
            let mut response = Response::new(Full::from(text));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Some(Err(error)) => {
            let text = format!("metrics cannot be read: {error}");
            service.app.log(Level::Error, &text);
            short(StatusCode::INTERNAL_SERVER_ERROR, "not to be had now\n")
        }
        None => short(StatusCode::NOT_FOUND, "there are none\n"),
    }
}

fn short(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
