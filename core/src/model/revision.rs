//! Positions in the change log.

use std::fmt;

/// A position in the change log. Commit order is revision order: none appears late, none is
/// missing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in one history of the log: a revision, and the nonce of its row. In another history, the
/// row of the same revision has another nonce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Position {
    pub revision: Revision,
    /// 0 at revision 0, where no row is.
    pub nonce: i64,
}
