//! Hot swap: another component takes the place of the one in the application's
//! file, and is served without a restart (`UNIT_WASM_WATCH`).
//!
//! - [`watcher`] is a process that looks at the file and prepares what it finds, as
//!   at the start: with a trial instance, in children with limits of their own;
//! - [`club`] are the application's processes as it knows them, which switch
//!   together or not at all;
//! - [`member`] is what one of them does: it loads the new component beside the old
//!   one, gives it to requests that begin, and lets go of the old one when those
//!   that began with it have ended;
//! - [`channel`] and [`message`] are what they talk by, [`look`] is how a change is
//!   noticed.

mod channel;
mod club;
mod look;
mod member;
mod message;
mod watcher;

pub use channel::Channel;
pub use member::{Membership, follow, join};
pub use message::Version;
pub use watcher::start;
