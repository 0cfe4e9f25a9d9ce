//! Mailboxes.

use super::{Columns, Row, Transaction, columns::size};
use crate::store::{Result, StoreError};
use latchkey_core::model::{
    address::Address,
    directory::Mailbox,
    id::{MailServiceId, MailboxId, OrganizationId},
};

/// Where a mailbox is or was. `None`: an older version deleted it, and did not write that down.
type LastPlace = Option<(OrganizationId, MailServiceId)>;

impl Transaction {
    pub async fn mailbox(&mut self, address: &Address) -> Result<Option<Mailbox>> {
        let sql = "/* mailbox */ SELECT m.mailbox_id, m.address, m.mail_service_id, s.organization_id, m.suspended, m.generic_login, \
                   s.generic_login, m.device_version, m.create_time \
                   FROM mailbox m JOIN mail_service s ON s.mail_service_id = m.mail_service_id WHERE m.address = $1";
        self.first(sql, &[address.as_str().into()], to_mailbox).await
    }

    pub async fn mailboxes(&mut self, service: &MailServiceId, after: Option<&Address>, limit: usize) -> Result<Vec<Mailbox>> {
        let sql = "/* mailboxes */ SELECT m.mailbox_id, m.address, m.mail_service_id, s.organization_id, m.suspended, m.generic_login, \
                   s.generic_login, m.device_version, m.create_time \
                   FROM mailbox m JOIN mail_service s ON s.mail_service_id = m.mail_service_id \
                   WHERE m.mail_service_id = $1 AND m.address > $2 ORDER BY m.address LIMIT $3";
        let after = after.map_or("", Address::as_str);
        self.all(sql, &[service.as_str().into(), after.into(), size(limit)], to_mailbox).await
    }

    /// The organization and the mail service of a mailbox, also of one that is deleted: as its last
    /// event has them. `None`: there was never such a mailbox.
    pub async fn last_place_of_mailbox(&mut self, id: MailboxId) -> Result<Option<LastPlace>> {
        let sql = "/* last_place_of_mailbox */ SELECT s.organization_id, s.mail_service_id FROM mailbox m \
                   JOIN mail_service s ON s.mail_service_id = m.mail_service_id WHERE m.mailbox_id = $1";
        if let Some(place) = self.first(sql, &[id.into()], to_place).await? {
            return Ok(Some(place));
        }
        let sql = "/* last_place_of_mailbox */ SELECT organization_id, mail_service_id FROM event \
                   WHERE mailbox_id = $1 ORDER BY time DESC, event_id DESC LIMIT 1";
        self.first(sql, &[id.into()], to_place).await
    }

    /// As [`Self::mailbox`]; and until the transaction ends nobody else locks it. Counts its
    /// `device_version` up (the answer holds the new one).
    pub async fn lock_mailbox(&mut self, address: &Address) -> Result<Option<Mailbox>> {
        // Counting the version up is what locks the row, in either store's way.
        let sql = "/* lock_mailbox */ UPDATE mailbox SET device_version = device_version + 1 WHERE address = $1";
        if self.execute(sql, &[address.as_str().into()]).await? == 0 {
            return Ok(None);
        }
        self.mailbox(address).await
    }

    /// Conflict if the address is taken.
    pub async fn insert_mailbox(&mut self, mailbox: &Mailbox) -> Result<()> {
        let sql = "/* insert_mailbox */ INSERT INTO mailbox \
                   (mailbox_id, address, mail_service_id, suspended, generic_login, device_version, create_time) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (address) DO NOTHING";
        let parameters = [
            mailbox.mailbox_id.into(),
            mailbox.address.as_str().into(),
            mailbox.mail_service_id.as_str().into(),
            mailbox.suspended.into(),
            mailbox.generic_login.into(),
            mailbox.device_version.into(),
            mailbox.create_time.into(),
        ];
        match self.execute(sql, &parameters).await? {
            0 => self.fail(StoreError::Conflict("the address is taken".to_owned())),
            _ => Ok(()),
        }
    }

    /// Writes its mail service, `suspended` and `generic_login`.
    pub async fn update_mailbox(&mut self, mailbox: &Mailbox) -> Result<()> {
        let sql = "/* update_mailbox */ UPDATE mailbox SET mail_service_id = $2, suspended = $3, generic_login = $4 WHERE mailbox_id = $1";
        let parameters = [
            mailbox.mailbox_id.into(),
            mailbox.mail_service_id.as_str().into(),
            mailbox.suspended.into(),
            mailbox.generic_login.into(),
        ];
        self.execute(sql, &parameters).await?;
        Ok(())
    }

    /// Its devices and login history go with it; its events stay.
    pub async fn delete_mailbox(&mut self, id: MailboxId) -> Result<bool> {
        let of_it = [
            "/* delete_mailbox */ DELETE FROM device_usage WHERE device_id IN (SELECT device_id FROM device WHERE mailbox_id = $1)",
            "/* delete_mailbox */ DELETE FROM device WHERE mailbox_id = $1",
            "/* delete_mailbox */ DELETE FROM login_history WHERE mailbox_id = $1",
        ];
        for sql in of_it {
            self.execute(sql, &[id.into()]).await?;
        }
        Ok(self.execute("/* delete_mailbox */ DELETE FROM mailbox WHERE mailbox_id = $1", &[id.into()]).await? > 0)
    }
}

fn to_mailbox(row: Row) -> Result<Mailbox> {
    let mut columns = Columns::of(row);
    Ok(Mailbox {
        mailbox_id: MailboxId(columns.uuid()?),
        address: Address::from_store(columns.text()?),
        mail_service_id: MailServiceId::from_store(columns.text()?),
        organization_id: OrganizationId::from_store(columns.text()?),
        suspended: columns.bool()?,
        generic_login: columns.bool()?,
        service_generic_login: columns.bool()?,
        device_version: columns.int()?,
        create_time: columns.time()?,
    })
}

fn to_place(row: Row) -> Result<LastPlace> {
    let mut columns = Columns::of(row);
    let organization = columns.optional_text()?.map(OrganizationId::from_store);
    Ok(organization.zip(columns.optional_text()?.map(MailServiceId::from_store)))
}
