//! SetGenericLogin: the generic password off and on for logins, on a mailbox or a whole mail
//! service.

use super::Devices;
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, Done, RequestKey, confirmed, effective_at_once},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::confirmation::Wait,
    store::{MadeBy, Transaction},
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
    /// Switching on revokes nothing, and answers at once.
    pub async fn set_generic_login(
        &self,
        who: &Requester,
        place: &GenericPlace,
        enabled: bool,
        request: Option<&RequestKey>,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let done = transact::write(&*self.store, "set_generic_login", |mut tx| async move {
            let mut change = Change::new(who, self.clock.wall());
            let (made_by, scope) = switch(&mut tx, &mut change, who, place, enabled).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                return Ok(Finish::Leave(Done::before(&done, made_by)));
            }
            Ok(Finish::Commit(Done::Now(change.write(&mut tx, made_by, scope, request, None).await?), tx))
        })
        .await?;
        match done {
            Done::Now(made) if enabled => Ok(effective_at_once(&self.feed, made)),
            done => confirmed(&*self.store, &self.feed, who, done, wait).await,
        }
    }
}

async fn switch(
    tx: &mut Transaction,
    change: &mut Change<'_>,
    who: &Requester,
    place: &GenericPlace,
    enabled: bool,
) -> Result<(MadeBy, Scope), Refusal> {
    let kind = if enabled { EventKind::GenericLoginSwitchedOn } else { EventKind::GenericLoginSwitchedOff };
    match place {
        GenericPlace::Mailbox(address) => {
            let mut mailbox = authorize::mailbox(tx, who, address, Lock::Yes).await?;
            mailbox.generic_login = enabled;
            tx.update_mailbox(&mailbox).await?;
            if !enabled {
                let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
                let generic = devices.iter().filter(|device| device.kind == DeviceKind::Generic);
                generic.for_each(|device| change.end(device, Reason::GenericLoginOff));
            }
            change.event(kind, mailbox.mailbox_id, None, "");
            Ok((MadeBy::devices_of(&mailbox), Scope::Mailboxes(vec![address.key()])))
        }
        GenericPlace::Service(id) => {
            let service = authorize::mail_service(tx, who, id).await?;
            tx.set_generic_login(id, enabled).await?;
            if !enabled {
                change.bars(tx.count_generic_devices(id, MAX_COUNTED).await?);
            }
            change.service_event(kind, id, None, "");
            Ok((MadeBy::devices_on(&service), Scope::Service(ServiceKey::of(id))))
        }
    }
}
