//! Floor 3: the devices of a mailbox: list, create, change, disconnect.

mod create;
mod disconnect;
mod events;
mod generic;
mod password;
mod revocation;
mod update;

use std::{fmt, sync::Arc};

pub use self::{
    create::{Created, NewDevice},
    disconnect::{UserDevicesPlace, WhatWouldGo},
    events::EventsOf,
    generic::GenericPlace,
    password::Changed,
    revocation::MayAwait,
    update::DeviceUpdate,
};
use crate::{
    hashing::HashingPool,
    manage::{
        Refusal, Thing,
        authorize::{self, Lock},
        transact,
    },
    passwords::tag::Tagger,
    replication::Feed,
    store::{Store, Transaction},
};
use latchkey_core::model::{
    Invalid,
    address::Address,
    caller::Requester,
    clock::SharedClock,
    device::{Device, DeviceKind},
    directory::Mailbox,
    id::{DeviceId, MailboxId},
    session::OpenSession,
};

/// The use cases of devices.
pub struct Devices {
    pub store: Arc<dyn Store>,
    pub feed: Arc<Feed>,
    pub tagger: Arc<Tagger>,
    pub hashing: Arc<HashingPool>,
    pub clock: SharedClock,
    /// Active devices that a mailbox may have.
    pub max_devices: usize,
}

/// The version of a mailbox's list of devices: what a person saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Etag {
    mailbox_id: MailboxId,
    version: i64,
}

impl Etag {
    fn of(mailbox: &Mailbox) -> Self {
        Self { mailbox_id: mailbox.mailbox_id, version: mailbox.device_version }
    }

    pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        text.split_once('-')
            .and_then(|(mailbox, version)| {
                let mailbox_id = MailboxId(uuid::Uuid::try_parse(mailbox).ok()?);
                Some(Self { mailbox_id, version: version.parse().ok()? })
            })
            .ok_or_else(|| Invalid::new(field, "must be an etag as ListDevices answered it"))
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.mailbox_id.0.simple(), self.version)
    }
}

/// Open sessions of a mailbox that are counted, at most.
const MAX_SESSIONS: usize = 10_000;

/// A page of a mailbox's devices.
#[derive(Clone, Debug)]
pub struct DeviceList {
    pub mailbox: Mailbox,
    pub devices: Vec<Device>,
    /// Open ones of the whole mailbox, the newest first.
    pub sessions: Vec<OpenSession>,
    pub etag: Etag,
}

/// What an actor may do with a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    pub manage: bool,
    /// The device named: whether it is there, and whether its password can be changed.
    pub device: Option<DevicePermissions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DevicePermissions {
    pub exists: bool,
    pub can_change_password: bool,
    pub can_disconnect: bool,
}

impl Devices {
    /// At most `limit` devices after `after`.
    pub async fn list(
        &self,
        who: &Requester,
        address: &Address,
        after: Option<DeviceId>,
        limit: usize,
        disconnected_too: bool,
    ) -> Result<DeviceList, Refusal> {
        transact::read(&*self.store, "list_devices", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
            let devices = tx.devices(mailbox.mailbox_id, after, limit, disconnected_too).await?;
            let sessions = tx.live_sessions(mailbox.mailbox_id, MAX_SESSIONS).await?;
            let etag = Etag::of(&mailbox);
            Ok(DeviceList { mailbox, devices, sessions, etag })
        })
        .await
    }

    /// A device, and the open sessions of its mailbox.
    pub async fn get(
        &self,
        who: &Requester,
        address: &Address,
        device_id: DeviceId,
    ) -> Result<(Mailbox, Device, Vec<OpenSession>), Refusal> {
        transact::read(&*self.store, "get_device", |mut tx| async move {
            let mailbox = authorize::mailbox(&mut tx, who, address, Lock::No).await?;
            let device = self.find(&mut tx, &mailbox, device_id).await?;
            let sessions = tx.live_sessions(mailbox.mailbox_id, MAX_SESSIONS).await?;
            Ok((mailbox, device, sessions))
        })
        .await
    }

    /// What this actor may do here. Lack of rights is an answer.
    pub async fn permissions(
        &self,
        who: &Requester,
        address: &Address,
        device_id: Option<DeviceId>,
    ) -> Result<Permissions, Refusal> {
        transact::read(&*self.store, "test_permissions", |mut tx| async move {
            let mailbox = match authorize::mailbox(&mut tx, who, address, Lock::No).await {
                Ok(mailbox) => mailbox,
                Err(Refusal::ActorNotPermitted | Refusal::NotFound(_)) => {
                    return Ok(Permissions { manage: false, device: None });
                }
                Err(refusal) => return Err(refusal),
            };
            let device = match device_id {
                None => None,
                Some(device_id) => Some(match tx.device(mailbox.mailbox_id, device_id).await? {
                    None => DevicePermissions::default(),
                    Some(device) => DevicePermissions {
                        exists: true,
                        can_change_password: can_change_password(&device),
                        can_disconnect: device.disconnection.is_none(),
                    },
                }),
            };
            Ok(Permissions { manage: true, device })
        })
        .await
    }

    async fn find(&self, tx: &mut Transaction, mailbox: &Mailbox, device_id: DeviceId) -> Result<Device, Refusal> {
        tx.device(mailbox.mailbox_id, device_id).await?.ok_or(Refusal::NotFound(Thing::Device))
    }
}

/// Whether ChangePassword works on it.
pub fn can_change_password(device: &Device) -> bool {
    device.kind != DeviceKind::Generic && device.disconnection.is_none()
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").field("max_devices", &self.max_devices).finish_non_exhaustive()
    }
}
