//! Who may act on what: an actor with the right to manage the mail service, or an administrator or
//! legal representative of its organization. A caller that acts for nobody (an operator) may
//! everything, and only it can learn that something does not exist.

use super::{Refusal, Thing};
use crate::store::Transaction;
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    directory::{MailService, Mailbox, Organization},
    id::{MailServiceId, MailboxId, OrganizationId},
};

/// Whether the mailbox is to be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Only looked at.
    No,
    /// Nobody else changes its devices until the transaction ends.
    Yes,
}

/// The mailbox, if the requester may manage it.
pub async fn mailbox(tx: &mut Transaction, who: &Requester, address: &Address, lock: Lock) -> Result<Mailbox, Refusal> {
    let found = match lock {
        Lock::No => tx.mailbox(address).await?,
        Lock::Yes => tx.lock_mailbox(address).await?,
    };
    let Some(mailbox) = found else {
        return Err(missing(who, Thing::Mailbox));
    };
    manages(tx, who, &mailbox.organization_id, &mailbox.mail_service_id).await?;
    Ok(mailbox)
}

/// The mail service, if the requester may manage it.
pub async fn mail_service(tx: &mut Transaction, who: &Requester, id: &MailServiceId) -> Result<MailService, Refusal> {
    let Some(service) = tx.mail_service(id).await? else {
        return Err(missing(who, Thing::MailService));
    };
    manages(tx, who, &service.organization_id, &service.mail_service_id).await?;
    Ok(service)
}

/// The organization, if the requester may act for the whole of it.
pub async fn organization(tx: &mut Transaction, who: &Requester, id: &OrganizationId) -> Result<Organization, Refusal> {
    let Some(organization) = tx.organization(id).await? else {
        return Err(missing(who, Thing::Organization));
    };
    administers(tx, who, id).await?;
    Ok(organization)
}

/// Refuses an actor who may not act for the whole organization.
pub async fn administers(tx: &mut Transaction, who: &Requester, id: &OrganizationId) -> Result<(), Refusal> {
    let Some(actor) = &who.actor else {
        return Ok(());
    };
    if tx.standing(actor, id, None).await?.administers() { Ok(()) } else { Err(Refusal::ActorNotPermitted) }
}

/// Refuses whoever acts for somebody: for what only the platform itself may do.
pub fn nobody_else(who: &Requester) -> Result<(), Refusal> {
    if who.actor.is_none() { Ok(()) } else { Err(Refusal::ActorNotPermitted) }
}

/// What a missing thing is to the requester: an actor can't tell it from one that is not theirs.
pub fn missing(who: &Requester, thing: Thing) -> Refusal {
    if who.actor.is_none() { Refusal::NotFound(thing) } else { Refusal::ActorNotPermitted }
}

/// Refuses an actor without the right to manage a mail service; or, if none is named, one who may
/// not act for the whole organization.
pub async fn standing(
    tx: &mut Transaction,
    who: &Requester,
    organization: &OrganizationId,
    service: Option<&MailServiceId>,
) -> Result<(), Refusal> {
    match service {
        Some(service) => manages(tx, who, organization, service).await,
        None => administers(tx, who, organization).await,
    }
}

/// Refuses an actor who could not manage a mailbox that is there, or, if it is deleted, the mail
/// service that it was on last.
pub async fn mailbox_that_was(tx: &mut Transaction, who: &Requester, id: MailboxId) -> Result<(), Refusal> {
    match tx.last_place_of_mailbox(id).await? {
        None => Err(missing(who, Thing::Mailbox)),
        Some(None) => nobody_else(who),
        Some(Some((organization, service))) => manages(tx, who, &organization, &service).await,
    }
}

async fn manages(
    tx: &mut Transaction,
    who: &Requester,
    organization: &OrganizationId,
    service: &MailServiceId,
) -> Result<(), Refusal> {
    let Some(actor) = &who.actor else {
        return Ok(());
    };
    if tx.standing(actor, organization, Some(service)).await?.manages() { Ok(()) } else { Err(Refusal::ActorNotPermitted) }
}
