//! What rules cover, without a network.

use std::net::IpAddr;

use super::super::rule::judge_address;
use super::*;

fn rules(texts: &[&str]) -> Vec<HttpRule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn origin(url: &str) -> Origin {
    Origin::of(&url.parse().unwrap()).unwrap()
}

fn verdict(texts: &[&str], url: &str) -> Verdict {
    judge(&rules(texts), &origin(url))
}

#[test]
fn rules_cover_scheme_host_and_port() {
    for (rule, covered, not_covered) in [
        (
            "https://api.example.com",
            "https://api.example.com/x",
            "http://api.example.com",
        ),
        (
            "https://api.example.com",
            "https://API.example.com.:443",
            "https://api.example.com:444",
        ),
        (
            "api.example.com",
            "http://api.example.com",
            "http://api.example.com:443",
        ),
        (
            "api.example.com",
            "https://api.example.com",
            "https://x.api.example.com",
        ),
        (
            "*.example.com:8443",
            "http://a.b.example.com:8443",
            "http://example.com:8443",
        ),
        (
            "http://x.example:*",
            "http://x.example:9",
            "https://x.example:9",
        ),
        ("*", "https://any.example", "https://any.example:8443"),
        ("*", "http://93.184.216.34", "http://93.184.216.34:81"),
        ("*:*", "http://[2606:4700::1]:81", "http://127.0.0.1:81"),
        (
            "http://10.0.0.0/8:8080",
            "http://10.1.2.3:8080",
            "http://11.1.2.3:8080",
        ),
        ("10.0.0.5", "http://[::ffff:10.0.0.5]", "http://ten.example"),
        ("[fd00::/8]:*", "http://[fd12::1]:5", "http://[fe80::1]:5"),
        (
            "HTTPS://Example.COM",
            "https://example.com",
            "http://example.com",
        ),
    ] {
        assert_eq!(
            verdict(&[rule], covered),
            Verdict::Allowed,
            "{rule} {covered}"
        );
        let not = verdict(&[rule], not_covered);
        assert_ne!(not, Verdict::Allowed, "{rule} {not_covered}");
    }
}

#[test]
fn special_addresses_need_a_rule_by_address() {
    let prohibited = |kind| Verdict::Prohibited(kind);
    assert_eq!(verdict(&["*"], "http://127.0.0.1"), prohibited("loopback"));
    assert_eq!(verdict(&["*"], "http://[::1]"), prohibited("loopback"));
    assert_eq!(
        verdict(&["*"], "http://[::ffff:10.0.0.1]"),
        prohibited("private")
    );
    let metadata = verdict(&["*"], "http://169.254.169.254/latest");
    assert_eq!(metadata, prohibited("cloud metadata"));
    assert_eq!(verdict(&["*.example"], "http://127.0.0.1"), Verdict::Denied);
    assert_eq!(verdict(&["localhost"], "http://127.0.0.1"), Verdict::Denied);
    let both = ["*", "127.0.0.0/8"];
    assert_eq!(verdict(&both, "http://127.0.0.1"), Verdict::Allowed);
}

#[test]
fn addresses_of_names_are_judged_one_by_one() {
    let may = |texts: &[&str], url: &str, ip: &str| {
        let ip: IpAddr = ip.parse().unwrap();
        judge_address(&rules(texts), &origin(url), ip).is_ok()
    };
    let name = "http://x.example:8080";
    assert!(may(&["x.example:8080"], name, "93.184.216.34"));
    assert!(!may(&["x.example:8080"], name, "127.0.0.1"));
    assert!(!may(&["*:*"], name, "10.0.0.1"));
    assert!(!may(&["*:*"], name, "::ffff:10.0.0.1"));
    assert!(!may(&["*:*"], name, "64:ff9b::a00:1"));
    assert!(may(
        &["x.example:8080", "10.0.0.0/8:8080"],
        name,
        "10.0.0.1"
    ));
    assert!(may(
        &["x.example:8080", "http://10.0.0.0/8:*"],
        name,
        "::ffff:10.0.0.1"
    ));
    assert!(
        !may(&["x.example:8080", "10.0.0.0/8"], name, "10.0.0.1"),
        "port"
    );
    let rules = ["x.example:8080", "https://10.0.0.0/8:8080"];
    assert!(!may(&rules, name, "10.0.0.1"), "scheme");
    // The entry `localhost` is for that name and loopback.
    let local = "http://localhost:8080";
    assert!(may(&["localhost:8080"], local, "127.0.0.1"));
    assert!(may(&["localhost:*"], local, "::1"));
    assert!(!may(&["localhost:8080"], local, "10.0.0.1"));
    assert!(!may(&["localhost:8080"], name, "127.0.0.1"));
    assert!(!may(&["*:*"], local, "127.0.0.1"));
    assert!(!may(&["localhost:8081"], local, "127.0.0.1"));
}

