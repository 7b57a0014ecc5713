//! Sets of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::special::{canonical, is_special};
use super::{FORM, RuleError};

/// Some addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Every one that [`is_special`] does not name.
    NotSpecial,
    /// An IPv4 network.
    V4(Ipv4Addr, u8),
    /// An IPv6 network.
    V6(Ipv6Addr, u8),
}

impl Addresses {
    /// Reads `10.0.0.5`, `10.0.0.0/8`, `[::1]` or `[fd00::/8]`. `None` if `text`
    /// looks like none of these, so that it may be a name.
    pub fn parse(text: &str) -> Result<Option<Self>, RuleError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let (address, prefix) = split_prefix(inner, 128)?;
            let address: Ipv6Addr = address.parse().map_err(|_| RuleError::Address {
                text: text.to_owned(),
                form: FORM,
            })?;
            return Self::v6(address, prefix).checked(text).map(Some);
        }
        let Some((address, _)) = text.split_once('/') else {
            return Ok(text.parse().ok().map(|address| Self::V4(address, 32)));
        };
        let address = address.parse().map_err(|_| RuleError::Address {
            text: text.to_owned(),
            form: FORM,
        })?;
        let (_, prefix) = split_prefix(text, 32)?;
        Self::V4(address, prefix).checked(text).map(Some)
    }

    fn v6(address: Ipv6Addr, prefix: u8) -> Self {
        match (address.to_ipv4_mapped(), prefix.checked_sub(96)) {
            (Some(address), Some(prefix)) => Self::V4(address, prefix),
            _ => Self::V6(address, prefix),
        }
    }

    /// The same, if nothing is set after the prefix.
    fn checked(self, text: &str) -> Result<Self, RuleError> {
        let network = match self {
            Self::NotSpecial => self,
            Self::V4(address, prefix) => {
                Self::V4((address.to_bits() & mask4(prefix)).into(), prefix)
            }
            Self::V6(address, prefix) => {
                Self::V6((address.to_bits() & mask6(prefix)).into(), prefix)
            }
        };
        if network == self {
            return Ok(self);
        }
        Err(RuleError::HostBits {
            text: text.to_owned(),
            network: network.to_string(),
        })
    }

    /// Whether `address` is one of them.
    pub fn contain(self, address: IpAddr) -> bool {
        match (self, canonical(address)) {
            (Self::NotSpecial, address) => is_special(address).is_none(),
            (Self::V4(network, prefix), IpAddr::V4(address)) => {
                address.to_bits() & mask4(prefix) == network.to_bits()
            }
            (Self::V6(network, prefix), IpAddr::V6(address)) => {
                address.to_bits() & mask6(prefix) == network.to_bits()
            }
            _ => false,
        }
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0)
}

/// An address and its prefix length: `most` if there is none.
fn split_prefix(text: &str, most: u8) -> Result<(&str, u8), RuleError> {
    let Some((address, prefix)) = text.split_once('/') else {
        return Ok((text, most));
    };
    let digits = prefix.bytes().all(|b| b.is_ascii_digit());
    match prefix.parse() {
        Ok(prefix) if digits && prefix <= most => Ok((address, prefix)),
        _ => Err(RuleError::Prefix {
            text: text.to_owned(),
            most,
        }),
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSpecial => f.write_str("*"),
            Self::V4(address, 32) => address.fmt(f),
            Self::V4(address, prefix) => write!(f, "{address}/{prefix}"),
            Self::V6(address, 128) => write!(f, "[{address}]"),
            Self::V6(address, prefix) => write!(f, "[{address}/{prefix}]"),
        }
    }
}
