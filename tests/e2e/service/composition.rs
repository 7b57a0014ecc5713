//! A component made of two: one that lets through who has a token, and the example.

use harness::config::Config;
use harness::{App, Host, Request, Response, Server, guests};
use serde_json::Value;

use crate::startup::assert_refused;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["service-composition", All:
        only_the_token_opens,
        without_a_token_nobody_is_let_in,
        bodies_go_through_both,
        middleware_alone_is_refused,
    ]
}

/// What is asked in the warm-up is refused, so there is none.
fn serving(host: &Host, app: App) -> Server {
    let mut server = Server::bare(host);
    server.apply(&Config::of([app]).max_body_size(16 << 20));
    assert_eq!(server.get("/").status(), 401);
    server.settle();
    server
}

fn app() -> App {
    App::new("guarded", &guests::middleware_with_hello())
}

fn knock(server: &Server, field: &str, body: Vec<u8>) -> Response {
    let request = Request::post("/some/where", body)
        .header("authorization", field)
        .header("x-request-id", "knock");
    server.send(&request)
}

fn only_the_token_opens(host: &Host) {
    let app = app().env("TOKEN", "open-sesame").env("GREETING", "Moin");
    let server = serving(host, app);
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer open-sesam",
        "Bearer open-sesame1",
        "Bearer Open-sesame",
        "Basic open-sesame",
    ] {
        let response = knock(&server, wrong, Vec::new());
        assert_eq!(response.status(), 401, "{wrong}");
        let challenge = response.head.first("www-authenticate");
        assert_eq!(challenge.as_deref(), Some("Bearer"), "{wrong}");
        assert_eq!(response.text(), "", "{wrong}");
    }
    let inner = server.log.matching(|line| line.contains("hello-p3: "));
    assert_eq!(inner, Vec::<String>::new(), "the inner one was called");

    let response = knock(&server, "Bearer open-sesame", b"xyz".to_vec()).ok();
    let by = response.head.first("x-served-by");
    assert_eq!(by.as_deref(), Some("middleware"));
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(said["path"], "/some/where", "{said}");
    assert_eq!(said["body"], "xyz", "{said}");
    // Both have one environment and one log.
    assert_eq!(said["greeting"], "Moin", "{said}");
    let line = "wasm \"guarded\" request=knock stderr: hello-p3: POST /some/where";
    server.log.expect(&[line]);
    server.finish();
}

fn without_a_token_nobody_is_let_in(host: &Host) {
    for app in [app(), app().env("TOKEN", "")] {
        let server = serving(host, app);
        for field in ["Bearer ", "Bearer", "Bearer open-sesame"] {
            assert_eq!(knock(&server, field, Vec::new()).status(), 401, "{field}");
        }
        server.finish();
    }
}

fn bodies_go_through_both(host: &Host) {
    const SIZE: usize = 10_000_000;
    let server = serving(host, app().env("TOKEN", "open-sesame"));
    // Text, as the inner one has it in JSON.
    let digits = |at: usize| b'0' + (at % 10 + at / 1000 % 7) as u8 % 10;
    let body: Vec<u8> = (0..SIZE).map(digits).collect();
    let response = knock(&server, "Bearer open-sesame", body.clone()).ok();
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    let given = said["body"].as_str().expect("a text");
    assert!(
        given.as_bytes() == body,
        "another body of {} bytes",
        given.len()
    );
    server.finish();
}

fn middleware_alone_is_refused(host: &Host) {
    let app = App::new("bad", &guests::middleware()).env("TOKEN", "open-sesame");
    assert_refused(
        host,
        &app,
        &["imports `wasi:http/handler@0.3.0`", "composed", "wac plug"],
    );
}
