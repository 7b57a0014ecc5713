//! A guest of WASI 0.3 that uses what the host offers beside WASI: secrets, the
//! audit log, key-value stores, configuration and the log.
//!
//! All parameters come in the query. What the host refuses is answered with
//! status 200 and a text that begins with `error:`.

mod keyvalue;
#[path = "../../lab3/src/reply.rs"]
#[allow(dead_code)]
mod reply;
#[path = "../../lab3/src/request.rs"]
#[allow(dead_code)]
mod request;

mod generated {
    wit_bindgen::generate!({
        inline: "
            package tests:caps3;

            world guest {
                include wasi:http/service@0.3.0;
                import unit:wasm/secrets@0.1.0;
                import unit:wasm/audit-log@0.1.0;
                import wasi:config/store@0.2.0-rc.1;
                import wasi:logging/logging@0.1.0-draft;
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
            }
        ",
        path: ["../../../wit", "../../../wit-0.3"],
        generate_all,
    });
}

/// The same, with the names that it would have if the folders did not hold other
/// versions of these packages as well.
mod bindings {
    pub use crate::generated::{exports, unit, wit_future, wit_stream};

    pub mod wasi {
        pub use crate::generated::wasi::{
            clocks0_3_0 as clocks, config, http0_3_0 as http, keyvalue0_2_0_draft2 as keyvalue,
            logging,
        };
    }
}

use crate::bindings::exports::wasi::http0_3_0::handler::Guest;
use crate::bindings::unit::wasm::audit_log::{self, Event, Outcome};
use crate::bindings::unit::wasm::secrets;
use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::http::types;
use crate::bindings::wasi::logging::logging::{self, Level};
use crate::reply::Answer;
use crate::request::Request;

generated::export!(Caps with_types_in generated);

struct Caps;

impl Guest for Caps {
    async fn handle(request: types::Request) -> Answer {
        let request = Request::new(request);
        match request.path() {
            "/" => reply::text("caps3\n"),
            "/secret" => secret(&request),
            "/audit" => audit(&request),
            "/config" => configured(&request),
            "/log" => log(&request),
            "/set" => keyvalue::set(&request),
            "/get" => keyvalue::get(&request),
            "/get-many" => keyvalue::get_many(&request),
            "/increment" => keyvalue::increment(&request),
            "/both" => keyvalue::both(&request).await,
            _ => reply::status(404, "no such route\n"),
        }
    }
}

/// `/secret?name=NAME`: its value.
fn secret(request: &Request) -> Answer {
    match secrets::get(&request.text("name")) {
        Ok(value) => reply::text(value),
        Err(secrets::Error::NotGranted) => reply::text("error: not-granted\n"),
    }
}

/// `/audit?text=TEXT`: an event with TEXT as what it was done to.
fn audit(request: &Request) -> Answer {
    let event = Event {
        action: "test".into(),
        subject: request.text("text"),
        outcome: Outcome::Success,
        fields: Vec::new(),
    };
    reply::text(match audit_log::append(&event) {
        Ok(()) => "recorded\n",
        Err(audit_log::Error::TooLarge) => "error: too-large\n",
        Err(audit_log::Error::TooMany) => "error: too-many\n",
        Err(audit_log::Error::Unavailable) => "error: unavailable\n",
    })
}

/// `/config?key=KEY`: its value, or `none`.
fn configured(request: &Request) -> Answer {
    match config::get(&request.text("key")) {
        Ok(value) => reply::text(value.unwrap_or_else(|| "none\n".into())),
        Err(error) => reply::text(format!("error: {}\n", reply::name(error))),
    }
}

/// `/log?level=LEVEL&text=TEXT`.
fn log(request: &Request) -> Answer {
    let level = match request.text("level").as_str() {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => Level::Info,
    };
    logging::log(level, "caps3", &request.text("text"));
    reply::text("logged\n")
}
