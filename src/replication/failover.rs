//! A database that has gone back in time: a standby was promoted that had not got every change. What this process remembers of the revocations that are missing is
//! written once more (DESIGN.md §6, point 10).

use std::sync::{Arc, atomic::Ordering};

use tracing::{error, info};

use super::Feed;
use crate::random::NewId as _;
use crate::{
    random,
    store::{Mode, NewChange, StoreError},
};
use latchkey_core::log::Progress;
use latchkey_core::{
    log::Head,
    model::{
        change::{Change, Ended, Revision},
        event::{Event, EventKind},
        id::EventId,
    },
};

/// Who wrote it, in the audit trail.
const CALLER: &str = "latchkey";

impl Feed {
    /// Says so, and ends once more what this process has seen ended.
    pub(super) async fn revoke_lost(&self, before: &Progress, head: Head) -> Result<(), StoreError> {
        error!(
            applied = %before.applied.revision,
            head = %head.revision,
            "THE DATABASE HAS GONE BACK IN TIME: changes that were answered as done are lost. Was a standby promoted that was not synchronous? The cache is emptied, \
             and the revocations that this process remembers are written once more; see docs/reliability.md"
        );
        self.rewinds.fetch_add(1, Ordering::Relaxed);
        for change in self.lost_changes().await? {
            self.revoke_again(&change).await?;
        }
        Ok(())
    }

    /// The changes with revocations that this process has applied and that the log has no more, oldest first.
    async fn lost_changes(&self) -> Result<Vec<Arc<Change>>, StoreError> {
        let mut lost = vec![];
        for change in self.watchers().revocations().into_iter().rev() {
            // Histories agree up to where they part: the first that is still there ends the search.
            if self.store.head(change.revision).await?.applied_nonce == Some(change.nonce) {
                break;
            }
            lost.push(change);
        }
        lost.reverse();
        Ok(lost)
    }

    /// Ends once more the passwords that a change had ended for good.
    async fn revoke_again(&self, change: &Change) -> Result<(), StoreError> {
        let ended: Vec<Ended> = change.ended.iter().copied().filter(|ended| ended.is_for_good()).collect();
        if ended.len() < change.ended.len() {
            error!(revision = %change.revision, "a mailbox's suspension, or a generic password's, is lost and has to be said again");
        }
        let now = self.wall();
        let mut tx = self.store.begin("revoke_again", Mode::Write).await?;
        let mut events = vec![];
        let mut again = vec![];
        for ended in ended {
            let Some(device) = tx.end_again(ended, now).await? else {
                continue;
            };
            again.push(Ended { generation: device.generation, ..ended });
            events.push(Event {
                event_id: EventId::new(now),
                mailbox_id: Some(device.mailbox_id),
                mail_service_id: None,
                organization_id: None,
                user: None,
                time: now,
                kind: EventKind::DeviceDisconnected,
                device_id: Some(device.device_id),
                device_name: device.name.as_str().to_owned(),
                actor: String::new(),
                caller: CALLER.to_owned(),
                peer: String::new(),
                revision: Revision::default(),
                detail: "written once more: the database had lost it".to_owned(),
                logins: None,
            });
        }
        if again.is_empty() {
            return Ok(());
        }
        info!(revision = %change.revision, passwords = again.len(), "revoked once more");
        tx.append_change(&NewChange { nonce: random::nonce(), time: now, scope: change.scope.clone(), ended: again, events })
            .await?;
        tx.commit().await
    }
}
