//! What guests reach out to: servers on loopback that a test starts, looks at,
//! and ends by dropping them.
//!
//! Each has a loopback address of its own, so that rules about addresses can
//! tell one from another.

pub mod ca;
pub mod dns;
pub mod http;
pub mod process;
pub mod raw;
mod routes;
#[path = "../../../runtime/tests/keyvalue/s3_server.rs"]
#[allow(missing_docs)]
pub mod s3;

pub use ca::Ca;
pub use dns::{Answer, DnsPeer};
pub use http::HttpPeer;
pub use raw::RawPeer;
