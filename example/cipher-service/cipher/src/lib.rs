//! Shifts letters of the Latin alphabet, and records each call.
//!
//! It knows nothing of HTTP: it exports `example:cipher/cipher`, and is composed
//! with a component that serves it. How far letters are shifted is in the
//! environment variable SHIFT_AMOUNT. Records have no word of the message.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package example:recording-cipher;

            world recording {
                include example:cipher/provider@0.1.0;
                import unit:wasm/audit-log@0.1.0;
            }
        ",
        path: ["../../../wit", "../wit"],
        world: "example:recording-cipher/recording",
        generate_all,
    });
}

use std::env;

use crate::bindings::exports::example::cipher::cipher::{Error, Guest};
use crate::bindings::unit::wasm::audit_log::{self, Event, Outcome};

bindings::export!(Cipher with_types_in bindings);

struct Cipher;

impl Guest for Cipher {
    fn encrypt(message: String) -> Result<String, Error> {
        recorded("cipher.encrypt", message, 1)
    }

    fn decrypt(message: String) -> Result<String, Error> {
        recorded("cipher.decrypt", message, -1)
    }
}

const LETTERS: i64 = 26;

/// As in the days of Caesar.
const DEFAULT_SHIFT: i64 = 3;

/// Nobody gets a result without a record of it.
fn recorded(action: &str, message: String, direction: i64) -> Result<String, Error> {
    let result = shift_amount().map(|amount| shifted(&message, direction * amount));
    let outcome = match &result {
        Ok(_) => Outcome::Success,
        Err(why) => {
            eprintln!("cipher: {why}");
            Outcome::Failure
        }
    };
    audit_log::append(&Event {
        action: action.into(),
        subject: String::new(),
        outcome,
        fields: vec![("bytes".into(), message.len().to_string())],
    })
    .map_err(|_| Error::NotRecorded)?;
    result.map_err(|_| Error::Misconfigured)
}

/// How far to shift: 0 to 25, which is what every number comes to.
fn shift_amount() -> Result<i64, String> {
    let text = match env::var("SHIFT_AMOUNT") {
        Ok(text) => text,
        Err(env::VarError::NotPresent) => return Ok(DEFAULT_SHIFT),
        Err(error) => return Err(format!("SHIFT_AMOUNT: {error}")),
    };
    let amount: i64 = text
        .parse()
        .map_err(|error| format!("SHIFT_AMOUNT={text:?}: {error}"))?;
    Ok(amount.rem_euclid(LETTERS))
}

fn shifted(message: &str, amount: i64) -> String {
    // 0 to 25, so it fits.
    let amount = amount.rem_euclid(LETTERS) as u8;
    message.chars().map(|c| shifted_char(c, amount)).collect()
}

/// What is no letter of the alphabet stays as it is.
fn shifted_char(c: char, amount: u8) -> char {
    let first = match c {
        'a'..='z' => b'a',
        'A'..='Z' => b'A',
        _ => return c,
    };
    let place = (c as u8 - first + amount) % LETTERS as u8;
    char::from(first + place)
}
