//! Processes, the log's head, upgrades of passwords, and what is forgotten in time.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tracing::debug;

use super::{
    Columns, Row, Session, Transaction, Value,
    changes::append_change,
    columns::{corrupt, size},
};
use crate::store::{Mode, NewChange, Result, Retention, Store};
use latchkey_core::{
    confirmation::Node,
    log::Head,
    model::{
        change::Revision,
        device::{Generation, KeyId, PasswordHash, StoredPassword},
        id::{DeviceId, MailboxId, NodeId},
    },
};

/// Rows forgotten, or looked at, in one transaction.
const TRIM_AT_ONCE: usize = 5_000;
/// Rounds of one kind, so that a trim has an end; the next one goes on.
const TRIM_ROUNDS: usize = 100;
/// In microseconds: by how much later than others of its time an end may be committed, since
/// replicas' clocks differ.
const ENDED_LATE: i64 = 600_000_000;

/// Written anew if the row is there: one whose commit has no known outcome must be committed once
/// more.
pub(in crate::store) const JOIN: &str = "/* join */ INSERT INTO node (node_id, name, lease_micros, applied, renewals) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, lease_micros = excluded.lease_micros, \
    applied = excluded.applied, renewals = excluded.renewals";
pub(in crate::store) const LEAVE: &str = "/* leave */ DELETE FROM node WHERE node_id = $1";
pub(in crate::store) const NODES: &str =
    "/* nodes */ SELECT node_id, name, lease_micros, applied, renewals FROM node ORDER BY node_id";
pub(in crate::store) const REMOVE_NODE: &str =
    "/* remove_node */ DELETE FROM node WHERE node_id = $1 AND renewals = $2 RETURNING node_id";
/// One statement, so that what it tells of the head is from after it was asked.
///
/// An acknowledgement counts in the history that it is of, and in no other: one that reaches a
/// database which has gone back, and given the same revision to another change, must not be taken
/// for that change's.
pub(in crate::store) const SYNC: &str = "/* sync */ UPDATE node SET applied = $3, renewals = renewals + 1 \
    WHERE node_id = $1 AND renewals = $2 AND (SELECT revision FROM change_head WHERE id = 1) >= $4 \
    AND COALESCE((SELECT nonce FROM change_log WHERE revision = $4), $5) = $5 \
    RETURNING (SELECT revision FROM change_head WHERE id = 1), \
    (SELECT nonce FROM change_log WHERE revision = (SELECT revision FROM change_head WHERE id = 1)), \
    (SELECT trimmed FROM change_head WHERE id = 1), (SELECT nonce FROM change_log WHERE revision = $4)";
/// As [`SYNC`], but its commit waits for no disk and no standby.
pub(in crate::store) const ACKNOWLEDGE: &str = "/* acknowledge */ UPDATE node SET applied = $3, renewals = renewals + 1 \
    WHERE node_id = $1 AND renewals = $2 AND (SELECT revision FROM change_head WHERE id = 1) >= $4 \
    AND COALESCE((SELECT nonce FROM change_log WHERE revision = $4), $5) = $5 \
    AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL RETURNING renewals";
pub(in crate::store) const HEAD: &str = "/* head */ SELECT revision, \
    (SELECT nonce FROM change_log WHERE revision = change_head.revision), trimmed, \
    (SELECT nonce FROM change_log WHERE revision = $1) FROM change_head WHERE id = 1";
pub(in crate::store) const PEPPER_CHECKS: &str = "/* pepper_checks */ SELECT key_id, check_value FROM pepper_key ORDER BY key_id";
pub(in crate::store) const ADD_PEPPER_CHECK: &str =
    "/* add_pepper_check */ INSERT INTO pepper_key (key_id, check_value) VALUES ($1, $2)";

pub(in crate::store) fn join_parameters(node: &Node) -> [Value; 5] {
    let lease = i64::try_from(node.lease.as_micros()).unwrap_or(i64::MAX);
    let renewals = i64::try_from(node.renewals).unwrap_or(i64::MAX);
    [node.node_id.into(), node.name.as_str().into(), lease.into(), node.applied.into(), renewals.into()]
}

pub(in crate::store) fn renewals(renewals: u64) -> Value {
    Value::Int(i64::try_from(renewals).unwrap_or(i64::MAX))
}

pub(in crate::store) fn to_node(row: Row) -> Result<Node> {
    let mut columns = Columns::of(row);
    Ok(Node {
        node_id: NodeId(columns.uuid()?),
        name: columns.text()?,
        lease: Duration::from_micros(columns.unsigned()?),
        applied: columns.revision()?,
        renewals: columns.unsigned()?,
    })
}

