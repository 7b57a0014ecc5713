//! Where a request is to go.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

use crate::host::net::{NotAName, host_name};

/// A host as it stands in a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    /// In lower case, without a dot at the end.
    Name(String),
    /// Not an IPv4 address in an IPv6 one.
    Address(IpAddr),
}

/// What connections are shared by: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub tls: bool,
    pub host: Host,
    pub port: u16,
}

/// Why a URL cannot be asked for, in words without anything secret in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoOrigin {
    #[error("the scheme is neither http nor https")]
    Scheme,
    #[error("the URL has no host")]
    NoHost,
    #[error("the URL has a user's name or password in it")]
    UserInfo,
    #[error("the URL's port is none")]
    Port,
    #[error("{host:?} is no host: {problem}")]
    Host { host: String, problem: &'static str },
}

impl Origin {
    /// The origin of `uri`, an absolute URL.
    pub fn of(uri: &Uri) -> Result<Self, NoOrigin> {
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(NoOrigin::Scheme),
        };
        let authority = uri.authority().ok_or(NoOrigin::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(NoOrigin::UserInfo);
        }
        let text = authority.host();
        // What the crate cannot read as a port it takes for none.
        let port = match authority.as_str().strip_prefix(text) {
            Some("" | ":") => None,
            Some(port) => Some(
                port.strip_prefix(':')
                    .filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|port| port.parse().ok())
                    .filter(|&port: &u16| port > 0)
                    .ok_or(NoOrigin::Port)?,
            ),
            None => return Err(NoOrigin::NoHost),
        };
        Ok(Self {
            tls,
            host: host(text)?,
            port: port.unwrap_or(default_port(tls)),
        })
    }

    /// The port that a URL of this scheme need not have.
    pub fn default_port(&self) -> u16 {
        default_port(self.tls)
    }

    pub fn is_localhost(&self) -> bool {
        matches!(&self.host, Host::Name(name) if name == "localhost")
    }

    /// The host, and the port unless it is the default: what `Host` says.
    pub fn authority(&self) -> String {
        if self.port == self.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same scheme and port at `ip`.
    pub fn at(&self, ip: IpAddr) -> Self {
        Self {
            host: Host::Address(ip),
            ..self.clone()
        }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn host(text: &str) -> Result<Host, NoOrigin> {
    if text.is_empty() {
        return Err(NoOrigin::NoHost);
    }
    let no_host = |problem| NoOrigin::Host {
        host: text.chars().take(300).collect(),
        problem,
    };
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let address: Result<Ipv6Addr, _> = inner.parse();
        return address
            .map(|ip| Host::Address(IpAddr::V6(ip).to_canonical()))
            .map_err(|_| no_host("it is no IPv6 address"));
    }
    // Only the one spelling of an address that nobody reads in another way.
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    host_name(text)
        .map(Host::Name)
        .map_err(|NotAName(problem)| no_host(problem))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Address(IpAddr::V4(ip)) => ip.fmt(f),
        }
    }
}

impl fmt::Display for Origin {
    /// As an entry of the list of what is allowed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}
