//! SetGenericLogin: the generic password off and on for logins, on a mailbox or a whole mail
//! service.

use super::Devices;
use crate::{
    manage::{
        Refusal,
        authorize::{self, Lock},
        mutation::{Change, Done, RequestKey, confirmed, earlier, effective_at_once},
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
    directory::{MailService, Mailbox},
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
            let target = Target::find(&mut tx, who, place).await?;
            if let Some(done) = RequestKey::done_before(request, &mut tx, who).await? {
                return earlier(tx, change, done.revision, done.count, target.made_by()).await;
            }
            let made_by = target.made_by();
            let scope = target.switch(&mut tx, &mut change, enabled).await?;
            Ok(Finish::Commit(Done::Now(change.write(&mut tx, made_by, scope, request, None).await?), tx))
        })
        .await?;
        if enabled {
            return Ok(effective_at_once(&self.feed, done.made()));
        }
        confirmed(&*self.store, &self.feed, done, wait).await
    }
}

/// What is switched.
enum Target {
    Mailbox(Mailbox),
    Service(MailService),
}

impl Target {
    async fn find(tx: &mut Transaction, who: &Requester, place: &GenericPlace) -> Result<Self, Refusal> {
        Ok(match place {
            GenericPlace::Mailbox(address) => Self::Mailbox(authorize::mailbox(tx, who, address, Lock::Yes).await?),
            GenericPlace::Service(id) => Self::Service(authorize::mail_service(tx, who, id).await?),
        })
    }

    fn made_by(&self) -> MadeBy {
        match self {
            Self::Mailbox(mailbox) => MadeBy::devices_of(mailbox),
            Self::Service(service) => MadeBy::devices_on(service),
        }
    }

    async fn switch(self, tx: &mut Transaction, change: &mut Change<'_>, enabled: bool) -> Result<Scope, Refusal> {
        let kind = if enabled { EventKind::GenericLoginSwitchedOn } else { EventKind::GenericLoginSwitchedOff };
        match self {
            Self::Mailbox(mailbox) => {
                let mailbox = Mailbox { generic_login: enabled, ..mailbox };
                tx.update_mailbox(&mailbox).await?;
                if !enabled {
                    let devices = tx.devices(mailbox.mailbox_id, None, ALL, false).await?;
                    let generic = devices.iter().filter(|device| device.kind == DeviceKind::Generic);
                    generic.for_each(|device| change.end(device, Reason::GenericLoginOff));
                }
                change.event(kind, mailbox.mailbox_id, None, "");
                Ok(Scope::Mailboxes(vec![mailbox.address.key()]))
            }
            Self::Service(MailService { mail_service_id: id, .. }) => {
                tx.set_generic_login(&id, enabled).await?;
                if !enabled {
                    change.bars(tx.count_generic_devices(&id, MAX_COUNTED).await?);
                }
                change.service_event(kind, &id, None, "");
                Ok(Scope::Service(ServiceKey::of(&id)))
            }
        }
    }
}
