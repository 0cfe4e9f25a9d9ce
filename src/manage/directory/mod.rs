//! Floor 3: organizations, members and their roles, mail services, rights and mailboxes. What takes
//! access away ends the logins concerned in the same transaction.

mod import;
mod mailboxes;
mod people;

use latchkey_core::model::directory::Role;
use latchkey_core::model::id::UserId;
use std::{fmt, sync::Arc};

pub use self::import::{ImportLine, Imported, MAX_IMPORT_LINES, RefusedLine};
use crate::{
    manage::{
        Refusal, Thing,
        authorize::{self, missing},
        changes_logged::Line,
        mutation::{Done, confirmed},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::{Feed, confirmation::Wait},
    store::Store,
};
use latchkey_core::model::{
    caller::Requester,
    clock::SharedClock,
    directory::{MailService, Organization},
    id::{MailServiceId, OrganizationId},
};

/// The use cases of the directory.
pub struct Directory {
    pub store: Arc<dyn Store>,
    pub feed: Arc<Feed>,
    pub clock: SharedClock,
}

/// A member as a call asks for them.
#[derive(Clone, Debug)]
pub struct NewMember {
    pub organization_id: OrganizationId,
    pub user: UserId,
    pub role: Role,
    /// `None`: a member who exists stays as they are, suspended or not.
    pub suspended: Option<bool>,
}

impl Directory {
    pub async fn put_organization(
        &self,
        who: &Requester,
        id: &OrganizationId,
        display_name: &str,
    ) -> Result<Organization, Refusal> {
        transact::write(&*self.store, "put_organization", |mut tx| async move {
            authorize::administers(&mut tx, who, id).await?;
            let organization = Organization {
                organization_id: id.clone(),
                display_name: display_name.to_owned(),
                create_time: self.clock.wall(),
            };
            tx.put_organization(&organization).await?;
            let stored = tx.organization(id).await?.ok_or(Refusal::NotFound(Thing::Organization))?;
            Line { organization_id: Some(id.clone()), ..Line::of("OrganizationPut") }.after(&mut tx, who);
            Ok(Finish::Commit(stored, tx))
        })
        .await
    }

    pub async fn organization(&self, who: &Requester, id: &OrganizationId) -> Result<Organization, Refusal> {
        transact::read(&*self.store, "get_organization", |mut tx| async move { authorize::organization(&mut tx, who, id).await })
            .await
    }

    pub async fn organizations(
        &self,
        who: &Requester,
        after: Option<&OrganizationId>,
        limit: usize,
    ) -> Result<Vec<Organization>, Refusal> {
        authorize::nobody_else(who)?;
        transact::read(&*self.store, "list_organizations", |mut tx| async move { Ok(tx.organizations(after, limit).await?) })
            .await
    }

    /// Its members go with it. Refused while it has mail services.
    pub async fn delete_organization(&self, who: &Requester, id: &OrganizationId) -> Result<(), Refusal> {
        authorize::nobody_else(who)?;
        transact::write(&*self.store, "delete_organization", |mut tx| async move {
            if !tx.mail_services(id, None, 1).await?.is_empty() {
                return Err(Refusal::NotEmpty("mail services"));
            }
            if !tx.delete_organization(id).await? {
                return Err(Refusal::NotFound(Thing::Organization));
            }
            Line { organization_id: Some(id.clone()), ..Line::of("OrganizationDeleted") }.after(&mut tx, who);
            Ok(Finish::Commit((), tx))
        })
        .await
    }

    pub async fn put_mail_service(
        &self,
        who: &Requester,
        id: &MailServiceId,
        organization: &OrganizationId,
        display_name: &str,
    ) -> Result<MailService, Refusal> {
        transact::write(&*self.store, "put_mail_service", |mut tx| async move {
            authorize::organization(&mut tx, who, organization).await?;
            let service = match tx.mail_service(id).await? {
                Some(before) if before.organization_id != *organization => return Err(Refusal::OtherOrganization),
                Some(before) => MailService { display_name: display_name.to_owned(), ..before },
                None => MailService {
                    mail_service_id: id.clone(),
                    organization_id: organization.clone(),
                    display_name: display_name.to_owned(),
                    generic_login: true,
                    create_time: self.clock.wall(),
                },
            };
            tx.put_mail_service(&service).await?;
            let (organization_id, mail_service_id) = (Some(organization.clone()), Some(id.clone()));
            Line { organization_id, mail_service_id, ..Line::of("MailServicePut") }.after(&mut tx, who);
            Ok(Finish::Commit(service, tx))
        })
        .await
    }

    pub async fn mail_service(&self, who: &Requester, id: &MailServiceId) -> Result<MailService, Refusal> {
        transact::read(&*self.store, "get_mail_service", |mut tx| async move { authorize::mail_service(&mut tx, who, id).await })
            .await
    }

    pub async fn mail_services(
        &self,
        who: &Requester,
        organization: &OrganizationId,
        after: Option<&MailServiceId>,
        limit: usize,
    ) -> Result<Vec<MailService>, Refusal> {
        transact::read(&*self.store, "list_mail_services", |mut tx| async move {
            authorize::organization(&mut tx, who, organization).await?;
            Ok(tx.mail_services(organization, after, limit).await?)
        })
        .await
    }

    /// Its rights go with it. Refused while it has mailboxes.
    pub async fn delete_mail_service(&self, who: &Requester, id: &MailServiceId) -> Result<(), Refusal> {
        transact::write(&*self.store, "delete_mail_service", |mut tx| async move {
            let Some(service) = tx.mail_service(id).await? else {
                return Err(missing(who, Thing::MailService));
            };
            authorize::administers(&mut tx, who, &service.organization_id).await?;
            if !tx.mailboxes(id, None, 1).await?.is_empty() {
                return Err(Refusal::NotEmpty("mailboxes"));
            }
            tx.delete_mail_service(id).await?;
            let organization_id = Some(service.organization_id);
            let line = Line { organization_id, mail_service_id: Some(id.clone()), ..Line::of("MailServiceDeleted") };
            line.after(&mut tx, who);
            Ok(Finish::Commit((), tx))
        })
        .await
    }

    /// Waits until a delete holds everywhere. If the thing is gone already, an earlier call may
    /// have deleted it: that is waited for as long, and the refusal says how far it has come.
    async fn deleted(&self, done: Done, thing: Thing, wait: Wait) -> Result<Revocation, Refusal> {
        let is_gone = matches!(done, Done::Nothing(_));
        let revocation = confirmed(&*self.store, &self.feed, done, wait).await?;
        if is_gone { Err(Refusal::AlreadyGone(thing, Box::new(revocation))) } else { Ok(revocation) }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory")
    }
}
