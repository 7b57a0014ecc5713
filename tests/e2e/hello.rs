//! The example, exactly as the README shows it.

use harness::{App, Host, Request, Server};

use crate::{Case, cases};

const POST: &str = " * Welcome to the component model in Rust! *

[Request Info]
REQUEST_PATH = /hello?a=b
METHOD = POST
SCHEME = http
AUTHORITY = localhost

[Request Headers]
host = localhost:8080
user-agent = curl/8.14.1
accept = */*
content-length = 7
content-type = application/x-www-form-urlencoded

[Request Data]
xyzabcd
";

const GET: &str = " * Welcome to the component model in Rust! *

[Request Info]
REQUEST_PATH = /
METHOD = GET
SCHEME = http
AUTHORITY = localhost

[Request Headers]
host = localhost:8080

[Request Data]
";

pub fn cases() -> Vec<Case> {
    cases!["hello", All: as_in_the_readme, without_a_body]
}

fn as_in_the_readme(host: &Host) {
    let server = Server::start(host, App::hello());
    let mut conn = server.connect();
    // What curl 8.14 sends for: curl 'http://localhost:8080/hello?a=b' -d xyzabcd
    conn.send(
        b"POST /hello?a=b HTTP/1.1\r\n\
          Host: localhost:8080\r\n\
          User-Agent: curl/8.14.1\r\n\
          Accept: */*\r\n\
          Content-Length: 7\r\n\
          Content-Type: application/x-www-form-urlencoded\r\n\
          \r\n\
          xyzabcd",
    )
    .unwrap();
    let response = conn.read_response(false).unwrap().ok();
    assert_eq!(response.text(), POST);
    drop(conn);
    server.finish();
}

fn without_a_body(host: &Host) {
    let server = Server::start(host, App::hello());
    let request = Request::get("/").header("Host", "localhost:8080");
    assert_eq!(server.send(&request).ok().text(), GET);
    server.finish();
}
