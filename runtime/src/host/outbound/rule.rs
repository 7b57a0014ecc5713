//! Rules about the hosts that guests may send HTTP requests to.

use std::fmt;
use std::str::FromStr;

use crate::host::net::{
    Addresses, NameRule, NotAName, Ports, RuleError, host_name, is_special, split_port,
};

use super::origin::{Host, Origin};

/// The setting that rules are read from.
pub(super) const SETTING: &str = "UNIT_WASM_ALLOW_HTTP";

/// What is wrong with an [`HttpRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpRuleError {
    /// Nothing is there.
    #[error("it is empty; {FORM}")]
    Empty,
    /// Neither `http` nor `https`.
    #[error("\"{0}\" cannot be granted: http and https can")]
    Scheme(String),
    /// More than a host and a port.
    #[error("it has a path: only whole hosts can be granted, as https://api.example.com")]
    Path,
    /// A user's name or password.
    #[error("it has an @: a user's name or password has no place in it")]
    UserInfo,
    /// A host or port that is none.
    #[error("{0}")]
    Part(#[from] RuleError),
    /// A host that is none.
    #[error("\"{host}\" is no host: {problem}; {FORM}")]
    Host {
        /// What stands in its place.
        host: String,
        /// Why not.
        problem: String,
    },
}

const FORM: &str = "an entry is https://api.example.com, *.example.com:8443, \
                    http://10.0.0.0/8:8080, [fd00::/8]:*, or * for every public host";

/// A host that guests may send HTTP requests to: `https://api.example.com`,
/// `*.example.com:8443`, `http://10.0.0.0/8:*`, `[::1]:8080`, `*`.
///
/// Without a scheme it covers `http` and `https`, without a port the default
/// port of the scheme. Addresses that are not public are only covered by rules
/// that name an address or a network, and loopback by `localhost` for that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// `None` for both.
    tls: Option<bool>,
    host: HostRule,
    /// `None` for the default of the scheme.
    ports: Option<Ports>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    /// Every name, and every public address.
    Any,
    Name(NameRule),
    Addresses(Addresses),
}

impl HttpRule {
    /// Whether it covers some `https` URL.
    pub(crate) fn covers_tls(&self) -> bool {
        self.tls != Some(false)
    }

    /// Whether it covers nothing but `https` URLs.
    pub(crate) fn asks_for_tls(&self) -> bool {
        self.tls == Some(true)
    }

    fn covers_service(&self, origin: &Origin) -> bool {
        let ports = self.ports.unwrap_or(Ports::One(origin.default_port()));
        self.tls.is_none_or(|tls| tls == origin.tls) && ports.contain(origin.port)
    }
}

/// What becomes of a request, as far as is known before its host is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// No rule covers it.
    Denied,
    /// A rule would, but the address is of this kind.
    Prohibited(&'static str),
}

/// What `rules` say of requests to `origin`.
pub(super) fn judge(rules: &[HttpRule], origin: &Origin) -> Verdict {
    let mut rules = rules.iter().filter(|rule| rule.covers_service(origin));
    match &origin.host {
        Host::Name(name) => {
            let covers = |rule: &HttpRule| match &rule.host {
                HostRule::Any => true,
                HostRule::Name(names) => names.matches(name),
                HostRule::Addresses(_) => false,
            };
            if rules.any(covers) {
                Verdict::Allowed
            } else {
                Verdict::Denied
            }
        }
        Host::Address(ip) => {
            let mut any = false;
            for rule in rules {
                match &rule.host {
                    HostRule::Addresses(addresses) if addresses.contain(*ip) => {
                        return Verdict::Allowed;
                    }
                    HostRule::Any => any = true,
                    _ => {}
                }
            }
            match is_special(*ip) {
                _ if !any => Verdict::Denied,
                Some(kind) => Verdict::Prohibited(kind),
                None => Verdict::Allowed,
            }
        }
    }
}

/// Whether a connection for `origin`, which is allowed, may go to `ip`: the kind
/// of address if it may not.
pub(super) fn judge_address(
    rules: &[HttpRule],
    origin: &Origin,
    ip: std::net::IpAddr,
) -> Result<(), &'static str> {
    let Some(kind) = is_special(ip) else {
        return Ok(());
    };
    let local = origin.is_localhost() && ip.is_loopback();
    let mut rules = rules.iter().filter(|rule| rule.covers_service(origin));
    let covered = rules.any(|rule| match &rule.host {
        HostRule::Addresses(addresses) => addresses.contain(ip),
        HostRule::Name(names) => local && names.is("localhost"),
        HostRule::Any => false,
    });
    if covered { Ok(()) } else { Err(kind) }
}

impl FromStr for HttpRule {
    type Err = HttpRuleError;

    fn from_str(text: &str) -> Result<Self, HttpRuleError> {
        if text.is_empty() {
            return Err(HttpRuleError::Empty);
        }
        let (tls, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
            Some((scheme, _)) => return Err(HttpRuleError::Scheme(scheme.to_owned())),
        };
        if rest.contains('@') {
            return Err(HttpRuleError::UserInfo);
        }
        if has_path(rest) {
            return Err(HttpRuleError::Path);
        }
        let (host, port) = split_port(rest)?;
        let host = match host {
            "*" => HostRule::Any,
            _ => match Addresses::parse(host)? {
                Some(addresses) => HostRule::Addresses(addresses),
                None => HostRule::Name(name(host)?),
            },
        };
        Ok(Self {
            tls,
            host,
            ports: port.map(str::parse).transpose()?,
        })
    }
}

fn name(host: &str) -> Result<NameRule, HttpRuleError> {
    // The form of an entry here has more to it than that of a name.
    if let Err(NotAName(problem)) = host_name(host.strip_prefix("*.").unwrap_or(host))
        && !host.contains('*')
    {
        return Err(HttpRuleError::Host {
            host: host.to_owned(),
            problem: problem.to_owned(),
        });
    }
    Ok(host.parse()?)
}

/// A `/` other than that of a network: `10.0.0.0/8`, `[fd00::/8]`.
fn has_path(rest: &str) -> bool {
    let after = match rest.split_once(']') {
        // The other form of a network, for which there is a better message.
        Some((_, after)) if after.starts_with('/') && after.len() > 1 => return false,
        Some((_, after)) => after,
        None => rest,
    };
    match after.split_once('/') {
        None => after.contains(['?', '#']),
        Some((host, _)) => host.parse::<std::net::Ipv4Addr>().is_err(),
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tls {
            None => {}
            Some(true) => f.write_str("https://")?,
            Some(false) => f.write_str("http://")?,
        }
        match &self.host {
            HostRule::Any => f.write_str("*")?,
            HostRule::Name(names) => names.fmt(f)?,
            HostRule::Addresses(addresses) => addresses.fmt(f)?,
        }
        self.ports.map_or(Ok(()), |ports| write!(f, ":{ports}"))
    }
}
