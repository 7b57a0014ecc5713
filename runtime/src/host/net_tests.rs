use std::net::IpAddr;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rule(text: &str) -> AddressRule {
    text.parse().unwrap()
}

fn covers(text: &str, address: &str) -> bool {
    rule(text).matches(address.parse().unwrap())
}

#[test]
fn address_rules_cover_what_they_say() {
    for (text, inside, outside) in [
        ("10.0.0.5:5432", "10.0.0.5:5432", "10.0.0.5:5433"),
        ("10.0.0.5:5432", "[::ffff:10.0.0.5]:5432", "10.0.0.6:5432"),
        ("127.0.0.0/8:6379", "127.255.0.1:6379", "128.0.0.1:6379"),
        ("[::1]:80", "[::1]:80", "127.0.0.1:80"),
        ("[fd00::/8]:*", "[fdab::1]:1", "[fc00::1]:1"),
        ("10.0.0.5:*", "10.0.0.5:1", "10.0.0.4:1"),
        ("*:443", "93.184.216.34:443", "93.184.216.34:80"),
        ("*:443", "[2606:4700::1]:443", "127.0.0.1:443"),
        ("*:*", "93.184.216.34:1", "[::ffff:127.0.0.1]:1"),
        ("0.0.0.0/0:80", "127.0.0.1:80", "[::1]:80"),
        ("[::/0]:80", "[::1]:80", "[::ffff:127.0.0.1]:80"),
        ("[::ffff:10.0.0.5]:80", "10.0.0.5:80", "[::a00:5]:80"),
        ("[::ffff:10.0.0.0/104]:80", "10.9.9.9:80", "11.0.0.0:80"),
        ("10.0.0.0/9:80", "10.127.0.0:80", "10.128.0.0:80"),
    ] {
        assert!(covers(text, inside), "{text} should cover {inside}");
        assert!(!covers(text, outside), "{text} should not cover {outside}");
    }
}

#[test]
fn a_rule_that_is_printed_reads_as_the_same_rule() {
    for text in [
        "10.0.0.5:5432",
        "127.0.0.0/8:6379",
        "[::1]:80",
        "[fd00::/8]:*",
        "*:443",
        "0.0.0.0/0:1",
    ] {
        assert_eq!(rule(text).to_string(), text);
    }
    assert_eq!(rule("[::ffff:10.0.0.5]:80").to_string(), "10.0.0.5:80");
}

#[test]
fn bad_address_rules_say_what_is_wrong() {
    for (text, part) in [
        ("", "empty"),
        ("10.0.0.5", "has no port"),
        ("10.0.0.5:", "no port"),
        ("10.0.0.5:0", "1 to 65535"),
        ("10.0.0.5:65536", "1 to 65535"),
        ("10.0.0.5:+80", "1 to 65535"),
        ("10.0.0.5:http", "1 to 65535"),
        ("::1:80", "brackets"),
        ("[::1", "ends with ]"),
        ("[::1]80", "ends with ]"),
        ("[::1]/128:80", "ends with ]"),
        ("[10.0.0.5]:80", "no IP address"),
        ("[fe80::1%eth0]:80", "no IP address"),
        ("example.com:80", "no IP address"),
        ("10.0.0:80", "no IP address"),
        ("010.0.0.1:80", "no IP address"),
        ("10.0.0/8:80", "no IP address"),
        ("10.0.0.0/33:80", "0 to 32"),
        ("10.0.0.0/:80", "0 to 32"),
        ("10.0.0.0/+8:80", "0 to 32"),
        ("[fd00::/129]:80", "0 to 128"),
        ("10.0.0.5/8:80", "10.0.0.0/8"),
        ("[fd00::1/8]:80", "[fd00::/8]"),
        ("*.0.0.1:80", "no IP address"),
    ] {
        let error = text.parse::<AddressRule>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn special_addresses_are_named() {
    for (kind, addresses) in [
        ("unspecified", &["0.0.0.0", "::"][..]),
        ("this network", &["0.1.2.3"]),
        ("loopback", &["127.0.0.1", "127.255.255.255", "::1"]),
        (
            "private",
            &[
                "10.0.0.0",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "fc00::1",
                "fdff::1",
                "64:ff9b:1::1",
            ],
        ),
        ("carrier-grade NAT", &["100.64.0.0", "100.127.255.255"]),
        ("link-local", &["169.254.0.1", "fe80::1", "febf::1"]),
        ("site-local", &["fec0::1", "feff::1"]),
        (
            "cloud metadata",
            &[
                "169.254.169.254",
                "168.63.129.16",
                "100.100.100.200",
                "fd00:ec2::254",
                "fd20:ce::254",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "2002:a9fe:a9fe::1",
            ],
        ),
        (
            "documentation",
            &[
                "192.0.2.1",
                "198.51.100.1",
                "203.0.113.1",
                "2001:db8::1",
                "3fff:fff::1",
            ],
        ),
        (
            "benchmarking",
            &["198.18.0.1", "198.19.255.255", "2001:2::1"],
        ),
        ("multicast", &["224.0.0.1", "239.1.1.1", "ff02::1"]),
        ("broadcast", &["255.255.255.255"]),
        (
            "reserved",
            &[
                "240.0.0.1",
                "255.255.255.254",
                "192.0.0.1",
                "192.88.99.1",
                "2001::1",
                "2001:1ff::1",
                "100::1",
                "4000::1",
                "5f00::1",
                "::8.8.8.8",
            ],
        ),
        (
            "loopback",
            &[
                "::ffff:127.0.0.1",
                "::127.0.0.1",
                "::ffff:0:127.0.0.1",
                "64:ff9b::7f00:1",
                "2002:7f00:1::",
            ],
        ),
        (
            "private",
            &[
                "::ffff:10.0.0.1",
                "::10.0.0.1",
                "64:ff9b::a00:1",
                "2002:c0a8:101::",
            ],
        ),
    ] {
        for address in addresses {
            assert_eq!(is_special(ip(address)), Some(kind), "{address}");
        }
    }
}

#[test]
fn public_addresses_are_not_special() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "3fff:1000::1",
    ] {
        assert_eq!(is_special(ip(address)), None, "{address}");
    }
}

