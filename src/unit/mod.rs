//! A safe layer over libunit: everything that touches Unit's C interface.
//!
//! What the rest of the crate can rely on, and what this module has to keep:
//!
//! - libunit's objects belong to the thread that processes their context.
//!   [`Context`] and [`Request`] are `!Send`, so calling libunit for them
//!   elsewhere does not compile. The two exceptions are logging, which libunit
//!   guards itself, and allocating a context from the main one (see
//!   [`Context::spawn`]).
//! - A context lasts as long as its requests and ports, and the main one longer
//!   than all others: each keeps what it needs.
//! - `nxt_unit_request_done` is called exactly once for every request: by
//!   [`Request::done`], or when a `Request` is dropped. Nothing can touch it
//!   afterwards, because it is consumed.
//! - No panic crosses into C: every callback runs inside [`guard`].
//! - No call waits for shared memory: libunit receives messages by our own
//!   callback, which lets it only while [`Context::process`] runs (see the
//!   module `port`).
//! - The other callbacks only take note of what happened, in [`Events`]; the
//!   work is done by the event loop, outside of any libunit call.

mod conf;
mod context;
mod guard;
mod lock;
mod log;
mod module;
mod port;
mod process;
mod request;
mod watch;

pub use context::{CHUNK, Context, Events};
pub use guard::{guard, panic_text};
pub use lock::{is_locked, try_lock};
pub use log::{Level, flush_log, log, log_later, log_lines_later};
pub use module::{Descriptor, Task, descriptor};
pub use port::{Port, Processed};
pub use process::{
    CHILD_PANICKED, CHILD_UNCONFINED, Identity, Status, application_identity, exit_now, is_root,
    run_child, spawn_companion, survive_file_size_limit, thread_id,
};
pub use request::{Content, Fields, PLAIN, Request, SendError, head_size};
pub use watch::WatchedPort;
