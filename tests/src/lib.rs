//! Harness of the end-to-end suite.
//!
//! A test starts a [`Server`]: a host (the stand-in, unitd or FreeUnit's
//! unitd) in a temporary directory of its own, configured over the control
//! socket like any Unit, spoken to over loopback TCP by a raw HTTP client, and
//! watched through `/proc` and through the host's log. [`Server::finish`]
//! asserts what every test has in common: no alert, no leaked descriptor, no
//! stray process, the same worker process as in the beginning, a clean exit.

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod guests;
pub mod host;
pub mod http;
pub mod launch;
pub mod load;
pub mod log;
pub mod peers;
pub mod proc;
pub mod server;
pub mod wait;
pub mod watch;

pub use app::App;
pub use host::{Host, Kind};
pub use http::{Conn, Request, Response};
pub use server::Server;
pub use wait::{eventually, wait_for};
