//! The change log, and the requests that were answered.

use uuid::Uuid;

use super::{
    Columns, Row, Session, Transaction, Value,
    columns::{corrupt, size},
    events::insert_event,
};
use crate::store::{Api, Logged, MadeBy, NewChange, Request, Result};
use latchkey_core::model::{
    address::MailboxKey,
    change::{Change, Ended, Position, Revision, Scope, ServiceKey},
    clock::Timestamp,
    id::{DeviceId, MailServiceId, OrganizationId, RequestId},
    verdict::Reason,
};

const KEY_BYTES: usize = 16;
const ENDED_BYTES: usize = 21;

/// Takes the next revision: the counter's row is locked from here to the commit, so revisions are
/// committed in their order.
pub(in crate::store) async fn append_change(s: &mut dyn Session, change: &NewChange) -> Result<Revision> {
    let sql = "/* append_change */ UPDATE change_head SET revision = revision + 1 WHERE id = 1 RETURNING revision";
    let row = s.query(sql, &[]).await?.into_iter().next().ok_or_else(|| corrupt("the log's head"))?;
    let revision = Columns::of(row).revision()?;
    s.has_change();
    let sql = "/* append_change */ INSERT INTO change_log \
               (revision, nonce, time, service, mailboxes, ended, ended_devices, api, organization_id, mail_service_id) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let (service, mailboxes) = from_scope(&change.scope);
    let revocation = change.revocation.as_ref();
    let made_by = revocation.map(|revocation| &revocation.made_by);
    let parameters = [
        revision.into(),
        change.nonce.into(),
        change.time.into(),
        service,
        mailboxes,
        Value::Bytes(from_ended(&change.ended)),
        revocation.map(|revocation| i64::from(revocation.ended_devices)).into(),
        made_by.map(|made_by| made_by.api as i64).into(),
        made_by.and_then(|made_by| made_by.organization_id.as_ref()).map(OrganizationId::as_str).into(),
        made_by.and_then(|made_by| made_by.mail_service_id.as_ref()).map(MailServiceId::as_str).into(),
    ];
    s.execute(sql, &parameters).await?;
    for event in &change.events {
        insert_event(s, event, revision).await?;
    }
    for ended in &change.ended {
        let sql =
            "/* append_change */ UPDATE device SET end_revision = $3 WHERE device_id = $1 AND generation = $2 AND state > 0";
        s.execute(sql, &[ended.device_id.into(), i64::from(ended.generation).into(), revision.into()]).await?;
    }
    Ok(revision)
}

impl Transaction {
    /// Nobody else takes a revision until the transaction ends. What others have written before is
    /// seen from here on.
    pub async fn lock_log(&mut self) -> Result<()> {
        // As `append_change` does it, without taking a revision.
        self.execute("/* lock_log */ UPDATE change_head SET revision = revision WHERE id = 1", &[]).await?;
        Ok(())
    }

    /// The log's head.
    pub async fn revision(&mut self) -> Result<Revision> {
        let sql = "/* revision */ SELECT revision FROM change_head WHERE id = 1";
        self.one(sql, &[], |row| Columns::of(row).revision()).await
    }

    /// The last statement before the commit, since it takes the next revision: writes the change,
    /// its events (their `revision` is set), and the revision into the disconnected devices it
    /// `ended`.
    pub async fn append_change(&mut self, change: &NewChange) -> Result<Revision> {
        append_change(self.statements(), change).await
    }

    /// A change, while the log has it.
    pub async fn logged(&mut self, revision: Revision) -> Result<Option<Logged>> {
        let sql = "/* logged */ SELECT revision, nonce, COALESCE(ended_devices, length(ended) / 21), api, organization_id, \
                   mail_service_id FROM change_log WHERE revision = $1";
        self.first(sql, &[revision.into()], to_logged).await
    }

    /// An earlier call under the same id by the same caller.
    pub async fn request(&mut self, caller: &str, id: &RequestId) -> Result<Option<Request>> {
        let sql = "/* request */ SELECT fingerprint, device_id, revision, count, time FROM request WHERE caller = $1 AND request_id = $2";
        self.first(sql, &[caller.into(), id.as_str().into()], to_request).await
    }

