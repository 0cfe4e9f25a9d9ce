//! What logins, watchers and the feed of one process share in memory, and in which order a change
//! goes through it (docs/design.md, "A revocation"). No I/O: `tests/interleavings` runs it under
//! shuttle.

use std::{fmt, sync::Arc, time::Duration};

use crate::sync::{AtomicU64, Ordering};
use crate::{
    cache::mailboxes::{Entry, MailboxCache},
    downstream::Watchers,
    lease::Lease,
    model::{
        change::{Change, Position, Revision},
        clock::{BootTime, SharedClock, Timestamp},
    },
};

/// See the module. One task, the feed's, changes it; logins and watchers' doors look at it
/// meanwhile.
pub struct ReplicaState {
    cache: Arc<MailboxCache>,
    watchers: Arc<Watchers>,
    lease: Arc<Lease>,
    clock: SharedClock,
    applied: AtomicU64,
}

impl ReplicaState {
    /// `wake` is called when a watcher has moved on. It must not wait.
    pub fn new(cache: Arc<MailboxCache>, clock: SharedClock, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let lease = Arc::new(Lease::default());
        let watchers = Arc::new(Watchers::new(Arc::clone(&clock), Arc::clone(&lease), wake));
        Self { cache, watchers, lease, clock, applied: AtomicU64::new(0) }
    }

    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    // For logins.

    /// How far the log was applied: an entry that is current after this was read is as new as this.
    pub fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// Whether the cache may be used as it is. Cheap: every warm login asks.
    pub fn has_lease_at(&self, wall: Timestamp) -> bool {
        self.lease.holds(self.clock.boot(), wall)
    }

    /// As of which revision an entry is right, for who knows that this process has followed the log
    /// up to now: `None` if a change has ended it.
    pub fn as_of(&self, entry: &Entry) -> Option<Revision> {
        // Before the entry is looked at: what is applied after that it may not have seen.
        let applied = self.applied();
        entry.is_current().then(|| entry.read.revision.max(applied))
    }

    /// The same by the lease, without asking anybody: `None` if there is none, too.
    pub fn as_of_lease(&self, entry: &Entry, wall: Timestamp) -> Option<Revision> {
        // Before the entry is looked at: a lease that was lost and granted anew in between says
        // nothing about an entry from before.
        if self.has_lease_at(wall) { self.as_of(entry) } else { None }
    }

    // For the feed, which alone calls these.

    /// A row of the log, the next one.
    pub fn apply(&self, change: Change) {
        let revision = change.revision;
        self.cache.apply(&change);
        // After the cache, so that nothing from before passes for as new as this. Before a watcher
        // hears of it, so that what it asks then is answered as such.
        self.applied.store(revision.0, Ordering::Release);
        self.watchers.tell(&Arc::new(change));
    }

    /// Rows were missed that the log no longer has: all begin empty at `to`.
    pub fn jump(&self, to: Position) {
        self.lease.end();
        self.cache.clear(to.revision);
        self.applied.store(to.revision.0, Ordering::Release);
        self.watchers.tell_start_empty(to);
    }

    /// A log that is not known yet, or that is of another history: all begin empty at its head.
    pub fn begin(&self, at: Position) {
        // In another history it may be lower: nothing read from now on is to pass for newer than it
        // is.
        self.applied.fetch_min(at.revision.0, Ordering::AcqRel);
        self.jump(at);
    }

    /// Nothing that the cache holds may be used, and nothing from before `floor` gets in.
    pub fn clear(&self, floor: Revision) {
        self.lease.end();
        self.cache.clear(floor);
    }

    /// No lease any more, until one is granted.
    pub fn end_lease(&self) {
        self.lease.end();
    }

    /// Everything up to what a sync read is applied: the lease runs from a moment before that sync
    /// was asked for.
    pub fn grant(&self, from: BootTime, wall_from: Timestamp, lease: Duration) {
        self.lease.grant(from, wall_from, lease);
    }

    /// Uses the cache no more. Whether nobody who watches does either.
    pub fn stop(&self) -> bool {
        // First: a watcher that renews from here on is granted nothing, and one that did before is
        // seen.
        self.lease.end();
        !self.watchers.has_leases()
    }
}

impl fmt::Debug for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaState").field("applied", &self.applied()).field("lease", &self.lease).finish_non_exhaustive()
    }
}