/// `None` if no row was touched.
pub(in crate::store) fn to_head(rows: Vec<Row>) -> Result<Option<Head>> {
    let Some(row) = rows.into_iter().next() else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    Ok(Some(Head {
        revision: columns.revision()?,
        nonce: columns.optional_int()?.unwrap_or(0),
        trimmed: columns.revision()?,
        applied_nonce: columns.optional_int()?,
    }))
}

pub(in crate::store) fn to_pepper_check(row: Row) -> Result<(KeyId, [u8; 32])> {
    let mut columns = Columns::of(row);
    Ok((columns.key()?, columns.array()?))
}

/// In a transaction of its own: the better form, and the change that tells caches of it.
pub(in crate::store) async fn upgrade_password(
    s: &mut dyn Session,
    (device_id, generation): (DeviceId, Generation),
    before: Option<&PasswordHash>,
    after: &StoredPassword,
    change: &NewChange,
) -> Result<Option<Revision>> {
    // An absent hash before is a tag alone.
    let sql = "/* upgrade_password */ UPDATE device SET tag = $3, key_id = $4, hash = $5 \
               WHERE device_id = $1 AND generation = $2 AND state = 0 AND COALESCE(hash, '') = $6";
    let before = before.map_or("", |hash| &hash.0);
    let parameters = [
        device_id.into(),
        i64::from(generation).into(),
        after.tag.into(),
        after.key.into(),
        after.hash.as_ref().map(|hash| hash.0.clone()).into(),
        before.into(),
    ];
    if s.execute(sql, &parameters).await? == 0 {
        return Ok(None);
    }
    let revision = append_change(s, change).await?;
    s.commit().await?;
    Ok(Some(revision))
}

/// What is forgotten, each kind in transactions of its own: so the log's head is locked for a
/// moment only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trimmed {
    Log,
    PasswordsByAge,
    PasswordsByCount,
    Requests,
    Logins,
}

impl Trimmed {
    const ALL: [Self; 5] = [Self::Log, Self::PasswordsByAge, Self::PasswordsByCount, Self::Requests, Self::Logins];
}

/// Up to which time ended passwords were counted, mailbox by mailbox: a trim looks only at
/// mailboxes where one has ended since. A fresh process counts once from the beginning.
#[derive(Default)]
pub(in crate::store) struct RememberedCursor(AtomicI64);

