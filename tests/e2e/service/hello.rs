//! The example, and how the log names what it serves.

use harness::{App, Host, Request, Server, guests};
use serde_json::{Value, json};

use super::{ask_as, start};
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service", All:
        the_example_answers_and_logs,
        the_log_names_the_handler,
        requests_arrive_whole,
    ]
}

fn the_example_answers_and_logs(host: &Host) {
    let app = App::new("hello", &guests::hello_p3()).env("GREETING", "Moin");
    let server = Server::start(host, app);
    let request = Request::post("/some/where?a=1&b=%20", b"xyz".to_vec())
        .header("x-two", "a")
        .header("x-two", "b")
        .header("x-request-id", "hello");
    let response = server.send(&request).ok();
    let kind = response.head.first("content-type");
    assert_eq!(kind.as_deref(), Some("application/json"));
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    for (name, value) in [
        ("greeting", "Moin"),
        ("method", "POST"),
        ("path", "/some/where"),
        ("body", "xyz"),
    ] {
        assert_eq!(said[name], json!(value), "{name}: {said}");
    }
    assert_eq!(said["query"], json!({"a": "1", "b": " "}), "{said}");
    assert_eq!(said["headers"]["x-two"], json!("a, b"), "{said}");
    assert_eq!(said["headers"]["host"], json!("localhost"), "{said}");
    let line = "wasm \"hello\" request=hello stderr: hello-p3: POST /some/where";
    server.log.expect(&["[info]", line]);
    server.finish();
}

fn the_log_names_the_handler(host: &Host) {
    for (app, handler) in [
        (App::lab3(), "exports wasi:http/handler@0.3.0,"),
        (App::lab(), "exports wasi:http/incoming-handler@0.2."),
    ] {
        let server = Server::start(host, app);
        server
            .log
            .expect(&["[notice]", "wasm \"lab\": component ", handler]);
        server.finish();
    }
}

fn requests_arrive_whole(host: &Host) {
    let server = start(host, &[]);
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"] {
        let request = Request::new(method, "/reflect?a=b%2fc&a=d")
            .header("x-one", "1")
            .header("x-one", "2");
        let response = server.send(&request).ok();
        let said: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(said["method"], json!(method), "{said}");
        assert_eq!(said["query"], json!([["a", "b/c"], ["a", "d"]]), "{said}");
        assert_eq!(said["scheme"], json!("http"), "{said}");
        let fields = said["headers"].as_array().expect("fields");
        let ones: Vec<&Value> = fields
            .iter()
            .filter(|pair| pair[0] == json!("x-one"))
            .map(|pair| &pair[1])
            .collect();
        assert_eq!(ones, [&json!("1"), &json!("2")], "{said}");
    }
    assert_eq!(ask_as(&server, "whole", "/"), "lab\n");
    server.finish();
}
