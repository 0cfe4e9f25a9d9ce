//! Mailboxes: made, moved, suspended, deleted.

use super::Directory;
use crate::random::NewId as _;
use crate::{
    manage::{
        Refusal, Thing,
        authorize::{self, Lock},
        mutation::{Change, Done, Made, confirmed_change, effective_at_once, nothing},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::confirmation::Wait,
    store::{Api, GENERIC_NAME, MadeBy, Transaction},
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
    /// Makes a mailbox, or moves it to another mail service of its organization. Makes or replaces
    /// its generic password if a hash is given. A new mailbox revokes nothing, and answers at once.
    /// All else waits: a move can take the generic login away, and an earlier call, whose end
    /// nobody saw, may have done it.
    pub async fn put_mailbox(
        &self,
        who: &Requester,
        address: &Address,
        service_id: &MailServiceId,
        generic: Option<&PasswordHash>,
        wait: Wait,
    ) -> Result<(Mailbox, Revocation), Refusal> {
        let (mailbox, made, is_new) = transact::write(&*self.store, "put_mailbox", |mut tx| async move {
            let service = authorize::mail_service(&mut tx, who, service_id).await?;
            let made_by = MadeBy::directory_of(&service);
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
            let made = change.write(&mut tx, made_by, Scope::Mailboxes(vec![address.key()]), None, None).await?;
            Ok(Finish::Commit((mailbox, made, is_new), tx))
        })
        .await?;
        let revocation =
            if is_new { effective_at_once(&self.feed, made) } else { confirmed_change(&self.feed, made, wait).await? };
        Ok((mailbox, revocation))
    }

    pub async fn mailbox(&self, who: &Requester, address: &Address) -> Result<Mailbox, Refusal> {
        transact::read(
            &*self.store,
            "get_mailbox",
            |mut tx| async move { authorize::mailbox(&mut tx, who, address, Lock::No).await },
        )
        .await
    }

    pub async fn mailboxes(
        &self,
        who: &Requester,
        service: &MailServiceId,
        after: Option<&Address>,
        limit: usize,
    ) -> Result<Vec<Mailbox>, Refusal> {
        transact::read(&*self.store, "list_mailboxes", |mut tx| async move {
            authorize::mail_service(&mut tx, who, service).await?;
            Ok(tx.mailboxes(service, after, limit).await?)
        })
        .await
    }

    /// Denies all its logins, and ends its sessions, until it is resumed.
    pub async fn suspend_mailbox(
        &self,
        who: &Requester,
        address: &Address,
        wait: Wait,
    ) -> Result<(Mailbox, Revocation), Refusal> {
        let (mailbox, made) = self.set_suspended(who, address, true).await?;
        Ok((mailbox, confirmed_change(&self.feed, made, wait).await?))
    }

    /// Answers at once: it revokes nothing.
    pub async fn resume_mailbox(&self, who: &Requester, address: &Address) -> Result<Mailbox, Refusal> {
        let (mailbox, _) = self.set_suspended(who, address, false).await?;
        self.feed.hint();
        Ok(mailbox)
    }

    async fn set_suspended(&self, who: &Requester, address: &Address, suspended: bool) -> Result<(Mailbox, Made), Refusal> {
        transact::write(&*self.store, "suspend_mailbox", |mut tx| async move {
            let mailbox = Mailbox { suspended, ..authorize::mailbox(&mut tx, who, address, Lock::Yes).await? };
            tx.update_mailbox(&mailbox).await?;
            let mut change = Change::new(who, self.clock.wall());
            if suspended {
                let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
                devices.iter().for_each(|device| change.end(device, Reason::MailboxSuspended));
            }
            let kind = if suspended { EventKind::MailboxSuspended } else { EventKind::MailboxResumed };
            change.event(kind, mailbox.mailbox_id, None, "");
            let made_by = MadeBy::directory_of_mailbox(&mailbox);
            let made = change.write(&mut tx, made_by, Scope::Mailboxes(vec![address.key()]), None, None).await?;
            Ok(Finish::Commit((mailbox, made), tx))
        })
        .await
    }

    /// Its devices go with it; the audit trail stays.
    pub async fn delete_mailbox(&self, who: &Requester, address: &Address, wait: Wait) -> Result<Revocation, Refusal> {
        let done = transact::write(&*self.store, "delete_mailbox", |mut tx| async move {
            let mailbox = match authorize::mailbox(&mut tx, who, address, Lock::Yes).await {
                Ok(mailbox) => mailbox,
                // Nobody knows any more whose it was.
                Err(Refusal::NotFound(_)) => {
                    let made_by = MadeBy { api: Api::Directory, organization_id: None, mail_service_id: None };
                    let made = nothing(&mut tx, Change::new(who, self.clock.wall()), made_by).await?;
                    return Ok(Finish::Commit(Done::Nothing(made), tx));
                }
                Err(refusal) => return Err(refusal),
            };
            let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
            tx.delete_mailbox(mailbox.mailbox_id).await?;
            let mut change = Change::new(who, self.clock.wall());
            devices.iter().for_each(|device| change.end(device, Reason::MailboxDeleted));
            change.event_of_deleted(EventKind::MailboxDeleted, &mailbox, address.as_str());
            let made_by = MadeBy::directory_of_mailbox(&mailbox);
            let made = change.write(&mut tx, made_by, Scope::Mailboxes(vec![address.key()]), None, None).await?;
            Ok(Finish::Commit(Done::Now(made), tx))
        })
        .await?;
        self.deleted(done, Thing::Mailbox, wait).await
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
