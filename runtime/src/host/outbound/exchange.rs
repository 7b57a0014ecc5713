//! One request: a connection, the head, and what is left to do after it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TE};
use http::uri::{self, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::body::{Download, Held, Progress, Upload};
use super::connect::{self, Stream};
use super::pool::{self, Connection, Http1, Http2, Pool};
use super::{Outbound, Request, error};

/// Bytes and number of the fields of a response's head or trailers.
const HEAD: usize = 64 * 1024;
pub(super) const FIELDS: usize = 256;
/// Bytes read ahead of the guest, and on their way to a peer.
const BUFFER: usize = 128 * 1024;
/// Bytes that a peer may send ahead of the guest in one HTTP/2 stream, and in the
/// whole connection: enough that no guest that does not read holds up others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * pool::STREAMS as u32;

/// What one request may wait for: what is granted, or what the guest wants if
/// that is less.
pub(super) struct Timeouts {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Timeouts {
    pub fn new(outbound: &Outbound, options: Option<&RequestOptions>) -> Self {
        let lower = |granted: Duration, wanted: Option<Duration>| {
            wanted.map_or(granted, |wanted| wanted.min(granted))
        };
        let grant = &outbound.grant;
        Self {
            connect: lower(
                grant.connect_timeout,
                options.and_then(|o| o.connect_timeout),
            ),
            first_byte: lower(
                grant.first_byte_timeout,
                options.and_then(|o| o.first_byte_timeout),
            ),
            between_bytes: lower(
                grant.between_bytes_timeout,
                options.and_then(|o| o.between_bytes_timeout),
            ),
        }
    }
}

/// Sends `message` and waits for the head of the response.
pub(super) async fn exchange(
    outbound: Arc<Outbound>,
    request: Request,
    mut message: http::Request<Upload>,
    timeouts: Timeouts,
) -> Result<http::Response<WasiBody>, Error> {
    let pool = outbound.pool().ok_or_else(|| {
        Error::InternalError(Some("not on an event loop of this process".to_owned()))
    })?;
    let path = message.uri().path_and_query().cloned();
    tidy(message.headers_mut());
    let progress = Arc::clone(&message.body().progress);
    let mut held = message.body().held.clone();
    loop {
        let (connection, used) = match pool.take(&request.origin) {
            Some(connection) => (connection, true),
            None => obtain(&outbound, &pool, &request, timeouts.connect).await?,
        };
        progress.made();
        let first_byte = progress.silence(timeouts.first_byte);
        let sent = match connection {
            Connection::Http1(mut connection) => {
                address_http1(&mut message, &request, path.as_ref())?;
                held.stream = None;
                message.body_mut().held = held.clone();
                let response = tokio::select! {
                    response = connection.sender.try_send_request(message) => response,
                    () = first_byte => return Err(Error::HttpResponseTimeout),
                };
                if response.is_ok() {
                    put_back(Arc::clone(&pool), &request, connection);
                }
                response
            }
            Connection::Http2(mut connection, stream) => {
                address_http2(&mut message, &request, path.as_ref())?;
                held.stream = Some(Arc::new(stream));
                message.body_mut().held = held.clone();
                let response = tokio::select! {
                    response = connection.sender.try_send_request(message) => response,
                    () = first_byte => {
                        // Perhaps nobody is there any more.
                        connection.give_up();
                        return Err(Error::HttpResponseTimeout);
                    }
                };
                if response.as_ref().is_err_and(|e| e.message().is_some()) {
                    // Nothing can be sent there any more.
                    connection.give_up();
                }
                response
            }
        };
        match sent {
            Ok(response) => return finish(response, progress, &timeouts, held),
            Err(failed) => match unsent(failed) {
                // The connection had been closed before: nobody has seen it.
                Ok(returned) if used => message = returned,
                Ok(_) => return Err(Error::ConnectionTerminated),
                Err(error) => return Err(error),
            },
        }
    }
}

/// What has not been sent at all, or why it has failed.
fn unsent(mut failed: TrySendError<http::Request<Upload>>) -> Result<http::Request<Upload>, Error> {
    failed
        .take_message()
        .ok_or_else(|| error::from_request(failed.error()))
}

fn finish(
    response: http::Response<Incoming>,
    progress: Arc<Progress>,
    timeouts: &Timeouts,
    held: Held,
) -> Result<http::Response<WasiBody>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody has asked for it.
        return Err(Error::HttpProtocolError);
    }
    if response.headers().len() > FIELDS {
        return Err(Error::HttpResponseHeaderSectionSize(None));
    }
    let between = timeouts.between_bytes;
    Ok(response.map(|body| Download::new(body, progress, between, held).boxed_unsync()))
}

