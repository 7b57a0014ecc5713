//! Runs `wasi:http` components, one fresh instance per request, under limits.
//!
//! This crate is the Wasmtime half of the module and knows nothing of Unit:
//! its callers hand it [`http::Request`]s and get [`http::Response`]s back.
//! Three steps lead from a file to answers:
//!
//! 1. [`artifact::compile`] and [`artifact::describe`] compile and check a
//!    component once, in a short-lived process of its own;
//! 2. [`Runtime::load`] maps the compiled artifact, links it and sizes the
//!    instance pool; once per serving process;
//! 3. [`Runtime::handle`] runs one request in an instance of its own and
//!    yields the response head as soon as the guest has set it. The body,
//!    a [`GuestBody`], drives the guest further whenever it is polled.
//!
//! Everything a guest may reach is named in [`Grants`]; everything it may use
//! up is bounded by [`Limits`]. A request that fails ends in a [`Failure`]
//! that names the [`Reason`], and never takes more down than itself.
//!
//! The futures of this crate expect a tokio runtime with time and I/O
//! enabled, and do their work on whichever thread polls them.

pub mod artifact;
mod body;
pub mod cache;
mod cause;
mod coredump;
mod crowd;
mod deadline;
mod engine;
mod error;
mod grants;
mod guest;
mod guest_body;
mod handle;
mod host;
pub mod imports;
mod instance;
mod limits;
mod memory;
mod meter;
mod output;
mod request;
mod reuse;
mod shared;
mod state;
mod ticker;
mod trial;
mod world;

pub use body::{BodyError, FileBody, RequestBody};
pub use coredump::CoredumpGrant;
pub use engine::open_page_map;
pub use error::{Failure, LoadError, Reason};
pub use grants::{Access, Grants, Preopen};
pub use guest::Usage;
pub use guest_body::GuestBody;
pub use handle::Runtime;
pub use host::audit::{AuditLog, AuditTarget};
pub use host::dns::DnsConfig;
pub use host::keyvalue;
pub use host::net::{AddressRule, NameRule, RuleError};
pub use host::outbound::{HttpGrant, HttpRule, HttpRuleError, TrustError, roots};
pub use host::secrets::{Redactor, Secrets};
pub use host::sockets::{SocketGrant, SocketRule};
pub use limits::{Limits, Reuse};
pub use output::{GuestLog, OutputStreamKind, Severity};
pub use request::{Cost, RequestContext, Trace};
pub use world::World;
