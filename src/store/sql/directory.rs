//! Organizations, members, mail services and rights.

use super::{Columns, Row, Transaction, columns::size};
use crate::store::Result;
use latchkey_core::model::{
    directory::{MailService, Member, Organization, Right, Role, Standing},
    id::{MailServiceId, OrganizationId, UserId},
};

/// What comes after nothing: every id is longer than the empty text.
const START: &str = "";

impl Transaction {
    pub async fn organization(&mut self, id: &OrganizationId) -> Result<Option<Organization>> {
        let sql =
            "/* organization */ SELECT organization_id, display_name, create_time FROM organization WHERE organization_id = $1";
        self.first(sql, &[id.as_str().into()], to_organization).await
    }

    pub async fn organizations(&mut self, after: Option<&OrganizationId>, limit: usize) -> Result<Vec<Organization>> {
        let sql = "/* organizations */ SELECT organization_id, display_name, create_time FROM organization \
                   WHERE organization_id > $1 ORDER BY organization_id LIMIT $2";
        let after = after.map_or(START, OrganizationId::as_str);
        self.all(sql, &[after.into(), size(limit)], to_organization).await
    }

    /// Makes or replaces; keeps the first create time.
    pub async fn put_organization(&mut self, organization: &Organization) -> Result<()> {
        let sql = "/* put_organization */ INSERT INTO organization (organization_id, display_name, create_time) VALUES ($1, $2, $3) \
                   ON CONFLICT (organization_id) DO UPDATE SET display_name = excluded.display_name";
        let Organization { organization_id, display_name, create_time } = organization;
        self.execute(sql, &[organization_id.as_str().into(), display_name.as_str().into(), (*create_time).into()]).await?;
        Ok(())
    }

    /// Its members go with it.
    pub async fn delete_organization(&mut self, id: &OrganizationId) -> Result<bool> {
        let sql = "/* delete_organization */ DELETE FROM organization WHERE organization_id = $1";
        Ok(self.execute(sql, &[id.as_str().into()]).await? > 0)
    }

    pub async fn member(&mut self, organization: &OrganizationId, user: &UserId) -> Result<Option<Member>> {
        let sql = "/* member */ SELECT organization_id, user_id, role, suspended FROM member \
                   WHERE organization_id = $1 AND user_id = $2";
        self.first(sql, &[organization.as_str().into(), user.as_str().into()], to_member).await
    }

