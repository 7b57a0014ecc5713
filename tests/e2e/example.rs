//! The example with a secret and an audit log, in three languages.

use std::fs;
use std::path::Path;

use harness::{App, Host, Request, Server, guests};
use serde_json::Value;

use crate::secrets::write_private;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["example", All: in_rust];
    all.extend(cases!["example", Python: in_python]);
    all.extend(cases!["example", Javascript: in_javascript]);
    all
}

fn in_rust(host: &Host) {
    keeps_the_door(host, &guests::secrets());
}

fn in_python(host: &Host) {
    keeps_the_door(host, &guests::built("secrets-python"));
}

fn in_javascript(host: &Host) {
    keeps_the_door(host, &guests::built("secrets-javascript"));
}

fn keeps_the_door(host: &Host, component: &Path) {
    let mut server = Server::bare(host);
    let secrets = server.dir().join("secrets");
    write_private(&secrets, "door-token = open-sesame\nunrelated = x\n");
    let audit = server.dir().join("audit");
    let app = App::new("door", component)
        .env("UNIT_WASM_SECRETS", secrets.to_str().unwrap())
        .env("UNIT_WASM_ALLOW_SECRETS", "door-token")
        .env("UNIT_WASM_AUDIT_LOG", audit.to_str().unwrap());
    server.apply(&app.into());
    assert_eq!(server.get("/first").status(), 401);
    server.settle();

    let knock = |token: &str| {
        let field = format!("Bearer {token}");
        let answer = server.send(&Request::get("/door?x=1").header("authorization", field));
        (answer.status(), answer.text())
    };
    assert_eq!(knock("open-sesame"), (200, "Welcome.\n".to_owned()));
    for wrong in ["", "open-sesam", "open-sesame1", "Open-sesame"] {
        assert_eq!(knock(wrong).0, 401, "{wrong}");
    }
    let text = fs::read_to_string(audit).unwrap();
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let outcomes: Vec<&str> = records
        .iter()
        .map(|record| record["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(
        outcomes,
        ["denied", "success", "denied", "denied", "denied", "denied"]
    );
    assert_eq!(records[0]["fields"]["token"], "none");
    assert_eq!(records[1]["action"], "door.enter");
    assert_eq!(records[1]["subject"], "/door?x=1");
    assert_eq!(records[1]["fields"]["token"], "given");
    assert_eq!(records[1]["application"], "door");
    server.finish();
}
