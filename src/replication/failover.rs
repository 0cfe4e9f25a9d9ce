//! A database that has lost changes, because a standby was promoted that had not received all of
//! them. The revocations among them that this process remembers are written again (docs/design.md,
//! "A database that lost changes").

use std::sync::{Arc, atomic::Ordering};

use tracing::{error, info};

use super::Feed;
use crate::random::NewId as _;
use crate::{
    random,
    store::{
        NewChange, StoreError,
        transact::{self, Finish},
    },
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
    /// Logs it, and ends again the passwords that this process has seen ended.
    pub(super) async fn revoke_lost(&self, before: &Progress, head: Head) -> Result<(), StoreError> {
        error!(
            applied = %before.applied.revision,
            head = %head.revision,
            "THE DATABASE HAS LOST CHANGES that were answered as done. Was a standby promoted that was not synchronous? The cache is \
             emptied, and the revocations that this process remembers are written again; see docs/reliability.md"
        );
        self.lost_histories.fetch_add(1, Ordering::Relaxed);
        for change in self.lost_changes().await? {
            self.revoke_again(&change).await?;
        }
        Ok(())
    }

    /// The changes with revocations that this process has applied and that the log has no more,
    /// oldest first.
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

    /// Ends again the passwords that a change had ended for good.
    async fn revoke_again(&self, change: &Change) -> Result<(), StoreError> {
        let ended: Vec<Ended> = change.ended.iter().copied().filter(|ended| ended.is_for_good()).collect();
        if ended.len() < change.ended.len() {
            error!(revision = %change.revision, "the suspension of a mailbox or member, or a switched-off generic login, is lost; repeat it");
        }
        let now = self.wall();
        let ended = &ended;
        transact::write(&*self.store, "revoke_again", |mut tx| async move {
            let mut events = vec![];
            let mut again = vec![];
            for ended in ended {
                let Some(device) = tx.end_again(*ended, now).await? else {
                    continue;
                };
                again.push(Ended { generation: device.generation, ..*ended });
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
                    detail: "written again: the database had lost it".to_owned(),
                    logins: None,
                });
            }
            if again.is_empty() {
                return Ok(Finish::Leave(()));
            }
            info!(revision = %change.revision, passwords = again.len(), "revoking again");
            let (nonce, scope) = (random::nonce(), change.scope.clone());
            tx.append_change(&NewChange { nonce, time: now, scope, ended: again, events, revocation: None }).await?;
            Ok(Finish::Commit((), tx))
        })
        .await
    }
}
