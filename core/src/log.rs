//! How far this process has followed the change log, and what the log's head means to it. No I/O
//! and no clock: what a sync answered goes in, what to do comes out.

use crate::model::{
    change::{Change, Position, Revision},
    id::NodeId,
};

/// Where this process stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    pub node_id: NodeId,
    /// What its row's counter says.
    pub renewals: u64,
    /// The last row applied.
    pub applied: Position,
}

/// What to do about a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Everything is applied.
    UpToDate,
    /// Read the rows after `after`, up to and with `up_to`, and apply them.
    Read { after: Revision, up_to: Revision },
    /// Rows were missed that the log no longer has: empty the cache, and go on at `to`.
    Jump { to: Position },
    /// The last row applied is not in the log: the database has gone back to another history. Empty
    /// the cache and join anew.
    Rewound,
}

impl Progress {
    /// Begins at a head: for a cache that is empty.
    pub fn begin(node_id: NodeId, head: Position) -> Self {
        Self { node_id, renewals: 0, applied: head }
    }

    /// Judges a head that was asked for with `applied`.
    pub fn judge(&self, head: Head) -> Step {
        let applied = self.applied;
        if head.revision < applied.revision || head.applied_nonce.is_some_and(|nonce| nonce != applied.nonce) {
            return Step::Rewound;
        }
        // Whether a row that is trimmed was ours nobody can tell any more.
        let is_trimmed = head.applied_nonce.is_none() && applied.revision > Revision::default();
        if applied.revision < head.trimmed || is_trimmed {
            return Step::Jump { to: Position { revision: head.revision, nonce: head.nonce } };
        }
        if applied.revision == head.revision {
            return Step::UpToDate;
        }
        Step::Read { after: applied.revision, up_to: head.revision }
    }

    /// Notes a row as applied. Rows come in order, without gaps; one that does not is answered
    /// back.
    pub fn advance(&mut self, change: &Change) -> Result<(), Gap> {
        if change.revision.0 != self.applied.revision.0 + 1 {
            return Err(Gap { applied: self.applied.revision, next: change.revision });
        }
        self.applied = change.position();
        Ok(())
    }

    pub fn jump(&mut self, to: Position) {
        self.applied = to;
    }
}

/// The log has a hole, which it must never have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    pub applied: Revision,
    pub next: Revision,
}

/// The log's head, as of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Head {
    pub revision: Revision,
    /// Of the row at `revision`; 0 if the log was never written.
    pub nonce: i64,
    /// The oldest row still there minus one: who has applied less than that has missed something.
    pub trimmed: Revision,
    /// The nonce of the row at the `applied` that was asked with; `None` if there is no such row.
    pub applied_nonce: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{change::Scope, clock::Timestamp};

    fn change(revision: u64, nonce: i64) -> Change {
        Change { revision: Revision(revision), nonce, scope: Scope::Mailboxes(vec![]), ended: vec![] }
    }

    fn head(revision: u64, trimmed: u64, applied_nonce: Option<i64>) -> Head {
        Head { revision: Revision(revision), nonce: 5, trimmed: Revision(trimmed), applied_nonce }
    }

    fn progress() -> Progress {
        let mut progress =
            Progress::begin(NodeId::from_parts(Timestamp(1), [1; 10]), Position { revision: Revision(6), nonce: 60 });
        progress.advance(&change(7, 70)).expect("the next one");
        progress
    }

    #[test]
    fn it_reads_exactly_what_it_has_not_applied() {
        assert_eq!(progress().judge(head(7, 0, Some(70))), Step::UpToDate);
        assert_eq!(progress().judge(head(9, 0, Some(70))), Step::Read { after: Revision(7), up_to: Revision(9) });
        let first = Progress::begin(NodeId::from_parts(Timestamp(1), [2; 10]), Position::default());
        assert_eq!(first.judge(head(1, 0, None)), Step::Read { after: Revision(0), up_to: Revision(1) }, "the log's first row");
    }

    #[test]
    fn it_jumps_when_the_log_no_longer_has_what_it_missed() {
        let to = Position { revision: Revision(20), nonce: 5 };
        assert_eq!(progress().judge(head(20, 8, None)), Step::Jump { to });
        assert_eq!(progress().judge(head(20, 7, None)), Step::Jump { to }, "nobody can tell whether that row was ours");
    }

    #[test]
    fn it_notices_another_history() {
        assert_eq!(progress().judge(head(6, 0, None)), Step::Rewound, "the log is shorter");
        assert_eq!(progress().judge(head(9, 0, Some(71))), Step::Rewound, "the same revision, another row");
        let joined = Progress::begin(NodeId::from_parts(Timestamp(1), [3; 10]), Position { revision: Revision(7), nonce: 70 });
        assert_eq!(joined.judge(head(7, 0, Some(71))), Step::Rewound, "since it joined, too");
    }

    #[test]
    fn a_hole_in_the_log_is_noticed() {
        assert!(progress().advance(&change(9, 90)).is_err());
        assert!(progress().advance(&change(7, 70)).is_err());
    }
}
