//! Devices: a row for each password that one has or had; the last generation is the device.

use super::{
    Columns, Row, Transaction, Value,
    columns::{corrupt, size},
};
use crate::store::{Result, StoreError, UserPlace};
use latchkey_core::model::{
    address::Address,
    change::Ended,
    clock::Timestamp,
    device::{Device, DeviceKind, DeviceName, Disconnection, LastUse, Limits, StoredPassword},
    id::{DeviceId, MailServiceId, MailboxId, UserId},
    network::Networks,
    protocol::{Protocol, Protocols},
    record::EndReason,
};

/// Columns of a device, of the row `d` with its usage `u`.
macro_rules! select_device {
    ($name:literal, $more:literal, $rest:literal) => {
        concat!(
            "/* ",
            $name,
            " */ SELECT d.device_id, d.mailbox_id, d.name, d.kind, d.generation, d.user_id, d.protocols, d.networks, d.expire_time, \
             d.create_time, d.end_reason, d.end_time, d.end_revision, u.time, u.client_ip, u.protocol",
            $more,
            " FROM device d LEFT JOIN device_usage u ON u.device_id = d.device_id ",
            $rest
        )
    };
}

/// Of a device that has had several passwords, the last generation is meant.
impl Transaction {
    pub async fn device(&mut self, mailbox: MailboxId, device: DeviceId) -> Result<Option<Device>> {
        let sql = select_device!("device", "", "WHERE d.device_id = $1 AND d.mailbox_id = $2 ORDER BY d.generation DESC LIMIT 1");
        self.first(sql, &[device.into(), mailbox.into()], to_device).await
    }

    /// In the order of their ids: oldest first.
    pub async fn devices(
        &mut self,
        mailbox: MailboxId,
        after: Option<DeviceId>,
        limit: usize,
        disconnected_too: bool,
    ) -> Result<Vec<Device>> {
        let active = select_device!(
            "devices",
            "",
            "WHERE d.mailbox_id = $1 AND d.state = 0 AND d.device_id > $2 ORDER BY d.device_id LIMIT $3"
        );
        // A generation that ended as changed is not the device's last.
        let all = select_device!(
            "devices",
            "",
            "WHERE d.mailbox_id = $1 AND (d.state = 0 OR d.end_reason = 1) AND d.device_id > $2 ORDER BY d.device_id LIMIT $3"
        );
        let after = after.map_or(Value::Bytes(vec![]), Value::from);
        let sql = if disconnected_too { all } else { active };
        self.all(sql, &[mailbox.into(), after, size(limit)], to_device).await
    }

    /// The generic passwords of a mail service that its mailboxes allow to log in, counted up to
    /// `limit`.
    pub async fn count_generic_devices(&mut self, service: &MailServiceId, limit: usize) -> Result<usize> {
        let sql = "/* count_generic_devices */ SELECT COUNT(*) FROM (SELECT 1 FROM mailbox m \
                   JOIN device d ON d.mailbox_id = m.mailbox_id AND d.state = 0 \
                   WHERE m.mail_service_id = $1 AND m.generic_login = TRUE AND d.kind = $2 LIMIT $3) AS counted";
        let parameters = [service.as_str().into(), (DeviceKind::Generic as i64).into(), size(limit)];
        self.one(sql, &parameters, |row| Columns::of(row).unsigned()).await
    }

    pub async fn count_active_devices(&mut self, mailbox: MailboxId) -> Result<usize> {
        let sql = "/* count_active_devices */ SELECT count(*) FROM device WHERE mailbox_id = $1 AND state = 0";
        self.one(sql, &[mailbox.into()], |row| Columns::of(row).unsigned()).await
    }

    pub async fn insert_device(&mut self, device: &Device, password: &StoredPassword) -> Result<()> {
        let sql = "/* insert_device */ INSERT INTO device \
                   (device_id, generation, mailbox_id, name, kind, user_id, protocols, networks, expire_time, create_time, tag, key_id, \
                   hash, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0)";
        let Limits { protocols, networks, expire_time } = &device.limits;
        let parameters = [
            device.device_id.into(),
            i64::from(device.generation).into(),
            device.mailbox_id.into(),
            device.name.as_str().into(),
            (device.kind as i64).into(),
            device.user.as_ref().map(UserId::as_str).into(),
            i64::from(protocols.0).into(),
            networks.to_text().into(),
            (*expire_time).into(),
            device.create_time.into(),
            password.tag.into(),
            password.key.into(),
            password.hash.as_ref().map(|hash| hash.0.clone()).into(),
        ];
        self.execute(sql, &parameters).await?;
        Ok(())
    }

    /// Writes its name, user and limits.
    pub async fn update_device(&mut self, device: &Device) -> Result<()> {
        let sql = "/* update_device */ UPDATE device SET name = $2, user_id = $3, protocols = $4, networks = $5, expire_time = $6 \
                   WHERE device_id = $1 AND state = 0";
        let Limits { protocols, networks, expire_time } = &device.limits;
        let parameters = [
            device.device_id.into(),
            device.name.as_str().into(),
            device.user.as_ref().map(UserId::as_str).into(),
            i64::from(protocols.0).into(),
            networks.to_text().into(),
            (*expire_time).into(),
        ];
        self.execute(sql, &parameters).await?;
        Ok(())
    }

