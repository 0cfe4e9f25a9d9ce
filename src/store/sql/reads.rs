//! What a login reads: one statement each, without a transaction.

use super::{Columns, Row, columns::corrupt};
use crate::store::Result;
use latchkey_core::model::{
    change::{Revision, ServiceKey},
    clock::Timestamp,
    device::{DeviceKind, Limits, PasswordHash, Tag},
    id::{DeviceId, MailServiceId, MailboxId},
    network::Networks,
    protocol::Protocols,
    record::{Credential, EndReason, EndedCredential, MailboxRead, MailboxRecord},
};

/// Remembered passwords in a record: the newest.
const MAX_ENDED: usize = 20;

/// By the address's unique index. There is always a row: with an unknown address it holds the log's
/// head alone.
pub(in crate::store) const READ_MAILBOX: &str = "/* read_mailbox */ \
    SELECT h.revision, m.mailbox_id, m.mail_service_id, m.suspended, m.generic_login, s.generic_login, \
    d.device_id, d.generation, d.tag, d.key_id, d.kind, d.protocols, d.networks, d.expire_time, d.end_reason, d.end_time, p.suspended \
    FROM change_head h \
    LEFT JOIN mailbox m ON m.address = $1 \
    LEFT JOIN mail_service s ON s.mail_service_id = m.mail_service_id \
    LEFT JOIN device d ON d.mailbox_id = m.mailbox_id AND d.state < 2 \
    LEFT JOIN member p ON p.organization_id = s.organization_id AND p.user_id = d.user_id";

pub(in crate::store) const READ_HASH: &str = "/* read_hash */ SELECT hash FROM device WHERE device_id = $1 AND generation = $2";

pub(in crate::store) fn to_mailbox_read(rows: Vec<Row>) -> Result<MailboxRead> {
    let mut found = None;
    let (mut active, mut ended) = (Vec::new(), Vec::new());
    let mut revision = Revision::default();
    for row in rows {
        let mut columns = Columns::of(row);
        revision = columns.revision()?;
        let Some(mailbox_id) = columns.optional_uuid()?.map(MailboxId) else {
            break;
        };
        let service = columns.text()?;
        let (suspended, generic, service_generic) = (columns.bool()?, columns.bool()?, columns.bool()?);
        if found.is_none() {
            let service = ServiceKey::of(&MailServiceId::from_store(service));
            found = Some((mailbox_id, service, suspended, generic && service_generic));
        }
        add_credential(&mut columns, &mut active, &mut ended)?;
    }
    // Higher salts are tried first (see `passwords::tag`).
    active.sort_by_key(|device: &Credential| match device.tag {
        Tag::Proof(_) => (0, 0, device.device_id),
        Tag::Index { salt, .. } => (1, u8::MAX - salt, device.device_id),
        Tag::Unknown => (2, 0, device.device_id),
    });
    ended.sort_by_key(|(time, _): &(Timestamp, EndedCredential)| std::cmp::Reverse(*time));
    ended.truncate(MAX_ENDED);
    let mailbox = found.map(|(mailbox_id, service, suspended, generic_login)| MailboxRecord {
        mailbox_id,
        service,
        suspended,
        generic_login,
        active: active.into(),
        ended: ended.into_iter().map(|(_, password)| password).collect(),
    });
    Ok(MailboxRead { revision, mailbox })
}

pub(in crate::store) fn to_hash(rows: Vec<Row>) -> Result<Option<PasswordHash>> {
    match rows.into_iter().next() {
        Some(row) => Ok(Columns::of(row).optional_text()?.map(PasswordHash)),
        None => Ok(None),
    }
}

/// The rest of a row: a password, or NULLs for a mailbox without any.
fn add_credential(
    columns: &mut Columns,
    active: &mut Vec<Credential>,
    ended: &mut Vec<(Timestamp, EndedCredential)>,
) -> Result<()> {
    let Some(device_id) = columns.optional_uuid()?.map(DeviceId) else {
        return Ok(());
    };
    let (generation, tag, key) = (columns.unsigned()?, columns.tag()?, columns.key()?);
    let kind = columns.known(DeviceKind::from_number)?;
    let protocols = Protocols(columns.unsigned()?);
    let networks = Networks::from_store(&columns.text()?).ok_or_else(|| corrupt("networks"))?;
    let expire_time = columns.optional_int()?.map(Timestamp);
    let end = columns.optional_int()?.and_then(EndReason::from_number);
    let end_time = columns.optional_int()?.map(Timestamp);
    let user_suspended = columns.optional_bool()?.unwrap_or(false);
    match end {
        Some(end) => {
            let password = EndedCredential { device_id, generation, tag, key, kind, end };
            ended.push((end_time.unwrap_or_default(), password));
        }
        None => {
            let limits = Limits { protocols, networks, expire_time };
            let limits = (limits != Limits::default()).then(|| Box::new(limits));
            active.push(Credential { device_id, generation, tag, key, kind, user_suspended, limits });
        }
    }
    Ok(())
}
