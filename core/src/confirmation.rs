//! Whom a revocation waits for, and for how long. No I/O and no clock: rows and times go in, a
//! judgement comes out (docs/design.md, "A revocation").

use std::{collections::BTreeMap, time::Duration};

use crate::{
    lease,
    model::{change::Revision, clock::BootTime, id::NodeId},
};

/// A process that caches.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub node_id: NodeId,
    /// For people.
    pub name: String,
    /// Zero: it answers nothing from a cache without asking, so nobody waits for it.
    pub lease: Duration,
    /// Up to where it, and whoever it answers for, holds nothing from before any more, as far as it
    /// has said.
    pub applied: Revision,
    /// Counts up with each sync.
    pub renewals: u64,
}

/// One change's way to being effective.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Waiting {
    revision: Revision,
    /// When its commit was seen, at the latest.
    committed: BootTime,
    /// The longest lease of any row seen.
    longest: Duration,
    /// What each late row's counter said, and since when it was seen to say that.
    seen: BTreeMap<NodeId, (u64, BootTime)>,
}

/// What the rows of all processes mean to one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judged {
    /// Each has acknowledged it, or has gone.
    Effective,
    /// These have not, and their leases may still run.
    Late(Vec<Node>),
    /// These have not, but can hold no lease from before it any more. The rows among them that were
    /// seen not to move for a whole lease are of dead processes, and may be removed if their
    /// counter is still this.
    Over { unmoved: Vec<(NodeId, u64)> },
}

impl Waiting {
    /// `lease`: this process's own setting.
    pub fn new(revision: Revision, committed: BootTime, lease: Duration) -> Self {
        Self { revision, committed, longest: lease, seen: BTreeMap::new() }
    }

    pub fn committed(&self) -> BootTime {
        self.committed
    }

    /// Judges rows that were read after the commit was seen. No row is skipped for looking dead:
    /// its renewal may be on its way.
    pub fn judge(&mut self, nodes: &[Node], now: BootTime) -> Judged {
        // One without a lease asks before each answer.
        let late: Vec<&Node> = nodes.iter().filter(|node| !node.lease.is_zero() && node.applied < self.revision).collect();
        for node in &late {
            self.longest = self.longest.max(node.lease);
            let seen = self.seen.entry(node.node_id).or_insert((node.renewals, now));
            if seen.0 != node.renewals {
                *seen = (node.renewals, now);
            }
        }
        self.seen.retain(|id, _| late.iter().any(|node| node.node_id == *id));
        if late.is_empty() {
            return Judged::Effective;
        }
        if !self.left(now).is_zero() {
            return Judged::Late(late.into_iter().cloned().collect());
        }
        // One that was read late, after an outage say, may have moved just before, and hold a lease
        // from then: nothing is wrong with it but its being late.
        let over = lease::surely_over(self.longest);
        let unmoved = late.iter().filter(|node| self.seen.get(&node.node_id).is_some_and(|(_, since)| now - *since >= over));
        Judged::Over { unmoved: unmoved.map(|node| (node.node_id, node.renewals)).collect() }
    }

    /// How long at most it is still waited for.
    pub fn left(&self, now: BootTime) -> Duration {
        lease::surely_over(self.longest).saturating_sub(now - self.committed)
    }

    /// When it is waited for no longer: after how long one more look may find some row dead that
    /// was late at the last one.
    pub fn unsure(&self, now: BootTime) -> Option<Duration> {
        let over = lease::surely_over(self.longest);
        self.seen.values().map(|(_, since)| over.saturating_sub(now - *since)).max()
    }

    /// As [`Self::left`], while the rows can't be read: nobody can renew a lease either, but some
    /// other's may be as long as any.
    pub fn left_unread(&self, now: BootTime) -> Duration {
        lease::surely_over(self.longest.max(lease::LONGEST)).saturating_sub(now - self.committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const COMMITTED: BootTime = BootTime(1_000_000_000);

    fn node(applied: u64, renewals: u64, lease: Duration) -> Node {
        Node { node_id: NodeId(uuid::Uuid::nil()), name: "r1".into(), lease, applied: Revision(applied), renewals }
    }

    fn waiting() -> Waiting {
        Waiting::new(Revision(5), COMMITTED, LEASE)
    }

    #[test]
    fn it_waits_for_all_who_have_not_said_so_and_for_nobody_else() {
        let now = COMMITTED + Duration::from_secs(1);
        assert_eq!(waiting().judge(&[], now), Judged::Effective);
        assert_eq!(waiting().judge(&[node(5, 1, LEASE)], now), Judged::Effective);
        assert_eq!(waiting().judge(&[node(4, 1, Duration::ZERO)], now), Judged::Effective, "it holds no lease");
        assert!(matches!(waiting().judge(&[node(4, 1, LEASE)], now), Judged::Late(late) if late.len() == 1));
    }

    #[test]
    fn the_longest_lease_of_any_row_counts() {
        let mut waiting = waiting();
        let long = [node(4, 1, LEASE * 3)];
        assert!(matches!(waiting.judge(&long, COMMITTED + LEASE * 2), Judged::Late(_)));
        let over = COMMITTED + lease::surely_over(LEASE * 3);
        assert!(matches!(waiting.judge(&long, over), Judged::Over { .. }));
        assert_eq!(waiting.left(COMMITTED + LEASE), lease::surely_over(LEASE * 3) - LEASE);
    }

    #[test]
    fn a_row_that_moved_is_waited_for_no_longer_but_stays() {
        let over = COMMITTED + lease::surely_over(LEASE);
        let (mut still, mut moved) = (waiting(), waiting());
        still.judge(&[node(4, 1, LEASE)], COMMITTED);
        moved.judge(&[node(4, 1, LEASE)], COMMITTED);
        let id = NodeId(uuid::Uuid::nil());
        assert_eq!(still.judge(&[node(4, 1, LEASE)], over), Judged::Over { unmoved: vec![(id, 1)] });
        assert_eq!(moved.judge(&[node(4, 2, LEASE)], over), Judged::Over { unmoved: vec![] });
    }

    #[test]
    fn a_row_that_was_not_seen_for_a_whole_lease_stays_though_it_is_waited_for_no_longer() {
        let mut waiting = waiting();
        let over = COMMITTED + lease::surely_over(LEASE);
        let id = NodeId(uuid::Uuid::nil());
        assert_eq!(
            waiting.judge(&[node(4, 1, LEASE)], over),
            Judged::Over { unmoved: vec![] },
            "the database was out of reach till now"
        );
        let later = over + lease::surely_over(LEASE);
        assert_eq!(waiting.unsure(over), Some(lease::surely_over(LEASE)));
        assert_eq!(waiting.judge(&[node(4, 1, LEASE)], later), Judged::Over { unmoved: vec![(id, 1)] });
        assert_eq!(waiting.unsure(later), Some(Duration::ZERO), "it may have been looked at a moment before that");
        assert_eq!(waiting.judge(&[node(5, 2, LEASE)], over), Judged::Effective);
        assert_eq!(waiting.unsure(over), None, "it was late, and is no more");
    }
}
