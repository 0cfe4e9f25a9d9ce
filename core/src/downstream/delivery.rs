//! What one watcher was sent and has acknowledged, and until when it may answer from what it
//! caches. No I/O and no clock.

use std::{collections::VecDeque, time::Duration};

use crate::{
    lease,
    model::{change::Revision, clock::BootTime},
};

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Delivery {
    /// By this process's clock, at the latest.
    lease_end: BootTime,
    acknowledged: Revision,
    sent: Revision,
    /// What it has not acknowledged, and until when that is waited for. A lease granted later does
    /// not count: it is read after the change, in one ordered stream.
    pending: VecDeque<(Revision, BootTime)>,
    /// Which of them stands for everything before it.
    restart: Option<Revision>,
}

/// An acknowledgement that can't be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadAcknowledgement {
    FromTheFuture,
    Backwards,
}

impl Delivery {
    /// For a watcher that holds nothing from before `at`.
    pub fn begin(at: Revision) -> Self {
        Self { lease_end: BootTime::default(), acknowledged: at, sent: at, pending: VecDeque::new(), restart: None }
    }

    /// It may answer from its cache for `left`, counted from before it asked.
    pub fn grant(&mut self, now: BootTime, left: Duration) {
        self.lease_end = self.lease_end.max(now + lease::surely_over_elsewhere(left));
    }

    /// It is sent a change. `at_least`: until when it is waited for in any case.
    pub fn send(&mut self, revision: Revision, at_least: BootTime) {
        self.sent = revision;
        self.pending.push_back((revision, self.lease_end.max(at_least)));
    }

    /// Whether what it may have acknowledged by now, and is still on its way, could be taken for
    /// having begun again at `at`.
    pub fn restart_is_ambiguous(&self, at: Revision) -> bool {
        self.sent >= at
    }

    /// It is sent a start at `at`, which may be of another history: until it says that it has, or
    /// its lease ends, it may use what is from before.
    pub fn restart(&mut self, at: Revision) {
        self.pending.clear();
        self.acknowledged = Revision(self.acknowledged.0.min(at.0.saturating_sub(1)));
        self.restart = Some(at);
        self.send(at, BootTime::default());
    }

    /// Continues for a watcher that has come back on another stream: what it may still use, it may.
    pub fn resumed(&self, at: Revision) -> Self {
        Self { lease_end: self.lease_end, ..Self::begin(at) }
    }

    /// It has acknowledged up to `revision`: answers what it had not before.
    pub fn acknowledge(&mut self, revision: Revision) -> Result<Vec<Revision>, BadAcknowledgement> {
        if revision > self.sent {
            return Err(BadAcknowledgement::FromTheFuture);
        }
        if revision < self.acknowledged {
            return Err(BadAcknowledgement::Backwards);
        }
        self.acknowledged = revision;
        let count = self.pending.partition_point(|(pending, _)| *pending <= revision);
        Ok(self.pending.drain(..count).map(|(revision, _)| revision).collect())
    }

    /// What it has not acknowledged, but is waited for no longer.
    pub fn expire(&mut self, now: BootTime) -> Vec<Revision> {
        let mut expired = vec![];
        while let Some((revision, _)) = self.pending.pop_front_if(|(_, end)| *end <= now) {
            expired.push(revision);
        }
        expired
    }

    /// Up to where nobody has to wait for it.
    pub fn settled(&self, now: BootTime) -> Revision {
        let waited_for = self.pending.iter().find(|(_, end)| *end > now);
        match waited_for {
            None => self.sent,
            // It may hold what is from before any of the changes that it was not sent.
            Some((revision, _)) if self.restart == Some(*revision) => Revision::default(),
            Some((revision, _)) => Revision(revision.0.saturating_sub(1)),
        }
    }

    /// When the next of what it has not acknowledged is waited for no longer.
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.pending.front().map(|(_, end)| *end)
    }

    pub fn unacknowledged(&self) -> usize {
        self.pending.len()
    }

    pub fn has_lease(&self, now: BootTime) -> bool {
        self.lease_end > now
    }

    /// It has given its lease up, and answers nothing from its cache any more.
    pub fn surrender(&mut self) -> Vec<Revision> {
        self.lease_end = BootTime::default();
        self.acknowledged = self.sent;
        self.pending.drain(..).map(|(revision, _)| revision).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const NOW: BootTime = BootTime(1_000_000_000_000);

    fn with_lease() -> Delivery {
        let mut it = Delivery::begin(Revision(4));
        it.grant(NOW, LEASE);
        it
    }

    #[test]
    fn a_change_is_waited_for_until_it_is_acknowledged_or_the_lease_from_before_it_ends() {
        let mut it = with_lease();
        assert_eq!(it.settled(NOW), Revision(4));
        it.send(Revision(5), NOW);
        it.send(Revision(6), NOW);
        assert_eq!(it.settled(NOW), Revision(4));
        // Granted after the change, and so read after it.
        it.grant(NOW + LEASE / 2, LEASE);
        assert_eq!(it.acknowledge(Revision(5)), Ok(vec![Revision(5)]));
        assert_eq!(it.settled(NOW), Revision(5));
        let over = NOW + lease::surely_over_elsewhere(LEASE);
        assert_eq!(it.settled(over), Revision(6));
        assert_eq!(it.expire(over), [Revision(6)]);
        assert!(it.has_lease(over));
    }

    #[test]
    fn a_watcher_on_a_slow_clock_is_over_before_a_fast_one_stops_to_wait_for_it() {
        let real = LEASE * 1_000 / (1_000 - lease::DRIFT_PER_MILLE);
        assert!(real * (1_000 + lease::DRIFT_PER_MILLE) / 1_000 <= lease::surely_over_elsewhere(LEASE));
    }

    #[test]
    fn who_holds_no_lease_is_waited_for_only_as_long_as_somebody_wants() {
        let mut it = Delivery::begin(Revision(4));
        it.send(Revision(5), NOW + Duration::from_secs(1));
        assert_eq!(it.settled(NOW), Revision(4));
        assert_eq!(it.settled(NOW + Duration::from_secs(1)), Revision(5));
    }

    #[test]
    fn an_acknowledgement_goes_neither_back_nor_ahead() {
        let mut it = with_lease();
        it.send(Revision(5), NOW);
        assert_eq!(it.acknowledge(Revision(6)), Err(BadAcknowledgement::FromTheFuture));
        assert_eq!(it.acknowledge(Revision(5)), Ok(vec![Revision(5)]));
        assert_eq!(it.acknowledge(Revision(5)), Ok(vec![]), "said again");
        assert_eq!(it.acknowledge(Revision(4)), Err(BadAcknowledgement::Backwards));
    }

    #[test]
    fn who_is_to_begin_again_has_settled_nothing_until_it_has() {
        let mut it = with_lease();
        it.restart(Revision(9));
        assert_eq!(it.settled(NOW), Revision::default(), "5 to 9 it was never sent, and may be of another history");
        it.send(Revision(10), NOW);
        assert_eq!(it.acknowledge(Revision(9)), Ok(vec![Revision(9)]));
        assert_eq!(it.settled(NOW), Revision(9));
    }

    #[test]
    fn who_gives_its_lease_up_is_waited_for_no_longer() {
        let mut it = with_lease();
        it.send(Revision(5), NOW);
        assert_eq!(it.surrender(), [Revision(5)]);
        assert_eq!(it.settled(NOW), Revision(5));
        assert!(!it.has_lease(NOW));
    }
}
