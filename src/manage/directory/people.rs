//! Members, their roles, and rights. Whoever loses access loses their devices.

use super::{Directory, NewMember};
use crate::{
    manage::{
        Refusal, Thing,
        authorize::{self, missing},
        mutation::{Change, Done, confirmed_change, effective_at_once, nothing},
        revocation::Revocation,
        transact::{self, Finish},
    },
    replication::confirmation::Wait,
    store::{MadeBy, Transaction, UserPlace},
};
use latchkey_core::model::{
    address::MailboxKey,
    caller::Requester,
    change::Scope,
    directory::{Member, Right, Standing},
    event::EventKind,
    id::{MailServiceId, OrganizationId, UserId},
    verdict::Reason,
};

impl Directory {
    /// Makes or replaces a member; answers how they stand now. A role that no longer gives access
    /// where it did disconnects the person's devices there; a suspension denies them until it is
    /// lifted.
    pub async fn put_member(&self, who: &Requester, new: &NewMember, wait: Wait) -> Result<(Member, Revocation), Refusal> {
        let (member, made, may_revoke) = transact::write(&*self.store, "put_member", |mut tx| async move {
            authorize::organization(&mut tx, who, &new.organization_id).await?;
            tx.lock_organization(&new.organization_id).await?;
            let suspended = match new.suspended {
                Some(suspended) => suspended,
                None => tx.member(&new.organization_id, &new.user).await?.is_some_and(|before| before.suspended),
            };
            let member =
                Member { organization_id: new.organization_id.clone(), user: new.user.clone(), role: new.role, suspended };
            let before = tx.standing(&member.user, &member.organization_id, None).await?;
            tx.put_member(&member).await?;
            let after = tx.standing(&member.user, &member.organization_id, None).await?;
            let mut change = Change::new(who, self.clock.wall());
            // Access by role is lost; where a right of theirs still gives it, their devices stay.
            let mut concerned = vec![];
            // A suspension neither takes a role nor gives one.
            if before.has_administrating_role() && !after.has_administrating_role() {
                concerned = disconnect_where_access_is_lost(&mut change, &mut tx, &member.user, &member.organization_id).await?;
            }
            note_member(&mut change, before, &member);
            if before.suspended != after.suspended {
                // A device that becomes theirs meanwhile is either seen here, or its own change
                // comes after ours.
                tx.lock_log().await?;
                let place = UserPlace::Organization(member.organization_id.clone());
                for (address, device) in tx.devices_of_user(&member.user, &place).await? {
                    if after.suspended {
                        change.end(&device, Reason::UserSuspended);
                    }
                    concerned.push(address.key());
                }
                concerned.sort_unstable_by_key(|key| key.0);
                concerned.dedup();
            }
            // Neither this call nor an earlier one like it has taken anything from who is new, or
            // who has all.
            let may_revoke = member.suspended || (before.role.is_some() && !after.has_administrating_role());
            let made_by = MadeBy::directory(&member.organization_id);
            let made = change.write(&mut tx, made_by, Scope::Mailboxes(concerned), None, None).await?;
            Ok(Finish::Commit((member, made, may_revoke), tx))
        })
        .await?;
        let revocation =
            if may_revoke { confirmed_change(&self.feed, made, wait).await? } else { effective_at_once(&self.feed, made) };
        Ok((member, revocation))
    }

    pub async fn member(&self, who: &Requester, organization: &OrganizationId, user: &UserId) -> Result<Member, Refusal> {
        transact::read(&*self.store, "get_member", |mut tx| async move {
            authorize::organization(&mut tx, who, organization).await?;
            tx.member(organization, user).await?.ok_or(Refusal::NotFound(Thing::Member))
        })
        .await
    }

