//! Waiting until a change holds everywhere: the second half of a revocation (docs/design.md, "A
//! revocation").

use latchkey_core::model::session::SilentHost;
use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::warn;

use super::Feed;
use crate::store::StoreError;
use latchkey_core::confirmation::{Judged, Waiting};
use latchkey_core::{
    confirmation::Node,
    model::{
        change::{Position, Revision},
        clock::Timestamp,
        id::NodeId,
        session::Closing,
    },
};

/// How long to wait between looks at the others' rows: a part of what was waited so far, within
/// these bounds. Many waits share one look.
const LOOK_PART: u32 = 16;
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];

/// How long an answer waits for reports of sessions once the change is effective.
const REPORTS_WAIT: Duration = Duration::from_secs(1);

/// How often rows are looked at that were waited for in vain: one that moves, and stays late, may
/// do so for ever.
const LAST_LOOKS: usize = 3;

/// How long a revoking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    UntilEffective,
    /// Zero: not at all.
    AtMost(Duration),
}

/// How far a change has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Confirmation {
    /// Nothing anywhere answers from before it. With what became of the sessions.
    Effective(ClosedSessions),
    Pending {
        unconfirmed: Vec<Unconfirmed>,
        effective_by: Timestamp,
        /// As far as they are known by now.
        sessions: ClosedSessions,
    },
}

/// What a change did to sessions, at all watchers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClosedSessions {
    pub closed: u32,
    /// Still connected, and refused at their next command.
    pub refused: u32,
    /// The watchers that reported neither, and the replicas whose watchers could not be asked.
    pub silent: Vec<SilentHost>,
}

fn unknown_host(name: String) -> SilentHost {
    SilentHost { name, sessions: 0 }
}

impl ClosedSessions {
    fn unknown() -> Self {
        let silent = vec![unknown_host("unknown: the database does not answer".to_owned())];
        Self { closed: 0, refused: 0, silent }
    }
}

/// The database has lost the change, in a failover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the database has lost this change in a failover; look at the current state, and repeat the change")]
pub struct ChangeLost;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    pub node_id: Option<NodeId>,
    pub name: String,
}

impl Feed {
    /// Waits until every process has acknowledged the change, has gone, or can hold no lease from
    /// before it any more. Must be called after its commit was seen. Goes on by itself when the
    /// caller hangs up.
    pub async fn confirm(self: &Arc<Self>, change: Position, wait: Wait) -> Result<Confirmation, ChangeLost> {
        let confirmation = self.confirm_without_sessions(change, wait).await?;
        Ok(match confirmation {
            Confirmation::Pending { unconfirmed, effective_by, sessions: _ } => {
                let sessions = self.closed_sessions(change.revision).await;
                Confirmation::Pending { unconfirmed, effective_by, sessions }
            }
            effective @ Confirmation::Effective(_) => effective,
        })
    }

