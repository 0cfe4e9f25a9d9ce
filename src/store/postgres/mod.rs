//! PostgreSQL: for any number of processes.

mod connection;
mod errors;
mod import;
mod notify;
mod pooled;
mod session;
mod settings;
mod tls;

use std::fmt;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tracing::info;

pub use self::settings::PostgresSettings;
use self::{connection::Connections, pooled::Connection, session::PostgresSession};
use super::{
    Finding, Hint, Mode, NewChange, NewMailbox, OpenError, Origin, Result, Retention, Store, StoreError, Transaction,
    sql::{Row, Session, Value, changes, events, housekeeping, reads, sessions},
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

mod embedded {
    refinery::embed_migrations!("src/store/postgres/migrations");
}

/// One replica at a time brings the schema up to date: an arbitrary number, the same in every
/// version. A migration may take longer than a statement otherwise may.
const PREPARE_MIGRATION: &str = "SELECT pg_advisory_lock(7305808869231650145); SET statement_timeout = 0";

/// See the module.
pub struct PostgresStore {
    connections: Connections,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date.
    pub async fn open(settings: &PostgresSettings) -> Result<Self, OpenError> {
        let connections = connection::connections(settings)?;
        let mut client = connections.shared.get().await.map_err(|error| errors::open(&error))?;
        client.batch_execute(PREPARE_MIGRATION).await.map_err(|error| OpenError::Migration(errors::words(&error)))?;
        let migrated = migrate(&mut client).await;
        // The connection goes, and the lock with it, whatever became of the migration.
        drop(deadpool_postgres::Object::take(client));
        migrated?;
        tokio::spawn(connections.hints.clone().run_sender(connections.reserved.clone()));
        Ok(Self { connections })
    }

    /// Opens a database that is there, and neither makes nor changes its schema: for who only
    /// looks.
    pub async fn open_as_it_is(settings: &PostgresSettings) -> Result<Self, OpenError> {
        let client = connection::connections(settings)?.shared.get().await.map_err(|error| errors::open(&error))?;
        let (found, known) = schema(&client).await?;
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
        let mut forgotten = 0;
        for what in housekeeping::Trimmed::ALL {
            for _ in 0..housekeeping::TRIM_ROUNDS {
                let some = housekeeping::trim(&mut self.session(Mode::Write).await?, what, limits).await?;
                forgotten += some;
                if some < housekeeping::TRIM_AT_ONCE as u64 {
                    break;
                }
            }
        }
        Ok(forgotten)
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
        let advised = |what, found: String, advice: Option<&str>| Finding { what, found, advice: advice.map(str::to_owned) };
        Ok(vec![
            advised("database", format!("PostgreSQL {version}"), None),
            advised(
                "synchronous replication",
                if standbys.is_empty() { "none".to_owned() } else { format!("to {standbys}") },
                standbys.is_empty().then_some(
                    "A failover could lose revocations that were answered as done: set synchronous_standby_names, or have no standby to promote.",
                ),
            ),
            advised(
                "synchronous_commit",
                commit.clone(),
                matches!(commit.as_str(), "off" | "local")
                    .then_some("A crash could lose revocations that were answered as done: set synchronous_commit to on."),
            ),
            advised("fsync", fsync.clone(), (fsync != "on").then_some("A crash could damage the database: set fsync to on.")),
            advised(
                "TLS to the database",
                tls.clone(),
                (tls != "on").then_some("If the database is on another host, add sslmode=verify-full to --database-url."),
            ),
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

/// The schema's version (0: there is none), and the one that this program makes of it.
async fn schema(client: &deadpool_postgres::Object) -> Result<(i64, i64), OpenError> {
    let runner = embedded::migrations::runner();
    let known = runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0);
    let exists = "SELECT to_regclass('refinery_schema_history') IS NOT NULL";
    let failed = |error: tokio_postgres::Error| OpenError::Migration(errors::words(&error));
    if !client.query_one(exists, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok((0, known));
    }
    let highest = "SELECT COALESCE(max(version), 0)::BIGINT FROM refinery_schema_history";
    Ok((client.query_one(highest, &[]).await.map_err(failed)?.get(0), known))
}

async fn migrate(client: &mut deadpool_postgres::Object) -> Result<(), OpenError> {
    let (found, known) = schema(client).await?;
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    let report = embedded::migrations::runner()
        .run_async(&mut ***client)
        .await
        .map_err(|error| OpenError::Migration(error.to_string()))?;
    for migration in report.applied_migrations() {
        info!(%migration, "the database's schema was brought up to date");
    }
    Ok(())
}
