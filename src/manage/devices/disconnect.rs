//! Disconnecting: one device, all of a mailbox, all of a person.

use std::collections::BTreeSet;

use super::{Devices, Etag};
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, Done, RequestKey, confirmed, earlier},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::confirmation::Wait,
    store::{MadeBy, Transaction, UserPlace},
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    change::Scope,
    device::Device,
    directory::Mailbox,
    id::{DeviceId, MailServiceId, UserId},
};

/// More active devices than a mailbox can have.
const ALL: usize = 10_000;

/// The devices that DisconnectAllDevices is about.
#[derive(Clone, Debug)]
pub struct WhatWouldGo {
    pub mailbox: Mailbox,
    pub devices: Vec<Device>,
}

/// Where a person's devices are disconnected.
#[derive(Clone, Debug)]
pub enum UserDevicesPlace {
    Mailbox(Address),
    Service(MailServiceId),
}

impl Devices {
    /// Ends a device's password for good. A repeated call confirms the first revocation once more.
    pub async fn disconnect(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let done = transact::write(&*self.store, "disconnect_device", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            let made_by = MadeBy::devices_of(&mailbox);
            let mut change = Change::new(who, self.clock.wall());
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                return earlier(tx, change, done.revision, done.count, made_by).await;
            }
            let device = self.find(&mut tx, &mailbox, device_id).await?;
            if let Some(before) = device.disconnection {
                // That the device is gone does not mean that nobody has it cached.
                return earlier(tx, change, before.revision, 1, made_by).await;
            }
            change.disconnect(&mut tx, &[device], "").await?;
            let scope = Scope::Mailboxes(vec![address.key()]);
            Ok(Finish::Commit(Done::Now(change.write(&mut tx, made_by, scope, request, Some(device_id)).await?), tx))
        })
        .await?;
        confirmed(&*self.store, &self.feed, done, wait).await
    }

    /// What DisconnectAllDevices would disconnect.
    pub async fn what_would_go(&self, who: &Requester, address: &Address, etag: Option<Etag>) -> Result<WhatWouldGo, Refusal> {
        transact::read(&*self.store, "disconnect_all_devices.validate", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
            if etag.is_some_and(|etag| etag != Etag::of(&mailbox)) {
                return Err(Refusal::EtagMismatch);
            }
            let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
            Ok(WhatWouldGo { mailbox, devices })
        })
        .await
    }

    /// Ends all passwords of a mailbox in one step, if its list of devices is still the one that
    /// the person saw.
    pub async fn disconnect_all(
        &self,
        who: &Requester,
        address: &Address,
        etag: Etag,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<(WhatWouldGo, Revocation), Refusal> {
        let (gone, done) = transact::write(&*self.store, "disconnect_all_devices", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            let made_by = MadeBy::devices_of(&mailbox);
            let mut change = Change::new(who, self.clock.wall());
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                let done = earlier(tx, change, done.revision, done.count, made_by).await?;
                return Ok(done.map(|done| (WhatWouldGo { mailbox, devices: vec![] }, done)));
            }
            // The lock has counted the version up.
            let seen = Etag { version: etag.version + 1, ..etag };
            if seen != Etag::of(&mailbox) {
                return Err(Refusal::EtagMismatch);
            }
            let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
            change.disconnect(&mut tx, &devices, "all devices of the mailbox").await?;
            let made = change.write(&mut tx, made_by, Scope::Mailboxes(vec![address.key()]), request, None).await?;
            Ok(Finish::Commit((WhatWouldGo { mailbox, devices }, Done::Now(made)), tx))
        })
        .await?;
        Ok((gone, confirmed(&*self.store, &self.feed, done, wait).await?))
    }

    /// Ends all devices of one person on a mailbox or a mail service.
    pub async fn disconnect_user(
        &self,
        who: &Requester,
        user: &UserId,
        place: &UserDevicesPlace,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let done = transact::write(&*self.store, "disconnect_user_devices", |mut tx| async move {
            let (at, made_by) = match place {
                UserDevicesPlace::Mailbox(address) => {
                    let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
                    (UserPlace::Mailbox(mailbox.mailbox_id), MadeBy::devices_of(&mailbox))
                }
                UserDevicesPlace::Service(id) => {
                    let service = authorize::mail_service(&mut tx, who, id).await?;
                    (UserPlace::Service(service.mail_service_id.clone()), MadeBy::devices_on(&service))
                }
            };
            let mut change = Change::new(who, self.clock.wall());
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                return earlier(tx, change, done.revision, done.count, made_by).await;
            }
            let scope = change.disconnect_user(&mut tx, user, &at, &format!("all devices of {user}")).await?;
            // With none left, an earlier call may have done it, and not be effective yet: what is
            // confirmed is all up to now.
            Ok(Finish::Commit(Done::Now(change.write(&mut tx, made_by, scope, request, None).await?), tx))
        })
        .await?;
        confirmed(&*self.store, &self.feed, done, wait).await
    }
}

impl Change<'_> {
    /// Disconnects a person's devices in a place, and answers which mailboxes that concerns.
    pub async fn disconnect_user(
        &mut self,
        tx: &mut Transaction,
        user: &UserId,
        place: &UserPlace,
        why: &str,
    ) -> Result<Scope, Refusal> {
        // In one order, as everybody locks mailboxes.
        let addresses: BTreeSet<Address> =
            tx.devices_of_user(user, place).await?.into_iter().map(|(address, _)| address).collect();
        for address in &addresses {
            tx.lock_mailbox(address).await?;
        }
        // Under the locks, since some may have gone meanwhile; new ones are of mailboxes that are
        // locked, or come after us.
        let mut devices = tx.devices_of_user(user, place).await?;
        devices.retain(|(address, _)| addresses.contains(address));
        let devices: Vec<_> = devices.into_iter().map(|(_, device)| device).collect();
        self.disconnect(tx, &devices, why).await?;
        Ok(Scope::Mailboxes(addresses.iter().map(Address::key).collect()))
    }
}
