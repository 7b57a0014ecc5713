//! What an operator configures: Unit's application object, and the files that it
//! names, read into limits and grants.
//!
//! Knows neither libunit nor Wasmtime, so that tools that never see a unitd read
//! an application exactly as the module does.

mod application;
pub mod buckets;
pub mod files;
mod settings;
pub mod units;

pub use application::{Application, Value};
pub use settings::{BreakerSettings, Cache, Settings, SettingsError};
