//! The log's line of a change that was committed: what, who called, and ids. Never an address, a
//! name or a password.

use tracing::info;

use crate::store::Transaction;
use latchkey_core::model::{
    caller::Requester,
    change::Revision,
    id::{DeviceId, MailServiceId, MailboxId, OrganizationId, UserId},
};

/// What the line says. `None`: the change concerns none, or several.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// As the audit trail's types are called.
    pub kind: String,
    pub revision: Option<Revision>,
    pub organization_id: Option<OrganizationId>,
    pub mail_service_id: Option<MailServiceId>,
    pub mailbox_id: Option<MailboxId>,
    pub device_id: Option<DeviceId>,
    pub user_id: Option<UserId>,
    pub ended_devices: Option<u32>,
}

impl Line {
    pub fn of(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), ..Self::default() }
    }

    /// Writes it once the transaction is committed.
    pub fn after(self, tx: &mut Transaction, who: &Requester) {
        let (caller, actor) = (who.caller.clone(), who.actor.clone());
        tx.after_commit(move || {
            let Self { kind, revision, organization_id, mail_service_id, mailbox_id, device_id, user_id, ended_devices } = self;
            info!(
                kind,
                caller,
                actor = actor.as_ref().map(display),
                revision = revision.map(|revision| revision.0),
                organization_id = organization_id.as_ref().map(display),
                mail_service_id = mail_service_id.as_ref().map(display),
                mailbox_id = mailbox_id.as_ref().map(display),
                device_id = device_id.as_ref().map(display),
                user_id = user_id.as_ref().map(display),
                ended_devices,
                "changed"
            );
        });
    }
}
