//! The audit trail, and the history of logins beside it.

use super::{
    Columns, Row, Session, Transaction, Value,
    columns::{corrupt, size},
};
use crate::{random, store::Result};
use latchkey_core::model::{
    change::Revision,
    clock::Timestamp,
    event::{Event, EventKind, EventScope, LoginCount, Logins, TimeRange},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, UserId},
    protocol::Protocol,
    verdict::Reason,
};

/// An event without a mailbox has an empty id: the column is part of the key.
pub(super) async fn insert_event(s: &mut dyn Session, event: &Event, revision: Revision) -> Result<()> {
    let sql = "/* insert_event */ INSERT INTO event \
               (event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail, user_id, \
               mail_service_id, organization_id) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
               COALESCE($13, (SELECT mail_service_id FROM mailbox WHERE mailbox_id = $2)), \
               COALESCE($14, (SELECT organization_id FROM mail_service WHERE mail_service_id = \
               COALESCE($13, (SELECT mail_service_id FROM mailbox WHERE mailbox_id = $2)))))";
    let parameters = [
        event.event_id.into(),
        event.mailbox_id.map_or(Value::Bytes(vec![]), Value::from),
        event.time.into(),
        (event.kind as i64).into(),
        event.device_id.into(),
        event.device_name.as_str().into(),
        event.actor.as_str().into(),
        event.caller.as_str().into(),
        event.peer.as_str().into(),
        revision.into(),
        event.detail.as_str().into(),
        event.user.as_ref().map(|id| id.as_str().to_owned()).into(),
        event.mail_service_id.as_ref().map(|id| id.as_str().to_owned()).into(),
        event.organization_id.as_ref().map(|id| id.as_str().to_owned()).into(),
    ];
    s.execute(sql, &parameters).await?;
    Ok(())
}

/// Changes and logins in one order, by a time that never changes: of logins, the first one's.
/// Logins have their device's name of now, which is looked up for one page only. The NULLs have
/// types for PostgreSQL's sake.
const OF_MAILBOX: &str = "/* events */ SELECT event_id, mailbox_id, time, kind, device_id, \
    CASE WHEN kind = 14 THEN COALESCE((SELECT d.name FROM device d WHERE d.device_id = page.device_id \
    ORDER BY d.generation DESC LIMIT 1), '') ELSE device_name END, \
    actor, caller, peer, revision, detail, user_id, mail_service_id, organization_id, \
    reason, protocol, client_ip, from_several, frontend, count, last_time FROM ( \
    SELECT * FROM ( \
    SELECT event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail, \
    user_id, mail_service_id, organization_id, \
    CAST(NULL AS BIGINT) AS reason, CAST(NULL AS BIGINT) AS protocol, CAST(NULL AS TEXT) AS client_ip, \
    CAST(NULL AS BIGINT) AS from_several, \
    CAST(NULL AS TEXT) AS frontend, CAST(NULL AS BIGINT) AS count, CAST(NULL AS BIGINT) AS last_time \
    FROM event WHERE mailbox_id = $1 AND time >= $7 AND time <= $2 \
    UNION ALL \
    SELECT event_id, mailbox_id, first_time, 14, device_id, '', '', '', '', 0, '', NULL, NULL, NULL, \
    reason, protocol, last_client_ip, CAST(CASE WHEN client_ip <> last_client_ip THEN 1 ELSE 0 END AS BIGINT), \
    frontend, count, last_time \
    FROM login_history WHERE mailbox_id = $1 AND first_time >= $7 AND first_time <= $2 \
    ) AS both_kinds \
    WHERE (time < $2 OR (time = $2 AND event_id < $3)) AND ($4 = FALSE OR device_id = $5) \
    ORDER BY time DESC, event_id DESC LIMIT $6) AS page ORDER BY time DESC, event_id DESC";

/// Changes alone, by the index of `$column` and time.
macro_rules! changes_of {
    ($column:literal) => {
        concat!(
            "/* events */ SELECT event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, \
             detail, user_id, mail_service_id, organization_id FROM event WHERE ",
            $column,
            " = $1 AND time >= $7 AND time <= $2 AND (time < $2 OR (time = $2 AND event_id < $3)) \
             AND ($4 = FALSE OR device_id = $5) ORDER BY time DESC, event_id DESC LIMIT $6"
        )
    };
}