    /// Ends the current password as changed, at `now`, and puts `device` (its next generation and
    /// kind) with `password` in its place. Conflict if it has none: it was disconnected.
    pub async fn replace_password(&mut self, device: &Device, password: &StoredPassword, now: Timestamp) -> Result<()> {
        // Otherwise a device that was disconnected meanwhile would come back.
        if !self.end(device.device_id, EndReason::Changed, now).await? {
            return self.fail(StoreError::Conflict("the device has no current password".to_owned()));
        }
        self.insert_device(device, password).await
    }

    /// Ends a device's password as disconnected. Whether it was active.
    pub async fn disconnect_device(&mut self, device: DeviceId, now: Timestamp) -> Result<bool> {
        self.end(device, EndReason::Disconnected, now).await
    }

    async fn end(&mut self, device: DeviceId, reason: EndReason, now: Timestamp) -> Result<bool> {
        let sql =
            "/* end_device */ UPDATE device SET state = 1, end_reason = $2, end_time = $3 WHERE device_id = $1 AND state = 0";
        Ok(self.execute(sql, &[device.into(), (reason as i64).into(), now.into()]).await? > 0)
    }

    /// Ends a device's password as disconnected if it is of that generation or an older one: one
    /// that a lost history had ended. The device, if it was.
    pub async fn end_again(&mut self, ended: Ended, now: Timestamp) -> Result<Option<Device>> {
        let sql = "/* end_again */ UPDATE device SET state = 1, end_reason = $3, end_time = $4 \
                   WHERE device_id = $1 AND generation <= $2 AND state = 0";
        let reason = EndReason::Disconnected as i64;
        if self.execute(sql, &[ended.device_id.into(), i64::from(ended.generation).into(), reason.into(), now.into()]).await? == 0
        {
            return Ok(None);
        }
        let sql = select_device!("end_again", "", "WHERE d.device_id = $1 ORDER BY d.generation DESC LIMIT 1");
        self.first(sql, &[ended.device_id.into()], to_device).await
    }

    /// The active devices of a person on one mailbox, on one mail service, or on all mail services
    /// of an organization; with the mailboxes' addresses.
    pub async fn devices_of_user(&mut self, user: &UserId, place: &UserPlace) -> Result<Vec<(Address, Device)>> {
        let (sql, place) = match place {
            UserPlace::Mailbox(id) => (
                select_device!(
                    "devices_of_user",
                    ", m.address",
                    "JOIN mailbox m ON m.mailbox_id = d.mailbox_id \
                     WHERE d.user_id = $1 AND d.state = 0 AND m.mailbox_id = $2 ORDER BY m.address, d.device_id"
                ),
                Value::from(*id),
            ),
            UserPlace::Service(id) => (
                select_device!(
                    "devices_of_user",
                    ", m.address",
                    "JOIN mailbox m ON m.mailbox_id = d.mailbox_id \
                     WHERE d.user_id = $1 AND d.state = 0 AND m.mail_service_id = $2 ORDER BY m.address, d.device_id"
                ),
                id.as_str().into(),
            ),
            UserPlace::Organization(id) => (
                select_device!(
                    "devices_of_user",
                    ", m.address",
                    "JOIN mailbox m ON m.mailbox_id = d.mailbox_id JOIN mail_service s ON s.mail_service_id = m.mail_service_id \
                     WHERE d.user_id = $1 AND d.state = 0 AND s.organization_id = $2 ORDER BY m.address, d.device_id"
                ),
                id.as_str().into(),
            ),
        };
        let to_both = |row| {
            let mut columns = Columns::of(row);
            let device = read_device(&mut columns)?;
            Ok((Address::from_store(columns.text()?), device))
        };
        self.all(sql, &[user.as_str().into(), place], to_both).await
    }
}

fn to_device(row: Row) -> Result<Device> {
    read_device(&mut Columns::of(row))
}

fn read_device(columns: &mut Columns) -> Result<Device> {
    let device_id = DeviceId(columns.uuid()?);
    let mailbox_id = MailboxId(columns.uuid()?);
    let name = DeviceName::from_store(columns.text()?);
    let kind = columns.known(DeviceKind::from_number)?;
    let generation = columns.unsigned()?;
    let user = columns.optional_text()?.map(UserId::from_store);
    let protocols = Protocols(columns.unsigned()?);
    let networks = Networks::from_store(&columns.text()?).ok_or_else(|| corrupt("networks"))?;
    let expire_time = columns.optional_int()?.map(Timestamp);
    let create_time = columns.time()?;
    let end_reason = columns.optional_int()?.and_then(EndReason::from_number);
    let end_time = columns.optional_int()?.map(Timestamp);
    let end_revision = columns.optional_int()?.unwrap_or(0);
    let used = columns.optional_int()?.map(Timestamp);
    let client_ip = columns.optional_text()?.filter(|ip| !ip.is_empty());
    let protocol = columns.optional_int()?.and_then(Protocol::from_number);
    Ok(Device {
        device_id,
        mailbox_id,
        name,
        kind,
        generation,
        user,
        limits: Limits { protocols, networks, expire_time },
        create_time,
        disconnection: end_time.filter(|_| end_reason == Some(EndReason::Disconnected)).map(|time| Disconnection {
            time,
            revision: latchkey_core::model::change::Revision(u64::try_from(end_revision).unwrap_or(0)),
        }),
        last_use: used.zip(protocol).map(|(time, protocol)| LastUse {
            time,
            client_ip: client_ip.and_then(|ip| ip.parse().ok()),
            protocol,
        }),
    })
}
