//! A new password for a device: generated or chosen, tagged and hashed; and ChangePassword.

use zeroize::Zeroizing;

use super::{Devices, can_change_password};
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, Made, RequestKey, confirmed_change},
        revocation::Revocation,
        transact::{self, Finish},
    },
    passwords::{chosen, generated},
    replication::confirmation::Wait,
    store::{MadeBy, Transaction},
};
use latchkey_core::model::{
    Invalid,
    address::Address,
    caller::Requester,
    change::Scope,
    device::{Device, DeviceKind, Generation, KeyId, StoredPassword, Tag},
    directory::Mailbox,
    event::EventKind,
    id::{DeviceId, MailboxId},
    record::MailboxRecord,
    secret::Secret,
    verdict::Reason,
};

/// A password in the making: at rest, and as it is answered once.
pub(super) struct NewPassword {
    pub kind: DeviceKind,
    pub stored: StoredPassword,
    /// `None` when it was chosen: the caller knows it.
    pub shown: Option<Zeroizing<String>>,
}

/// What ChangePassword answers.
pub struct Changed {
    pub mailbox: Mailbox,
    pub device: Device,
    pub shown: Option<Zeroizing<String>>,
    pub revocation: Revocation,
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changed").field("device", &self.device).field("revocation", &self.revocation).finish_non_exhaustive()
    }
}

impl Devices {
    /// A new password for the same device: the next generation; the one before is remembered as
    /// changed.
    pub async fn change_password(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
        chosen: Option<&Secret>,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Changed, Refusal> {
        let (mailbox, device, shown, made) =
            transact::retried(|| self.try_change_password(who, address, device_id, chosen, request)).await?;
        let revocation = confirmed_change(&self.feed, made, wait).await?;
        Ok(Changed { mailbox, device, shown, revocation })
    }

    async fn try_change_password(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
        chosen: Option<&Secret>,
        request: Option<&RequestKey>,
    ) -> Result<(Mailbox, Device, Option<Zeroizing<String>>, Made), Refusal> {
        let before = transact::read(&*self.store, "change_password.check", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
            if RequestKey::done_before(request, &mut tx, who).await?.is_some() {
                return Err(Refusal::RequestAlreadyDone(Some(device_id)));
            }
            changeable(&self.find(&mut tx, &mailbox, device_id).await?)?;
            Ok(mailbox)
        })
        .await?;
        let (before, password) = (&before, &self.new_password(&before, chosen).await?);
        let (mailbox, device, made) = transact::write_once(&*self.store, "change_password", |mut tx| async move {
            let mailbox = unchanged_mailbox(&mut tx, who, before).await?;
            let device = self.find(&mut tx, &mailbox, device_id).await?;
            changeable(&device)?;
            let mut change = Change::new(who, self.clock.wall());
            change.end(&device, Reason::PasswordChanged);
            change.event(EventKind::PasswordChanged, mailbox.mailbox_id, Some(&device), "");
            let device = Device { generation: next(device.generation), kind: password.kind, ..device };
            tx.replace_password(&device, &password.stored, change.time).await?;
            let scope = Scope::Mailboxes(vec![address.key()]);
            let made = change.write(&mut tx, MadeBy::devices_of(&mailbox), scope, request, Some(device_id)).await?;
            Ok(Finish::Commit((mailbox, device, made), tx))
        })
        .await?;
        Ok((mailbox, device, password.shown.clone(), made))
    }

