//! Why something is not deployed.

use nxt_wasm_store::{Digest, Name, StoreError};

use crate::unit::control::ControlError;
use crate::unit::lock::LockError;
use crate::unit::plan::PlanError;

/// Why something is not deployed. What is in Unit is what was there before, unless it
/// says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// What is asked for cannot be.
    #[error("{0}")]
    Settings(String),
    /// The component cannot be served.
    #[error("it cannot be served: {}", .0.join("; "))]
    Component(Vec<String>),
    /// It could not be found out whether it can.
    #[error("{0}")]
    Check(String),
    /// The component cannot be read.
    #[error("{0}")]
    Read(String),
    /// Another component than the one that was checked, or expected.
    #[error("the component has the SHA-256 {found}, and not {wanted}")]
    Digest {
        /// What it has.
        found: Digest,
        /// What was expected.
        wanted: Digest,
    },
    /// There is no such application.
    #[error("\"{0}\" is not deployed from this store")]
    Unknown(Name),
    /// There is nothing to go back to.
    #[error("\"{name}\": {problem}")]
    NoTarget {
        /// The application.
        name: Name,
        /// What is missing.
        problem: String,
    },
    /// The store fails. Unit has not been told anything yet.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store could not write down what Unit had, so that it was taken back.
    #[error("{0}")]
    Unrecorded(StoreError),
    /// The same, but the store may have written it down.
    #[error(
        "{first}; and whether it was written all the same is not known: {second}. Unit has what \
         it had before; deploy again, or the store may bring up the other version later"
    )]
    MaybeRecorded {
        /// What went wrong first.
        first: StoreError,
        /// What went wrong when it was read.
        second: StoreError,
    },
    /// Others change the same all the time.
    #[error("{0}; try again")]
    Busy(&'static str),
    /// Somebody else is at it.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// It does not fit into the configuration.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// Unit does not answer, or says no.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// Unit has failed on the way, so that what was changed was taken back.
    #[error("{0}; Unit has what it had before")]
    Undone(ControlError),
    /// The application has no answer, so that it was taken back.
    #[error("it does not answer ({0}), and was taken back: Unit has what it had before")]
    Probe(String),
    /// The application has no answer, and was left there, as Unit had nothing else.
    #[error("it was brought up, and does not answer ({0})")]
    Silent(String),
    /// It cannot be asked.
    #[error("it cannot be asked whether it answers: {0}")]
    NoProbe(String),
    /// And it could not be taken back.
    #[error("{first}; and what was there before could not be brought back: {second}")]
    Stuck {
        /// What went wrong first.
        first: Box<DeployError>,
        /// What went wrong then.
        second: Box<DeployError>,
    },
}
