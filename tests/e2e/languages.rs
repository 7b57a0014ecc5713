//! The examples, one for each language, which all give the same answer, each as its
//! `config.json` says.
//!
//! Those that are too large to be committed are tested if they were built:
//! `make examples`.

use std::path::{Path, PathBuf};
use std::thread;

use harness::config::Config;
use harness::{Conn, Host, Request, Server, guests, load};
use serde_json::{Value, json};

use crate::{Case, Scope};

pub fn cases() -> Vec<Case> {
    let case = |name, run, scope| Case { name, run, scope };
    vec![
        case("languages::rust", rust, Scope::All),
        case("languages::rust_p3", rust_p3, Scope::All),
        case("languages::c", c, Scope::All),
        case("languages::python", python, Scope::Built("python")),
        case(
            "languages::javascript",
            javascript,
            Scope::Built("javascript"),
        ),
        case("languages::go", go, Scope::Built("go")),
    ]
}

fn rust(host: &Host) {
    describes_requests(host, "rust", "rust", &committed("rust"));
}

fn rust_p3(host: &Host) {
    describes_requests(host, "hello-p3", "rust", &committed("hello-p3"));
}

fn c(host: &Host) {
    describes_requests(host, "c", "c", &committed("c"));
}

fn python(host: &Host) {
    describes_requests(host, "python", "python", &guests::built("python"));
}

fn javascript(host: &Host) {
    let component = guests::built("javascript");
    describes_requests(host, "javascript", "javascript", &component);
}

fn go(host: &Host) {
    describes_requests(host, "go", "go", &guests::built("go"));
}

fn committed(name: &str) -> PathBuf {
    guests::root().join(format!("example/{name}/{name}.wasm"))
}

/// What every example does.
fn describes_requests(host: &Host, example: &str, language: &str, component: &Path) {
    let path = format!("example/{example}/config.json");
    let served = format!("/srv/wasm/{example}.wasm");
    let served = (&*served, component.to_str().expect("a path in UTF-8"));
    let server = Server::start(host, Config::of_file(&path, &[served]));
    everything_arrives(&server, example, language);
    nothing_arrives(&server);
    a_large_body_arrives(&server);
    twenty_at_once_are_not_mixed(&server);
    server.finish();

    let nothing = ("GREETING", "ANOTHER");
    let server = Server::start(host, Config::of_file(&path, &[served, nothing]));
    assert_eq!(describe(&server, &Request::get("/"))["greeting"], "Hello");
    server.finish();
}

/// The answer to a request.
#[track_caller]
fn describe(server: &Server, request: &Request) -> Value {
    let response = server.send(request).ok();
    let kind = response.head.first("content-type");
    assert_eq!(kind.as_deref(), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

fn everything_arrives(server: &Server, example: &str, language: &str) {
    let body = "say \"hello\" \\ back\n\tü \u{1f600} \u{1}";
    let request = Request::post("/some/path?x=1&y=two&z=%C3%BC+%26&x=3&empty=", body)
        .header("x-request-id", "everything")
        .header("X-Two", "a")
        .header("x-two", "b");
    let said = describe(server, &request);
    for (name, value) in [
        ("language", json!(language)),
        ("method", json!("POST")),
        ("path", json!("/some/path")),
        (
            "query",
            json!({"x": "3", "y": "two", "z": "ü &", "empty": ""}),
        ),
        ("body", json!(body)),
        ("greeting", json!("Moin")),
    ] {
        assert_eq!(said[name], value, "{name}: {said}");
    }
    let headers = &said["headers"];
    assert_eq!(headers["x-two"], "a, b", "{said}");
    assert_eq!(headers["host"], "localhost", "{said}");
    assert_eq!(headers["content-length"], body.len().to_string(), "{said}");
    assert_eq!(said.as_object().map(serde_json::Map::len), Some(7));

    let line = format!("wasm \"{example}\" request=everything stderr: {example}: POST /some/path");
    server.log.expect(&["[info]", &line]);
}

fn nothing_arrives(server: &Server) {
    for method in ["GET", "DELETE", "OPTIONS"] {
        let said = describe(server, &Request::new(method, "/"));
        assert_eq!(said["method"], method, "{said}");
        assert_eq!(said["path"], "/", "{said}");
        assert_eq!(said["query"], json!({}), "{said}");
        assert_eq!(said["body"], "", "{said}");
    }
}

/// Text of that size, as it is to come back in JSON.
fn text_of(number: u64, size: usize) -> String {
    let digit = |byte| char::from(b'a' + byte % 26);
    load::body_of(number, size).into_iter().map(digit).collect()
}

fn a_large_body_arrives(server: &Server) {
    let body = text_of(1, 1_000_000);
    let said = describe(server, &Request::post("/large", body.clone()));
    assert!(said["body"] == *body, "another body");
}

fn twenty_at_once_are_not_mixed(server: &Server) {
    let addr = server.addr();
    thread::scope(|scope| {
        for number in 0..20_u64 {
            scope.spawn(move || {
                let body = text_of(number, 10_000);
                let target = format!("/number/{number}?number={number}");
                let request = Request::post(&target, body.clone());
                let mut conn = Conn::open(addr);
                for _ in 0..3 {
                    let response = conn.exchange(&request).unwrap().ok();
                    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
                    assert_eq!(said["path"], format!("/number/{number}"));
                    assert_eq!(said["query"], json!({"number": number.to_string()}));
                    assert!(said["body"] == *body, "request {number} got another body");
                }
            });
        }
    });
}
