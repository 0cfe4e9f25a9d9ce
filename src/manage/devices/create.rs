//! CreateDevice.

use zeroize::Zeroizing;

use super::{Devices, password::unchanged_mailbox};
use crate::random::NewId as _;
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, RequestKey},
        transact::{self, Finish},
    },
    store::MadeBy,
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    change::Scope,
    clock::Timestamp,
    device::{Device, DeviceName, Limits},
    directory::Mailbox,
    event::EventKind,
    id::{DeviceId, UserId},
    secret::Secret,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct NewDevice {
    pub name: DeviceName,
    /// `None`: generate one.
    pub password: Option<Secret>,
    pub user: Option<UserId>,
    pub limits: Limits,
}

/// What CreateDevice answers.
pub struct Created {
    pub mailbox: Mailbox,
    pub device: Device,
    /// The generated password; `None` if it was chosen.
    pub shown: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Created {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Created").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Devices {
    /// Answers at once, since it revokes nothing. A login that a cache without the new device would
    /// deny is judged again before its denial goes out (`Login::authenticate`).
    pub async fn create(
        &self,
        who: &Requester,
        address: &Address,
        new: &NewDevice,
        request: Option<&RequestKey>,
    ) -> Result<Created, Refusal> {
        transact::retried(|| self.try_create(who, address, new, request)).await
    }

    async fn try_create(
        &self,
        who: &Requester,
        address: &Address,
        new: &NewDevice,
        request: Option<&RequestKey>,
    ) -> Result<Created, Refusal> {
        let before = transact::read(&*self.store, "create_device.check", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                return Err(Refusal::RequestAlreadyDone(done.device_id));
            }
            self.room_for_one(tx.count_active_devices(mailbox.mailbox_id).await?)?;
            Ok(mailbox)
        })
        .await?;
        let now = self.clock.wall();
        in_the_future(new.limits.expire_time, now)?;
        let password = &self.new_password(&before, new.password.as_ref()).await?;
        let before = &before;
        let (mailbox, device) = transact::write_once(&*self.store, "create_device", |mut tx| async move {
            let mailbox = unchanged_mailbox(&mut tx, who, before).await?;
            self.room_for_one(tx.count_active_devices(mailbox.mailbox_id).await?)?;
            let device = Device {
                device_id: DeviceId::new(now),
                mailbox_id: mailbox.mailbox_id,
                name: new.name.clone(),
                kind: password.kind,
                generation: 1,
                user: new.user.clone(),
                limits: new.limits.clone(),
                create_time: now,
                disconnection: None,
                last_use: None,
            };
            tx.insert_device(&device, &password.stored).await?;
            let mut change = Change::new(who, now);
            change.event(EventKind::DeviceCreated, mailbox.mailbox_id, Some(&device), "");
            let scope = Scope::Mailboxes(vec![address.key()]);
            change.write(&mut tx, MadeBy::devices_of(&mailbox), scope, request, Some(device.device_id)).await?;
            Ok(Finish::Commit((mailbox, device), tx))
        })
        .await?;
        self.feed.hint();
        Ok(Created { mailbox, device, shown: password.shown.clone() })
    }

    fn room_for_one(&self, active: usize) -> Result<(), Refusal> {
        if active < self.max_devices { Ok(()) } else { Err(Refusal::TooManyDevices(self.max_devices)) }
    }
}

pub(super) fn in_the_future(expire_time: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
    match expire_time {
        Some(end) if end <= now => Err(latchkey_core::model::Invalid::new("expire_time", "must be in the future").into()),
        _ => Ok(()),
    }
}
