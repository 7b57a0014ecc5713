//! Connections to addresses that have been checked.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::abortable;
use futures::stream::FuturesUnordered;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

use super::error;
use super::origin::Host;
use super::rule::{SETTING, judge_address};
use super::{Outbound, Request};
use crate::output::Severity;

/// After that, the next address is tried beside the one that does not answer.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried at once: each attempt takes a descriptor.
const AT_ONCE: usize = 4;
/// When there is no room for the next address, one that has not answered for so long
/// is given up. Long enough for what was lost to be sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that nothing has been sent through.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How servers prove who they are.
pub(super) fn tls_config(roots: &[Vec<u8>]) -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    // Systems have some that nobody can use.
    store.add_parsable_certificates(
        roots
            .iter()
            .map(|root| CertificateDer::from(root.as_slice())),
    );
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Connects for `request`. Resolves its name once: what is connected to is what
/// has been checked, whatever the name server says next.
pub(super) async fn connect(
    outbound: &Outbound,
    request: &Request,
    deadline: Instant,
) -> Result<Stream, Error> {
    let origin = &request.origin;
    let addresses = match &origin.host {
        Host::Address(ip) => vec![*ip],
        Host::Name(name) => timeout_at(deadline, outbound.resolver.lookup(name))
            .await
            .map_err(|_| Error::DnsTimeout)?
            .map_err(error::from_resolve)?,
    };
    let addresses = checked(outbound, request, &addresses)?;
    let tcp = timeout_at(deadline, race(addresses, TcpStream::connect))
        .await
        .map_err(|_| Error::ConnectionTimeout)?
        .map_err(|error| {
            if error::is_out_of_descriptors(&error) {
                let text = format!("outbound {origin} failed: {error}");
                request.asking.notice(Severity::Error, &text);
            }
            error::from_connect(&error)
        })?;
    // Requests should not wait for each other's acknowledgements.
    let _ = tcp.set_nodelay(true);
    if !origin.tls {
        return Ok(Stream::Plain(tcp));
    }
    let name = match &origin.host {
        Host::Address(ip) => ServerName::from(*ip),
        Host::Name(name) => {
            ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?
        }
    };
    let config = outbound.tls().ok_or(Error::ConfigurationError)?;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    match timeout_at(deadline, handshake).await {
        Err(_) => Err(Error::ConnectionTimeout),
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            let told = error::from_tls(&error);
            if let (Error::TlsCertificateError, Some(cause)) = (&told, error::tls_cause(&error)) {
                let hint = if outbound.grant.roots.is_empty() {
                    "; no certificate authority is known: UNIT_WASM_HTTP_CA can name a file"
                } else {
                    ""
                };
                let text = format!("outbound {origin} failed: {cause}{hint}");
                request.asking.notice(Severity::Warn, &text);
            }
            Err(told)
        }
    }
}

/// Those of `addresses` that the rules let through, at least one.
fn checked(
    outbound: &Outbound,
    request: &Request,
    addresses: &[IpAddr],
) -> Result<Vec<SocketAddr>, Error> {
    let origin = &request.origin;
    let mut refused = None;
    let mut good = Vec::new();
    for &ip in addresses {
        match judge_address(&outbound.grant.rules, origin, ip) {
            Ok(()) => good.push(SocketAddr::new(ip, origin.port)),
            Err(kind) => refused = refused.or(Some((ip, kind))),
        }
    }
    if !good.is_empty() {
        return Ok(good);
    }
    if let Some((ip, kind)) = refused {
        let entry = origin.at(ip);
        let text = format!(
            "outbound {origin} refused: it has the address {ip}, which is {kind}: {SETTING} would \
             need {entry} too"
        );
        request.asking.notice(Severity::Warn, &text);
    }
    Err(Error::DestinationIpProhibited)
}

/// The first connection to any of `addresses`, which are tried in turn.
async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut left = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    // Those that have not answered, the oldest first.
    let mut silent = VecDeque::new();
    let mut first_error = None;
    loop {
        if attempts.len() < AT_ONCE
            && let Some(address) = left.next()
        {
            let (attempt, handle) = abortable(connect(address));
            attempts.push(async move { (address, attempt.await) });
            silent.push_back((address, Instant::now(), handle));
        }
        let is_full = left.len() > 0 && attempts.len() == AT_ONCE;
        let oldest = silent.front().map(|(_, since, _)| *since);
        let given_up = oldest.unwrap_or_else(Instant::now) + PATIENCE;
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some((_, Ok(Ok(stream)))) => return Ok(stream),
                Some((address, other)) => {
                    silent.retain(|(of, ..)| *of != address);
                    let late = |_| Err(io::ErrorKind::TimedOut.into());
                    if let Err(error) = other.unwrap_or_else(late) {
                        first_error.get_or_insert(error);
                    }
                }
                None => {
                    let none = || io::Error::from(io::ErrorKind::AddrNotAvailable);
                    return Err(first_error.unwrap_or_else(none));
                }
            },
            () = sleep(STAGGER), if left.len() > 0 && attempts.len() < AT_ONCE => {}
            () = sleep_until(given_up), if is_full => {
                if let Some((_, _, handle)) = silent.pop_front() {
                    handle.abort();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        let address = |n| SocketAddr::from(([127, 0, 0, n], 1));
        (1..=count).map(address).collect()
    }

    /// Which have been tried, and how many of them at once.
    #[derive(Default)]
    struct Tried {
        all: Vec<SocketAddr>,
        now: usize,
        most: usize,
    }

    struct Attempt<'a>(&'a Mutex<Tried>);

    impl<'a> Attempt<'a> {
        fn begin(tried: &'a Mutex<Tried>, address: SocketAddr) -> Self {
            let mut now = tried.lock().unwrap();
            now.all.push(address);
            now.now += 1;
            now.most = now.most.max(now.now);
            Self(tried)
        }
    }

    impl Drop for Attempt<'_> {
        fn drop(&mut self) {
            self.0.lock().unwrap().now -= 1;
        }
    }

    #[tokio::test]
    async fn a_few_addresses_are_tried_at_once_and_all_in_turn() {
        let tried = Mutex::default();
        let all = addresses(7);
        let last = *all.last().unwrap();
        // Nobody answers but the last.
        let connected = race(all.clone(), async |address| {
            let _attempt = Attempt::begin(&tried, address);
            match address == last {
                true => Ok(address),
                false => std::future::pending().await,
            }
        });
        assert_eq!(connected.await.unwrap(), last);
        let tried = tried.into_inner().unwrap();
        assert_eq!((tried.all, tried.most), (all, AT_ONCE));
    }

    /// As long as there is room, a slow one has all the time there is.
    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_not_given_up_when_all_others_refuse() {
        let all = addresses(7);
        let first = all[0];
        let connected = race(all, async |address| {
            if address == first {
                sleep(PATIENCE * 3).await;
                return Ok(address);
            }
            Err(io::Error::from(io::ErrorKind::ConnectionRefused))
        });
        assert_eq!(connected.await.unwrap(), first);
    }

    #[tokio::test]
    async fn the_next_address_is_not_waited_for_when_one_fails() {
        let tried = Mutex::default();
        let all = addresses(64);
        let failed = race(all.clone(), async |address| {
            let _attempt = Attempt::begin(&tried, address);
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        });
        let error = failed.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let tried = tried.into_inner().unwrap();
        assert_eq!((tried.all, tried.most), (all, 1));
    }
}
