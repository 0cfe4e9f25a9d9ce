//! PostgreSQL: for any number of processes.

mod connection;
mod errors;
mod import;
mod notify;
mod pooled;
mod pooler;
mod schema;
mod session;
mod settings;
mod tls;

use std::fmt;

use async_trait::async_trait;
use deadpool_postgres::Pool;

pub use self::settings::PostgresSettings;
use self::{connection::Connections, pooled::Connection, session::PostgresSession};
use super::{
    Finding, Hint, Mode, NewChange, NewMailbox, OpenError, Origin, Result, Retention, Store, StoreError, Transaction,
    sql::{
        Row, Session, Value, changes, events,
        housekeeping::{self, RememberedCursor},
        reads, sessions,
    },
};
use latchkey_core::model::{
    address::Address,
    change::{Change, Position, Revision},
    device::{Generation, KeyId, PasswordHash, StoredPassword},
    event::LoginCount,
    id::{DeviceId, NodeId},
    record::MailboxRead,
    session::{Closing, LiveSession, SessionKey},
};
use latchkey_core::{confirmation::Node, log::Head};

/// See the module.
pub struct PostgresStore {
    connections: Connections,
    remembered: RememberedCursor,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date.
    pub async fn open(settings: &PostgresSettings) -> Result<Self, OpenError> {
        let connections = connection::connections(settings)?;
        pooler::refuse_shared_sessions(&connections).await?;
        schema::migrate(&connections.shared).await?;
        tokio::spawn(connections.hints.clone().run_sender(connections.reserved.clone()));
        Ok(Self { connections, remembered: RememberedCursor::default() })
    }

    /// Opens a database that is there, and neither makes nor changes its schema: for who only
    /// looks.
    pub async fn open_as_it_is(settings: &PostgresSettings) -> Result<Self, OpenError> {
        let client = connection::connections(settings)?.shared.get().await.map_err(|error| errors::open(&error))?;
        let (found, known) = schema::versions(&client).await?;
        match found {
            0 => return Err(OpenError::NotThere),
            found if found < known => return Err(OpenError::OlderSchema { found, known }),
            _ => (),
        }
        drop(client);
        Self::open(settings).await
    }

    /// One statement, without a transaction. Once more if the connection had died while nobody used
    /// it: nothing is lost by reading twice.
    async fn read_one(&self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        Self::read_from(&self.connections.shared, sql, parameters).await
    }

    async fn read_from(pool: &Pool, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        for _ in 0..2 {
            let mut connection = Connection::get(pool).await?;
            let answer = connection.run(async |client| Ok(session::query(client, sql, parameters).await)).await?;
            if answer.is_ok() || !connection.is_closed() {
                return answer;
            }
        }
        Err(StoreError::Unavailable("the connection broke".to_owned()))
    }

    /// One writing statement that commits by itself. Its outcome is known: what it answers, no
    /// failover loses.
    async fn write_one(&self, pool: &Pool, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        session::write(&mut Connection::get(pool).await?, &self.connections.notices, sql, parameters).await
    }

    async fn session(&self, mode: Mode) -> Result<PostgresSession> {
        self.session_from(&self.connections.shared, mode).await
    }

    async fn session_from(&self, pool: &Pool, mode: Mode) -> Result<PostgresSession> {
        PostgresSession::begin(pool, self.connections.notices.clone(), self.connections.hints.clone(), mode).await
    }

