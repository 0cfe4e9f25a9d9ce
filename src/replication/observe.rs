//! For who watches how revocations go: tells observers when each replica has acknowledged a change.
//! Asks the database only while somebody observes and a change is on its way.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;

use super::Feed;
use latchkey_core::model::{change::Revision, id::NodeId};

/// How often to look.
const LOOK: Duration = Duration::from_millis(20);
/// How often to see whether somebody observes.
const IDLE: Duration = Duration::from_millis(250);

impl Feed {
    /// Tells observers for ever.
    pub async fn run_observation(self: Arc<Self>) {
        // Up to where each replica's acknowledgements were told.
        let mut told: HashMap<NodeId, Revision> = HashMap::new();
        let mut all_told = self.applied();
        loop {
            if !self.watchers().is_observed() {
                told.clear();
                all_told = self.applied();
                tokio::time::sleep(IDLE).await;
                continue;
            }
            tokio::time::sleep(LOOK).await;
            if self.applied() <= all_told {
                continue;
            }
            let Ok(nodes) = self.nodes().await else {
                continue;
            };
            let (own, acknowledged) = (self.node(), self.acknowledged());
            let before = all_told;
            all_told = self.applied();
            for node in nodes.iter().filter(|node| !node.lease.is_zero()) {
                let reached = if Some(node.node_id) == own { node.applied.max(acknowledged) } else { node.applied };
                let known = told.entry(node.node_id).or_insert(before);
                self.watchers().replica_acknowledged(*known, reached, &node.name);
                *known = (*known).max(reached);
                all_told = all_told.min(reached);
            }
        }
    }
}
