//! Floor 2: the change feed. Every process learns of a change through it, the one that made it too,
//! and it keeps the lease that lets logins use the cache (docs/design.md, "A revocation").
//!
//! One task syncs: in a loop of a fifth of the lease, at once on a hint, and at once for logins
//! that found no lease. All who had asked before a sync began share it. What each answer means is
//! decided without I/O in `latchkey-core` (`log`, `confirmation`, `replica`), which the model in
//! `tests/model` runs as well.

pub mod confirmation;
mod failover;
mod membership;
mod observe;
mod rows;
mod sessions;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot, watch};
use tracing::{info, warn};

use self::rows::Rows;
use crate::store::{Store, StoreError};
use latchkey_core::{
    cache::mailboxes::{Entry, MailboxCache},
    downstream::Watchers,
    model::{
        change::Revision,
        clock::{BootTime, SharedClock, Timestamp},
        id::NodeId,
    },
};
use latchkey_core::{
    log::{Progress, Step},
    replica::ReplicaState,
};

/// Rows of the log read at once. Watchers' queues hold a few times as many.
const ROWS_AT_ONCE: usize = 250;
/// Between two readings: how often, and how long, to wait for watchers that are behind.
const KEEP_UP_LOOKS: usize = 100;
const KEEP_UP_INTERVAL: Duration = Duration::from_millis(5);
/// After a sync that failed: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Logins that wait for a sync; more are refused at once.
const MAX_WAITING: usize = 65_536;
/// A feed that has completed no sync for so long, or for a lease if that is longer, stands still.
const SHORTEST_STANDSTILL: Duration = Duration::from_secs(1);

/// How logins learn that the cache may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// By a lease: no round trip.
    Lease,
    /// By a sync begun after the login arrived, shared by all who had arrived: safe even if clocks
    /// stop.
    Read,
}

#[derive(Clone, Debug)]
pub struct FeedSettings {
    pub lease: Duration,
    pub freshness: Freshness,
    /// How people call this process.
    pub node_name: String,
}

/// No lease, and no sync: the database is out of reach.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot verify that the cache is fresh: the database is unreachable")]
pub struct NoSync;

/// See the module.
pub struct Feed {
    store: Arc<dyn Store>,
    state: ReplicaState,
    clock: SharedClock,
    settings: FeedSettings,
    wake: Arc<Notify>,
    waiting: Mutex<Vec<oneshot::Sender<Result<(), NoSync>>>>,
    /// Up to where neither this process nor a watcher of its answers from before.
    acknowledged: watch::Sender<Revision>,
    synced: watch::Sender<bool>,
    node: Mutex<Option<NodeId>>,
    /// The row that is being made.
    joining: tokio::sync::Mutex<Option<NodeId>>,
    /// The row from before, which goes once the new one is there.
    former: Mutex<Option<NodeId>>,
    /// When a sync was completed last, by the boot clock.
    completed: AtomicU64,
    rows: Rows,
    /// Held while it syncs; says whether it has left for good.
    turn: tokio::sync::Mutex<bool>,
    /// How often the database was seen to have lost changes.
    lost_histories: AtomicU64,
}

impl Feed {
    pub fn new(store: Arc<dyn Store>, cache: Arc<MailboxCache>, clock: SharedClock, settings: FeedSettings) -> Self {
        let wake = Arc::new(Notify::new());
        let moved = Arc::clone(&wake);
        let wake_on_progress = Arc::new(move || moved.notify_one());
        Self {
            store,
            state: ReplicaState::new(cache, Arc::clone(&clock), wake_on_progress),
            clock,
            settings,
            wake,
            waiting: Mutex::default(),
            acknowledged: watch::Sender::new(Revision::default()),
            synced: watch::Sender::new(false),
            node: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            former: Mutex::default(),
            completed: AtomicU64::new(0),
            rows: Rows::default(),
            turn: tokio::sync::Mutex::new(false),
            lost_histories: AtomicU64::new(0),
        }
    }

