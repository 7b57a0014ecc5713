//! Addresses that are not hosts of the public internet.
//!
//! What guests ask for can lead to any address, by a name that somebody else
//! controls. So whatever belongs to this machine, to its own network or to
//! nobody must be granted by its address, never by a name or a `*`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address in its own form even if it came as `::ffff:a.b.c.d`.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What kind of address `address` is, unless it is one of the public internet.
pub(crate) fn is_special(address: IpAddr) -> Option<&'static str> {
    match canonical(address) {
        IpAddr::V4(address) => special4(address),
        IpAddr::V6(address) => special6(address),
    }
}

/// Where clouds hand out credentials to whoever asks from inside. The last is
/// public by its number.
const METADATA4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254),
];
const METADATA: &str = "cloud metadata";

fn special4(address: Ipv4Addr) -> Option<&'static str> {
    if METADATA4.contains(&address) {
        return Some(METADATA);
    }
    Some(match address.octets() {
        [0, 0, 0, 0] => "unspecified",
        [0, ..] => "this network",
        [127, ..] => "loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "carrier-grade NAT",
        [169, 254, ..] => "link-local",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation",
        [198, 18..=19, ..] => "benchmarking",
        [224..=239, ..] => "multicast",
        [255, 255, 255, 255] => "broadcast",
        // Protocol assignments; the former 6to4 relays; the former class E.
        [192, 0, 0, _] | [192, 88, 99, _] | [240..=255, ..] => "reserved",
        _ => return None,
    })
}

fn special6(address: Ipv6Addr) -> Option<&'static str> {
    if METADATA6.contains(&address) {
        return Some(METADATA);
    }
    let ends_in_v4 = || Ipv4Addr::from_bits(address.to_bits() as u32);
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        // IPv4-compatible, long dead, and IPv4-translated.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            special4(ends_in_v4()).unwrap_or("reserved")
        }
        // NAT64: a gateway may translate it to the IPv4 address in it.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => return special4(ends_in_v4()),
        [0x64, 0xff9b, 1, ..] => "private",
        // 6to4.
        [0x2002, high, low, ..] => {
            let inner = (u32::from(high) << 16) | u32::from(low);
            return special4(Ipv4Addr::from_bits(inner));
        }
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => "documentation",
        [0x2001, 2, 0, ..] => "benchmarking",
        // Protocol assignments, Teredo among them.
        [0x2001, 0..=0x01ff, ..] => "reserved",
        [0xfc00..=0xfdff, ..] => "private",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        // Global unicast is what has been given out of this block.
        [0x2000..=0x3fff, ..] => return None,
        _ => "reserved",
    })
}
