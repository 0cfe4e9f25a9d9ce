//! Floor 0: plain types with their rules, no I/O.

pub mod address;
pub mod caller;
pub mod change;
pub mod clock;
pub mod device;
pub mod directory;
pub mod event;
pub mod id;
pub mod network;
pub mod protocol;
pub mod record;
pub mod revision;
pub mod secret;
pub mod session;
pub mod verdict;

/// A value that came from outside and breaks a bound. Names the field and the bound, for whoever
/// sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field's name in the request.
    pub field: &'static str,
    /// What is wrong, with the bound.
    pub problem: String,
    /// A stable reason where the field alone does not say it (`PASSWORD_TOO_WEAK`); else
    /// `INVALID_FIELD`.
    pub reason: &'static str,
}

impl Invalid {
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self::because("INVALID_FIELD", field, problem)
    }

    pub fn because(reason: &'static str, field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into(), reason }
    }
}
