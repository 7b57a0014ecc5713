//! Header fields in both directions.

use harness::load::hex;
use harness::{App, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["headers", Both:
        request_line_and_authority,
        duplicate_and_empty_fields_of_a_request,
        a_field_of_seven_kilobytes,
        values_that_are_not_utf8,
        many_fields_of_a_request,
        duplicate_and_empty_fields_of_a_response,
        large_fields_of_a_response,
        names_up_to_255_bytes,
        status_of_the_guest_is_not_a_status_line,
        framing_of_the_guest_is_refused,
        a_response_cannot_be_split,
    ]
}

fn request_line_and_authority(host: &Host) {
    let server = Server::start(host, App::lab());
    for (method, target) in [
        ("GET", "/request"),
        ("GET", "/request?"),
        ("GET", "/request?a=%20b&c=%2F;d=[x]"),
        ("DELETE", "/request?a=1&a=2"),
        ("OPTIONS", "/request"),
        ("PATCH", "/request"),
    ] {
        let request = Request::new(method, target).header("Host", "Example.COM:8080");
        let response = server.send(&request).ok();
        let text = response.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.contains(&format!("method={method}").as_str()),
            "{text}"
        );
        assert!(lines.contains(&format!("path={target}").as_str()), "{text}");
        assert!(lines.contains(&"authority=example.com"), "{text}");
        assert!(lines.contains(&"scheme=http"), "{text}");
        let raw = format!("host={}", hex(b"Example.COM:8080"));
        assert!(lines.contains(&raw.as_str()), "{text}");
    }
    server.finish();
}

/// The values of a request field as the guest saw them, in hexadecimal.
fn seen(text: &str, name: &str) -> Vec<String> {
    let fields = text.lines().filter_map(|line| line.split_once('='));
    let same = fields.filter(|(given, _)| *given == name);
    same.map(|(_, value)| value.to_owned()).collect()
}

fn duplicate_and_empty_fields_of_a_request(host: &Host) {
    let server = Server::start(host, App::lab());
    let request = Request::get("/request")
        .header("X-Twice", "first")
        .header("X-Empty", "")
        .header("x-twice", "second")
        .header("X-Spaces", "  around  ");
    let text = server.send(&request).ok().text();
    assert_eq!(
        seen(&text, "x-twice"),
        [hex(b"first"), hex(b"second")],
        "{text}"
    );
    assert_eq!(seen(&text, "x-empty"), [""], "{text}");
    assert_eq!(seen(&text, "x-spaces"), [hex(b"around")], "{text}");
    server.finish();
}

fn a_field_of_seven_kilobytes(host: &Host) {
    let server = Server::start(host, App::lab());
    let value = "v".repeat(7 << 10);
    let request = Request::get("/request").header("x-large", &value);
    let text = server.send(&request).ok().text();
    assert_eq!(seen(&text, "x-large"), [hex(value.as_bytes())]);
    server.finish();
}

fn values_that_are_not_utf8(host: &Host) {
    let server = Server::start(host, App::lab());
    let value = b"caf\xe9 \xff\xfe \xc3\x28";
    let request = Request::get("/request").header("x-bytes", value);
    let text = server.send(&request).ok().text();
    assert_eq!(seen(&text, "x-bytes"), [hex(value)], "{text}");
    server.finish();
}

fn many_fields_of_a_request(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut request = Request::get("/request");
    for index in 0..100 {
        request = request.header(format!("x-many-{index}"), format!("value {index}"));
    }
    let text = server.send(&request).ok().text();
    for index in 0..100 {
        let value = hex(format!("value {index}").as_bytes());
        assert_eq!(seen(&text, &format!("x-many-{index}")), [value]);
    }
    server.finish();
}

fn duplicate_and_empty_fields_of_a_response(host: &Host) {
    let server = Server::start(host, App::lab());
    let target = "/headers?name=x-a&value=1&name=x-empty&value=&name=x-a&value=2\
                  &name=set-cookie&value=a%3D1&name=set-cookie&value=b%3D2&name=x-bytes&value=%ff";
    let response = server.get(target).ok();
    assert_eq!(response.text(), "headers\n");
    assert_eq!(response.head.all("x-a"), [b"1", b"2"]);
    assert_eq!(response.head.all("set-cookie"), [b"a=1", b"b=2"]);
    assert_eq!(response.head.all("x-empty"), [b""]);
    assert_eq!(response.head.all("x-bytes"), [b"\xff"]);
    server.finish();
}

