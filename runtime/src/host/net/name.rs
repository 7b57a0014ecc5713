//! Names of hosts, and rules about them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::RuleError;

const FORM: &str = "an entry is a name: api.example.com, *.example.com for all its subdomains, \
                    or * for every name";

/// Names that may be asked for: `api.example.com`, `*.example.com` for its
/// subdomains of any depth but not itself, or `*`. Case and a dot at the end
/// do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    One(String),
    /// With the dot before it.
    Under(String),
}

impl NameRule {
    /// Whether the rule covers `name`. No rule covers what is not the name of
    /// a host, such as an address, however it is written.
    pub fn matches(&self, name: &str) -> bool {
        let Ok(name) = host_name(name) else {
            return false;
        };
        match &self.0 {
            Kind::Any => true,
            Kind::One(one) => *one == name,
            Kind::Under(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        }
    }

    /// Whether it is a rule for `name`, in lower case, and nothing else.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(&self.0, Kind::One(one) if one == name)
    }
}

impl FromStr for NameRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() {
            return Err(RuleError::Empty(FORM));
        }
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        let (name, under) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(RuleError::Wildcard(text.to_owned()));
        }
        let name = host_name(name).map_err(|NotAName(problem)| RuleError::Name {
            text: text.to_owned(),
            problem,
        })?;
        Ok(Self(if under {
            Kind::Under(format!(".{name}"))
        } else {
            Kind::One(name)
        }))
    }
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Any => f.write_str("*"),
            Kind::One(name) => f.write_str(name),
            Kind::Under(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Why something is not the name of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotAName(pub &'static str);

/// `text` as the name of a host: in lower case, and without a dot at the end.
///
/// What C libraries take for an address (`127.1`, `0x7f000001`, `2130706433`) is
/// no name.
pub(crate) fn host_name(text: &str) -> Result<String, NotAName> {
    if !text.is_ascii() {
        return Err(NotAName(
            "only ASCII is accepted; write an international name in its xn-- form",
        ));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() {
        return Err(NotAName("it is an address"));
    }
    if name.is_empty() || name.len() > 253 {
        return Err(NotAName("a name has 1 to 253 characters"));
    }
    let mut last = "";
    for label in name.split('.') {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !label.bytes().all(letters) {
            return Err(NotAName(
                "it has characters other than letters, digits, hyphens, underscores and dots",
            ));
        }
        if label.is_empty() || label.len() > 63 {
            return Err(NotAName("there are 1 to 63 characters between its dots"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NotAName("no part of it begins or ends with a hyphen"));
        }
        last = label;
    }
    // As browsers decide it.
    let hexadecimal = last.strip_prefix("0x");
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    if number {
        return Err(NotAName("it ends in a number, as only addresses do"));
    }
    Ok(name)
}
