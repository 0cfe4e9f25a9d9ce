//! Writes the sessions that watchers report, so that every replica can list them.

use std::{sync::Arc, time::Duration};

use tracing::warn;

use super::Feed;

/// How often sessions that watchers report are written.
const SESSIONS_INTERVAL: Duration = Duration::from_secs(1);

impl Feed {
    /// Writes the sessions that watchers report, for ever.
    pub async fn run_sessions(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SESSIONS_INTERVAL).await;
            let Some(node_id) = self.node() else {
                continue;
            };
            let (opened, closed) = self.watchers().take_unwritten_sessions();
            if opened.is_empty() && closed.is_empty() {
                continue;
            }
            if let Err(error) = self.store.put_sessions(node_id, &opened, &closed).await {
                warn!(%error, "the list of open sessions was not written; it is tried again");
                self.watchers().put_back_unwritten_sessions(&opened, closed);
            }
        }
    }
}
