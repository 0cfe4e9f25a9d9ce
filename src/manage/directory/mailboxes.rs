//! Mailboxes: made, moved, suspended, deleted.

use super::Directory;
use crate::random::NewId as _;
use crate::{
    manage::{
        Refusal, Thing,
        authorize::{self, Lock},
        mutation::{Change, Revocation, confirmed},
        retried,
    },
    replication::confirmation::Wait,
    store::{GENERIC_NAME, Mode, Transaction},
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    change::Scope,
    clock::Timestamp,
    device::{Device, DeviceKind, DeviceName, KeyId, Limits, PasswordHash, StoredPassword, Tag},
    directory::Mailbox,
    event::EventKind,
    id::{DeviceId, MailServiceId, MailboxId},
    verdict::Reason,
};

/// More devices than a mailbox can have.
const ALL: usize = 10_000;

impl Directory {
    /// Makes a mailbox, or moves it to another mail service of its organization. Makes or replaces its generic
    /// password if a hash is given. A new mailbox revokes nothing, so that is answered at once. All else waits: a
    /// move can take the generic login away, and an earlier call, whose end nobody saw, may have done it.
    pub async fn put_mailbox(
        &self,
        who: &Requester,
        address: &Address,
        service_id: &MailServiceId,
        generic: Option<&PasswordHash>,
        wait: Wait,
    ) -> Result<(Mailbox, Option<Revocation>), Refusal> {
        let (mailbox, revision, ended, is_new) = retried(|| async move {
            let mut tx = self.store.begin("put_mailbox", Mode::Write).await?;

            let service = authorize::mail_service(&mut tx, who, service_id).await?;
            let mut change = Change::new(who, self.clock.wall());
            let before = tx.lock_mailbox(address).await?;
            let is_new = before.is_none();
            let mailbox = match before {
                None => {
                    let mailbox = Mailbox {
                        mailbox_id: MailboxId::new(change.time),
                        address: address.clone(),
                        mail_service_id: service.mail_service_id,
                        organization_id: service.organization_id,
                        suspended: false,
                        generic_login: true,
                        service_generic_login: service.generic_login,
                        device_version: 1,
                        create_time: change.time,
                    };
                    tx.insert_mailbox(&mailbox).await?;
                    change.event(EventKind::MailboxCreated, mailbox.mailbox_id, None, "");
                    mailbox
                }
                Some(mailbox) if mailbox.mail_service_id == *service_id => mailbox,
                Some(before) => {
                    // An actor must be allowed to take it from where it is, too.
                    authorize::mail_service(&mut tx, who, &before.mail_service_id).await?;
                    if before.organization_id != service.organization_id {
                        return Err(Refusal::OtherOrganization);
                    }
                    let detail = format!("from {} to {service_id}", before.mail_service_id);
                    if before.service_generic_login && before.generic_login && !service.generic_login && generic.is_none() {
                        let devices = tx.devices(before.mailbox_id, None, ALL, false).await?;
                        let generic = devices.iter().filter(|device| device.kind == DeviceKind::Generic);
                        generic.for_each(|device| change.end(device, Reason::GenericLoginOff));
                    }
                    let mailbox = Mailbox {
                        mail_service_id: service.mail_service_id,
                        service_generic_login: service.generic_login,
                        ..before
                    };
                    tx.update_mailbox(&mailbox).await?;
                    change.event(EventKind::MailboxMoved, mailbox.mailbox_id, None, detail);
                    mailbox
                }
            };
            if let Some(hash) = generic {
                put_generic(&mut tx, &mut change, &mailbox, hash).await?;
            }
            let ended = change.ended_devices();
            let revision = change.commit(tx, Scope::Mailboxes(vec![address.key()]), None, None).await?;
            Ok((mailbox, revision, ended, is_new))
        })
        .await?;
        if is_new {
            self.feed.hint();
            return Ok((mailbox, None));
        }
        Ok((mailbox, Some(confirmed(&self.feed, revision, ended, wait).await?)))
    }

    pub async fn mailbox(&self, who: &Requester, address: &Address) -> Result<Mailbox, Refusal> {
        let mut tx = self.store.begin("get_mailbox", Mode::Read).await?;
        authorize::mailbox(&mut tx, who, address, Lock::No).await
    }

