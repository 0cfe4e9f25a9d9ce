//! ListEvents.

use super::Devices;
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        transact,
    },
    store::Transaction,
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    clock::Timestamp,
    event::{Event, EventScope, TimeRange},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId},
};

/// Whose events are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventsOf {
    Mailbox(Address),
    /// Also a deleted one.
    MailboxId(MailboxId),
    Service(MailServiceId),
    Organization(OrganizationId),
}

impl Devices {
    /// At most `limit` entries of the audit trail, newest first.
    pub async fn events(
        &self,
        who: &Requester,
        of: &EventsOf,
        range: TimeRange,
        device_id: Option<DeviceId>,
        after: Option<(Timestamp, EventId)>,
        limit: usize,
    ) -> Result<Vec<Event>, Refusal> {
        transact::read(&*self.store, "list_events", |mut tx| async move {
            let scope = permitted(&mut tx, who, of).await?;
            Ok(tx.events(&scope, range, device_id, after, limit).await?)
        })
        .await
    }
}

async fn permitted(tx: &mut Transaction, who: &Requester, of: &EventsOf) -> Result<EventScope, Refusal> {
    Ok(match of {
        EventsOf::Mailbox(address) => EventScope::Mailbox(authorize::mailbox(tx, who, address, Lock::No).await?.mailbox_id),
        EventsOf::MailboxId(id) => {
            authorize::mailbox_that_was(tx, who, *id).await?;
            EventScope::Mailbox(*id)
        }
        EventsOf::Service(id) => {
            authorize::mail_service(tx, who, id).await?;
            EventScope::Service(id.clone())
        }
        EventsOf::Organization(id) => {
            authorize::organization(tx, who, id).await?;
            EventScope::Organization(id.clone())
        }
    })
}
