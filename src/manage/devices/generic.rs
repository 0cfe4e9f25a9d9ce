//! SetGenericLogin: the generic password off and on for logins, on a mailbox or a whole mail service.

use super::Devices;
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, RequestKey, Revocation, confirmed, make_durable},
        retried,
    },
    replication::confirmation::Wait,
    store::Mode,
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    change::{Scope, ServiceKey},
    device::DeviceKind,
    event::EventKind,
    id::MailServiceId,
    verdict::Reason,
};

/// More devices than a mailbox can have.
const ALL: usize = 10_000;

/// Of a whole mail service, the passwords concerned are counted up to here.
const MAX_COUNTED: usize = 100_000;

/// Where.
#[derive(Clone, Debug)]
pub enum GenericPlace {
    Mailbox(Address),
    Service(MailServiceId),
}

impl Devices {
    pub async fn set_generic_login(
        &self,
        who: &Requester,
        place: &GenericPlace,
        enabled: bool,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let (revision, ended_devices) = retried(|| async move {
            let mut tx = self.store.begin("set_generic_login", Mode::Write).await?;
            let mut change = Change::new(who, self.clock.wall());
            let kind = if enabled { EventKind::GenericLoginSwitchedOn } else { EventKind::GenericLoginSwitchedOff };
            let mut ended_devices = 0;
            let scope = match place {
                GenericPlace::Mailbox(address) => {
                    let mut mailbox = authorize::mailbox(&mut tx, who, address, Lock::Yes).await?;
                    mailbox.generic_login = enabled;
                    tx.update_mailbox(&mailbox).await?;
                    if !enabled {
                        let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
                        devices
                            .iter()
                            .filter(|device| device.kind == DeviceKind::Generic)
                            .for_each(|device| change.end(device, Reason::GenericLoginOff));
                        ended_devices = change.ended_devices();
                    }
                    change.event(kind, mailbox.mailbox_id, None, "");
                    Scope::Mailboxes(vec![address.key()])
                }
                GenericPlace::Service(id) => {
                    authorize::mail_service(&mut tx, who, id).await?;
                    tx.set_generic_login(id, enabled).await?;
                    if !enabled {
                        ended_devices = tx.count_generic_devices(id, MAX_COUNTED).await?;
                    }
                    change.service_event(kind, id, None, "");
                    Scope::Service(ServiceKey::of(id))
                }
            };
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                drop(tx);
                make_durable(&*self.store).await?;
                return Ok((done.revision.into(), ended_devices));
            }
            Ok((change.commit(tx, scope, request, None).await?, ended_devices))
        })
        .await?;
        confirmed(&self.feed, revision, ended_devices, wait).await
    }
}