    /// If it is pending, without the sessions.
    async fn confirm_without_sessions(self: &Arc<Self>, change: Position, wait: Wait) -> Result<Confirmation, ChangeLost> {
        self.hint();
        let revision = change.revision;
        let mut waiting = Waiting::new(revision, self.clock.boot(), self.settings.lease);
        if wait == Wait::AtMost(Duration::ZERO) {
            return self.look(change, &mut waiting).await;
        }
        let feed = Arc::clone(self);
        let committed = waiting.committed();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            loop {
                let state = feed.look(change, &mut waiting).await;
                if !matches!(state, Ok(Confirmation::Pending { .. })) {
                    let state = match state {
                        Ok(Confirmation::Effective(sessions)) => {
                            Ok(Confirmation::Effective(feed.with_late_reports(revision, sessions).await))
                        }
                        other => other,
                    };
                    // Whoever asked may have hung up.
                    let _ = answer.send(state);
                    return feed.remove_late(change, waiting).await;
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
        let answer = match wait {
            Wait::UntilEffective => Ok(answered.await),
            Wait::AtMost(limit) => tokio::time::timeout(limit, answered).await,
        };
        let mut waiting = Waiting::new(revision, committed, self.settings.lease);
        match answer {
            Ok(Ok(answer)) => answer,
            // A panic in there is a bug; what it leaves us with is that nothing is known.
            Ok(Err(_)) => Ok(self.unknown(&waiting)),
            Err(_) => self.look(change, &mut waiting).await,
        }
    }

    /// Who was waited for in vain is waited for once: its row goes as soon as it was seen not to
    /// move for a whole lease, which it could not be seen yet.
    async fn remove_late(&self, change: Position, mut waiting: Waiting) {
        for _ in 0..LAST_LOOKS {
            let Some(pause) = waiting.unsure(self.clock.boot()) else {
                return;
            };
            tokio::time::sleep(pause).await;
            // Answered is answered.
            let _ = self.look(change, &mut waiting).await;
        }
    }

    /// Removes rows of processes that are dead, which nobody happened to wait for. `before`: what
    /// an earlier look saw, when. For a loop that is slower than the longest lease.
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
    async fn look(&self, change: Position, waiting: &mut Waiting) -> Result<Confirmation, ChangeLost> {
        let Ok(nodes) = self.nodes().await else {
            // Nobody can renew a lease either.
            let is_over = waiting.left_unread(self.clock.boot()).is_zero();
            return Ok(if is_over { Confirmation::Effective(ClosedSessions::unknown()) } else { self.unknown(waiting) });
        };
        // This process's own row, too: what it remembers having applied may be of a history that
        // the change is not in.
        let (own, now) = (self.node(), self.clock.boot());
        let mut silent = vec![];
        match waiting.judge(&nodes, now) {
            Judged::Effective => (),
            Judged::Late(late) => {
                let late = late.into_iter().map(|node| Unconfirmed { node_id: Some(node.node_id), name: node.name });
                return Ok(pending(late.collect(), self.wall() + waiting.left(now)));
            }
            Judged::Over { unmoved } => {
                // What their watchers had open nobody has told.
                let late = nodes.iter().filter(|node| !node.lease.is_zero() && node.applied < change.revision);
                silent.extend(late.map(|node| unknown_host(node.name.clone())));
                for (node_id, renewals) in unmoved.into_iter().filter(|(node_id, _)| Some(*node_id) != own) {
                    if let Ok(true) = self.store.remove_node(node_id, renewals).await {
                        warn!(node = %node_id, "a process did not answer for a whole lease; its row was removed");
                    }
                }
            }
        }
        // After the rows: then they were of a history that has the change.
        match self.store.head(change.revision).await {
            Ok(head) if head.revision < change.revision => return Err(ChangeLost),
            Ok(head) if head.applied_nonce.is_some_and(|found| found != change.nonce) => return Err(ChangeLost),
            Ok(_) => (),
            Err(_) => return Ok(self.unknown(waiting)),
        }
        let mut sessions = self.closed_sessions(change.revision).await;
        sessions.silent.extend(silent);
        Ok(Confirmation::Effective(sessions))
    }

    /// Gives the watchers a moment to report what became of the sessions that the change ended.
    async fn with_late_reports(&self, revision: Revision, first: ClosedSessions) -> ClosedSessions {
        let begin = self.clock.boot();
        // Of these nobody will report anything.
        let unknown: Vec<_> = first.silent.iter().filter(|host| host.sessions == 0).cloned().collect();
        let mut sessions = first;
        while sessions.silent.iter().any(|host| host.sessions > 0) {
            let waited = self.clock.boot() - begin;
            if waited >= REPORTS_WAIT {
                break;
            }
            tokio::time::sleep((waited / LOOK_PART).clamp(LOOK[0], LOOK[1])).await;
            sessions = self.closed_sessions(revision).await;
            sessions.silent.extend(unknown.iter().cloned());
        }
        sessions
    }

    /// What the processes have written of it. Not told is not an error: the revocation is effective
    /// all the same.
    async fn closed_sessions(&self, revision: Revision) -> ClosedSessions {
        let Ok(closings) = self.store.closings(revision).await else {
            return ClosedSessions::unknown();
        };
        ClosedSessions {
            closed: closings.iter().map(|closing: &Closing| closing.closed).fold(0, u32::saturating_add),
            refused: closings.iter().map(|closing| closing.refused).fold(0, u32::saturating_add),
            silent: closings.into_iter().flat_map(|closing| closing.silent).collect(),
        }
    }

    /// All rows, read after this call began.
    pub(super) async fn nodes(&self) -> Result<Arc<[Node]>, StoreError> {
        self.rows.read(&*self.store, &*self.clock).await
    }

    fn unknown(&self, waiting: &Waiting) -> Confirmation {
        let who = Unconfirmed { node_id: None, name: "unknown: the database does not answer".to_owned() };
        let effective_by = self.wall() + waiting.left_unread(self.clock.boot());
        pending(vec![who], effective_by)
    }
}

fn pending(unconfirmed: Vec<Unconfirmed>, effective_by: Timestamp) -> Confirmation {
    Confirmation::Pending { unconfirmed, effective_by, sessions: ClosedSessions::default() }
}