    pub fn watchers(&self) -> &Arc<Watchers> {
        self.state.watchers()
    }

    pub fn settings(&self) -> &FeedSettings {
        &self.settings
    }

    /// Whether the cache may be used as it is.
    pub fn has_lease(&self) -> bool {
        self.state.has_lease_at(self.clock.wall())
    }

    /// As of which revision an entry is right, for who has just synced: `None` if a change has
    /// ended it.
    pub fn as_of(&self, entry: &Entry) -> Option<Revision> {
        self.state.as_of(entry)
    }

    /// The same by the lease, for who has just read the wall clock: `None` if there is none, too.
    /// Cheap: every warm login asks.
    pub fn as_of_lease(&self, entry: &Entry, wall: Timestamp) -> Option<Revision> {
        self.state.as_of_lease(entry, wall)
    }

    /// Waits for a sync that begins after this call: then the cache is as new as this moment.
    pub async fn sync(&self) -> Result<(), NoSync> {
        let (done, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_WAITING {
                return Err(NoSync);
            }
            waiting.push(done);
        }
        self.wake.notify_one();
        answer.await.unwrap_or(Err(NoSync))
    }

    /// As [`Self::sync`], at the next whole multiple of `interval`: all who wait until then share
    /// one sync.
    pub async fn sync_with_others(&self, interval: Duration) -> Result<(), NoSync> {
        let interval = interval.as_nanos().max(1);
        let since_last = u128::from(self.clock.boot().0) % interval;
        tokio::time::sleep(Duration::from_nanos(u64::try_from(interval - since_last).unwrap_or(0))).await;
        self.sync().await
    }

    /// Something may have changed: sync at once.
    pub fn hint(&self) {
        self.wake.notify_one();
    }

