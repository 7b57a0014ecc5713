//! The module built for type `wasm`, configured as that type is.

use harness::config::Config;
use harness::load::{self, Client};
use harness::{App, Host, Request, Server};

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["wasm_type", WasmType: serves_components, fails_like_the_other]
}

fn serves_components(host: &Host) {
    let apps = [App::lab(), App::hello()];
    let server = Server::start(host, Config::of(apps));
    let addr = server.addr_of("hello");
    let response = harness::http::fetch(addr, &Request::get("/a?b"))
        .unwrap()
        .ok();
    assert!(
        response.text().contains("REQUEST_PATH = /a?b\n"),
        "{}",
        response.text()
    );
    let lab = server.addr_of("lab");
    let clients = (0..4).map(|_| Client::keeping(lab)).collect();
    load::run(clients, 20, load::mixed).assert_clean();
    assert_eq!(server.get("/trap").status(), 500);
    server.finish();
}

fn fails_like_the_other(host: &Host) {
    let mut server = Server::bare(host);
    crate::startup::expect_refusal(&mut server);
    let missing = std::path::Path::new("/nonexistent/component.wasm");
    let reply = server.put(&Config::of([App::new("bad", missing)]));
    assert!(!reply.success(), "{reply:?}");
    server
        .log
        .expect(&["[alert]", "cannot start", "/nonexistent/component.wasm"]);
    server.apply(&App::lab().into());
    assert_eq!(server.get("/").ok().text(), "lab\n");
    server.settle();
    server.finish();
}
