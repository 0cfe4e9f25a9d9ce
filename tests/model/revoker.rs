//! Who revokes, and waits until it holds everywhere, as `feed/confirm.rs` does.

use std::time::Duration;

use latchkey_core::{
    confirmation::{Judged, Node, Waiting},
    lease,
    model::{change::Revision, clock::BootTime, id::NodeId},
};

use super::{
    rules::Rule,
    store::Row,
    world::{JOLT, LEASE, State, Who, World},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Revoker {
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// Ends the password.
    Revokes,
    /// Says so again, when the device is gone already.
    Repeats,
    /// Changes another mailbox, and waits just as long.
    Other,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Idle,
    /// Only with a rule taken out: has read the rows, in the transaction that is still to commit.
    RowsRead(Vec<Node>),
    Waiting {
        waiting: Waiting,
        is_jolted: bool,
    },
    /// Has found rows of dead processes.
    Removing(Vec<(NodeId, u64)>),
    /// Has answered EFFECTIVE.
    Done,
}

impl Revoker {
    pub(crate) fn is_jolted(&self) -> bool {
        matches!(self.phase, Phase::Waiting { is_jolted: true, .. })
    }
}

impl World {
    pub(crate) fn can_commit(&self, state: &State, at: usize) -> bool {
        let revoker = &state.revokers[at];
        let is_due = match revoker.phase {
            Phase::Idle => self.holds(Rule::RowsAfterCommit) || revoker.kind != Kind::Revokes,
            Phase::RowsRead(_) => true,
            _ => false,
        };
        let has_reason = match revoker.kind {
            Kind::Revokes => !state.store.is_revoked(),
            Kind::Repeats => state.store.is_revoked(),
            Kind::Other => true,
        };
        is_due && has_reason
    }

    pub(crate) fn read_rows_first(&self, state: &mut State, at: usize) {
        state.revokers[at].phase = Phase::RowsRead(state.store.nodes.clone());
    }

    /// Its change is committed, on the standby too, and it has seen that.
    pub(crate) fn commit(&self, state: &mut State, at: usize) {
        let kind = state.revokers[at].kind;
        let revision = match kind {
            Kind::Repeats => {
                let before = state.store.log.iter().position(|row| row.ends).unwrap_or_default();
                Revision(before as u64 + 1)
            }
            Kind::Revokes | Kind::Other => {
                let nonce = state.fresh_nonce();
                state.store.append(Row { nonce, ends: kind == Kind::Revokes })
            }
        };
        if state.standby.is_some() {
            state.standby = Some(state.store.clone());
        }
        let mut waiting = Waiting::new(revision, state.clock(Who::Revoker), LEASE);
        let is_done = match &state.revokers[at].phase {
            Phase::RowsRead(rows) => waiting.judge(rows, state.clock(Who::Revoker)) == Judged::Effective,
            _ => kind == Kind::Repeats && !self.holds(Rule::RepeatedCallWaits),
        };
        state.revokers[at].phase = if is_done { Phase::Done } else { Phase::Waiting { waiting, is_jolted: false } };
    }

    /// Looks at the rows.
    pub(crate) fn look(&self, state: &mut State, at: usize) {
        let now = self.waited_until(state.clock(Who::Revoker));
        let rows = self.rows(state);
        let Phase::Waiting { waiting, .. } = &mut state.revokers[at].phase else {
            return;
        };
        let next = match waiting.judge(&rows, now) {
            Judged::Late(_) => return,
            Judged::Effective => Phase::Done,
            Judged::Over { .. } if !self.holds(Rule::SeenForAWholeLease) => {
                let late = rows.iter().filter(|row| row.applied < state.store.revision());
                Phase::Removing(late.map(|row| (row.node_id, row.renewals)).collect())
            }
            Judged::Over { unmoved } if unmoved.is_empty() => Phase::Done,
            Judged::Over { unmoved } => Phase::Removing(unmoved),
        };
        state.revokers[at].phase = next;
    }

    /// The rules of how long to wait are in the crate; taking one out is looking at a clock that is
    /// ahead by as much.
    fn waited_until(&self, now: BootTime) -> BootTime {
        let ahead = if !self.holds(Rule::Drift) {
            lease::surely_over(LEASE) - LEASE
        } else if !self.holds(Rule::Margin) {
            lease::MARGIN
        } else {
            Duration::ZERO
        };
        now + ahead
    }

    fn rows(&self, state: &State) -> Vec<Node> {
        let mut rows = state.store.nodes.clone();
        if !self.holds(Rule::NoRowLooksExpired) {
            let looks_alive = |node: &Node| {
                let moved = state.store.moved.iter().find(|(id, _)| *id == node.node_id).map_or(0, |(_, moved)| *moved);
                Duration::from_millis(u64::from(state.now - moved)) < lease::surely_over(LEASE)
            };
            rows.retain(looks_alive);
        }
        if !self.holds(Rule::OwnHistory)
            && let Some(own) = &state.replicas[0].progress
        {
            for row in rows.iter_mut().filter(|row| row.node_id == own.node_id) {
                row.applied = row.applied.max(state.replicas[0].acknowledged);
            }
        }
        rows
    }

    pub(crate) fn remove_rows(&self, state: &mut State, at: usize) {
        if let Phase::Removing(rows) = state.revokers[at].phase.clone() {
            for (node_id, renewals) in rows {
                state.store.remove(node_id, self.holds(Rule::CompareAndSwap).then_some(renewals));
            }
            state.revokers[at].phase = Phase::Done;
        }
    }

    /// Its clock jumps, as far as is trusted that none does.
    pub(crate) fn jolt(&self, state: &mut State, at: usize) {
        debug_assert!(JOLT < lease::MARGIN, "it is within the bound");
        if let Phase::Waiting { is_jolted, .. } = &mut state.revokers[at].phase {
            *is_jolted = true;
        }
    }
}
