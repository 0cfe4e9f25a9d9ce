//! The audit trail, and the history of logins beside it.

use super::{
    Columns, Row, Session, Value,
    columns::{corrupt, size},
};
use crate::{random, store::Result};
use latchkey_core::model::{
    change::Revision,
    clock::Timestamp,
    event::{Event, EventKind, LoginCount, Logins},
    id::{DeviceId, EventId, MailboxId},
    protocol::Protocol,
    verdict::Reason,
};

pub(super) async fn insert_event(s: &mut dyn Session, event: &Event, revision: Revision) -> Result<()> {
    let sql = "/* insert_event */ INSERT INTO event \
               (event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let parameters = [
        event.event_id.into(),
        event.mailbox_id.into(),
        event.time.into(),
        (event.kind as i64).into(),
        event.device_id.into(),
        event.device_name.as_str().into(),
        event.actor.as_str().into(),
        event.caller.as_str().into(),
        event.peer.as_str().into(),
        revision.into(),
        event.detail.as_str().into(),
    ];
    s.execute(sql, &parameters).await?;
    Ok(())
}

pub(super) async fn events(
    s: &mut dyn Session,
    mailbox: MailboxId,
    device: Option<DeviceId>,
    after: Option<(Timestamp, EventId)>,
    limit: usize,
) -> Result<Vec<Event>> {
    // Changes and logins in one order, by a time that never changes: of logins, the first one's. The NULLs have types for PostgreSQL's sake.
    let sql = "/* events */ SELECT * FROM ( \
               SELECT event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail, \
               CAST(NULL AS BIGINT) AS reason, CAST(NULL AS BIGINT) AS protocol, CAST(NULL AS TEXT) AS client_ip, \
               CAST(NULL AS TEXT) AS frontend, CAST(NULL AS BIGINT) AS count, CAST(NULL AS BIGINT) AS last_time \
               FROM event WHERE mailbox_id = $1 \
               UNION ALL \
               SELECT event_id, mailbox_id, first_time, 14, device_id, '', '', '', '', 0, '', \
               reason, protocol, last_client_ip, frontend, count, last_time \
               FROM login_history WHERE mailbox_id = $1 \
               ) AS both_kinds \
               WHERE (time < $2 OR (time = $2 AND event_id < $3)) AND ($4 = FALSE OR device_id = $5) \
               ORDER BY time DESC, event_id DESC LIMIT $6";
    let (time, id) = match after {
        Some((time, id)) => (Value::from(time), Value::from(id)),
        None => (Value::Int(i64::MAX), Value::Bytes(vec![])),
    };
    let only = device.map_or(Value::Bytes(vec![]), Value::from);
    let parameters = [mailbox.into(), time, id, device.is_some().into(), only, size(limit)];
    s.query(sql, &parameters).await?.into_iter().map(to_event).collect()
}

pub(in crate::store) async fn add_logins(s: &mut dyn Session, logins: &[LoginCount]) -> Result<()> {
    for login in logins {
        add_to_history(s, login).await?;
        if let (Some(device_id), Reason::Ok) = (login.key.device_id, login.key.reason) {
            let sql = "/* add_logins */ INSERT INTO device_usage (device_id, time, client_ip, protocol) VALUES ($1, $2, $3, $4) \
                       ON CONFLICT (device_id) DO UPDATE SET time = excluded.time, client_ip = excluded.client_ip, \
                       protocol = excluded.protocol WHERE device_usage.time <= excluded.time";
            let from = super::columns::ip(login.last_client_ip);
            let parameters = [device_id.into(), login.last_time.into(), from, (login.key.protocol as i64).into()];
            s.execute(sql, &parameters).await?;
        }
    }
    Ok(())
}

/// The last login of a row is the latest, whichever replica wrote last; the first stays whose row it was, since lists are in its order.
async fn add_to_history(s: &mut dyn Session, login: &LoginCount) -> Result<()> {
    let sql = "/* add_logins */ INSERT INTO login_history \
               (mailbox_id, device_id, reason, protocol, client_ip, hour, event_id, last_client_ip, frontend, count, first_time, last_time) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
               ON CONFLICT (mailbox_id, device_id, reason, protocol, client_ip, hour) DO UPDATE SET \
               count = login_history.count + excluded.count, \
               last_client_ip = CASE WHEN excluded.last_time >= login_history.last_time \
               THEN excluded.last_client_ip ELSE login_history.last_client_ip END, \
               frontend = CASE WHEN excluded.last_time >= login_history.last_time THEN excluded.frontend ELSE login_history.frontend END, \
               last_time = CASE WHEN excluded.last_time >= login_history.last_time \
               THEN excluded.last_time ELSE login_history.last_time END";
    let key = &login.key;
    let parameters = [
        key.mailbox_id.into(),
        key.device_id.map_or(Value::Bytes(vec![]), Value::from),
        (key.reason as i64).into(),
        (key.protocol as i64).into(),
        super::columns::ip(key.client_ip),
        key.hour.into(),
        // Made here: a row's id is that of whoever wrote it first.
        EventId(uuid::Builder::from_unix_timestamp_millis(login.first_time.unix_millis(), &random::bytes()).into_uuid()).into(),
        super::columns::ip(login.last_client_ip),
        (&*login.frontend).into(),
        i64::try_from(login.count).unwrap_or(i64::MAX).into(),
        login.first_time.into(),
        login.last_time.into(),
    ];
    s.execute(sql, &parameters).await?;
    Ok(())
}

fn to_event(row: Row) -> Result<Event> {
    let mut columns = Columns::of(row);
    let mut event = Event {
        event_id: EventId(columns.uuid()?),
        mailbox_id: MailboxId(columns.uuid()?),
        time: columns.time()?,
        kind: columns.known(EventKind::from_number)?,
        device_id: columns.optional_uuid()?.map(DeviceId),
        device_name: columns.text()?,
        actor: columns.text()?,
        caller: columns.text()?,
        peer: columns.text()?,
        revision: columns.revision()?,
        detail: columns.text()?,
        logins: None,
    };
    if event.kind == EventKind::Login {
        event.logins = Some(Logins {
            reason: columns.known(Reason::from_number)?,
            protocol: columns.known(Protocol::from_number)?,
            client_ip: columns.ip()?,
            frontend: columns.text()?,
            count: columns.unsigned().map_err(|_| corrupt("a count"))?,
            last_time: columns.time()?,
        });
    }
    Ok(event)
}
