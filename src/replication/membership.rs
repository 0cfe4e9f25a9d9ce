//! This process's row among those that revocations wait for: how it comes, and how it comes anew.

use std::{sync::PoisonError, time::Duration};

use tracing::warn;

use super::{Feed, Freshness, Next};
use crate::{random::NewId as _, store::StoreError};
use latchkey_core::{
    confirmation::Node,
    log::{Head, Progress, Step},
    model::{
        change::{Position, Revision},
        id::NodeId,
    },
};

impl Feed {
    /// This process's row is gone, or the log is of another history: nothing that is held may be
    /// used.
    pub(super) async fn begin_anew(&self, progress: &mut Option<Progress>) -> Result<Next, StoreError> {
        self.state.end_lease();
        let Some(before) = progress else {
            return Ok(Next::Again);
        };
        let head = self.store.feed_head(before.applied.revision).await?;
        if before.judge(head) == Step::Rewound {
            self.state.clear(head.revision);
            self.revoke_lost(before, head).await?;
        } else {
            warn!("this process's row in the database is gone; it empties its cache and joins anew");
        }
        // Joining starts from the log's head. If it fails half-way, nothing may go on from before.
        *self.former.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.node_id);
        *progress = None;
        *progress = Some(self.join().await?);
        self.leave_former_row().await;
        Ok(Next::Again)
    }

    /// The new row comes before the old one goes: somebody must be waited for as long as a watcher
    /// holds a lease.
    pub(super) async fn leave_former_row(&self) {
        let former = self.former.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node_id) = former
            && let Err(error) = self.store.leave(node_id).await
        {
            warn!(%error, "this process's former row stays: one revocation waits for it in vain");
        }
    }

    /// Makes this process's row, so that revocations wait for it, before it may use its cache:
    /// which is empty.
    pub(super) async fn join(&self) -> Result<Progress, StoreError> {
        let mut joining = self.joining.lock().await;
        // One id until the row is known to be there: each attempt may have left one, for which
        // revocations would wait.
        let node_id = *joining.get_or_insert_with(|| NodeId::new(self.clock.wall()));
        let Head { revision, nonce, .. } = self.store.feed_head(Revision::default()).await?;
        let head = Position { revision, nonce };
        self.state.begin(head);
        let lease = match self.settings.freshness {
            Freshness::Lease => self.settings.lease,
            Freshness::Read => Duration::ZERO,
        };
        let name = self.settings.node_name.clone();
        let applied = self.watchers().settled(revision);
        self.store.join(&Node { node_id, name, lease, applied, renewals: 0 }).await?;
        *joining = None;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node_id);
        self.watchers().write_sessions_anew();
        self.acknowledged.send_replace(applied);
        self.warn_of_other_leases(lease).await;
        Ok(Progress::begin(node_id, head))
    }

    async fn warn_of_other_leases(&self, own: Duration) {
        let nodes = self.store.nodes().await.unwrap_or_default();
        let others = nodes.iter().filter(|node| !node.lease.is_zero() && node.lease != own);
        if let Some(longest) = others.map(|node| node.lease).max().filter(|_| !own.is_zero()) {
            warn!(
                own_seconds = own.as_secs_f64(),
                longest_seconds = longest.max(own).as_secs_f64(),
                "the replicas' --lease settings differ: revocations wait for the longest"
            );
        }
    }
}
