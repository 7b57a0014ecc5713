//! What can go wrong with a store.

/// Why an operation on a store failed.
///
/// What guests are told is short and says nothing about where a store is; the
/// operator gets the detail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The store cannot do it now. With the detail for the operator.
    #[error("{0}")]
    Failed(String),
    /// It has not done it in time.
    #[error("no answer in time")]
    Late,
    /// The store will never do it. With the detail for the operator.
    #[error("{0}")]
    Unsupported(String),
    /// The value that is stored has more bytes than were asked for.
    #[error("the stored value has more than {0} bytes")]
    TooLarge(usize),
    /// There is no room left. With what is full, for the operator.
    #[error("{0}")]
    Full(String),
    /// The stored value is not a whole number in decimal digits, or a negative
    /// one where there can be none.
    #[error("the stored value is not a number")]
    NotANumber,
    /// The sum is out of bounds.
    #[error("the number would be out of bounds")]
    Overflow,
    /// The cursor comes from nowhere.
    #[error("no such cursor")]
    Cursor,
}

impl Problem {
    /// What guests are told.
    pub fn for_guest(&self) -> &'static str {
        match self {
            Self::Failed(_) => "the store failed",
            Self::Late => "the store did not answer in time",
            Self::Unsupported(_) => "the store does not support this operation",
            Self::TooLarge(_) => "the stored value is too large",
            Self::Full(_) => "the store is full",
            Self::NotANumber => "the stored value is not a number",
            Self::Overflow => "the number would be out of bounds",
            Self::Cursor => "no such cursor",
        }
    }

    /// Whether it is the operator's business. The rest is between a guest and
    /// its data.
    pub fn concerns_operator(&self) -> bool {
        !matches!(self, Self::NotANumber | Self::Overflow | Self::Cursor)
    }
}