    /// Whether the last sync worked: what readiness goes by.
    pub fn health(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// The longest lease that a watcher can be granted here.
    pub fn longest_grant(&self) -> Duration {
        match self.settings.freshness {
            Freshness::Lease => self.settings.lease,
            Freshness::Read => Duration::ZERO,
        }
    }

    /// How far the log was applied here: an entry that is current after this was read is as new as
    /// this.
    pub fn applied(&self) -> Revision {
        self.state.applied()
    }

    /// Up to where neither this process nor a watcher of its answers from before.
    pub fn acknowledged(&self) -> Revision {
        *self.acknowledged.borrow()
    }

    /// Whether the last sync worked.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// How often the database was seen to have lost changes.
    pub fn lost_histories(&self) -> u64 {
        self.lost_histories.load(Ordering::Relaxed)
    }

    /// Syncs for ever, and notices when that stands still.
    pub async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.sync_for_ever() => (),
            () = self.watch_for_standstill() => (),
        }
    }

    /// Readiness ends when no sync was completed for a whole lease: nothing is answered from the
    /// cache then, whatever the feed waits for.
    async fn watch_for_standstill(&self) {
        let bound = self.settings.lease.max(SHORTEST_STANDSTILL);
        loop {
            tokio::time::sleep((bound / 4).min(SHORTEST_STANDSTILL)).await;
            let completed = BootTime(self.completed.load(Ordering::Acquire));
            let stands_still = self.clock.boot() - completed > bound;
            if stands_still && self.synced.send_replace(false) {
                warn!(bound_seconds = bound.as_secs_f64(), "no sync was completed in time: not ready until one is");
            }
        }
    }

    async fn sync_for_ever(&self) {
        let wake = Arc::clone(&self.wake);
        self.store.listen(Arc::new(move || wake.notify_one()));
        let mut progress = None;
        let mut retry = RETRY[0];
        let mut renewed: Option<BootTime> = None;
        loop {
            let began = self.clock.boot();
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let is_due = renewed.is_none_or(|renewed| began - renewed >= self.settings.lease / 5);
            // Who waits for want of a lease is served by getting one: a write, which a primary that
            // was replaced can't make.
            let lacks_lease = !waiting.is_empty() && self.settings.freshness == Freshness::Lease && !self.has_lease();
            let why = if is_due || lacks_lease { Why::Renewal } else { Why::Asked };
            let node = progress.as_ref().map(|progress: &Progress| progress.node_id);
            let turn = self.turn.lock().await;
            if *turn {
                // Left: whoever waits is told so by its channel. That is no standstill.
                self.completed.store(u64::MAX, Ordering::Release);
                return std::future::pending().await;
            }
            let outcome = self.sync_once(&mut progress, why).await;
            drop(turn);
            match &outcome {
                Ok(_) if why == Why::Renewal => renewed = Some(began),
                Ok(_) => (),
                Err(_) => renewed = None,
            }
            // A new row has no lease yet.
            if progress.as_ref().map(|progress| progress.node_id) != node && node.is_some() {
                renewed = None;
            }
            if outcome.is_ok() {
                self.completed.store(self.clock.boot().0, Ordering::Release);
            }
            let pause = match &outcome {
                Ok(Next::Again) => Duration::ZERO,
                Ok(Next::Rest) => self.rest(renewed),
                Err(_) => retry,
            };
            if self.synced.send_replace(outcome.is_ok()) != outcome.is_ok() {
                match &outcome {
                    Ok(_) => info!("the database answers; logins are served"),
                    Err(error) => warn!(%error, "the database does not answer; logins are served until the lease ends"),
                }
            }
            retry = if outcome.is_ok() { RETRY[0] } else { (retry * 2).min(RETRY[1]) };
            for login in waiting {
                // One that hung up meanwhile needs no answer.
                let _ = login.send(outcome.as_ref().map(|_| ()).map_err(|_| NoSync));
            }
            if !pause.is_zero() {
                let _ = tokio::time::timeout(pause, self.wake.notified()).await;
            }
        }
    }

    /// Stops using the cache, then leaves: nobody has to wait for this process any more. Unless
    /// some watcher may still use its own: then the row stays, and is waited for once.
    pub async fn leave(&self) -> Result<Left, StoreError> {
        // A sync under way would grant the lease once more, after nobody waits for it.
        *self.turn.lock().await = true;
        let is_used_by_nobody = self.state.stop();
        let Some(node_id) = self.node() else {
            return Ok(Left::Gone);
        };
        if !is_used_by_nobody {
            return Ok(Left::WatchersRemain);
        }
        self.store.leave(node_id).await?;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(Left::Gone)
    }

    /// How long to do nothing: until the lease is to be renewed, or a watcher is waited for no
    /// longer.
    fn rest(&self, renewed: Option<BootTime>) -> Duration {
        let now = self.clock.boot();
        let since = renewed.map_or(Duration::ZERO, |renewed| now - renewed);
        let renewal = (self.settings.lease / 5).saturating_sub(since).max(Duration::from_millis(1));
        match self.watchers().next_expiry() {
            Some(expiry) => (expiry - now).clamp(Duration::from_millis(1), renewal),
            None => renewal,
        }
    }

    /// One round trip, and what it tells. With [`Why::Renewal`] it writes this process's row, and
    /// the lease is renewed; else it only reads, which is quicker, and what was acknowledged
    /// meanwhile is written without waiting for a disk.
    async fn sync_once(&self, progress: &mut Option<Progress>, why: Why) -> Result<Next, StoreError> {
        let at = match progress {
            Some(at) => at,
            None => {
                let at = progress.insert(self.join().await?);
                self.leave_former_row().await;
                at
            }
        };
        let before = self.acknowledged();
        let acknowledged = self.acknowledge(at).await?;
        // Before the store is asked: the lease counts from here.
        let (from, wall_from) = (self.clock.boot(), self.clock.wall());
        let head = match why {
            Why::Renewal => {
                let head = self.store.sync(at.node_id, at.renewals, acknowledged, at.applied).await?;
                at.renewals += u64::from(head.is_some());
                head
            }
            Why::Asked => {
                let is_written = acknowledged == before || {
                    let is_written = self.store.acknowledge(at.node_id, at.renewals, acknowledged, at.applied).await?;
                    at.renewals += u64::from(is_written);
                    is_written
                };
                if is_written { Some(self.store.feed_head(at.applied.revision).await?) } else { None }
            }
        };
        let Some(head) = head else {
            return self.begin_anew(progress).await;
        };
        let next = match at.judge(head) {
            Step::UpToDate => Next::Rest,
            Step::Read { after, up_to } => {
                self.apply(at, after, up_to).await?;
                // At once, so that whoever waits for us reads that it is applied.
                Next::Again
            }
            Step::Jump { to } => {
                info!(revision = %to.revision, "fell behind the log; the cache is emptied");
                self.state.jump(to);
                at.jump(to);
                Next::Again
            }
            Step::Rewound => return self.begin_anew(progress).await,
        };
        if why == Why::Renewal && self.settings.freshness == Freshness::Lease {
            self.state.grant(from, wall_from, self.settings.lease);
        }
        Ok(next)
    }

    /// What this process and its watchers have done with the changes is written, and up to where
    /// that is so, answered.
    async fn acknowledge(&self, at: &Progress) -> Result<Revision, StoreError> {
        let settled = self.watchers().settled(at.applied.revision);
        let closings = self.watchers().take_closings(settled);
        if !closings.is_empty()
            && let Err(error) = self.store.add_closings(at.node_id, &closings).await
        {
            self.watchers().put_back_closings(&closings);
            return Err(error);
        }
        self.acknowledged.send_replace(settled);
        Ok(settled)
    }

    async fn apply(&self, at: &mut Progress, after: Revision, up_to: Revision) -> Result<(), StoreError> {
        let mut after = after;
        while after < up_to {
            // From the last row applied on: they follow it if it is the first. The database may be
            // another one by now than the head was read from.
            let before = Revision(after.0.saturating_sub(1));
            let mut changes = self.store.changes(before, up_to, ROWS_AT_ONCE).await?.into_iter().peekable();
            let is_next = after == Revision::default() || changes.next().is_some_and(|last| last.position() == at.applied);
            if !is_next || changes.peek().is_none() {
                // Trimmed in the meantime, or of another history: the next sync's head tells.
                return Err(StoreError::Conflict("the log has changed while it was read".to_owned()));
            }
            for change in changes {
                if let Err(gap) = at.advance(&change) {
                    return Err(StoreError::Corrupt(format!("the log goes from {} to {}", gap.applied, gap.next)));
                }
                self.state.apply(change);
            }
            after = at.applied.revision;
            if after < up_to {
                self.let_watchers_keep_up().await;
            }
        }
        Ok(())
    }

    /// Who reads and acknowledges is not to be cut off because this process has missed a lot and
    /// tells it all at once. Who does not, is.
    async fn let_watchers_keep_up(&self) {
        for _ in 0..KEEP_UP_LOOKS {
            if self.watchers().furthest_behind() < ROWS_AT_ONCE {
                return;
            }
            tokio::time::sleep(KEEP_UP_INTERVAL).await;
        }
    }

    fn node(&self) -> Option<NodeId> {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, by this process's clock.
    pub fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
}

/// How a process has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    Gone,
    /// Its row is still there.
    WatchersRemain,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("settings", &self.settings).field("applied", &self.applied()).finish_non_exhaustive()
    }
}

/// Why a sync is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// It is time to renew the lease; or, without leases, to show that this process is alive.
    Renewal,
    /// Something may have changed, or been acknowledged; or logins want to know.
    Asked,
}

enum Next {
    /// Sync again at once.
    Again,
    /// Sync when it is time, or on a hint.
    Rest,
}