    /// For what only people read: its commit waits for no disk and no standby. What is committed
    /// after it is lost no later than it.
    async fn relaxed_session(&self, pool: &Pool) -> Result<PostgresSession> {
        let mut session = self.session_from(pool, Mode::Write).await?;
        session.query("/* relax */ SELECT set_config('synchronous_commit', 'off', true)", &[]).await?;
        Ok(session)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn read_mailbox(&self, address: &Address) -> Result<MailboxRead> {
        reads::to_mailbox_read(self.read_one(reads::READ_MAILBOX, &[address.as_str().into()]).await?)
    }

    async fn read_hash(&self, device_id: DeviceId, generation: Generation) -> Result<Option<PasswordHash>> {
        reads::to_hash(self.read_one(reads::READ_HASH, &[device_id.into(), i64::from(generation).into()]).await?)
    }

    async fn upgrade_password(
        &self,
        device_id: DeviceId,
        generation: Generation,
        before: Option<&PasswordHash>,
        after: &StoredPassword,
        change: &NewChange,
    ) -> Result<Option<Revision>> {
        housekeeping::upgrade_password(&mut self.session(Mode::Write).await?, (device_id, generation), before, after, change)
            .await
    }

    async fn add_logins(&self, logins: &[LoginCount]) -> Result<()> {
        let mut session = self.session(Mode::Write).await?;
        events::add_logins(&mut session, logins).await?;
        session.commit().await
    }

    async fn begin(&self, _name: &'static str, mode: Mode) -> Result<Transaction> {
        Ok(Transaction::over(self.session(mode).await?))
    }

    async fn import(&self, mailboxes: &[NewMailbox], origin: &Origin) -> Result<Vec<bool>> {
        import::import(self.session(Mode::Write).await?, mailboxes, origin).await
    }

    async fn join(&self, node: &Node) -> Result<()> {
        self.write_one(&self.connections.reserved, housekeeping::JOIN, &housekeeping::join_parameters(node)).await.map(drop)
    }

    async fn leave(&self, node_id: NodeId) -> Result<()> {
        self.write_one(&self.connections.reserved, housekeeping::LEAVE, &[node_id.into()]).await.map(drop)
    }

    async fn sync(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<Option<Head>> {
        let Position { revision, nonce } = applied;
        let parameters = [node_id.into(), housekeeping::renewals(renewals), acknowledged.into(), revision.into(), nonce.into()];
        housekeeping::to_head(self.write_one(&self.connections.reserved, housekeeping::SYNC, &parameters).await?)
    }

    async fn acknowledge(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<bool> {
        let Position { revision, nonce } = applied;
        let parameters = [node_id.into(), housekeeping::renewals(renewals), acknowledged.into(), revision.into(), nonce.into()];
        // Its outcome is not checked: it waits for no disk and no standby. One that a failover
        // undoes leaves a row that says less than is true, which makes a revocation wait, and
        // nothing else.
        let mut connection = Connection::get(&self.connections.reserved).await?;
        let written = connection.run(async |client| session::query(client, housekeeping::ACKNOWLEDGE, &parameters).await);
        Ok(!written.await?.is_empty())
    }

    async fn head(&self, applied: Revision) -> Result<Head> {
        let head = housekeeping::to_head(self.read_one(housekeeping::HEAD, &[applied.into()]).await?)?;
        head.ok_or_else(|| super::sql::columns::corrupt("the log's head"))
    }

    async fn feed_head(&self, applied: Revision) -> Result<Head> {
        let rows = Self::read_from(&self.connections.reserved, housekeeping::HEAD, &[applied.into()]).await?;
        housekeeping::to_head(rows)?.ok_or_else(|| super::sql::columns::corrupt("the log's head"))
    }

    async fn changes(&self, after: Revision, up_to: Revision, limit: usize) -> Result<Vec<Change>> {
        let connection = Connection::get(&self.connections.reserved).await?;
        changes::changes(&mut session::Single(connection), after, up_to, limit).await
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        self.read_one(housekeeping::NODES, &[]).await?.into_iter().map(housekeeping::to_node).collect()
    }

    async fn remove_node(&self, node_id: NodeId, renewals: u64) -> Result<bool> {
        let parameters = [node_id.into(), housekeeping::renewals(renewals)];
        Ok(!self.write_one(&self.connections.shared, housekeeping::REMOVE_NODE, &parameters).await?.is_empty())
    }

    fn listen(&self, hint: Hint) {
        tokio::spawn(self.connections.hints.clone().run_listener(hint));
    }

    async fn put_sessions(&self, node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> Result<()> {
        sessions::put_sessions(&mut self.relaxed_session(&self.connections.shared).await?, node_id, opened, closed).await
    }

    async fn add_closings(&self, node_id: NodeId, closings: &[Closing]) -> Result<()> {
        sessions::add_closings(&mut self.relaxed_session(&self.connections.reserved).await?, node_id, closings).await
    }

    async fn closings(&self, revision: Revision) -> Result<Vec<Closing>> {
        let rows = self.read_one(sessions::CLOSINGS, &sessions::closings_parameters(revision)).await?;
        rows.into_iter().map(sessions::to_closing).collect()
    }

    async fn trim(&self, limits: &Retention) -> Result<u64> {
        housekeeping::trim(self, &self.remembered, limits).await
    }

    async fn pepper_checks(&self) -> Result<Vec<(KeyId, [u8; 32])>> {
        self.read_one(housekeeping::PEPPER_CHECKS, &[]).await?.into_iter().map(housekeeping::to_pepper_check).collect()
    }

    async fn add_pepper_check(&self, key: KeyId, check: [u8; 32]) -> Result<()> {
        self.write_one(&self.connections.shared, housekeeping::ADD_PEPPER_CHECK, &[key.into(), check.to_vec().into()])
            .await
            .map(drop)
    }

    async fn ping(&self) -> Result<()> {
        self.read_one("/* ping */ SELECT 1::BIGINT", &[]).await.map(drop)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let ask = async |sql| housekeeping::first_text(self.read_one(sql, &[]).await?);
        let version = ask("/* examine */ SELECT current_setting('server_version')").await?;
        let standbys = ask("/* examine */ SELECT current_setting('synchronous_standby_names')").await?;
        let commit = ask("/* examine */ SELECT current_setting('synchronous_commit')").await?;
        let fsync = ask("/* examine */ SELECT current_setting('fsync')").await?;
        let tls = ask("/* examine */ SELECT COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), FALSE)").await?;
        let is_local = ask("/* examine */ SELECT COALESCE(inet_client_addr() = inet_server_addr(), TRUE)").await? == "on";
        let followers = ask("/* examine */ SELECT count(*) FROM pg_stat_replication").await?;
        let replication = "synchronous replication";
        let advice = "A failover could lose revocations that were answered as done: set synchronous_standby_names.";
        Ok(vec![
            Finding::good("database", format!("PostgreSQL {version}")),
            match (standbys.as_str(), followers.as_str()) {
                ("", "0") => Finding::note(
                    replication,
                    "none, and no standby is connected",
                    "Before you add one: set synchronous_standby_names.",
                ),
                ("", followers) => Finding::problem(replication, format!("none, and {followers} standby(s) connected"), advice),
                (standbys, _) => Finding::good(replication, format!("to {standbys}")),
            },
            Finding::check(
                "synchronous_commit",
                commit.as_str(),
                !matches!(commit.as_str(), "off" | "local"),
                "A crash could lose revocations that were answered as done: set synchronous_commit to on.",
            ),
            Finding::check("fsync", fsync.as_str(), fsync == "on", "A crash could damage the database: set fsync to on."),
            match (tls.as_str(), is_local) {
                ("on", _) => Finding::good("TLS to the database", "on"),
                (_, true) => Finding::good("TLS to the database", "off, on the same host"),
                _ => {
                    Finding::problem("TLS to the database", "off, to another host", "Add sslmode=verify-full to --database-url.")
                }
            },
        ])
    }

    fn system(&self) -> &'static str {
        "postgresql"
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.connections.hints.close();
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("pool", &self.connections.shared.status()).finish_non_exhaustive()
    }
}
