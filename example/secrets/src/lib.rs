//! Lets in whoever knows a token, and keeps a record of who tried.
//!
//! The token is a secret of the operator's (`unit:wasm/secrets`), the record is
//! the operator's audit log (`unit:wasm/audit-log`).

use std::hint::black_box;
use std::io::Write;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::bindings::unit::wasm::audit_log::{self, Event, Outcome};
use crate::bindings::unit::wasm::secrets;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package example:secrets;

            world imports {
                import unit:wasm/secrets@0.1.0;
                import unit:wasm/audit-log@0.1.0;
            }
        ",
        path: "../../wit",
        generate_all,
    });
}

wasi::http::proxy::export!(Door);

struct Door;

impl Guest for Door {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let (status, text) = match admit(&request) {
            Ok(()) => (200, "Welcome.\n".to_string()),
            Err(Refusal::Denied) => (
                401,
                "Say the token: Authorization: Bearer ...\n".to_string(),
            ),
            Err(Refusal::Broken(why)) => (500, format!("{why}\n")),
        };
        respond(outparam, status, &text);
    }
}

enum Refusal {
    Denied,
    Broken(&'static str),
}

fn admit(request: &IncomingRequest) -> Result<(), Refusal> {
    let Ok(token) = secrets::get("door-token") else {
        return Err(Refusal::Broken("There is no token to compare with."));
    };
    let expected = format!("Bearer {token}");
    let given = request.headers().get("authorization");
    let admitted = given
        .first()
        .is_some_and(|given| same(given, expected.as_bytes()));

    // Nobody gets in without a record of it.
    audit_log::append(&Event {
        action: "door.enter".into(),
        subject: request.path_with_query().unwrap_or_default(),
        outcome: if admitted {
            Outcome::Success
        } else {
            Outcome::Denied
        },
        fields: vec![(
            "token".into(),
            if given.is_empty() { "none" } else { "given" }.into(),
        )],
    })
    .map_err(|_| Refusal::Broken("This cannot be recorded, so it cannot be done."))?;

    if admitted {
        Ok(())
    } else {
        Err(Refusal::Denied)
    }
}

/// Compares in a time that does not tell where the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differences = left
        .iter()
        .zip(right)
        .fold(0, |all, (l, r)| all | black_box(l ^ r));
    left.len() == right.len() && differences == 0
}

fn respond(outparam: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::new();
    headers
        .append("content-type", b"text/plain")
        .expect("an ordinary header field");
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(status)
        .expect("an ordinary status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(outparam, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    // The client may have gone.
    let _ = stream.write_all(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