impl Transaction {
    /// Writes events of what needs no row in the change log. Their revision is 0.
    pub async fn add_events(&mut self, events: &[Event]) -> Result<()> {
        for event in events {
            insert_event(self.statements(), event, Revision::default()).await?;
        }
        Ok(())
    }

    /// The audit trail, newest first, after the (time, id) of `after`. Of a mailbox: changes and
    /// login counts merged.
    pub async fn events(
        &mut self,
        scope: &EventScope,
        range: TimeRange,
        device: Option<DeviceId>,
        after: Option<(Timestamp, EventId)>,
        limit: usize,
    ) -> Result<Vec<Event>> {
        let (sql, whose): (&'static str, Value) = match scope {
            EventScope::Mailbox(id) => (OF_MAILBOX, (*id).into()),
            EventScope::Service(id) => (changes_of!("mail_service_id"), id.as_str().into()),
            EventScope::Organization(id) => (changes_of!("organization_id"), id.as_str().into()),
        };
        // No id is before the empty one: the end of a range is not part of it.
        let end = (Value::Int(range.end.map_or(i64::MAX, |end| end.0)), Value::Bytes(vec![]));
        let (time, id) = match after {
            Some((time, id)) if range.end.is_none_or(|end| time < end) => (Value::from(time), Value::from(id)),
            _ => end,
        };
        let start = Value::Int(range.start.map_or(i64::MIN, |start| start.0));
        let only = device.map_or(Value::Bytes(vec![]), Value::from);
        let parameters = [whose, time, id, device.is_some().into(), only, size(limit), start];
        self.all(sql, &parameters, to_event).await
    }
}

pub(in crate::store) async fn add_logins(s: &mut dyn Session, logins: &[LoginCount]) -> Result<()> {
    // All histories, then all usages, each in the order of its key: replicas that write the same
    // rows then never wait for each other in a circle.
    let mut logins: Vec<&LoginCount> = logins.iter().collect();
    logins.sort_by_key(|LoginCount { key, .. }| {
        (key.mailbox_id, key.device_id, key.reason as u8, key.protocol as u8, key.client_ip, key.hour)
    });
    for login in &logins {
        add_to_history(s, login).await?;
    }
    let mut used: Vec<_> = logins.into_iter().filter(|login| login.key.reason == Reason::Ok).collect();
    used.sort_by_key(|login| login.key.device_id);
    for login in used {
        let Some(device_id) = login.key.device_id else {
            continue;
        };
        let sql = "/* add_logins */ INSERT INTO device_usage (device_id, time, client_ip, protocol) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (device_id) DO UPDATE SET time = excluded.time, client_ip = excluded.client_ip, \
                   protocol = excluded.protocol WHERE device_usage.time <= excluded.time";
        let from = super::columns::ip(login.last_client_ip);
        let parameters = [device_id.into(), login.last_time.into(), from, (login.key.protocol as i64).into()];
        s.execute(sql, &parameters).await?;
    }
    Ok(())
}

/// The last login of a row is the latest, whichever replica wrote last; the first stays whose row
/// it was, since lists are in its order.
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
        mailbox_id: columns.optional_uuid()?.map(MailboxId),
        time: columns.time()?,
        kind: columns.known(EventKind::from_number)?,
        device_id: columns.optional_uuid()?.map(DeviceId),
        device_name: columns.text()?,
        actor: columns.text()?,
        caller: columns.text()?,
        peer: columns.text()?,
        revision: columns.revision()?,
        detail: columns.text()?,
        user: columns.optional_text()?.map(UserId::from_store),
        mail_service_id: columns.optional_text()?.map(MailServiceId::from_store),
        organization_id: columns.optional_text()?.map(OrganizationId::from_store),
        logins: None,
    };
    if event.kind == EventKind::Login {
        event.logins = Some(Logins {
            reason: columns.known(Reason::from_number)?,
            protocol: columns.known(Protocol::from_number)?,
            client_ip: columns.ip()?,
            from_several_addresses: columns.int()? > 0,
            frontend: columns.text()?,
            count: columns.unsigned().map_err(|_| corrupt("a count"))?,
            last_time: columns.time()?,
        });
    }
    Ok(event)
}
