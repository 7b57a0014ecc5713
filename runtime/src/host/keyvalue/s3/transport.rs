//! OpenDAL's HTTP, on the HTTP and TLS libraries that the module has anyway.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, Response, Uri, uri};
use http_body_util::{BodyDataStream, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use tokio::sync::Semaphore;

use crate::host::event_loop::PerLoop;
use crate::host::keyvalue::dial::{Address, Dialer, Stream};
use crate::host::keyvalue::names::KEY_BYTES;

/// Bytes that the store may send which is no value: a page of names with their
/// metadata, or an error.
const MESSAGE: usize = 8 << 20;
/// Connections that are not used are closed after this time, or when there are
/// more than so many of them for each event loop.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 16;
/// Requests of each event loop that are under way at once, each of which takes a
/// connection; more wait. A process has not so many descriptors.
const AT_ONCE: usize = 64;

struct HttpClient {
    http: Client<Connector, Full<Bytes>>,
    places: Arc<Semaphore>,
}

/// Sends the requests of one bucket.
pub(super) struct Transport {
    connector: Connector,
    /// Bytes that may be received for one request.
    most: usize,
    /// A connection belongs to the event loop that has made it.
    clients: PerLoop<HttpClient>,
}

impl Transport {
    pub fn new(dialer: Dialer, max_value: usize) -> Self {
        Self {
            connector: Connector(dialer),
            most: MESSAGE.max(max_value + KEY_BYTES + 1),
            clients: PerLoop::default(),
        }
    }

    fn client(&self) -> opendal::Result<Arc<HttpClient>> {
        let new = || {
            let http = Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_timer(TokioTimer::new())
                .build(self.connector.clone());
            let places = Arc::new(Semaphore::new(AT_ONCE));
            Some(HttpClient { http, places })
        };
        let none = || Error::new(ErrorKind::Unexpected, "there is no event loop");
        self.clients.get(new).ok_or_else(none)
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        // What it says then is the length of another response's body.
        let bodiless = request.method() == Method::HEAD;
        let request = request.map(|body| Full::new(body.to_bytes()));
        let failed = |error: &dyn std::error::Error| {
            Error::new(ErrorKind::Unexpected, causes(error)).set_temporary()
        };
        let client = self.client()?;
        // Until the response has been read, or given up.
        let place = Arc::clone(&client.places).acquire_owned().await;
        let place = place.map_err(|e| failed(&e))?;
        let response = client.http.request(request).await;
        let response = response.map_err(|e| failed(&e))?;
        let most = self.most;
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
        let length = length.filter(|_| !bodiless);
        let mut received = 0;
        Ok(response.map(|body| {
            let parts = BodyDataStream::new(body).map(move |part| {
                let _under_way = &place;
                let part = part
                    .map_err(|e| Error::new(ErrorKind::Unexpected, causes(&e)).set_temporary())?;
                received += part.len();
                if received > most {
                    let text = format!("the store sends more than {most} bytes");
                    return Err(Error::new(ErrorKind::Unexpected, text));
                }
                Ok(Buffer::from(part))
            });
            HttpBody::new(parts.into_stream(), length)
        }))
    }
}

/// An error and its causes in one line: those of HTTP libraries tell little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Connects to the server of a URI.
#[derive(Clone)]
struct Connector(Dialer);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move {
            let tls = uri.scheme() == Some(&uri::Scheme::HTTPS);
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let host = uri.host().unwrap_or_default().to_owned();
            let address = Address { host, port, tls };
            Ok(TokioIo::new(dialer.dial(&address).await?))
        })
    }
}
