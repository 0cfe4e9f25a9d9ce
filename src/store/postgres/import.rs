//! Bulk import: a batch in a few statements, by arrays.

use std::collections::HashSet;

use super::{errors, session::PostgresSession};
use crate::random::NewId as _;
use crate::store::{
    GENERIC_NAME, NewChange, NewMailbox, Origin, Result,
    sql::{Session, changes},
};
use latchkey_core::model::{change::Scope, event::EventKind, id::EventId};

/// Skips addresses that are there; answers the ids of those that were made.
const MAILBOXES: &str = "/* import */ INSERT INTO mailbox \
    (mailbox_id, address, mail_service_id, suspended, generic_login, device_version, create_time) \
    SELECT id, address, service, FALSE, TRUE, 1, $4 FROM unnest($1::BYTEA[], $2::TEXT[], $3::TEXT[]) AS new (id, address, service) \
    ON CONFLICT (address) DO NOTHING RETURNING mailbox_id";

const DEVICES: &str = "/* import */ INSERT INTO device \
    (device_id, generation, mailbox_id, name, kind, protocols, networks, create_time, key_id, hash, state) \
    SELECT id, 1, mailbox, $4, 3, 0, '', $5, 0, hash, 0 FROM unnest($1::BYTEA[], $2::BYTEA[], $3::TEXT[]) AS new (id, mailbox, hash)";

const EVENTS: &str = "/* import */ INSERT INTO event \
    (event_id, mailbox_id, time, kind, device_id, device_name, actor, caller, peer, revision, detail, mail_service_id, organization_id) \
    SELECT id, mailbox, $3, $4, NULL, '', $5, $6, $7, $8, '', mail_service_id, organization_id \
    FROM unnest($1::BYTEA[], $2::BYTEA[]) AS new (id, mailbox) \
    JOIN mailbox ON mailbox_id = mailbox JOIN mail_service USING (mail_service_id)";

pub(super) async fn import(mut session: PostgresSession, mailboxes: &[NewMailbox], origin: &Origin) -> Result<Vec<bool>> {
    let made = insert_mailboxes(&mut session, mailboxes, origin).await?;
    let is_made = |new: &&NewMailbox| made.contains(new.mailbox_id.0.as_bytes().as_slice());
    let new: Vec<_> = mailboxes.iter().filter(is_made).collect();
    if !new.is_empty() {
        insert_devices(&mut session, &new, origin).await?;
        let change = NewChange {
            nonce: origin.nonce,
            time: origin.time,
            scope: Scope::Mailboxes(new.iter().map(|new| new.key).collect()),
            ended: vec![],
            events: vec![],
            revocation: None,
        };
        let revision = changes::append_change(&mut session, &change).await?;
        insert_events(&mut session, &new, origin, i64::try_from(revision.0).unwrap_or(i64::MAX)).await?;
    }
    session.commit().await?;
    Ok(mailboxes.iter().map(|new| is_made(&new)).collect())
}

async fn insert_mailboxes(session: &mut PostgresSession, mailboxes: &[NewMailbox], origin: &Origin) -> Result<HashSet<Vec<u8>>> {
    let ids: Vec<&[u8]> = mailboxes.iter().map(|new| new.mailbox_id.0.as_bytes().as_slice()).collect();
    let addresses: Vec<&str> = mailboxes.iter().map(|new| new.address.as_str()).collect();
    let services: Vec<&str> = mailboxes.iter().map(|new| new.mail_service_id.as_str()).collect();
    let made = session.run(async |client| {
        let statement = client.prepare_cached(MAILBOXES).await.map_err(|error| errors::store(&error))?;
        let made = client.query(&statement, &[&ids, &addresses, &services, &origin.time.0]).await;
        made.map_err(|error| errors::store(&error))
    });
    Ok(made.await?.iter().map(|row| row.get(0)).collect())
}

async fn insert_devices(session: &mut PostgresSession, new: &[&NewMailbox], origin: &Origin) -> Result<()> {
    let generic = || new.iter().filter_map(|new| new.generic.as_ref().map(|(id, hash)| (id, &new.mailbox_id, hash)));
    let ids: Vec<&[u8]> = generic().map(|(id, _, _)| id.0.as_bytes().as_slice()).collect();
    let mailboxes: Vec<&[u8]> = generic().map(|(_, mailbox, _)| mailbox.0.as_bytes().as_slice()).collect();
    let hashes: Vec<&str> = generic().map(|(_, _, hash)| hash.0.as_str()).collect();
    let inserted = session.run(async |client| {
        let statement = client.prepare_cached(DEVICES).await.map_err(|error| errors::store(&error))?;
        let inserted = client.execute(&statement, &[&ids, &mailboxes, &hashes, &GENERIC_NAME, &origin.time.0]).await;
        inserted.map_err(|error| errors::store(&error))
    });
    inserted.await.map(drop)
}

async fn insert_events(session: &mut PostgresSession, new: &[&NewMailbox], origin: &Origin, revision: i64) -> Result<()> {
    let ids: Vec<Vec<u8>> = new.iter().map(|_| EventId::new(origin.time).0.as_bytes().to_vec()).collect();
    let mailboxes: Vec<&[u8]> = new.iter().map(|new| new.mailbox_id.0.as_bytes().as_slice()).collect();
    let kind = EventKind::MailboxImported as i64;
    let inserted = session.run(async |client| {
        let statement = client.prepare_cached(EVENTS).await.map_err(|error| errors::store(&error))?;
        let (actor, caller, peer) = (&origin.actor, &origin.caller, &origin.peer);
        let inserted =
            client.execute(&statement, &[&ids, &mailboxes, &origin.time.0, &kind, actor, caller, peer, &revision]).await;
        inserted.map_err(|error| errors::store(&error))
    });
    inserted.await.map(drop)
}
