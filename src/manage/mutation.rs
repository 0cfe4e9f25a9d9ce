//! How a change ends: in one transaction with its row in the change log and its events, under the
//! caller's request id; then confirmed.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    Refusal,
    changes_logged::Line,
    revocation::Revocation,
    transact::{self, Finish},
};
use crate::random::NewId as _;
use crate::{
    random,
    replication::{
        Feed,
        confirmation::{ClosedSessions, Confirmation, Wait},
    },
    store::{Api, Logged, MadeBy, NewChange, NewRevocation, Request, Store, StoreError, Transaction},
};
use latchkey_core::model::{
    caller::Requester,
    change::{Ended, Position, Revision, RevocationId, Scope},
    clock::Timestamp,
    device::Device,
    directory::{MailService, Mailbox},
    event::{Event, EventKind},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, RequestId, UserId},
    verdict::Reason,
};

/// A change in the making.
#[derive(Debug)]
pub struct Change<'a> {
    who: &'a Requester,
    pub time: Timestamp,
    events: Vec<Event>,
    ended: Vec<Ended>,
    barred: usize,
}

impl<'a> Change<'a> {
    pub fn new(who: &'a Requester, time: Timestamp) -> Self {
        Self { who, time, events: vec![], ended: vec![], barred: 0 }
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

    /// For passwords that it bars without naming them: so many.
    pub fn bars(&mut self, devices: usize) {
        self.barred = devices;
    }

    /// Writes the events alone: of a change that no cached answer depends on.
    pub async fn write_events(self, tx: &mut Transaction) -> Result<(), Refusal> {
        tx.add_events(&self.events).await?;
        if let Some(line) = self.line() {
            line.after(tx, self.who);
        }
        Ok(())
    }

    /// The log's line, if anything has happened. Of several events, what they are about in common.
    fn line(&self) -> Option<Line> {
        let first = self.events.first()?;
        let is_alone = self.events.len() == 1;
        Some(Line {
            kind: format!("{:?}", first.kind),
            organization_id: first.organization_id.clone(),
            mail_service_id: first.mail_service_id.clone(),
            mailbox_id: first.mailbox_id.filter(|id| self.events.iter().all(|event| event.mailbox_id == Some(*id))),
            device_id: first.device_id.filter(|_| is_alone),
            user_id: first.user.clone(),
            ..Line::default()
        })
    }

    /// Writes it all, under the request's id if it has one. The last statements before the commit.
    pub async fn write(
        self,
        tx: &mut Transaction,
        made_by: MadeBy,
        scope: Scope,
        request: Option<&RequestKey>,
        device_id: Option<DeviceId>,
    ) -> Result<Made, Refusal> {
        let line = self.line().map(|line| Line {
            organization_id: line.organization_id.or_else(|| made_by.organization_id.clone()),
            mail_service_id: line.mail_service_id.or_else(|| made_by.mail_service_id.clone()),
            ..line
        });
        let Self { who, time, events, ended, barred } = self;
        let ended_devices = u32::try_from(ended.len() + barred).unwrap_or(u32::MAX);
        let (nonce, revocation) = (random::nonce(), Some(NewRevocation { made_by, ended_devices }));
        let revision = tx.append_change(&NewChange { nonce, time, scope, ended, events, revocation }).await?;
        if let Some(line) = line {
            Line { revision: Some(revision), ended_devices: Some(ended_devices), ..line }.after(tx, who);
        }
        if let Some(request) = request {
            let done = Request { fingerprint: request.fingerprint, device_id, revision, count: ended_devices, time };
            tx.insert_request(&who.caller, &request.id, &done).await?;
        }
        Ok(Made { position: Position { revision, nonce }, ended_devices })
    }
}

/// A change that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    position: Position,
    ended_devices: u32,
}

impl From<&Logged> for Made {
    fn from(logged: &Logged) -> Self {
        Self { position: logged.position, ended_devices: logged.ended_devices }
    }
}

/// What a call has done to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It made this change.
    Now(Made),
    /// It found that an earlier call made this one.
    Before(Made),
    /// There was nothing to change, so it wrote a row without a change: an earlier call may have
    /// done it, and once this row is effective, everything before it is, too.
    Nothing(Made),
}

impl Done {
    pub fn made(self) -> Made {
        match self {
            Self::Now(made) | Self::Before(made) | Self::Nothing(made) => made,
        }
    }
}