    pub async fn members(&mut self, organization: &OrganizationId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>> {
        let sql = "/* members */ SELECT organization_id, user_id, role, suspended FROM member \
                   WHERE organization_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3";
        let after = after.map_or(START, UserId::as_str);
        self.all(sql, &[organization.as_str().into(), after.into(), size(limit)], to_member).await
    }

    pub async fn put_member(&mut self, member: &Member) -> Result<()> {
        let sql = "/* put_member */ INSERT INTO member (organization_id, user_id, role, suspended) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (organization_id, user_id) DO UPDATE SET role = excluded.role, suspended = excluded.suspended";
        let Member { organization_id, user, role, suspended } = member;
        let parameters = [organization_id.as_str().into(), user.as_str().into(), (*role as i64).into(), (*suspended).into()];
        self.execute(sql, &parameters).await?;
        Ok(())
    }

    pub async fn delete_member(&mut self, organization: &OrganizationId, user: &UserId) -> Result<bool> {
        let sql = "/* delete_member */ DELETE FROM member WHERE organization_id = $1 AND user_id = $2";
        Ok(self.execute(sql, &[organization.as_str().into(), user.as_str().into()]).await? > 0)
    }

    pub async fn mail_service(&mut self, id: &MailServiceId) -> Result<Option<MailService>> {
        let sql = "/* mail_service */ SELECT mail_service_id, organization_id, display_name, generic_login, create_time \
                   FROM mail_service WHERE mail_service_id = $1";
        self.first(sql, &[id.as_str().into()], to_mail_service).await
    }

    pub async fn mail_services(
        &mut self,
        organization: &OrganizationId,
        after: Option<&MailServiceId>,
        limit: usize,
    ) -> Result<Vec<MailService>> {
        let sql = "/* mail_services */ SELECT mail_service_id, organization_id, display_name, generic_login, create_time \
                   FROM mail_service WHERE organization_id = $1 AND mail_service_id > $2 ORDER BY mail_service_id LIMIT $3";
        let after = after.map_or(START, MailServiceId::as_str);
        self.all(sql, &[organization.as_str().into(), after.into(), size(limit)], to_mail_service).await
    }

    /// Makes or replaces, the organization too; keeps the first create time and `generic_login`.
    pub async fn put_mail_service(&mut self, service: &MailService) -> Result<()> {
        let sql = "/* put_mail_service */ INSERT INTO mail_service \
                   (mail_service_id, organization_id, display_name, generic_login, create_time) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (mail_service_id) DO UPDATE SET organization_id = excluded.organization_id, \
                   display_name = excluded.display_name";
        let MailService { mail_service_id, organization_id, display_name, generic_login, create_time } = service;
        let parameters = [
            mail_service_id.as_str().into(),
            organization_id.as_str().into(),
            display_name.as_str().into(),
            (*generic_login).into(),
            (*create_time).into(),
        ];
        self.execute(sql, &parameters).await?;
        Ok(())
    }

    pub async fn set_generic_login(&mut self, id: &MailServiceId, enabled: bool) -> Result<()> {
        let sql = "/* set_generic_login */ UPDATE mail_service SET generic_login = $2 WHERE mail_service_id = $1";
        self.execute(sql, &[id.as_str().into(), enabled.into()]).await?;
        Ok(())
    }

    /// Until the transaction ends nobody else locks it.
    // A write that changes nothing is what locks the row, in either store's way.
    pub async fn lock_organization(&mut self, id: &OrganizationId) -> Result<()> {
        let sql = "/* lock_organization */ UPDATE organization SET display_name = display_name WHERE organization_id = $1";
        self.execute(sql, &[id.as_str().into()]).await?;
        Ok(())
    }

    /// Its rights go with it.
    pub async fn delete_mail_service(&mut self, id: &MailServiceId) -> Result<bool> {
        let sql = "/* delete_mail_service */ DELETE FROM mail_service WHERE mail_service_id = $1";
        Ok(self.execute(sql, &[id.as_str().into()]).await? > 0)
    }

    pub async fn right(&mut self, service: &MailServiceId, user: &UserId) -> Result<Option<Right>> {
        let sql = "/* right */ SELECT mail_service_id, user_id FROM mail_right WHERE mail_service_id = $1 AND user_id = $2";
        self.first(sql, &[service.as_str().into(), user.as_str().into()], to_right).await
    }

    pub async fn rights(&mut self, service: &MailServiceId, after: Option<&UserId>, limit: usize) -> Result<Vec<Right>> {
        let sql = "/* rights */ SELECT mail_service_id, user_id FROM mail_right \
                   WHERE mail_service_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3";
        let after = after.map_or(START, UserId::as_str);
        self.all(sql, &[service.as_str().into(), after.into(), size(limit)], to_right).await
    }

    pub async fn put_right(&mut self, right: &Right) -> Result<()> {
        let sql = "/* put_right */ INSERT INTO mail_right (mail_service_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.execute(sql, &[right.mail_service_id.as_str().into(), right.user.as_str().into()]).await?;
        Ok(())
    }

    pub async fn delete_right(&mut self, right: &Right) -> Result<bool> {
        let sql = "/* delete_right */ DELETE FROM mail_right WHERE mail_service_id = $1 AND user_id = $2";
        Ok(self.execute(sql, &[right.mail_service_id.as_str().into(), right.user.as_str().into()]).await? > 0)
    }

    /// Takes all of a person's rights on the mail services of an organization.
    pub async fn delete_rights(&mut self, organization: &OrganizationId, user: &UserId) -> Result<u64> {
        let sql = "/* delete_rights */ DELETE FROM mail_right WHERE user_id = $2 \
                   AND mail_service_id IN (SELECT mail_service_id FROM mail_service WHERE organization_id = $1)";
        self.execute(sql, &[organization.as_str().into(), user.as_str().into()]).await
    }

    /// What a person is to an organization, and to one of its mail services if one is named.
    pub async fn standing(
        &mut self,
        user: &UserId,
        organization: &OrganizationId,
        service: Option<&MailServiceId>,
    ) -> Result<Standing> {
        let sql = "/* standing */ SELECT \
                   (SELECT role FROM member WHERE organization_id = $2 AND user_id = $1), \
                   (SELECT suspended FROM member WHERE organization_id = $2 AND user_id = $1), \
                   (SELECT user_id FROM mail_right WHERE mail_service_id = $3 AND user_id = $1)";
        let service = service.map_or(START, MailServiceId::as_str);
        let parameters = [user.as_str().into(), organization.as_str().into(), service.into()];
        self.one(sql, &parameters, to_standing).await
    }
}

fn to_standing(row: Row) -> Result<Standing> {
    let mut columns = Columns::of(row);
    Ok(Standing {
        role: columns.optional_int()?.and_then(Role::from_number),
        suspended: columns.optional_bool()?.unwrap_or(false),
        right: columns.optional_text()?.is_some(),
    })
}

fn to_organization(row: Row) -> Result<Organization> {
    let mut columns = Columns::of(row);
    Ok(Organization {
        organization_id: OrganizationId::from_store(columns.text()?),
        display_name: columns.text()?,
        create_time: columns.time()?,
    })
}

fn to_member(row: Row) -> Result<Member> {
    let mut columns = Columns::of(row);
    Ok(Member {
        organization_id: OrganizationId::from_store(columns.text()?),
        user: UserId::from_store(columns.text()?),
        role: columns.known(Role::from_number)?,
        suspended: columns.bool()?,
    })
}

fn to_mail_service(row: Row) -> Result<MailService> {
    let mut columns = Columns::of(row);
    Ok(MailService {
        mail_service_id: MailServiceId::from_store(columns.text()?),
        organization_id: OrganizationId::from_store(columns.text()?),
        display_name: columns.text()?,
        generic_login: columns.bool()?,
        create_time: columns.time()?,
    })
}

fn to_right(row: Row) -> Result<Right> {
    let mut columns = Columns::of(row);
    Ok(Right { mail_service_id: MailServiceId::from_store(columns.text()?), user: UserId::from_store(columns.text()?) })
}
