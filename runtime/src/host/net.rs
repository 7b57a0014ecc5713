//! Which addresses and names of the network a guest may reach.
//!
//! Rules are read from text. IPv6 addresses stand in brackets, and so does the
//! prefix length of an IPv6 network: `[fd00::/8]`. An IPv4 address in IPv6's
//! clothes (`::ffff:10.0.0.5`) is that IPv4 address, in rules as in what they
//! are asked about.

mod address;
mod name;
mod special;

use std::net::SocketAddr;
use std::str::FromStr;

pub(crate) use address::Addresses;
pub use name::NameRule;
pub(crate) use name::{NotAName, host_name};
pub(crate) use special::is_special;

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing is there.
    #[error("it is empty; {0}")]
    Empty(&'static str),
    /// No port, or something else after the address.
    #[error("\"{rule}\" has no port; {form}")]
    NoPort {
        /// The rule.
        rule: String,
        /// What is accepted.
        form: &'static str,
    },
    /// A port that is none.
    #[error("\"{0}\" is no port: it takes a number from 1 to 65535, or *")]
    Port(String),
    /// An IPv6 address that could be read in several ways.
    #[error("IPv6 addresses stand in brackets: [{0}]")]
    Brackets(String),
    /// An address that is none.
    #[error("\"{text}\" is no IP address or network; {form}")]
    Address {
        /// What stands in its place.
        text: String,
        /// What is accepted.
        form: &'static str,
    },
    /// A prefix length that the kind of address does not have.
    #[error("\"{text}\" has no prefix length from 0 to {most}")]
    Prefix {
        /// The network.
        text: String,
        /// The longest prefix there is.
        most: u8,
    },
    /// A network written with the address of something in it.
    #[error("\"{text}\" has bits set after the prefix: the network is {network}")]
    HostBits {
        /// The network as it stands.
        text: String,
        /// As it should.
        network: String,
    },
    /// A name that no host has.
    #[error("\"{text}\" is no name of a host: {problem}")]
    Name {
        /// What stands in its place.
        text: String,
        /// Why not.
        problem: &'static str,
    },
    /// A `*` where it has no meaning.
    #[error(
        "\"{0}\": * stands alone for every name, or first for all subdomains, as in *.example.com"
    )]
    Wildcard(String),
}

const FORM: &str = "an entry is an address and a port: 10.0.0.5:5432, 127.0.0.0/8:6379, \
                    [::1]:80, [fd00::/8]:*, *:443";

/// One port or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Any,
    One(u16),
}

impl Ports {
    pub fn contain(self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == port,
        }
    }
}

impl FromStr for Ports {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = || RuleError::Port(text.to_owned());
        match text {
            "*" => Ok(Self::Any),
            // Else `+80` would be one.
            _ if !text.bytes().all(|b| b.is_ascii_digit()) => Err(bad()),
            _ => match text.parse() {
                Ok(0) | Err(_) => Err(bad()),
                Ok(port) => Ok(Self::One(port)),
            },
        }
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(port) => port.fmt(f),
        }
    }
}

/// Addresses with ports that may be connected to: `10.0.0.5:5432`,
/// `127.0.0.0/8:6379`, `[::1]:80`, `[fd00::/8]:*`, `10.0.0.5:*`. `*:443` is
/// every address that is not special: not loopback, not private, not
/// link-local and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRule {
    addresses: Addresses,
    ports: Ports,
}

impl AddressRule {
    /// Whether the rule covers `address`. Scope and flow label do not count.
    pub fn matches(&self, address: SocketAddr) -> bool {
        self.ports.contain(address.port()) && self.addresses.contain(address.ip())
    }
}

impl FromStr for AddressRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() {
            return Err(RuleError::Empty(FORM));
        }
        let (host, port) = split_port(text)?;
        let port = port.ok_or_else(|| RuleError::NoPort {
            rule: text.to_owned(),
            form: FORM,
        })?;
        let addresses = match host {
            "*" => Addresses::NotSpecial,
            _ => Addresses::parse(host)?.ok_or_else(|| RuleError::Address {
                text: host.to_owned(),
                form: FORM,
            })?,
        };
        Ok(Self {
            addresses,
            ports: port.parse()?,
        })
    }
}

impl std::fmt::Display for AddressRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.addresses, self.ports)
    }
}

/// `text` as a host and what follows the colon after it, if there is one.
pub(crate) fn split_port(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    if text.starts_with('[') {
        let bad = || RuleError::Address {
            text: text.to_owned(),
            form: "an IPv6 address or network ends with ]: [::1], [fd00::/8]",
        };
        let end = text.find(']').ok_or_else(bad)?;
        let (host, rest) = text.split_at_checked(end + 1).ok_or_else(bad)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(bad()),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(RuleError::Brackets(text.to_owned())),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
