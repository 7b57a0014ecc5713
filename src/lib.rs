//! A language module that runs WebAssembly components in NGINX Unit.
//!
//! unitd loads the shared object that this crate makes, finds
//! [`nxt_app_module`], and calls two functions through it: `setup()` once in
//! the prototype process of each application, `start()` in each process that
//! is to serve it. From there:
//!
//! - `nxt_wasm_settings`, a crate of its own, reads Unit's application object
//!   and the files that it names;
//! - [`prepare`] turns the configured component into machine code, [`module`]
//!   is the life of the two kinds of processes;
//! - [`worker`] is the event loop of one libunit context, [`service`] what the
//!   loops of a process share, [`exchange`] one request, [`response`] how an answer gets to Unit, [`http`] what may
//!   pass between Unit's bytes and the `http` crate's types;
//! - [`unit`] is the safe layer over libunit, and the only place with
//!   knowledge of it;
//! - `nxt_wasm_runtime`, a crate of its own that knows nothing of Unit, runs
//!   the guests.
//!
//! Requests and responses of the `http` crate are the seam between the halves.

pub mod account;
pub mod breaker;
pub mod exchange;
pub mod http;
pub mod metrics;
pub mod module;
pub mod prepare;
pub mod report;
pub mod response;
pub mod service;
pub mod source;
pub mod swap;
pub mod tally;
pub mod unit;
pub mod watchdog;
pub mod worker;

/// What unitd looks for in a module. Everything else in it stays hidden.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "Unit prescribes the name")]
pub static nxt_app_module: unit::Descriptor = unit::descriptor();