/// For a call that finds its change made before. In the transaction that found it: the row that it
/// reads is of the same history.
pub async fn earlier(
    mut tx: Transaction,
    change: Change<'_>,
    revision: Revision,
    ended_devices: u32,
    made_by: MadeBy,
) -> Result<Finish<Done>, Refusal> {
    if let Some(logged) = tx.logged(revision).await? {
        return Ok(Finish::Leave(Done::Before(Made::from(&logged))));
    }
    // The log has forgotten it, so it has been effective for long. This has an id of its own.
    let made = nothing(&mut tx, change, made_by).await?;
    Ok(Finish::Commit(Done::Nothing(Made { ended_devices, ..made }), tx))
}

/// Writes a row without a change, in the transaction that found nothing to do. If that fails, it is
/// not known whether an earlier call's change will last.
pub async fn nothing(tx: &mut Transaction, change: Change<'_>, made_by: MadeBy) -> Result<Made, Refusal> {
    change.write(tx, made_by, Scope::Mailboxes(vec![]), None, None).await.map_err(not_known)
}

impl MadeBy {
    /// By a call about the devices of a mailbox.
    pub fn devices_of(mailbox: &Mailbox) -> Self {
        Self {
            api: Api::DeviceCredentials,
            organization_id: Some(mailbox.organization_id.clone()),
            mail_service_id: Some(mailbox.mail_service_id.clone()),
        }
    }

    /// By a call about the devices of a mail service.
    pub fn devices_on(service: &MailService) -> Self {
        Self { api: Api::DeviceCredentials, ..Self::directory_of(service) }
    }

    /// By a call of the directory that needs the right to manage a mail service.
    pub fn directory_of(service: &MailService) -> Self {
        Self {
            api: Api::Directory,
            organization_id: Some(service.organization_id.clone()),
            mail_service_id: Some(service.mail_service_id.clone()),
        }
    }

    /// By a call of the directory about a mailbox.
    pub fn directory_of_mailbox(mailbox: &Mailbox) -> Self {
        Self { api: Api::Directory, ..Self::devices_of(mailbox) }
    }

    /// By a call of the directory that needs to administer an organization.
    pub fn directory(organization: &OrganizationId) -> Self {
        Self { api: Api::Directory, organization_id: Some(organization.clone()), mail_service_id: None }
    }
}

/// A changing call's request id, and a digest of what it asks for.
#[derive(Clone, Debug)]
pub struct RequestKey {
    pub id: RequestId,
    fingerprint: [u8; 16],
}

impl RequestKey {
    /// `parts`: the method and what it is done to. A password is not among them: not even its
    /// digest is to be kept.
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

/// Confirms what a call has done, or what it found done. In that case nobody may have seen the end
/// of the earlier commit: the change may exist on this database alone, and on no standby yet. A
/// commit of our own comes after it, and waits for the standby as any commit does.
pub async fn confirmed(store: &dyn Store, feed: &Arc<Feed>, done: Done, wait: Wait) -> Result<Revocation, Refusal> {
    if let Done::Before(_) = done {
        make_durable(store).await?;
    }
    confirmed_change(feed, done.made(), wait).await
}

/// Confirms a change, which was seen to be committed.
pub async fn confirmed_change(feed: &Arc<Feed>, made: Made, wait: Wait) -> Result<Revocation, Refusal> {
    let confirmation = feed.confirm(made.position, wait).await?;
    Ok(Revocation { id: RevocationId(made.position), ended_devices: made.ended_devices, confirmation })
}

/// The answer to a call that revokes nothing, and whose like cannot have revoked anything either.
pub fn effective_at_once(feed: &Feed, made: Made) -> Revocation {
    feed.hint();
    let confirmation = Confirmation::Effective(ClosedSessions::default());
    Revocation { id: RevocationId(made.position), ended_devices: made.ended_devices, confirmation }
}

/// A commit without a change of its own.
async fn make_durable(store: &dyn Store) -> Result<(), Refusal> {
    let committed = transact::write_once(store, "make_durable", |mut tx| async move {
        tx.lock_log().await?;
        Ok(Finish::Commit((), tx))
    });
    committed.await.map_err(not_known)
}

/// If this fails, it is not known whether the earlier change will last: never "nothing was
/// changed".
fn not_known(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Store(StoreError::Corrupt(what)) => StoreError::Corrupt(what).into(),
        Refusal::Store(error) => StoreError::OutcomeUnknown(error.to_string()).into(),
        refusal => refusal,
    }
}
