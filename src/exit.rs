//! How a command ends.

use std::process::ExitCode;

/// A command's exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    /// The server refused, or a person did.
    Refused = 1,
    Usage = 2,
    /// Whether it was done is not known: no connection, no answer in time, or a server in trouble.
    NoAnswer = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
