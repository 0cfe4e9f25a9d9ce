//! Bulk import: a batch in two visits to a blocking thread, by prepared statements.

use rusqlite::{Connection, params};

use super::connection::SqliteSession;
use crate::random::NewId as _;
use crate::store::{
    GENERIC_NAME, NewChange, NewMailbox, Origin, Result,
    sql::{Session, changes},
};
use latchkey_core::model::{change::Scope, event::EventKind, id::EventId};

/// Skips an address that is there.
const MAILBOX: &str = "/* import */ INSERT INTO mailbox \
    (mailbox_id, address, mail_service_id, suspended, generic_login, device_version, create_time) \
    VALUES (?1, ?2, ?3, FALSE, TRUE, 1, ?4) ON CONFLICT (address) DO NOTHING";

const DEVICE: &str = "/* import */ INSERT INTO device \
    (device_id, generation, mailbox_id, name, kind, protocols, networks, create_time, key_id, hash, state) \
    VALUES (?1, 1, ?2, ?3, 3, 0, '', ?4, 0, ?5, 0)";

const EVENT: &str = "/* import */ INSERT INTO event \
    (event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail, mail_service_id, organization_id) \
    SELECT ?1, mailbox_id, ?3, ?4, NULL, '', ?5, ?6, ?7, ?8, '', mail_service_id, organization_id \
    FROM mailbox JOIN mail_service USING (mail_service_id) WHERE mailbox_id = ?2";

pub(super) async fn import(mut session: SqliteSession, mailboxes: &[NewMailbox], origin: &Origin) -> Result<Vec<bool>> {
    let (batch, time) = (mailboxes.to_vec(), origin.time.0);
    let made = session.run(move |connection| insert_mailboxes(connection, &batch, time)).await?;
    let new: Vec<&NewMailbox> = mailboxes.iter().zip(&made).filter(|(_, made)| **made).map(|(new, _)| new).collect();
    if new.is_empty() {
        return Ok(made);
    }
    let change = NewChange {
        nonce: origin.nonce,
        time: origin.time,
        scope: Scope::Mailboxes(new.iter().map(|new| new.key).collect()),
        ended: vec![],
        events: vec![],
        revocation: None,
    };
    let revision = changes::append_change(&mut session, &change).await?;
    let ids: Vec<_> = new.iter().map(|new| new.mailbox_id.0).collect();
    let origin = origin.clone();
    let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
    session.run(move |connection| insert_events(connection, &ids, &origin, revision)).await?;
    session.commit().await?;
    Ok(made)
}

/// Answers, for each, whether it was made.
fn insert_mailboxes(connection: &Connection, batch: &[NewMailbox], time: i64) -> rusqlite::Result<Vec<bool>> {
    let mut mailbox = connection.prepare_cached(MAILBOX)?;
    let mut device = connection.prepare_cached(DEVICE)?;
    let mut made = Vec::with_capacity(batch.len());
    for new in batch {
        let id = new.mailbox_id.0.as_bytes().as_slice();
        let is_new = mailbox.execute(params![id, new.address.as_str(), new.mail_service_id.as_str(), time])? > 0;
        if let (true, Some((device_id, hash))) = (is_new, &new.generic) {
            device.execute(params![device_id.0.as_bytes().as_slice(), id, GENERIC_NAME, time, hash.0])?;
        }
        made.push(is_new);
    }
    Ok(made)
}

fn insert_events(connection: &Connection, mailboxes: &[uuid::Uuid], origin: &Origin, revision: i64) -> rusqlite::Result<()> {
    let mut event = connection.prepare_cached(EVENT)?;
    let kind = EventKind::MailboxImported as i64;
    for mailbox in mailboxes {
        let id = EventId::new(origin.time).0;
        let (actor, caller, peer) = (&origin.actor, &origin.caller, &origin.peer);
        let (id, mailbox) = (id.as_bytes().as_slice(), mailbox.as_bytes().as_slice());
        event.execute(params![id, mailbox, origin.time.0, kind, actor, caller, peer, revision])?;
    }
    Ok(())
}