/// Keeps the connection, as soon as the response has been read and the request
/// been sent.
fn put_back(pool: Arc<Pool>, request: &Request, mut connection: Http1) {
    let origin = request.origin.clone();
    tokio::spawn(async move {
        if connection.sender.ready().await.is_ok() {
            pool.put(&origin, connection);
        }
    });
}

/// A new connection, or one that has become free meanwhile: true if so.
async fn obtain(
    outbound: &Outbound,
    pool: &Arc<Pool>,
    request: &Request,
    most: Duration,
) -> Result<(Connection, bool), Error> {
    let deadline = Instant::now() + most;
    // That of a response which has just been read needs a turn of its driver and
    // of the task that puts it back.
    for _ in 0..2 {
        yield_now().await;
        if let Some(connection) = pool.take(&request.origin) {
            return Ok((connection, true));
        }
    }
    let turn = pool.turn(&request.origin);
    let _turn = match &turn {
        None => None,
        Some(turn) => {
            let held = timeout_at(deadline, turn.lock()).await;
            let held = held.map_err(|_| Error::ConnectionTimeout)?;
            if let Some(connection) = pool.take(&request.origin) {
                return Ok((connection, true));
            }
            Some(held)
        }
    };
    let stream = connect::connect(outbound, request, deadline).await?;
    let start = async {
        match stream {
            Stream::Plain(stream) => http1(stream).await,
            Stream::Tls(stream) => match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => http2(stream, pool, request).await,
                _ => {
                    pool.only_http1(&request.origin);
                    http1(stream).await
                }
            },
        }
    };
    let connection = timeout_at(deadline, start).await;
    let connection = connection.map_err(|_| Error::ConnectionTimeout)?;
    let connection = connection.map_err(|error| error::from_request(&error))?;
    Ok((connection, false))
}

async fn http1<T>(stream: T) -> Result<Connection, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(FIELDS)
        .max_header_size(HEAD)
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    // What goes wrong there is told to whoever waits for a response.
    tokio::spawn(connection);
    sender.ready().await?;
    Ok(Connection::Http1(Http1::new(sender)))
}

async fn http2<T>(
    stream: T,
    pool: &Arc<Pool>,
    request: &Request,
) -> Result<Connection, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, mut driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD as u32)
        .max_send_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    let (connection, stream) = Http2::new(sender.clone());
    let allowance = connection.allowance();
    tokio::spawn(poll_fn(move |cx| {
        let ended = Pin::new(&mut driver).poll(cx);
        allowance(driver.current_max_send_streams());
        ended
    }));
    sender.ready().await?;
    pool.share(&request.origin, connection.clone());
    Ok(Connection::Http2(connection, stream))
}

/// A request by `METHOD /path` and `Host`.
fn address_http1(
    message: &mut http::Request<Upload>,
    request: &Request,
    path: Option<&PathAndQuery>,
) -> Result<(), Error> {
    let path = path.cloned().unwrap_or(PathAndQuery::from_static("/"));
    *message.uri_mut() = Uri::from(path);
    let host = HeaderValue::try_from(request.origin.authority());
    let host = host.map_err(|_| Error::HttpRequestUriInvalid)?;
    message.headers_mut().insert(HOST, host);
    Ok(())
}

/// A request by the whole URL, which becomes pseudo-header fields.
fn address_http2(
    message: &mut http::Request<Upload>,
    request: &Request,
    path: Option<&PathAndQuery>,
) -> Result<(), Error> {
    let path = path.cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(uri::Scheme::HTTPS)
        .authority(request.origin.authority())
        .path_and_query(path);
    *message.uri_mut() = uri.build().map_err(|_| Error::HttpRequestUriInvalid)?;
    message.headers_mut().remove(HOST);
    Ok(())
}

/// Takes out the fields that are about a connection, which is the host's.
fn tidy(headers: &mut HeaderMap) {
    const OF_CONNECTIONS: [HeaderName; 8] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("http2-settings"),
    ];
    for name in &OF_CONNECTIONS {
        headers.remove(name);
    }
    if headers.get_all(TE).iter().any(|value| value != "trailers") {
        headers.remove(TE);
    }
}