    /// Makes a password, or checks a chosen one. Outside of any transaction, since hashing takes
    /// its time: whoever uses it must see to it that the mailbox's devices are still those of
    /// `mailbox` ([`unchanged_mailbox`]).
    pub(super) async fn new_password(&self, mailbox: &Mailbox, chosen: Option<&Secret>) -> Result<NewPassword, Refusal> {
        let Some(password) = chosen else {
            return Ok(self.generate(mailbox.mailbox_id));
        };
        chosen::check("password", password, &mailbox.address)?;
        let record = self.store.read_mailbox(&mailbox.address).await?.mailbox;
        let Some(record) = record.filter(|record| record.mailbox_id == mailbox.mailbox_id) else {
            return Err(crate::store::StoreError::Conflict("the mailbox was replaced".to_owned()).into());
        };
        if self.is_used(&record, password).await? {
            return Err(Invalid::because(
                "PASSWORD_ALREADY_USED",
                "password",
                "must be one that no device of this mailbox has or had: ending one device must end its password",
            )
            .into());
        }
        let indexes = record.active.iter().filter_map(|device| match device.tag {
            Tag::Index { salt, value } => Some((device.key, salt, value)),
            Tag::Proof(_) | Tag::Unknown => None,
        });
        let tag = self.tagger.new_index(record.mailbox_id, password.expose(), indexes);
        let hash = self.hashing.hash(password.clone()).await?;
        let stored = StoredPassword { tag, key: self.tagger.active_key(), hash: Some(hash) };
        Ok(NewPassword { kind: DeviceKind::Chosen, stored, shown: None })
    }

    fn generate(&self, mailbox_id: MailboxId) -> NewPassword {
        let canonical = generated::generate();
        let key = self.tagger.active_key();
        let tag = Tag::Proof(self.tagger.wide_active(mailbox_id, &canonical));
        NewPassword {
            kind: DeviceKind::Generated,
            stored: StoredPassword { tag, key, hash: None },
            shown: Some(generated::display(&canonical)),
        }
    }

    /// Whether a device of the mailbox has this password, or had it while that is remembered.
    async fn is_used(&self, record: &MailboxRecord, password: &Secret) -> Result<bool, Refusal> {
        let active = record.active.iter().map(|device| (device.device_id, device.generation, device.key, device.tag));
        let ended = record.ended.iter().map(|device| (device.device_id, device.generation, device.key, device.tag));
        for (device_id, generation, key, tag) in active.chain(ended) {
            if !self.may_be(record.mailbox_id, password, key, tag) {
                continue;
            }
            if let Tag::Proof(_) = tag {
                return Ok(true);
            }
            let Some(hash) = self.store.read_hash(device_id, generation).await? else {
                continue;
            };
            let job = self.tagger.job(device_id, generation, password.expose());
            if self.hashing.verify(job, password.clone(), hash).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn may_be(&self, mailbox_id: MailboxId, password: &Secret, key: KeyId, tag: Tag) -> bool {
        match tag {
            Tag::Unknown => true,
            Tag::Index { salt, value } => self.tagger.index(key, mailbox_id, password.expose(), salt) == Some(value),
            Tag::Proof(stored) => generated::canonical(password.expose())
                .and_then(|canonical| self.tagger.wide(key, mailbox_id, &canonical))
                .is_some_and(|typed| typed == stored),
        }
    }
}

/// The mailbox, locked, with the devices that it had when the password was made; else another try
/// is due.
pub(super) async fn unchanged_mailbox(tx: &mut Transaction, who: &Requester, before: &Mailbox) -> Result<Mailbox, Refusal> {
    let mailbox = authorize::mailbox(tx, who, &before.address, Lock::Yes).await?;
    if mailbox.mailbox_id == before.mailbox_id && mailbox.device_version == before.device_version + 1 {
        Ok(mailbox)
    } else {
        Err(crate::store::StoreError::Conflict("the mailbox's devices changed meanwhile".to_owned()).into())
    }
}

fn changeable(device: &Device) -> Result<(), Refusal> {
    if device.disconnection.is_some() {
        Err(Refusal::DeviceIsDisconnected)
    } else if can_change_password(device) {
        Ok(())
    } else {
        Err(Refusal::GenericPasswordNotChangeable)
    }
}

fn next(generation: Generation) -> Generation {
    generation.saturating_add(1)
}