/// Forgets what is past its time: how much. A kind that fails
/// holds up no other; the first error is returned at the end.
pub(in crate::store) async fn trim(store: &dyn Store, cursor: &RememberedCursor, limits: &Retention) -> Result<u64> {
    let (mut forgotten, mut first_error) = (0, None);
    for what in Trimmed::ALL {
        // Without a transaction to begin with, there is no database for the other kinds either.
        let tx = store.begin("trim", Mode::Write).await?;
        if let Err(error) = trim_kind(store, tx, what, cursor, limits, &mut forgotten).await {
            debug!(?what, %error, "a trim failed");
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(forgotten), Err)
}

async fn trim_kind(
    store: &dyn Store,
    mut tx: Transaction,
    what: Trimmed,
    cursor: &RememberedCursor,
    limits: &Retention,
    forgotten: &mut u64,
) -> Result<()> {
    for _ in 0..TRIM_ROUNDS {
        let some = match what {
            Trimmed::Log => trim_log(&mut tx, limits).await?,
            Trimmed::PasswordsByCount => {
                let (some, may_be_more) = trim_by_count(tx, cursor, limits).await?;
                *forgotten += some;
                if !may_be_more {
                    break;
                }
                tx = store.begin("trim", Mode::Write).await?;
                continue;
            }
            Trimmed::PasswordsByAge => tx.execute(PASSWORDS_BY_AGE, &[limits.passwords_before.into(), AT_ONCE]).await?,
            Trimmed::Requests => tx.execute(REQUESTS, &[limits.requests_before.into(), AT_ONCE]).await?,
            Trimmed::Logins => {
                let before = limits.logins_before.unix_seconds().div_euclid(3_600);
                tx.execute(LOGINS, &[before.into(), AT_ONCE]).await?
            }
        };
        tx.commit().await?;
        *forgotten += some;
        if some < TRIM_AT_ONCE as u64 {
            break;
        }
        tx = store.begin("trim", Mode::Write).await?;
    }
    Ok(())
}

const AT_ONCE: Value = Value::Int(TRIM_AT_ONCE as i64);

const PASSWORDS_BY_AGE: &str = "/* trim */ UPDATE device SET state = 2, tag = NULL, hash = NULL \
    WHERE (device_id, generation) IN \
    (SELECT device_id, generation FROM device WHERE state = 1 AND end_time < $1 ORDER BY end_time LIMIT $2)";
const REQUESTS: &str = "/* trim */ DELETE FROM request WHERE (caller, request_id) IN \
    (SELECT caller, request_id FROM request WHERE time < $1 ORDER BY time LIMIT $2)";
const LOGINS: &str = "/* trim */ DELETE FROM login_history \
    WHERE (mailbox_id, device_id, reason, protocol, client_ip, hour) IN \
    (SELECT mailbox_id, device_id, reason, protocol, client_ip, hour FROM login_history \
    WHERE hour < $1 ORDER BY hour LIMIT $2)";

/// The passwords that ended next after the cursor: the last one's time, and how many.
const ENDED_NEXT: &str = "/* trim */ SELECT max(end_time), count(*) FROM \
    (SELECT end_time FROM device WHERE state = 1 AND end_time > $1 ORDER BY end_time LIMIT $2) AS next";
/// Mailboxes where one has ended in that time, and that remember more than `$3`: one index is asked
/// for the time, and for each mailbox another.
const OVER_LIMIT: &str = "/* trim */ SELECT mailbox_id FROM \
    (SELECT DISTINCT mailbox_id FROM device WHERE state = 1 AND end_time > $1 AND end_time <= $2) AS ended \
    WHERE (SELECT end_time FROM device WHERE device.mailbox_id = ended.mailbox_id AND state = 1 \
    ORDER BY end_time DESC LIMIT 1 OFFSET $3) IS NOT NULL";
const BEYOND_NEWEST: &str = "/* trim */ UPDATE device SET state = 2, tag = NULL, hash = NULL \
    WHERE mailbox_id = $1 AND state = 1 AND (device_id, generation) NOT IN \
    (SELECT device_id, generation FROM device WHERE mailbox_id = $1 AND state = 1 \
    ORDER BY end_time DESC, device_id, generation LIMIT $2)";

/// Forgets passwords beyond the newest of a mailbox, where some have ended since the last time: how
/// many, and whether there may be more.
async fn trim_by_count(mut tx: Transaction, cursor: &RememberedCursor, limits: &Retention) -> Result<(u64, bool)> {
    let after = cursor.0.load(Ordering::Relaxed);
    let next = |row| {
        let mut columns = Columns::of(row);
        Ok((columns.optional_int()?, columns.unsigned::<usize>()?))
    };
    let (Some(up_to), ended) = tx.one(ENDED_NEXT, &[after.into(), AT_ONCE], next).await? else {
        return Ok((0, false));
    };
    let most = size(limits.passwords_per_mailbox);
    let mailbox = |row| Ok(MailboxId(Columns::of(row).uuid()?));
    let over = tx.all(OVER_LIMIT, &[after.into(), up_to.into(), most.clone()], mailbox).await?;
    let mut forgotten = 0;
    for mailbox in over {
        forgotten += tx.execute(BEYOND_NEWEST, &[mailbox.into(), most.clone()]).await?;
    }
    tx.commit().await?;
    let may_be_more = ended >= TRIM_AT_ONCE;
    let next = if may_be_more { up_to } else { up_to.saturating_sub(ENDED_LATE) };
    cursor.0.store(next, Ordering::Relaxed);
    Ok((forgotten, may_be_more))
}

/// The log's newest row always stays: it is what tells one history from another.
async fn trim_log(tx: &mut Transaction, limits: &Retention) -> Result<u64> {
    let sql = "/* trim */ SELECT max(revision) FROM (SELECT revision FROM change_log \
               WHERE time < $1 AND revision < (SELECT revision FROM change_head WHERE id = 1) ORDER BY revision LIMIT $2) AS oldest";
    let last = tx.one(sql, &[limits.changes_before.into(), AT_ONCE], |row| Columns::of(row).optional_int()).await?;
    let Some(last) = last else {
        return Ok(0);
    };
    tx.execute("/* trim */ UPDATE change_head SET trimmed = $1 WHERE id = 1 AND trimmed < $1", &[last.into()]).await?;
    tx.execute("/* trim */ DELETE FROM session_closing WHERE revision <= $1", &[last.into()]).await?;
    tx.execute("/* trim */ DELETE FROM change_log WHERE revision <= $1", &[last.into()]).await
}

/// A count or a text that a check answers.
pub(in crate::store) fn first_text(rows: Vec<Row>) -> Result<String> {
    match rows.into_iter().next().and_then(|row| row.into_iter().next()) {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Int(number)) => Ok(number.to_string()),
        Some(Value::Bool(switch)) => Ok(if switch { "on" } else { "off" }.to_owned()),
        _ => Err(corrupt("a text")),
    }
}