    /// Conflict if it is there.
    pub async fn insert_request(&mut self, caller: &str, id: &RequestId, request: &Request) -> Result<()> {
        let sql = "/* insert_request */ INSERT INTO request (caller, request_id, fingerprint, device_id, revision, count, time) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let parameters = [
            caller.into(),
            id.as_str().into(),
            request.fingerprint.to_vec().into(),
            request.device_id.into(),
            request.revision.into(),
            i64::from(request.count).into(),
            request.time.into(),
        ];
        self.execute(sql, &parameters).await?;
        Ok(())
    }
}

pub(in crate::store) async fn changes(
    s: &mut dyn Session,
    after: Revision,
    up_to: Revision,
    limit: usize,
) -> Result<Vec<Change>> {
    let sql = "/* changes */ SELECT revision, nonce, service, mailboxes, ended FROM change_log \
               WHERE revision > $1 AND revision <= $2 ORDER BY revision LIMIT $3";
    s.query(sql, &[after.into(), up_to.into(), size(limit)]).await?.into_iter().map(to_change).collect()
}

fn to_logged(row: Row) -> Result<Logged> {
    let mut columns = Columns::of(row);
    let position = Position { revision: columns.revision()?, nonce: columns.int()? };
    let ended_devices = columns.unsigned()?;
    let api = match columns.optional_int()? {
        None => None,
        Some(number) => {
            let api = [Api::DeviceCredentials, Api::Directory].into_iter().find(|api| *api as i64 == number);
            Some(api.ok_or_else(|| corrupt("a known service"))?)
        }
    };
    let organization_id = columns.optional_text()?.map(OrganizationId::from_store);
    let mail_service_id = columns.optional_text()?.map(MailServiceId::from_store);
    Ok(Logged { position, ended_devices, made_by: api.map(|api| MadeBy { api, organization_id, mail_service_id }) })
}

fn from_scope(scope: &Scope) -> (Value, Value) {
    match scope {
        Scope::Mailboxes(keys) => (Value::Null, Value::Bytes(keys.iter().flat_map(|key| key.0).collect())),
        Scope::Service(ServiceKey(key)) => (Value::Bytes(key.to_be_bytes().to_vec()), Value::Bytes(vec![])),
    }
}

fn from_ended(ended: &[Ended]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ended.len() * ENDED_BYTES);
    for Ended { device_id, generation, reason } in ended {
        bytes.extend(device_id.0.as_bytes());
        bytes.extend(generation.to_be_bytes());
        bytes.push(*reason as u8);
    }
    bytes
}

fn to_change(row: Row) -> Result<Change> {
    let mut columns = Columns::of(row);
    let (revision, nonce) = (columns.revision()?, columns.int()?);
    let (service, mailboxes, ended) = (columns.optional_bytes()?, columns.bytes()?, columns.bytes()?);
    let scope = match service {
        Some(key) => Scope::Service(ServiceKey(u64::from_be_bytes(key.try_into().map_err(|_| corrupt("a mail service's key"))?))),
        None => {
            let (keys, []) = mailboxes.as_chunks::<KEY_BYTES>() else {
                return Err(corrupt("mailboxes' keys"));
            };
            Scope::Mailboxes(keys.iter().map(|key| MailboxKey(*key)).collect())
        }
    };
    let (rows, []) = ended.as_chunks::<ENDED_BYTES>() else {
        return Err(corrupt("ended passwords"));
    };
    let ended = rows.iter().map(|[id @ .., a, b, c, d, reason]| {
        Ok(Ended {
            device_id: DeviceId(Uuid::from_bytes(*id)),
            generation: u32::from_be_bytes([*a, *b, *c, *d]),
            reason: Reason::from_number((*reason).into()).ok_or_else(|| corrupt("a known reason"))?,
        })
    });
    Ok(Change { revision, nonce, scope, ended: ended.collect::<Result<_>>()? })
}

fn to_request(row: Row) -> Result<Request> {
    let mut columns = Columns::of(row);
    Ok(Request {
        fingerprint: columns.array()?,
        device_id: columns.optional_uuid()?.map(DeviceId),
        revision: columns.revision()?,
        count: columns.unsigned()?,
        time: Timestamp(columns.int()?),
    })
}
