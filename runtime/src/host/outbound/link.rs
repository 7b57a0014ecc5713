//! What guests learn of a body that broke off.
//!
//! Wasmtime tells them the cause in words only: its `http-error-code` looks for
//! another kind of error than its bodies fail with.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Host};
use wasmtime_wasi_http::{Error, WasiHttpView};

use crate::state::State;

const NAME: &str = "wasi:http/types@0.2.12";

/// Puts our `http-error-code` into `linker`, which has Wasmtime's already.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(NAME)?.func_wrap(
        "http-error-code",
        |mut store, (error,): (Resource<wasmtime::Error>,)| {
            let mut view = store.data_mut().http();
            let found = view.table.get(&error)?.downcast_ref::<Error>();
            if let Some(code) = found.and_then(code) {
                return Ok((Some(code),));
            }
            Ok((view.http_error_code(error)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Those that bodies fail with.
fn code(error: &Error) -> Option<ErrorCode> {
    Some(match error {
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        _ => return None,
    })
}
