//! How a change ends: in one transaction with its row in the change log and its events, under the caller's request id; then confirmed.

use latchkey_core::model::change::RevocationId;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Refusal;
use crate::random::NewId as _;
use crate::{
    random,
    replication::{
        Feed,
        confirmation::{Awaited, Confirmation, Wait},
    },
    store::{Mode, NewChange, Request, Store, StoreError, Transaction},
};
use latchkey_core::model::{
    caller::Requester,
    change::{Ended, Position, Revision, Scope},
    clock::Timestamp,
    device::Device,
    directory::Mailbox,
    event::{Event, EventKind},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, RequestId, UserId},
    verdict::Reason,
};

/// What a call that revokes answers.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub id: RevocationId,
    pub ended_devices: usize,
    pub confirmation: Confirmation,
}

/// A change in the making.
#[derive(Debug)]
pub struct Change<'a> {
    who: &'a Requester,
    pub time: Timestamp,
    events: Vec<Event>,
    ended: Vec<Ended>,
}

impl<'a> Change<'a> {
    pub fn new(who: &'a Requester, time: Timestamp) -> Self {
        Self { who, time, events: vec![], ended: vec![] }
    }

    /// Writes an event of a mailbox, and of one of its devices, to the audit trail.
    pub fn event(&mut self, kind: EventKind, mailbox_id: MailboxId, device: Option<&Device>, detail: impl Into<String>) {
        let event = Event {
            mailbox_id: Some(mailbox_id),
            device_id: device.map(|device| device.device_id),
            device_name: device.map_or_else(String::new, |device| device.name.as_str().to_owned()),
            ..self.blank(kind, detail)
        };
        self.events.push(event);
    }

    /// Writes an event of a mailbox that will be gone when it is written.
    pub fn event_of_deleted(&mut self, kind: EventKind, mailbox: &Mailbox, detail: impl Into<String>) {
        let event = Event {
            mailbox_id: Some(mailbox.mailbox_id),
            mail_service_id: Some(mailbox.mail_service_id.clone()),
            organization_id: Some(mailbox.organization_id.clone()),
            ..self.blank(kind, detail)
        };
        self.events.push(event);
    }

    /// Writes an event of a mail service as a whole: a switch, or a person's right.
    pub fn service_event(&mut self, kind: EventKind, service: &MailServiceId, user: Option<&UserId>, detail: impl Into<String>) {
        let event = Event { mail_service_id: Some(service.clone()), user: user.cloned(), ..self.blank(kind, detail) };
        self.events.push(event);
    }

    /// Writes an event of an organization's member.
    pub fn member_event(&mut self, kind: EventKind, organization: &OrganizationId, user: &UserId, detail: impl Into<String>) {
        let organization_id = Some(organization.clone());
        self.events.push(Event { organization_id, user: Some(user.clone()), ..self.blank(kind, detail) });
    }

    fn blank(&self, kind: EventKind, detail: impl Into<String>) -> Event {
        Event {
            event_id: EventId::new(self.time),
            mailbox_id: None,
            mail_service_id: None,
            organization_id: None,
            user: None,
            time: self.time,
            kind,
            device_id: None,
            device_name: String::new(),
            actor: self.who.actor.as_ref().map_or_else(String::new, ToString::to_string),
            caller: self.who.caller.clone(),
            peer: self.who.peer.clone(),
            revision: Revision::default(),
            detail: detail.into(),
            logins: None,
        }
    }

    /// Tells the change log that a password may not log in any more, and why.
    pub fn end(&mut self, device: &Device, reason: Reason) {
        self.ended.push(Ended { device_id: device.device_id, generation: device.generation, reason });
    }

    /// Disconnects active devices: their passwords end, and the trail says why.
    pub async fn disconnect(&mut self, tx: &mut Transaction, devices: &[Device], why: &str) -> Result<(), Refusal> {
        for device in devices {
            if tx.disconnect_device(device.device_id, self.time).await? {
                self.end(device, Reason::DeviceDisconnected);
                self.event(EventKind::DeviceDisconnected, device.mailbox_id, Some(device), why);
            }
        }
        Ok(())
    }

    pub fn ended_devices(&self) -> usize {
        self.ended.len()
    }

    /// Writes the events alone, and commits: for a change that no cached answer depends on.
    pub async fn commit_without_log(self, mut tx: Transaction) -> Result<(), Refusal> {
        tx.add_events(&self.events).await?;
        Ok(tx.commit().await?)
    }

    /// Writes it all, under the request's id if it has one, and commits.
    pub async fn commit(
        self,
        mut tx: Transaction,
        scope: Scope,
        request: Option<&RequestKey>,
        device_id: Option<DeviceId>,
    ) -> Result<Awaited, Refusal> {
        let count = u32::try_from(self.ended.len()).unwrap_or(u32::MAX);
        let Self { who, time, events, ended } = self;
        let nonce = random::nonce();
        let revision = tx.append_change(&NewChange { nonce, time, scope, ended, events }).await?;
        if let Some(request) = request {
            let done = Request { fingerprint: request.fingerprint, device_id, revision, count, time };
            tx.insert_request(&who.caller, &request.id, &done).await?;
        }
        tx.commit().await?;
        Ok(Position { revision, nonce }.into())
    }
}

/// A changing call's request id, and a digest of what it asks for.
#[derive(Clone, Debug)]
pub struct RequestKey {
    pub id: RequestId,
    fingerprint: [u8; 16],
}

impl RequestKey {
    /// `parts`: the method and what it is done to. A password is not among them: not even its digest is to be kept.
    pub fn new(id: RequestId, parts: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest.finalize()[..16]);
        Self { id, fingerprint }
    }

    /// What the call did when it was said before.
    pub async fn done_before(this: Option<&Self>, tx: &mut Transaction, who: &Requester) -> Result<Option<Request>, Refusal> {
        let Some(key) = this else {
            return Ok(None);
        };
        match tx.request(&who.caller, &key.id).await? {
            Some(done) if done.fingerprint != key.fingerprint => Err(Refusal::RequestIdReused),
            done => Ok(done),
        }
    }
}

/// For a call that finds its change made before. If nobody has seen the end of that commit, the change may
/// exist on this database alone, and on no standby yet. A commit of our own comes after it, and waits for
/// the standby as any commit does. If that fails, it is not known whether the change will last: never
/// "nothing was changed".
pub async fn make_durable(store: &dyn Store) -> Result<(), Refusal> {
    let commit = async {
        let mut tx = store.begin("make_durable", Mode::Write).await?;
        tx.lock_log().await?;
        tx.commit().await
    };
    commit.await.map_err(|error| match error {
        StoreError::Unavailable(cause) | StoreError::CannotWrite(cause) => StoreError::OutcomeUnknown(cause).into(),
        error => error.into(),
    })
}

/// Waits until a change holds everywhere, or says how far it has come.
pub async fn confirmed(
    feed: &Arc<Feed>,
    change: impl Into<Awaited>,
    ended_devices: usize,
    wait: Wait,
) -> Result<Revocation, Refusal> {
    let change = change.into();
    let confirmation = feed.confirm(change, wait).await?;
    Ok(Revocation { id: change.id(), ended_devices, confirmation })
}
