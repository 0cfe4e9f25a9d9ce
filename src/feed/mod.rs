//! Floor 2: the change feed. Every process learns of a change through it, the one that made it too, and it keeps the lease that lets logins use the cache
//! (DESIGN.md §6).
//!
//! One task syncs: in a loop of a fifth of the lease, at once on a hint, and at once for logins that found no lease. All who had asked before a sync began share it.

pub mod confirm;
pub mod lease;
pub mod progress;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, info, warn};

use self::{
    lease::Lease,
    progress::{Progress, Step},
};
use crate::{
    cache::mailboxes::MailboxCache,
    model::{
        change::Revision,
        clock::{SharedClock, Timestamp},
        id::NodeId,
    },
    store::{Node, Store, StoreError},
};

/// Rows of the log read at once.
const ROWS_AT_ONCE: usize = 1_000;
/// After a sync that failed: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Logins that wait for a sync; more are refused at once.
const MAX_WAITING: usize = 65_536;

/// How logins learn that the cache may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// By a lease: no round trip.
    Lease,
    /// By a sync begun after the login arrived, shared by all who had arrived: safe even if clocks stop.
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
#[error("the database can't be asked whether the cache is still right")]
pub struct NoSync;

/// See the module.
pub struct Feed {
    store: Arc<dyn Store>,
    cache: Arc<MailboxCache>,
    clock: SharedClock,
    settings: FeedSettings,
    lease: Lease,
    wake: Notify,
    waiting: Mutex<Vec<oneshot::Sender<Result<(), NoSync>>>>,
    applied: watch::Sender<Revision>,
    synced: watch::Sender<bool>,
    node: Mutex<Option<NodeId>>,
}

impl Feed {
    pub fn new(store: Arc<dyn Store>, cache: Arc<MailboxCache>, clock: SharedClock, settings: FeedSettings) -> Self {
        Self {
            store,
            cache,
            clock,
            settings,
            lease: Lease::default(),
            wake: Notify::new(),
            waiting: Mutex::default(),
            applied: watch::Sender::new(Revision::default()),
            synced: watch::Sender::new(false),
            node: Mutex::default(),
        }
    }

    /// Whether the cache may be used as it is. Cheap: every warm login asks.
    pub fn has_lease(&self) -> bool {
        self.has_lease_at(self.clock.wall())
    }

    /// As [`Self::has_lease`], for who has just read the wall clock.
    pub fn has_lease_at(&self, wall: Timestamp) -> bool {
        self.lease.holds(self.clock.boot(), wall)
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

    /// Something may have changed: sync at once.
    pub fn hint(&self) {
        self.wake.notify_one();
    }

    /// Whether the last sync worked: what readiness goes by.
    pub fn health(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// How far the log was applied here.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Syncs for ever.
    pub async fn run(self: Arc<Self>) {
        let mut progress = None;
        let mut retry = RETRY[0];
        loop {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let outcome = self.sync_once(&mut progress).await;
            let pause = match &outcome {
                Ok(Next::Again) => Duration::ZERO,
                Ok(Next::Rest) => self.settings.lease / 5,
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

    /// Stops using the cache, then leaves: nobody has to wait for this process any more.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.lease.end();
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        match node {
            Some(node_id) => self.store.leave(node_id).await,
            None => Ok(()),
        }
    }

    async fn sync_once(&self, progress: &mut Option<Progress>) -> Result<Next, StoreError> {
        let at = match progress {
            Some(at) => at,
            None => progress.insert(self.join().await?),
        };
        // Before the store is asked: the lease counts from here.
        let (from, wall_from) = (self.clock.boot(), self.clock.wall());
        let head = match self.settings.freshness {
            Freshness::Read => Some(self.store.head(at.applied).await?),
            Freshness::Lease => self.store.sync(at.node_id, at.renewals, at.applied).await?,
        };
        let Some(head) = head else {
            // Somebody took us for dead, and waits for us no more: nothing that we hold may be used.
            warn!("this process's row in the database is gone; it empties its cache and joins anew");
            self.lease.end();
            self.cache.clear(at.applied);
            *progress = None;
            return Ok(Next::Again);
        };
        at.renewals += 1;
        let next = match at.judge(head) {
            Step::UpToDate => Next::Rest,
            Step::Read { after, up_to } => {
                self.apply(at, after, up_to).await?;
                // At once, so that whoever waits for us reads that it is applied.
                Next::Again
            }
            Step::Jump { to } => {
                info!(revision = %to, "fell behind the log; the cache is emptied");
                self.cache.clear(to);
                at.jump(to);
                Next::Again
            }
            Step::Rewound { to } => {
                error!(applied = %at.applied, head = %to, "THE DATABASE HAS GONE BACK IN TIME: changes that were answered as done may be lost. Was a standby promoted that was not synchronous? The cache is emptied; see docs/reliability.md");
                self.lease.end();
                self.cache.clear(to);
                let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
                *progress = None;
                if let Some(node_id) = node {
                    self.store.leave(node_id).await?;
                }
                return Ok(Next::Again);
            }
        };
        self.applied.send_replace(at.applied);
        if self.settings.freshness == Freshness::Lease {
            self.lease.grant(from, wall_from, self.settings.lease);
        }
        Ok(next)
    }

    /// Makes this process's row, so that revocations wait for it, before it may use its cache: which is empty.
    async fn join(&self) -> Result<Progress, StoreError> {
        let node_id = NodeId::new(self.clock.wall());
        let head = self.store.head(Revision::default()).await?.revision;
        self.cache.clear(head);
        if self.settings.freshness == Freshness::Lease {
            let name = self.settings.node_name.clone();
            self.store.join(&Node { node_id, name, lease: self.settings.lease, applied: head, renewals: 0 }).await?;
            *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node_id);
        }
        Ok(Progress::begin(node_id, head))
    }

    async fn apply(&self, at: &mut Progress, after: Revision, up_to: Revision) -> Result<(), StoreError> {
        let mut after = after;
        while after < up_to {
            let changes = self.store.changes(after, up_to, ROWS_AT_ONCE).await?;
            if changes.is_empty() {
                // Trimmed in the meantime: the next sync's head tells.
                return Err(StoreError::Conflict("the log was trimmed while it was read".to_owned()));
            }
            for change in &changes {
                self.cache.apply(change);
                if let Err(gap) = at.advance(change) {
                    return Err(StoreError::Corrupt(format!("the log goes from {} to {}", gap.applied, gap.next)));
                }
            }
            after = at.applied;
        }
        Ok(())
    }

    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("settings", &self.settings).field("applied", &self.applied()).finish_non_exhaustive()
    }
}

enum Next {
    /// Sync again at once.
    Again,
    /// Sync when it is time, or on a hint.
    Rest,
}
