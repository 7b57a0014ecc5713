//! A running Unit: its control socket, its configuration, its listeners.

pub mod client;
pub mod control;
pub mod lock;
pub mod origin;
pub mod plan;
pub mod probe;
pub mod route;
pub mod state;
