//! Devices: a row for each password that one has or had; the last generation is the device.

use super::{
    Columns, Session, Value,
    columns::{corrupt, size},
};
use crate::store::{Result, StoreError, UserPlace};
use latchkey_core::model::{
    address::Address,
    change::Ended,
    clock::Timestamp,
    device::{Device, DeviceKind, DeviceName, Disconnection, LastUse, Limits, StoredPassword},
    id::{DeviceId, MailboxId, UserId},
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

pub(super) async fn device(s: &mut dyn Session, mailbox: MailboxId, device: DeviceId) -> Result<Option<Device>> {
    let sql = select_device!("device", "", "WHERE d.device_id = $1 AND d.mailbox_id = $2 ORDER BY d.generation DESC LIMIT 1");
    let rows = s.query(sql, &[device.into(), mailbox.into()]).await?;
    rows.into_iter().next().map(|row| to_device(&mut Columns::of(row))).transpose()
}

pub(super) async fn devices(
    s: &mut dyn Session,
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
    let rows = s.query(if disconnected_too { all } else { active }, &[mailbox.into(), after, size(limit)]).await?;
    rows.into_iter().map(|row| to_device(&mut Columns::of(row))).collect()
}

pub(super) async fn count_active_devices(s: &mut dyn Session, mailbox: MailboxId) -> Result<usize> {
    let sql = "/* count_active_devices */ SELECT count(*) FROM device WHERE mailbox_id = $1 AND state = 0";
    let row = s.query(sql, &[mailbox.into()]).await?.into_iter().next().ok_or_else(|| corrupt("a count"))?;
    Columns::of(row).unsigned()
}

pub(super) async fn insert_device(s: &mut dyn Session, device: &Device, password: &StoredPassword) -> Result<()> {
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
    s.execute(sql, &parameters).await?;
    Ok(())
}

pub(super) async fn update_device(s: &mut dyn Session, device: &Device) -> Result<()> {
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
    s.execute(sql, &parameters).await?;
    Ok(())
}

pub(super) async fn replace_password(
    s: &mut dyn Session,
    device: &Device,
    password: &StoredPassword,
    now: Timestamp,
) -> Result<()> {
    // Otherwise a device that was disconnected meanwhile would come back.
    if !end(s, device.device_id, EndReason::Changed, now).await? {
        return Err(StoreError::Conflict("the device has no current password".to_owned()));
    }
    insert_device(s, device, password).await
}

pub(super) async fn disconnect_device(s: &mut dyn Session, device: DeviceId, now: Timestamp) -> Result<bool> {
    end(s, device, EndReason::Disconnected, now).await
}

async fn end(s: &mut dyn Session, device: DeviceId, reason: EndReason, now: Timestamp) -> Result<bool> {
    let sql = "/* end_device */ UPDATE device SET state = 1, end_reason = $2, end_time = $3 WHERE device_id = $1 AND state = 0";
    Ok(s.execute(sql, &[device.into(), (reason as i64).into(), now.into()]).await? > 0)
}

pub(super) async fn end_again(s: &mut dyn Session, ended: Ended, now: Timestamp) -> Result<Option<Device>> {
    let sql = "/* end_again */ UPDATE device SET state = 1, end_reason = $3, end_time = $4 \
               WHERE device_id = $1 AND generation <= $2 AND state = 0";
    let reason = EndReason::Disconnected as i64;
    if s.execute(sql, &[ended.device_id.into(), i64::from(ended.generation).into(), reason.into(), now.into()]).await? == 0 {
        return Ok(None);
    }
    let sql = select_device!("end_again", "", "WHERE d.device_id = $1 ORDER BY d.generation DESC LIMIT 1");
    let rows = s.query(sql, &[ended.device_id.into()]).await?;
    rows.into_iter().next().map(|row| to_device(&mut Columns::of(row))).transpose()
}

pub(super) async fn devices_of_user(s: &mut dyn Session, user: &UserId, place: &UserPlace) -> Result<Vec<(Address, Device)>> {
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
    let rows = s.query(sql, &[user.as_str().into(), place]).await?;
    rows.into_iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let device = to_device(&mut columns)?;
            Ok((Address::from_store(columns.text()?), device))
        })
        .collect()
}

fn to_device(columns: &mut Columns) -> Result<Device> {
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
