//! Waiting until a change holds everywhere: the second half of a revocation (DESIGN.md §6, point 4).

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::warn;

use super::{
    Feed,
    waiting::{Judged, Waiting},
};
use crate::{
    model::{
        change::Revision,
        clock::{BootTime, Timestamp},
        id::NodeId,
    },
    store::{Closing, Node, StoreError},
};

/// How long to wait between looks at the others' rows: a part of what was waited so far, within these bounds. Many waits share one look.
const LOOK_PART: u32 = 16;
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];

/// How often rows are looked at that were waited for in vain: one that moves, and stays late, may do so for ever.
const LAST_LOOKS: usize = 3;

/// How long a revoking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    UntilEffective,
    Not,
}

/// How far a change has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Confirmation {
    /// Nothing anywhere answers from before it. With what became of the sessions.
    Effective(ClosedSessions),
    Pending {
        unconfirmed: Vec<Unconfirmed>,
        effective_by: Timestamp,
    },
}

/// What a change did to sessions, at all watchers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClosedSessions {
    pub closed: u32,
    /// The watchers that did not say so.
    pub silent: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    pub node_id: Option<NodeId>,
    pub name: String,
}

/// The rows of all processes, as they were last read: many waits share one reading.
#[derive(Debug, Default)]
pub(super) struct Rows(tokio::sync::Mutex<Option<(BootTime, Arc<[Node]>)>>);

impl Feed {
    /// Waits until every process has acknowledged `revision`, has gone, or can hold no lease from before it any more. Must be called after its commit was
    /// seen. Goes on by itself when the caller hangs up.
    pub async fn confirm(self: &Arc<Self>, revision: Revision, wait: Wait) -> Confirmation {
        self.hint();
        let mut waiting = Waiting::new(revision, self.clock.boot(), self.settings.lease);
        if wait == Wait::Not {
            return self.look(revision, &mut waiting).await;
        }
        let feed = Arc::clone(self);
        let committed = waiting.committed();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            loop {
                let state = feed.look(revision, &mut waiting).await;
                if matches!(state, Confirmation::Effective(_)) {
                    // Whoever asked may have hung up.
                    let _ = answer.send(state);
                    return feed.remove_late(revision, waiting).await;
                }
                let mut acknowledged = feed.acknowledged.subscribe();
                let progress = acknowledged.wait_for(|acknowledged| *acknowledged >= revision);
                if feed.acknowledged() < revision {
                    // While we are late ourselves, what the others say changes nothing.
                    let _ = tokio::time::timeout(LOOK[1], progress).await;
                } else {
                    let waited = feed.clock.boot() - committed;
                    tokio::time::sleep((waited / LOOK_PART).clamp(LOOK[0], LOOK[1])).await;
                }
            }
        });
        // A panic in there is a bug; what it leaves us with is that nothing is known.
        answered.await.unwrap_or_else(|_| self.unknown(&Waiting::new(revision, committed, self.settings.lease)))
    }

    /// Who was waited for in vain is waited for once: its row goes as soon as it was seen not to move for a whole lease, which it could not be seen yet.
    async fn remove_late(&self, revision: Revision, mut waiting: Waiting) {
        for _ in 0..LAST_LOOKS {
            let Some(pause) = waiting.unsure(self.clock.boot()) else {
                return;
            };
            tokio::time::sleep(pause).await;
            self.look(revision, &mut waiting).await;
        }
    }

    /// Removes rows of processes that are dead, which nobody happened to wait for. `before`: what an earlier look saw, when. For a loop that is slower than
    /// the longest lease.
    pub async fn remove_dead(&self, before: &mut Vec<Node>) -> Result<(), StoreError> {
        let nodes = self.store.nodes().await?;
        let own = self.node();
        for node in nodes.iter().filter(|node| Some(node.node_id) != own) {
            let has_moved = !before.iter().any(|seen| (seen.node_id, seen.renewals) == (node.node_id, node.renewals));
            if !has_moved && self.store.remove_node(node.node_id, node.renewals).await? {
                warn!(node = %node.node_id, name = node.name, "a process has not been heard of for a minute; its row was removed");
            }
        }
        *before = nodes;
        Ok(())
    }

    /// One look at who has acknowledged it.
    async fn look(&self, revision: Revision, waiting: &mut Waiting) -> Confirmation {
        let nodes = match self.nodes().await {
            Ok(nodes) => nodes,
            Err(_) if waiting.left_unread(self.clock.boot()).is_zero() => {
                return Confirmation::Effective(ClosedSessions::default());
            }
            Err(_) => return self.unknown(waiting),
        };
        // This process's own row, too: what it remembers having applied may be of a history that the change is not in.
        let (own, now) = (self.node(), self.clock.boot());
        match waiting.judge(&nodes, now) {
            Judged::Effective => (),
            Judged::Late(late) => {
                let late = late.into_iter().map(|node| Unconfirmed { node_id: Some(node.node_id), name: node.name });
                return Confirmation::Pending { unconfirmed: late.collect(), effective_by: self.wall() + waiting.left(now) };
            }
            Judged::Over { unmoved } => {
                for (node_id, renewals) in unmoved.into_iter().filter(|(node_id, _)| Some(*node_id) != own) {
                    if let Ok(true) = self.store.remove_node(node_id, renewals).await {
                        warn!(node = %node_id, "a process did not answer for a whole lease; its row was removed");
                    }
                }
            }
        }
        Confirmation::Effective(self.closed_sessions(revision).await)
    }

    /// What the processes have written of it. Not told is not an error: the revocation is effective all the same.
    async fn closed_sessions(&self, revision: Revision) -> ClosedSessions {
        let closings: Vec<Closing> = self.store.closings(revision).await.unwrap_or_default();
        ClosedSessions {
            closed: closings.iter().map(|closing| closing.closed).sum(),
            silent: closings.into_iter().flat_map(|closing| closing.silent).collect(),
        }
    }

    /// All rows, read after this call began.
    pub(super) async fn nodes(&self) -> Result<Arc<[Node]>, StoreError> {
        let wanted = self.clock.boot();
        let mut last = self.rows.0.lock().await;
        if let Some((asked, rows)) = &*last
            && *asked > wanted
        {
            return Ok(Arc::clone(rows));
        }
        let asked = self.clock.boot();
        let rows: Arc<[Node]> = self.store.nodes().await?.into();
        *last = Some((asked, Arc::clone(&rows)));
        Ok(rows)
    }

    fn unknown(&self, waiting: &Waiting) -> Confirmation {
        let who = Unconfirmed { node_id: None, name: "unknown: the database does not answer".to_owned() };
        let effective_by = self.wall() + waiting.left_unread(self.clock.boot());
        Confirmation::Pending { unconfirmed: vec![who], effective_by }
    }
}