    pub async fn mailboxes(
        &self,
        who: &Requester,
        service: &MailServiceId,
        after: Option<&Address>,
        limit: usize,
    ) -> Result<Vec<Mailbox>, Refusal> {
        let mut tx = self.store.begin("list_mailboxes", Mode::Read).await?;
        authorize::mail_service(&mut tx, who, service).await?;
        Ok(tx.mailboxes(service, after, limit).await?)
    }

    /// Denies all its logins until it is resumed, and tells that its sessions end.
    pub async fn suspend_mailbox(
        &self,
        who: &Requester,
        address: &Address,
        suspended: bool,
        wait: Wait,
    ) -> Result<(Mailbox, Revocation), Refusal> {
        let (mailbox, revision, ended) = retried(|| async move {
            let mut tx = self.store.begin("suspend_mailbox", Mode::Write).await?;
            let mailbox = Mailbox { suspended, ..authorize::mailbox(&mut tx, who, address, Lock::Yes).await? };
            tx.update_mailbox(&mailbox).await?;
            let mut change = Change::new(who, self.clock.wall());
            if suspended {
                tx.devices(mailbox.mailbox_id, None, ALL, false)
                    .await?
                    .iter()
                    .for_each(|device| change.end(device, Reason::MailboxSuspended));
            }
            let kind = if suspended { EventKind::MailboxSuspended } else { EventKind::MailboxResumed };
            change.event(kind, mailbox.mailbox_id, None, "");
            let ended = change.ended_devices();
            let revision = change.commit(tx, Scope::Mailboxes(vec![address.key()]), None, None).await?;
            Ok((mailbox, revision, ended))
        })
        .await?;
        Ok((mailbox, confirmed(&self.feed, revision, ended, wait).await?))
    }

    /// Its devices go with it; the audit trail stays.
    pub async fn delete_mailbox(&self, who: &Requester, address: &Address, wait: Wait) -> Result<Revocation, Refusal> {
        let ended = retried(|| async move {
            let mut tx = self.store.begin("delete_mailbox", Mode::Write).await?;
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
            if !tx.delete_mailbox(mailbox.mailbox_id).await? {
                return Err(Refusal::NotFound(Thing::Mailbox));
            }
            let mut change = Change::new(who, self.clock.wall());
            devices.iter().for_each(|device| change.end(device, Reason::MailboxDeleted));
            change.event_of_deleted(EventKind::MailboxDeleted, &mailbox, address.as_str());
            let ended = change.ended_devices();
            Ok(Some((change.commit(tx, Scope::Mailboxes(vec![address.key()]), None, None).await?, ended)))
        })
        .await;
        self.settle(ended, wait).await
    }
}

/// Makes the mailbox's generic device, or gives the one it has another password.
async fn put_generic(
    tx: &mut Transaction,
    change: &mut Change<'_>,
    mailbox: &Mailbox,
    hash: &PasswordHash,
) -> Result<(), Refusal> {
    let password = StoredPassword { tag: Tag::Unknown, key: KeyId(0), hash: Some(hash.clone()) };
    let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
    if let Some(before) = devices.into_iter().find(|device| device.kind == DeviceKind::Generic) {
        change.end(&before, Reason::PasswordChanged);
        let device = Device { generation: before.generation.saturating_add(1), ..before };
        tx.replace_password(&device, &password, change.time).await?;
        change.event(EventKind::GenericPasswordSet, mailbox.mailbox_id, Some(&device), "");
        return Ok(());
    }
    let device = generic_device(mailbox.mailbox_id, change.time);
    tx.insert_device(&device, &password).await?;
    change.event(EventKind::GenericPasswordSet, mailbox.mailbox_id, Some(&device), "");
    Ok(())
}

fn generic_device(mailbox_id: MailboxId, now: Timestamp) -> Device {
    Device {
        device_id: DeviceId::new(now),
        mailbox_id,
        name: DeviceName::from_store(GENERIC_NAME.to_owned()),
        kind: DeviceKind::Generic,
        generation: 1,
        user: None,
        limits: Limits::default(),
        create_time: now,
        disconnection: None,
        last_use: None,
    }
}
