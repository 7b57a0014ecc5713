//! The configuration as JSON.

pub mod path;
pub mod validate;
