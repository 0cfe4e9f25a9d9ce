//! Sessions that watchers report, and what changes did to them.

use super::{
    Columns, Row, Session, Transaction, Value,
    columns::{ip, size},
};
use crate::store::Result;
use latchkey_core::model::{
    change::Revision,
    id::{DeviceId, MailboxId, NodeId},
    protocol::Protocol,
    session::{Closing, LiveSession, OpenSession, SessionKey, SilentHost},
    verdict::ProvenPassword,
};

pub(in crate::store) const CLOSINGS: &str =
    "/* closings */ SELECT revision, closed, refused, silent FROM session_closing WHERE revision = $1 ORDER BY node_id";

/// Between the names in a column: no name has one.
const SEPARATOR: char = '\n';

pub(in crate::store) async fn put_sessions(
    s: &mut dyn Session,
    node_id: NodeId,
    opened: &[LiveSession],
    closed: &[SessionKey],
) -> Result<()> {
    // First, since a number may be used again.
    for key in closed {
        let sql = "/* put_sessions */ DELETE FROM session WHERE node_id = $1 AND watcher = $2 AND number = $3";
        s.execute(sql, &[node_id.into(), number(key.watcher), number(key.number)]).await?;
    }
    for LiveSession { key, session } in opened {
        // Not without the process's row: its sessions go with it.
        let sql = "/* put_sessions */ INSERT INTO session (node_id, watcher, number, mailbox_id, device_id, generation, \
                   protocol, client_ip, open_time, frontend) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
                   WHERE EXISTS (SELECT 1 FROM node WHERE node_id = $1) ON CONFLICT DO NOTHING";
        let parameters = [
            node_id.into(),
            number(key.watcher),
            number(key.number),
            session.password.mailbox_id.into(),
            session.password.device_id.into(),
            i64::from(session.password.generation).into(),
            (session.protocol as i64).into(),
            ip(session.client_ip),
            session.open_time.into(),
            session.frontend.as_str().into(),
        ];
        s.execute(sql, &parameters).await?;
    }
    s.commit().await
}

pub(in crate::store) async fn add_closings(s: &mut dyn Session, node_id: NodeId, closings: &[Closing]) -> Result<()> {
    for closing in closings {
        let sql = "/* add_closings */ INSERT INTO session_closing (revision, node_id, closed, refused, silent) \
                   VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (revision, node_id) DO UPDATE SET closed = $3, refused = $4, silent = $5";
        let silent: Vec<_> = closing.silent.iter().map(|host| format!("{} {}", host.sessions, host.name)).collect();
        let parameters = [
            closing.revision.into(),
            node_id.into(),
            i64::from(closing.closed).into(),
            i64::from(closing.refused).into(),
            silent.join(&SEPARATOR.to_string()).into(),
        ];
        s.execute(sql, &parameters).await?;
    }
    s.commit().await
}

pub(in crate::store) fn to_closing(row: Row) -> Result<Closing> {
    let mut columns = Columns::of(row);
    let (revision, closed, refused) = (columns.revision()?, columns.unsigned()?, columns.unsigned()?);
    let silent = columns.text()?;
    Ok(Closing { revision, closed, refused, silent: silent.split(SEPARATOR).filter_map(to_silent_host).collect() })
}

/// A line: how many sessions, and whose.
fn to_silent_host(line: &str) -> Option<SilentHost> {
    let (sessions, name) = line.split_once(' ')?;
    Some(SilentHost { name: name.to_owned(), sessions: sessions.parse().ok()? })
}

pub(in crate::store) fn closings_parameters(revision: Revision) -> [Value; 1] {
    [revision.into()]
}

impl Transaction {
    /// The open sessions of a mailbox, the newest first.
    pub async fn live_sessions(&mut self, mailbox: MailboxId, limit: usize) -> Result<Vec<OpenSession>> {
        let sql = "/* live_sessions */ SELECT device_id, generation, protocol, client_ip, open_time, frontend FROM session \
                   WHERE mailbox_id = $1 ORDER BY open_time DESC, device_id, node_id, watcher, number LIMIT $2";
        self.all(sql, &[mailbox.into(), size(limit)], |row| to_session(row, mailbox)).await
    }
}

fn to_session(row: Row, mailbox_id: MailboxId) -> Result<OpenSession> {
    let mut columns = Columns::of(row);
    let (device_id, generation) = (DeviceId(columns.uuid()?), columns.unsigned()?);
    Ok(OpenSession {
        password: ProvenPassword { mailbox_id, device_id, generation },
        protocol: columns.known(Protocol::from_number)?,
        client_ip: columns.ip()?,
        open_time: columns.time()?,
        frontend: columns.text()?,
    })
}

fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
