//! Where components come from, and where deployed ones are kept.
//!
//! - [`Location`] names a component: a file, an object of an S3 store, a URL;
//!   [`fetch`] reads it, within bounds of size and time.
//! - [`Store`] keeps components by their digest, and for each application a
//!   [`Record`] of what was deployed under its name.
//!
//! Everything here blocks: it is for tools, and for short-lived helper processes
//! with one thread. Whoever has an event loop calls it from another thread.

mod digest;
mod fetch;
mod location;
mod record;
mod store;

pub use digest::Digest;
pub use fetch::{FetchError, FetchOptions, MAX_REDIRECTS, fetch};
pub use location::{Location, LocationError};
pub use record::{AppSettings, Ask, Deployment, HISTORY, Name, NameError, Record};
pub use store::{
    Access, GRACE, MAX_COMPONENT, Store, StoreError, is_private_to, read_component_file,
};