#[test]
fn spellings_of_addresses_that_only_some_understand_are_no_hosts() {
    for url in [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://127.0.0.0x1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://00000177.1/",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://[::1%25lo]/",
        "http://[127.0.0.1]/",
        "http://a..example/",
        "http://a%2eexample/",
        "http://-a.example/",
    ] {
        let Ok(uri) = url.parse() else {
            // The crate does not take it either.
            continue;
        };
        let error = Origin::of(&uri).unwrap_err();
        assert!(matches!(error, NoOrigin::Host { .. }), "{url}: {error}");
    }
    assert_eq!(
        origin("http://[::ffff:7f00:1]/").to_string(),
        "http://127.0.0.1"
    );
}

#[test]
fn what_is_no_origin() {
    let problem = |url: &str| Origin::of(&url.parse().unwrap()).unwrap_err();
    assert_eq!(problem("ftp://a.example/"), NoOrigin::Scheme);
    assert_eq!(problem("unix://a.example/"), NoOrigin::Scheme);
    assert_eq!(problem("/path"), NoOrigin::Scheme);
    assert_eq!(problem("http://me:secret@a.example/"), NoOrigin::UserInfo);
    assert_eq!(problem("http://a.example@b.example/"), NoOrigin::UserInfo);
    assert_eq!(problem("http://a.example:0/"), NoOrigin::Port);
    assert_eq!(problem("http://a.example:65536/"), NoOrigin::Port);
    assert_eq!(origin("http://a.example:/").port, 80);
    assert_eq!(origin("https://a.example").port, 443);
    let told = problem("http://me:secret@a.example/?token=1").to_string();
    assert!(!told.contains("secret"), "{told}");
}

#[test]
fn a_rule_that_is_printed_reads_as_the_same_rule() {
    for text in [
        "https://api.example.com",
        "http://*.example.com:8080",
        "*",
        "*:*",
        "https://*:8443",
        "10.0.0.0/8:8080",
        "http://[fd00::/8]:*",
        "[::1]",
        "localhost:3000",
    ] {
        let rule: HttpRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
    }
    for url in [
        "https://a.example:8443/x?y",
        "http://[::1]:80",
        "http://10.0.0.1:81",
    ] {
        let origin = origin(url);
        let told = [&*origin.to_string()].map(str::to_owned);
        assert_eq!(verdict(&[&told[0]], url), Verdict::Allowed, "{told:?}");
    }
}

#[test]
fn bad_rules_say_what_is_wrong() {
    for (text, part) in [
        ("", "empty"),
        ("ftp://a.example", "http and https"),
        ("unix:/run/x.sock", "path"),
        ("https://a.example/", "path"),
        ("https://a.example/v1", "path"),
        ("https://a.example?x", "path"),
        ("https://[::1]:80/x", "path"),
        ("me:secret@a.example", "@"),
        ("https://", "1 to 253"),
        ("a.example:", "no port"),
        ("a.example:http", "1 to 65535"),
        ("a.example:0", "1 to 65535"),
        ("a.example:70000", "1 to 65535"),
        ("*a.example", "* stands"),
        ("a.*.example", "* stands"),
        ("a b", "characters"),
        ("b\u{fc}cher.example", "xn--"),
        ("127.1", "ends in a number"),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("10.0.0.0/40", "0 to 32"),
        ("[fd00::]/8", "ends with ]"),
        ("fd00::1", "brackets"),
        ("[fd00::1/8]", "[fd00::/8]"),
        ("[a.example]", "no IP address"),
    ] {
        let error = text.parse::<HttpRule>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
