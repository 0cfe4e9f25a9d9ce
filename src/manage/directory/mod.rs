//! Floor 3: organizations, members and their roles, mail services, rights and mailboxes. What takes access away ends the logins concerned in the same transaction.

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
        mutation::{Revocation, confirmed, make_durable},
        retried,
    },
    replication::{
        Feed,
        confirmation::{Awaited, Wait},
    },
    store::{Mode, Store, StoreError},
};
use latchkey_core::model::{
    caller::Requester,
    change::Revision,
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
        retried(|| async move {
            let mut tx = self.store.begin("put_organization", Mode::Write).await?;
            authorize::administers(&mut tx, who, id).await?;
            let organization = Organization {
                organization_id: id.clone(),
                display_name: display_name.to_owned(),
                create_time: self.clock.wall(),
            };
            tx.put_organization(&organization).await?;
            let stored = tx.organization(id).await?.ok_or(Refusal::NotFound(Thing::Organization))?;
            tx.commit().await?;
            Ok(stored)
        })
        .await
    }

    pub async fn organization(&self, who: &Requester, id: &OrganizationId) -> Result<Organization, Refusal> {
        let mut tx = self.store.begin("get_organization", Mode::Read).await?;
        authorize::organization(&mut tx, who, id).await
    }

    pub async fn organizations(
        &self,
        who: &Requester,
        after: Option<&OrganizationId>,
        limit: usize,
    ) -> Result<Vec<Organization>, Refusal> {
        authorize::nobody_else(who)?;
        Ok(self.store.begin("list_organizations", Mode::Read).await?.organizations(after, limit).await?)
    }

    /// Its members go with it. Refused while it has mail services.
    pub async fn delete_organization(&self, who: &Requester, id: &OrganizationId) -> Result<(), Refusal> {
        authorize::nobody_else(who)?;
        retried(|| async move {
            let mut tx = self.store.begin("delete_organization", Mode::Write).await?;
            if !tx.mail_services(id, None, 1).await?.is_empty() {
                return Err(Refusal::NotEmpty("mail services"));
            }
            if !tx.delete_organization(id).await? {
                return Err(Refusal::NotFound(Thing::Organization));
            }
            Ok(tx.commit().await?)
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
        retried(|| async move {
            let mut tx = self.store.begin("put_mail_service", Mode::Write).await?;
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
            tx.commit().await?;
            Ok(service)
        })
        .await
    }

    pub async fn mail_service(&self, who: &Requester, id: &MailServiceId) -> Result<MailService, Refusal> {
        let mut tx = self.store.begin("get_mail_service", Mode::Read).await?;
        authorize::mail_service(&mut tx, who, id).await
    }

    pub async fn mail_services(
        &self,
        who: &Requester,
        organization: &OrganizationId,
        after: Option<&MailServiceId>,
        limit: usize,
    ) -> Result<Vec<MailService>, Refusal> {
        let mut tx = self.store.begin("list_mail_services", Mode::Read).await?;
        authorize::organization(&mut tx, who, organization).await?;
        Ok(tx.mail_services(organization, after, limit).await?)
    }

    /// Its rights go with it. Refused while it has mailboxes.
    pub async fn delete_mail_service(&self, who: &Requester, id: &MailServiceId) -> Result<(), Refusal> {
        retried(|| async move {
            let mut tx = self.store.begin("delete_mail_service", Mode::Write).await?;
            let Some(service) = tx.mail_service(id).await? else {
                return Err(missing(who, Thing::MailService));
            };
            authorize::administers(&mut tx, who, &service.organization_id).await?;
            if !tx.mailboxes(id, None, 1).await?.is_empty() {
                return Err(Refusal::NotEmpty("mailboxes"));
            }
            tx.delete_mail_service(id).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

impl Directory {
    /// Waits until what a call did holds everywhere. Also where it found nothing left to do, or the thing gone: an earlier call may have done it, whose end
    /// nobody has seen.
    async fn settle(&self, ended: Result<Option<(Awaited, usize)>, Refusal>, wait: Wait) -> Result<Revocation, Refusal> {
        match ended {
            Ok(Some((revision, count))) => confirmed(&self.feed, revision, count, wait).await,
            Ok(None) => {
                let head = self.durable_head().await?;
                confirmed(&self.feed, head, 0, wait).await
            }
            Err(Refusal::NotFound(thing)) => {
                let head = self.durable_head().await?;
                confirmed(&self.feed, head, 0, Wait::UntilEffective).await?;
                Err(Refusal::NotFound(thing))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The log's head, once everything up to it is durable. This call, or an earlier one, has changed
    /// something by now: so a failure here is "not known", never "nothing was changed".
    async fn durable_head(&self) -> Result<Revision, Refusal> {
        let head = async {
            make_durable(&*self.store).await?;
            Ok(self.store.head(Revision::default()).await?.revision)
        };
        head.await.map_err(|refusal| match refusal {
            Refusal::Store(error) => Refusal::Store(StoreError::OutcomeUnknown(error.to_string())),
            refusal => refusal,
        })
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory")
    }
}
