//! Connections to servers of buckets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::host::dns::Resolver;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// Makes connections. Holds nothing that belongs to an event loop.
#[derive(Clone)]
pub(super) struct Dialer {
    tls: Arc<ClientConfig>,
    resolver: Arc<Resolver>,
    /// For all of making one connection.
    patience: Duration,
}

impl Dialer {
    /// Trusts servers that `authorities` vouch for.
    pub fn new(
        authorities: &[Vec<u8>],
        resolver: Arc<Resolver>,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(
            authorities
                .iter()
                .map(|der| CertificateDer::from(der.as_slice())),
        );
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS cannot be set up: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(config),
            resolver,
            patience,
        })
    }

    /// Connects to `address`.
    pub async fn dial(&self, address: &Address) -> io::Result<Stream> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        timeout(self.patience, self.connect(address))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn connect(&self, address: &Address) -> io::Result<Stream> {
        // As in a URL, an IPv6 address may come in brackets.
        let host = address.host.trim_matches(['[', ']']);
        let tcp = self.connect_tcp(host, address.port).await?;
        tcp.set_nodelay(true)?;
        if !address.tls {
            return Ok(Stream(Box::new(tcp)));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        Ok(Stream(Box::new(connector.connect(name, tcp).await?)))
    }
}

impl Dialer {
    /// Connects to the first address of `host` that takes it.
    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found = self.resolver.lookup(host).await;
        let addresses = found.map_err(io::Error::other)?;
        let mut last = None;
        for ip in addresses {
            match TcpStream::connect((ip, port)).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of whatever kind.
pub(super) struct Stream(Box<dyn Io>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
