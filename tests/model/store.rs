//! The database: a change log, and the rows of all processes. What it does is what
//! `store/sql/upkeep.rs` says in SQL, each statement in the steps in which others can see it.

use std::time::Duration;

use latchkey_core::{
    confirmation::Node,
    log::{Head, Progress},
    model::{
        change::{Position, Revision},
        id::NodeId,
    },
};

/// A row of the change log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Row {
    pub(crate) nonce: i64,
    /// Ends the one password that this is about; else it concerns another mailbox.
    pub(crate) ends: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Store {
    /// The first has revision 1.
    pub(crate) log: Vec<Row>,
    pub(crate) trimmed: u64,
    pub(crate) nodes: Vec<Node>,
    /// When each row moved last: only kept for the rule that nobody is to look at it.
    pub(crate) moved: Vec<(NodeId, u32)>,
}

/// A sync on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Request {
    pub(crate) node_id: NodeId,
    pub(crate) renewals: u64,
    pub(crate) acknowledged: Revision,
    pub(crate) applied: Position,
    /// Whether somebody still waits for the answer.
    pub(crate) is_awaited: bool,
    pub(crate) stage: Stage,
}

/// A statement takes time: what it reads is as of its beginning, what it writes others see at its
/// end. Meanwhile it holds its row.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    Sent,
    Begun(Option<Head>),
}

impl Store {
    pub(crate) fn begin() -> Self {
        Self { log: vec![Row { nonce: 1, ends: false }], trimmed: 0, nodes: vec![], moved: vec![] }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.log.len() as u64)
    }

    pub(crate) fn position(&self) -> Position {
        Position { revision: self.revision(), nonce: self.row(self.revision()).map_or(0, |row| row.nonce) }
    }

    /// The password's end is in the log.
    pub(crate) fn is_revoked(&self) -> bool {
        self.log.iter().any(|row| row.ends)
    }

    pub(crate) fn row(&self, revision: Revision) -> Option<&Row> {
        let at = usize::try_from(revision.0.checked_sub(1)?).ok()?;
        self.log.get(at).filter(|_| revision.0 > self.trimmed)
    }

    pub(crate) fn head(&self, applied: Revision) -> Head {
        Head {
            revision: self.revision(),
            nonce: self.position().nonce,
            trimmed: Revision(self.trimmed),
            applied_nonce: self.row(applied).map(|row| row.nonce),
        }
    }

    pub(crate) fn append(&mut self, row: Row) -> Revision {
        self.log.push(row);
        self.revision()
    }

    pub(crate) fn join(&mut self, progress: &Progress, acknowledged: Revision, lease: Duration) {
        let node_id = progress.node_id;
        self.nodes.push(Node { node_id, name: String::new(), lease, applied: acknowledged, renewals: 0 });
    }

    pub(crate) fn leave(&mut self, node_id: NodeId) {
        self.nodes.retain(|node| node.node_id != node_id);
        self.moved.retain(|(node, _)| *node != node_id);
    }

    /// The compare-and-swap of the SYNC statement, and the head as of this moment. `None`: no row
    /// was touched.
    pub(crate) fn begin_sync(&self, request: &Request, counts_in_any_history: bool) -> Option<Head> {
        let head = self.head(request.applied.revision);
        let is_there = self.nodes.iter().any(|node| node.node_id == request.node_id && node.renewals == request.renewals);
        let is_same_history =
            head.revision >= request.applied.revision && head.applied_nonce.is_none_or(|nonce| nonce == request.applied.nonce);
        (is_there && (is_same_history || counts_in_any_history)).then_some(head)
    }

    /// What the statement wrote is seen.
    pub(crate) fn end_sync(&mut self, request: &Request, moved: Option<u32>) {
        for node in self.nodes.iter_mut().filter(|node| node.node_id == request.node_id) {
            node.renewals += 1;
            node.applied = request.acknowledged;
        }
        if let Some(now) = moved {
            self.moved.retain(|(node, _)| *node != request.node_id);
            self.moved.push((request.node_id, now));
        }
    }

    pub(crate) fn remove(&mut self, node_id: NodeId, renewals: Option<u64>) {
        if self.nodes.iter().any(|node| node.node_id == node_id && renewals.is_none_or(|it| it == node.renewals)) {
            self.leave(node_id);
        }
    }
}
