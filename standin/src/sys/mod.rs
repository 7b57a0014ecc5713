//! The few things asked of the operating system directly.

pub mod net;
pub mod process;
pub mod shared;
pub mod time;
