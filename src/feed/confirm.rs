//! Waiting until a change holds everywhere: the second half of a revocation (DESIGN.md §6, point 4).

use std::{sync::Arc, time::Duration};

use tracing::warn;

use super::{Feed, lease};
use crate::{
    model::{
        change::Revision,
        clock::{BootTime, Timestamp},
        id::NodeId,
    },
    store::Node,
};

/// The longest lease that a setting allows: what is waited for while it is not known what the others' are.
pub const MAX_LEASE: Duration = Duration::from_secs(60);
pub const MIN_LEASE: Duration = Duration::from_millis(500);

/// How often the others' rows are looked at: at first, and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// How long a revoking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    UntilEffective,
    Not,
}

/// How far a change has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Confirmation {
    /// Nothing anywhere answers from before it.
    Effective,
    Pending {
        unconfirmed: Vec<Unconfirmed>,
        effective_by: Timestamp,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    pub node_id: Option<NodeId>,
    pub name: String,
}

impl Feed {
    /// Waits until every process has applied `revision`, has gone, or can hold no lease from before it any more. Must be called after its commit was
    /// seen. Goes on by itself when the caller hangs up.
    pub async fn confirm(self: &Arc<Self>, revision: Revision, wait: Wait) -> Confirmation {
        self.hint();
        let committed = self.clock.boot();
        if wait == Wait::Not {
            return self.look(revision, committed).await;
        }
        let feed = Arc::clone(self);
        let waiting = tokio::spawn(async move {
            let mut pause = LOOK[0];
            loop {
                let state = feed.look(revision, committed).await;
                if state == Confirmation::Effective {
                    return state;
                }
                let mut applied = feed.applied.subscribe();
                let progress = applied.wait_for(|applied| *applied >= revision);
                if feed.applied() < revision {
                    let _ = tokio::time::timeout(pause, progress).await;
                } else {
                    tokio::time::sleep(pause).await;
                }
                pause = (pause * 2).min(LOOK[1]);
            }
        });
        // A panic in there is a bug; what it leaves us with is that nothing is known.
        match waiting.await {
            Ok(state) => state,
            Err(_) => self.pending(vec![self.unknown()], committed, MAX_LEASE),
        }
    }

    /// One look at who has applied it.
    async fn look(&self, revision: Revision, committed: BootTime) -> Confirmation {
        let waited = self.clock.boot() - committed;
        let nodes = match self.store.nodes().await {
            Ok(nodes) => nodes,
            // Nobody can renew a lease either while the database is away; but some other's may be as long as any.
            Err(_) if waited >= lease::surely_over(MAX_LEASE) => return Confirmation::Effective,
            Err(_) => return self.pending(vec![self.unknown()], committed, MAX_LEASE),
        };
        let own = *self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let has_applied = |node: &Node| node.applied >= revision || (Some(node.node_id) == own && self.applied() >= revision);
        let late: Vec<_> = nodes.iter().filter(|node| !has_applied(node)).collect();
        let longest = nodes.iter().map(|node| node.lease).fold(self.settings.lease, Duration::max);
        if late.is_empty() {
            return Confirmation::Effective;
        }
        if waited < lease::surely_over(longest) {
            let late = late.iter().map(|node| Unconfirmed { node_id: Some(node.node_id), name: node.name.clone() });
            return self.pending(late.collect(), committed, longest);
        }
        // Whoever has not said so by now holds no lease from before the change. Rows that did not move are a dead process's: it costs this one wait, once.
        for node in late {
            if let Ok(true) = self.store.remove_node(node.node_id, node.renewals).await {
                warn!(node = %node.node_id, name = node.name, "a process did not answer for a whole lease; its row was removed");
            }
        }
        Confirmation::Effective
    }

    fn pending(&self, unconfirmed: Vec<Unconfirmed>, committed: BootTime, longest: Duration) -> Confirmation {
        let left = lease::surely_over(longest).saturating_sub(self.clock.boot() - committed);
        Confirmation::Pending { unconfirmed, effective_by: self.wall() + left }
    }

    fn unknown(&self) -> Unconfirmed {
        Unconfirmed { node_id: None, name: "unknown: the database does not answer".to_owned() }
    }
}