#[test]
fn name_rules_cover_what_they_say() {
    let covers = |rule: &str, name: &str| rule.parse::<NameRule>().unwrap().matches(name);
    for (rule, name) in [
        ("api.example.com", "API.Example.COM."),
        ("API.example.com.", "api.example.com"),
        ("*.example.com", "a.example.com"),
        ("*.example.com", "a.b.EXAMPLE.com"),
        ("*", "anything"),
        ("my_service", "my_service"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ] {
        assert!(covers(rule, name), "{rule} should cover {name}");
    }
    for (rule, name) in [
        ("api.example.com", "example.com"),
        ("api.example.com", "x.api.example.com"),
        ("api.example.com", "api.example.com.."),
        ("*.example.com", "example.com"),
        ("*.example.com", ".example.com"),
        ("*.example.com", "badexample.com"),
        ("*.example.com", "example.com.evil.net"),
        ("*", ""),
        ("*", "127.0.0.1"),
        ("*", "::1"),
        ("*", "[::1]"),
        ("*", "2130706433"),
        ("*", "0x7f.1"),
        ("*", "0x7f000001"),
        ("*", "0x"),
        ("*", "127.1."),
        ("*", "127.0.0.0x1"),
        ("*", "b\u{fc}cher.example"),
        ("*", "a b"),
        ("*", "a@b"),
        ("*", "a\0b"),
    ] {
        assert!(!covers(rule, name), "{rule} should not cover {name}");
    }
}

#[test]
fn bad_name_rules_say_what_is_wrong() {
    let long = format!("{}.com", "a".repeat(64));
    let longer = "a.".repeat(127) + "com";
    for (text, part) in [
        ("", "empty"),
        ("*example.com", "* stands"),
        ("a.*.com", "* stands"),
        ("*.*.com", "* stands"),
        ("*.", "1 to 253"),
        (".", "1 to 253"),
        ("a..b", "1 to 63"),
        (".com", "1 to 63"),
        (&long, "1 to 63"),
        (&longer, "1 to 253"),
        ("-a.com", "hyphen"),
        ("a-.com", "hyphen"),
        ("b\u{fc}cher.de", "xn--"),
        ("10.0.0.5", "an address"),
        ("::1", "an address"),
        ("127.1", "ends in a number"),
        ("0x7f.0x1", "ends in a number"),
        ("example.com:443", "characters"),
        ("https://example.com", "characters"),
    ] {
        let error = text.parse::<NameRule>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    for text in ["api.example.com", "*.example.com", "*"] {
        assert_eq!(text.parse::<NameRule>().unwrap().to_string(), text);
    }
}