    pub async fn members(
        &self,
        who: &Requester,
        organization: &OrganizationId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, Refusal> {
        transact::read(&*self.store, "list_members", |mut tx| async move {
            authorize::organization(&mut tx, who, organization).await?;
            Ok(tx.members(organization, after, limit).await?)
        })
        .await
    }

    /// Takes the person's rights in the organization, and disconnects their devices on all its mail
    /// services.
    pub async fn delete_member(
        &self,
        who: &Requester,
        organization: &OrganizationId,
        user: &UserId,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let done = transact::write(&*self.store, "delete_member", |mut tx| async move {
            authorize::organization(&mut tx, who, organization).await?;
            let made_by = MadeBy::directory(organization);
            if !tx.delete_member(organization, user).await? {
                let made = nothing(&mut tx, Change::new(who, self.clock.wall()), made_by).await?;
                return Ok(Finish::Commit(Done::Nothing(made), tx));
            }
            tx.delete_rights(organization, user).await?;
            let mut change = Change::new(who, self.clock.wall());
            let place = UserPlace::Organization(organization.clone());
            change.member_event(EventKind::MemberRemoved, organization, user, "");
            let scope = change.disconnect_user(&mut tx, user, &place, &format!("{user} left the organization")).await?;
            Ok(Finish::Commit(Done::Now(change.write(&mut tx, made_by, scope, None, None).await?), tx))
        })
        .await?;
        self.deleted(done, Thing::Member, wait).await
    }

    pub async fn put_right(&self, who: &Requester, right: &Right) -> Result<(), Refusal> {
        transact::write(&*self.store, "put_right", |mut tx| async move {
            administered_service(&mut tx, who, &right.mail_service_id).await?;
            let is_new = tx.right(&right.mail_service_id, &right.user).await?.is_none();
            tx.put_right(right).await?;
            let mut change = Change::new(who, self.clock.wall());
            if is_new {
                change.service_event(EventKind::RightGranted, &right.mail_service_id, Some(&right.user), "");
            }
            Ok(Finish::Commit(change.write_events(&mut tx).await?, tx))
        })
        .await
    }

    pub async fn right(&self, who: &Requester, right: &Right) -> Result<Right, Refusal> {
        transact::read(&*self.store, "get_right", |mut tx| async move {
            administered_service(&mut tx, who, &right.mail_service_id).await?;
            tx.right(&right.mail_service_id, &right.user).await?.ok_or(Refusal::NotFound(Thing::Right))
        })
        .await
    }

    pub async fn rights(
        &self,
        who: &Requester,
        service: &MailServiceId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Right>, Refusal> {
        transact::read(&*self.store, "list_rights", |mut tx| async move {
            administered_service(&mut tx, who, service).await?;
            Ok(tx.rights(service, after, limit).await?)
        })
        .await
    }

    /// Disconnects the user's devices on the mail service, unless a role of theirs still gives
    /// access.
    pub async fn delete_right(&self, who: &Requester, right: &Right, wait: Wait) -> Result<Revocation, Refusal> {
        let (done, keeps_access) = transact::write(&*self.store, "delete_right", |mut tx| async move {
            let organization = administered_service(&mut tx, who, &right.mail_service_id).await?;
            let made_by = MadeBy::directory(&organization);
            if !tx.delete_right(right).await? {
                let made = nothing(&mut tx, Change::new(who, self.clock.wall()), made_by).await?;
                return Ok(Finish::Commit((Done::Nothing(made), false), tx));
            }
            let mut change = Change::new(who, self.clock.wall());
            change.service_event(EventKind::RightRevoked, &right.mail_service_id, Some(&right.user), "");
            let keeps_access = tx.standing(&right.user, &organization, Some(&right.mail_service_id)).await?.manages();
            let scope = if keeps_access {
                Scope::Mailboxes(vec![])
            } else {
                let place = UserPlace::Service(right.mail_service_id.clone());
                let why = format!("{} lost the right to {}", right.user, right.mail_service_id);
                change.disconnect_user(&mut tx, &right.user, &place, &why).await?
            };
            Ok(Finish::Commit((Done::Now(change.write(&mut tx, made_by, scope, None, None).await?), keeps_access), tx))
        })
        .await?;
        match done {
            Done::Now(made) if keeps_access => Ok(effective_at_once(&self.feed, made)),
            done => self.deleted(done, Thing::Right, wait).await,
        }
    }
}

/// The mail service's organization, if the requester may act for the whole of it.
async fn administered_service(tx: &mut Transaction, who: &Requester, id: &MailServiceId) -> Result<OrganizationId, Refusal> {
    let Some(service) = tx.mail_service(id).await? else {
        return Err(missing(who, Thing::MailService));
    };
    authorize::administers(tx, who, &service.organization_id).await?;
    Ok(service.organization_id)
}

/// Disconnects a person's devices on those mail services of an organization that they have no right
/// to manage.
async fn disconnect_where_access_is_lost(
    change: &mut Change<'_>,
    tx: &mut Transaction,
    user: &UserId,
    organization: &OrganizationId,
) -> Result<Vec<MailboxKey>, Refusal> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = tx.mail_services(organization, after.as_ref(), 1_000).await?;
        let Some(last) = page.last() else {
            return Ok(keys);
        };
        after = Some(last.mail_service_id.clone());
        for service in &page {
            if tx.right(&service.mail_service_id, user).await?.is_some() {
                continue;
            }
            let place = UserPlace::Service(service.mail_service_id.clone());
            let scope = change.disconnect_user(tx, user, &place, &format!("{user} lost their role")).await?;
            if let Scope::Mailboxes(concerned) = scope {
                keys.extend(concerned);
            }
        }
    }
}

/// The audit trail's entries of a member that is put: what is other than before.
fn note_member(change: &mut Change<'_>, before: Standing, member: &Member) {
    let Member { organization_id, user, .. } = member;
    match before.role {
        None => change.member_event(EventKind::MemberAdded, organization_id, user, format!("as {:?}", member.role)),
        Some(role) if role != member.role => {
            let detail = format!("from {role:?} to {:?}", member.role);
            change.member_event(EventKind::RoleChanged, organization_id, user, detail);
        }
        Some(_) => (),
    }
    if before.suspended != member.suspended {
        let kind = if member.suspended { EventKind::MemberSuspended } else { EventKind::MemberResumed };
        change.member_event(kind, organization_id, user, "");
    }
}
