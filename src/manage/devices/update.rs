//! UpdateDevice: name, user and limits.

use super::{Devices, create::in_the_future};
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, Done, RequestKey, confirmed, earlier, effective_at_once},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::confirmation::Wait,
    store::MadeBy,
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    change::Scope,
    clock::Timestamp,
    device::{Device, DeviceName},
    directory::Mailbox,
    event::EventKind,
    id::{DeviceId, UserId},
    network::Networks,
    protocol::Protocols,
};

/// What to change; `None`: leave it.
#[derive(Clone, Debug, Default)]
pub struct DeviceUpdate {
    pub name: Option<DeviceName>,
    pub user: Option<Option<UserId>>,
    pub protocols: Option<Protocols>,
    pub networks: Option<Networks>,
    pub expire_time: Option<Option<Timestamp>>,
}

impl DeviceUpdate {
    /// What changes, for the audit trail.
    fn fields(&self) -> String {
        [
            (self.name.is_some(), "display_name"),
            (self.user.is_some(), "user_id"),
            (self.protocols.is_some(), "allowed_protocols"),
            (self.networks.is_some(), "allowed_networks"),
            (self.expire_time.is_some(), "expire_time"),
        ]
        .into_iter()
        .filter_map(|(changes, field)| changes.then_some(field))
        .collect::<Vec<_>>()
        .join(", ")
    }

    /// Whether a login that was allowed may be denied then, also of a call that was made before and
    /// is repeated. A person's name can do that: devices of a suspended one are denied.
    fn may_restrict(&self) -> bool {
        self.user.is_some() || self.protocols.is_some() || self.networks.is_some() || self.expire_time.is_some()
    }

    fn apply(&self, mut device: Device) -> Device {
        let Self { name, user, protocols, networks, expire_time } = self.clone();
        device.name = name.unwrap_or(device.name);
        device.user = user.unwrap_or(device.user);
        device.limits.protocols = protocols.unwrap_or(device.limits.protocols);
        device.limits.networks = networks.unwrap_or(device.limits.networks);
        device.limits.expire_time = expire_time.unwrap_or(device.limits.expire_time);
        device
    }
}

impl Devices {
    /// Stricter limits hold everywhere once the answer says EFFECTIVE.
    pub async fn update(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
        update: &DeviceUpdate,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<(Mailbox, Device, Revocation), Refusal> {
        let (mailbox, device, done) = transact::write(&*self.store, "update_device", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
            let made_by = MadeBy::devices_of(&mailbox);
            let device = self.find(&mut tx, &mailbox, device_id).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                let change = Change::new(who, self.clock.wall());
                let done = earlier(tx, change, done.revision, done.count, made_by).await?;
                return Ok(done.map(|done| (mailbox, device, done)));
            }
            if device.disconnection.is_some() {
                return Err(Refusal::DeviceIsDisconnected);
            }
            let mut change = Change::new(who, self.clock.wall());
            in_the_future(update.expire_time.flatten(), change.time)?;
            let device = update.apply(device);
            tx.update_device(&device).await?;
            change.event(EventKind::DeviceUpdated, mailbox.mailbox_id, Some(&device), update.fields());
            let scope = Scope::Mailboxes(vec![address.key()]);
            let made = change.write(&mut tx, made_by, scope, request, Some(device_id)).await?;
            Ok(Finish::Commit((mailbox, device, Done::Now(made)), tx))
        })
        .await?;
        let revocation = if update.may_restrict() {
            confirmed(&*self.store, &self.feed, done, wait).await?
        } else {
            effective_at_once(&self.feed, done.made())
        };
        Ok((mailbox, device, revocation))
    }
}