fn large_fields_of_a_response(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for (count, size) in [(1, 7 << 10), (10, 100), (50, 500), (20, 1000), (100, 30)] {
        let request = Request::get(format!("/bigheaders?count={count}&size={size}"));
        let response = conn.exchange(&request).unwrap().ok();
        for index in 0..count {
            let values = response.head.all(&format!("x-big-{index}"));
            assert_eq!(values.len(), 1, "x-big-{index} of {count}");
            assert_eq!(values[0].len(), size);
        }
    }
    drop(conn);
    server.finish();
}

/// Unit counts the length of a name in one byte.
fn names_up_to_255_bytes(host: &Host) {
    let server = Server::start(host, App::lab());
    for size in [254, 255] {
        let name = "n".repeat(size);
        let response = server.get(format!("/headers?name={name}&value=v")).ok();
        assert_eq!(response.head.all(&name), [b"v"], "{size}");
    }
    for size in [256, 257, 300, 512] {
        let name = "n".repeat(size);
        let id = format!("name-{size}");
        let request = Request::get(format!("/headers?name={name}&value=v"));
        let response = server.send(&request.header("x-request-id", &id));
        assert_eq!(response.status(), 500, "a name of {size} bytes");
        let failure = server.log.expect_failure(&id);
        assert_eq!(failure.reason, "invalid-response");
        assert_eq!(failure.status, "500");
    }
    server.finish();
}

fn status_of_the_guest_is_not_a_status_line(host: &Host) {
    let server = Server::start(host, App::lab());
    for value in ["404", "404%20Not%20Found", "rubbish", ""] {
        let response = server.get(format!("/headers?name=Status&value={value}"));
        assert_eq!(response.status(), 200, "Status: {value}");
        assert!(response.head.all("status").is_empty(), "Status: {value}");
    }
    server.finish();
}

/// Whether the binding refuses them or the module removes them, the client
/// sees one framing, and it is right.
fn framing_of_the_guest_is_refused(host: &Host) {
    let server = Server::start(host, App::lab());
    let mut conn = server.connect();
    for field in [
        "name=transfer-encoding&value=chunked",
        "name=transfer-encoding&value=gzip",
        "name=Transfer-Encoding&value=chunked",
        "name=connection&value=close",
        "name=keep-alive&value=timeout%3D5",
        "name=upgrade&value=h2c",
    ] {
        let request = Request::get(format!("/headers?{field}"));
        let response = conn.exchange(&request).unwrap().ok();
        let text = response.text();
        assert!(
            text == "headers\n" || text.starts_with("refused: "),
            "{field}: {text}"
        );
        assert!(response.head.all("keep-alive").is_empty(), "{field}");
        assert!(response.head.all("upgrade").is_empty(), "{field}");
        let next = conn.exchange(&Request::get("/")).unwrap();
        assert_eq!(next.ok().text(), "lab\n", "after {field}");
    }
    drop(conn);
    server.finish();
}

fn a_response_cannot_be_split(host: &Host) {
    let server = Server::start(host, App::lab());
    for field in [
        "name=x-a&value=1%0d%0ax-injected:%201",
        "name=x-a&value=1%0ax-injected:%201",
        "name=x-a%0d%0ax-injected&value=1",
        "name=x-a:%20b&value=1",
        "name=x%20a&value=1",
        "name=&value=1",
        "name=x-a&value=1%00",
    ] {
        let id = format!("split-{}", field.len());
        let request = Request::get(format!("/headers?{field}"));
        let response = server.send(&request.header("x-request-id", &id));
        assert!(response.head.all("x-injected").is_empty(), "{field}");
        match response.status() {
            200 => assert!(response.text().starts_with("refused: "), "{field}"),
            status => assert_eq!(status, 500, "{field}"),
        }
    }
    server.finish();
}
