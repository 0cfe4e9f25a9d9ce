//! Disconnecting: one device, all of a mailbox, all of a person.

use std::collections::BTreeSet;

use super::{Devices, Etag};
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, RequestKey, Revocation, confirmed, make_durable},
        retried,
    },
    replication::confirmation::{Awaited, Wait},
    store::{Mode, UserPlace},
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
    /// Ends a device's password for good. Said again, it confirms the first revocation once more.
    pub async fn disconnect(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let revision = retried(|| async move {
            let mut tx = self.store.begin("disconnect_device", Mode::Write).await?;
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok(done.revision.into());
            }
            let device = self.find(&mut tx, &mailbox, device_id).await?;
            if let Some(before) = device.disconnection {
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok(before.revision.into());
            }
            let mut change = Change::new(who, self.clock.wall());
            change.disconnect(&mut tx, &[device], "").await?;
            change.commit(tx, Scope::Mailboxes(vec![address.key()]), request, Some(device_id)).await
        })
        .await?;
        // Confirmed anew also when it was done before: that the device is gone does not mean that nobody has it cached.
        confirmed(&self.feed, revision, 1, wait).await
    }

    /// What DisconnectAllDevices would disconnect.
    pub async fn what_would_go(&self, who: &Requester, address: &Address, etag: Option<Etag>) -> Result<WhatWouldGo, Refusal> {
        let mut tx = self.store.begin("disconnect_all_devices.validate", Mode::Read).await?;
        let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
        if etag.is_some_and(|etag| etag != Etag::of(&mailbox)) {
            return Err(Refusal::EtagMismatch);
        }
        let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
        Ok(WhatWouldGo { mailbox, devices })
    }

    /// Ends all passwords of a mailbox in one step, if its list of devices is still the one that the person saw.
    pub async fn disconnect_all(
        &self,
        who: &Requester,
        address: &Address,
        etag: Etag,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<(WhatWouldGo, Revocation), Refusal> {
        let (gone, revision, count) = retried(|| async move {
            let mut tx = self.store.begin("disconnect_all_devices", Mode::Write).await?;
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok((WhatWouldGo { mailbox, devices: vec![] }, Awaited::from(done.revision), done.count as usize));
            }
            // The lock has counted the version up.
            let seen = Etag { version: etag.version + 1, ..etag };
            if seen != Etag::of(&mailbox) {
                return Err(Refusal::EtagMismatch);
            }
            let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
            let mut change = Change::new(who, self.clock.wall());
            change.disconnect(&mut tx, &devices, "all devices of the mailbox").await?;
            let count = change.ended_devices();
            let revision = change.commit(tx, Scope::Mailboxes(vec![address.key()]), request, None).await?;
            Ok((WhatWouldGo { mailbox, devices }, revision, count))
        })
        .await?;
        Ok((gone, confirmed(&self.feed, revision, count, wait).await?))
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
        let (revision, count) = retried(|| async move {
            let mut tx = self.store.begin("disconnect_user_devices", Mode::Write).await?;
            let at = match place {
                UserDevicesPlace::Mailbox(address) => {
                    UserPlace::Mailbox(authorize::mailbox(&mut tx, who, address, Lock::No).await?.mailbox_id)
                }
                UserDevicesPlace::Service(id) => {
                    UserPlace::Service(authorize::mail_service(&mut tx, who, id).await?.mail_service_id)
                }
            };
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok((Awaited::from(done.revision), done.count as usize));
            }
            let mut change = Change::new(who, self.clock.wall());
            let scope = change.disconnect_user(&mut tx, user, &at, &format!("all devices of {user}")).await?;
            let count = change.ended_devices();
            if count == 0 && request.is_none() {
                // An earlier call may have done it, and not be effective yet: what is confirmed is all up to now.
                let head = tx.revision().await?;
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok((head.into(), 0));
            }
            Ok((change.commit(tx, scope, request, None).await?, count))
        })
        .await?;
        confirmed(&self.feed, revision, count, wait).await
    }
}

impl Change<'_> {
    /// Disconnects a person's devices in a place, and answers which mailboxes that concerns.
    pub async fn disconnect_user(
        &mut self,
        tx: &mut crate::store::Transaction,
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
        // Under the locks, since some may have gone meanwhile; new ones are of mailboxes that are locked, or come after us.
        let mut devices = tx.devices_of_user(user, place).await?;
        devices.retain(|(address, _)| addresses.contains(address));
        let devices: Vec<_> = devices.into_iter().map(|(_, device)| device).collect();
        self.disconnect(tx, &devices, why).await?;
        Ok(Scope::Mailboxes(addresses.iter().map(Address::key).collect()))
    }
}
