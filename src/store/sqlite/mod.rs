//! SQLite, bundled: one process, one file, durable. One writer at a time; readers don't wait for it
//! (WAL).

mod connection;
mod errors;
mod import;

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tracing::info;

use self::connection::{Connections, SqliteSession};
use super::{
    Finding, Hint, Mode, NewChange, NewMailbox, OpenError, Origin, Result, Retention, Store, Transaction,
    migrations::{self, HISTORY, MAKE_HISTORY, Migration, VERSION, migrations},
    sql::{
        Session, Value, changes, events,
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

const FILE: &str = "latchkey.db";
const LOCK: &str = "latchkey.lock";
const MIB: u64 = 1 << 20;
/// Free bytes below which an operator is told: the log of one large import, and a day to act.
const LITTLE_DISK: u64 = 1_024 * MIB;

const MIGRATIONS: [Migration; 5] =
    migrations!("migrations": 1 "initial", 2 "sessions", 3 "session_reports", 4 "event_scopes", 5 "revocations");

/// See the module.
pub struct SqliteStore {
    connections: Arc<Connections>,
    file: PathBuf,
    /// How far the one process has acknowledged: nobody else reads it, and a restart begins anew.
    acknowledged: AtomicU64,
    remembered: RememberedCursor,
    /// Held as long as the store: one process at a time.
    lock: File,
}

impl SqliteStore {
    /// Opens the store in a folder, which is made if it is not there; its schema is brought up to
    /// date.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |cause: std::io::Error| OpenError::DataDirectory { folder: folder.to_owned(), cause: cause.to_string() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(folder.join(LOCK));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { folder: folder.to_owned(), server: server(folder) }),
            Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
        }
        let file = folder.join(FILE);
        // Made here, so that it is never readable by others, not even for a moment.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(unusable)?;
        migrate(&file)?;
        let connections = Connections::open(&file).map_err(|error| errors::open(&file, &error))?;
        Ok(Self {
            connections: Arc::new(connections),
            file,
            acknowledged: AtomicU64::new(0),
            remembered: RememberedCursor::default(),
            lock,
        })
    }

    /// Opens a store that is there, and neither makes nor changes it: for who only looks.
    pub fn open_as_it_is(folder: &Path) -> Result<Self, OpenError> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Err(OpenError::NotThere);
        }
        let connection = connection::open_reader(&file).map_err(|error| errors::open(&file, &error))?;
        let (found, known) = (version(&file, &connection)?, migrations::known(&MIGRATIONS));
        if found < known {
            return Err(OpenError::OlderSchema { found, known });
        }
        drop(connection);
        Self::open(folder)
    }

    /// Writes into the lock's file where the server listens that holds it, for whoever finds it
    /// locked.
    pub fn note_server(&self, address: SocketAddr) -> Result<(), OpenError> {
        let folder = || self.file.parent().unwrap_or(&self.file).to_owned();
        let unusable = |cause: std::io::Error| OpenError::DataDirectory { folder: folder(), cause: cause.to_string() };
        self.lock.set_len(0).and_then(|()| self.lock.write_all_at(format!("{address}\n").as_bytes(), 0)).map_err(unusable)
    }

    async fn session(&self, mode: Mode) -> Result<SqliteSession> {
        match mode {
            Mode::Read => SqliteSession::read(&self.connections).await,
            Mode::Write => SqliteSession::write(&self.connections).await,
        }
    }

    /// One statement in a transaction of its own.
    async fn write_one(&self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        let mut session = self.session(Mode::Write).await?;
        let changed = session.execute(sql, parameters).await?;
        session.commit().await?;
        Ok(changed)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn read_mailbox(&self, address: &Address) -> Result<MailboxRead> {
        reads::to_mailbox_read(self.connections.query_now(reads::READ_MAILBOX, &[address.as_str().into()])?)
    }

    async fn read_hash(&self, device_id: DeviceId, generation: Generation) -> Result<Option<PasswordHash>> {
        let parameters = [device_id.into(), i64::from(generation).into()];
        reads::to_hash(self.connections.query_now(reads::READ_HASH, &parameters)?)
    }

    async fn upgrade_password(
        &self,
        device_id: DeviceId,
        generation: Generation,
        before: Option<&PasswordHash>,
        after: &StoredPassword,
        change: &NewChange,
    ) -> Result<Option<Revision>> {
        let mut session = self.session(Mode::Write).await?;
        housekeeping::upgrade_password(&mut session, (device_id, generation), before, after, change).await
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
        let mut session = self.session(Mode::Write).await?;
        // There is one process: whatever row is there is a dead one's.
        session.execute("/* join */ DELETE FROM node", &[]).await?;
        session.execute(housekeeping::JOIN, &housekeeping::join_parameters(node)).await?;
        self.acknowledged.store(node.applied.0, Ordering::Release);
        session.commit().await
    }

    async fn leave(&self, node_id: NodeId) -> Result<()> {
        self.write_one(housekeeping::LEAVE, &[node_id.into()]).await.map(drop)
    }

    /// What the one process has acknowledged need not survive it. So a sync reads the head, and
    /// writes nothing.
    async fn sync(&self, _node_id: NodeId, _renewals: u64, acknowledged: Revision, applied: Position) -> Result<Option<Head>> {
        self.acknowledged.store(acknowledged.0, Ordering::Release);
        housekeeping::to_head(self.connections.query_now(housekeeping::HEAD, &[applied.revision.into()])?)
    }

    async fn acknowledge(&self, _node_id: NodeId, _renewals: u64, acknowledged: Revision, _applied: Position) -> Result<bool> {
        self.acknowledged.store(acknowledged.0, Ordering::Release);
        Ok(true)
    }

    async fn head(&self, applied: Revision) -> Result<Head> {
        let head = housekeeping::to_head(self.connections.query_now(housekeeping::HEAD, &[applied.into()])?)?;
        head.ok_or_else(|| super::sql::columns::corrupt("the log's head"))
    }

    async fn feed_head(&self, applied: Revision) -> Result<Head> {
        self.head(applied).await
    }

    async fn changes(&self, after: Revision, up_to: Revision, limit: usize) -> Result<Vec<Change>> {
        let mut session = self.session(Mode::Read).await?;
        changes::changes(&mut session, after, up_to, limit).await
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let acknowledged = Revision(self.acknowledged.load(Ordering::Acquire));
        let rows = self.connections.query_now(housekeeping::NODES, &[])?.into_iter().map(housekeeping::to_node);
        rows.map(|node| node.map(|node| Node { applied: node.applied.max(acknowledged), ..node })).collect()
    }

    async fn remove_node(&self, node_id: NodeId, renewals: u64) -> Result<bool> {
        let mut session = self.session(Mode::Write).await?;
        let removed = session.query(housekeeping::REMOVE_NODE, &[node_id.into(), housekeeping::renewals(renewals)]).await?;
        session.commit().await?;
        Ok(!removed.is_empty())
    }

    /// Nobody else changes anything.
    fn listen(&self, _hint: Hint) {}

    async fn put_sessions(&self, node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> Result<()> {
        sessions::put_sessions(&mut self.session(Mode::Write).await?, node_id, opened, closed).await
    }

    async fn add_closings(&self, node_id: NodeId, closings: &[Closing]) -> Result<()> {
        sessions::add_closings(&mut self.session(Mode::Write).await?, node_id, closings).await
    }

    async fn closings(&self, revision: Revision) -> Result<Vec<Closing>> {
        let rows = self.connections.query_now(sessions::CLOSINGS, &sessions::closings_parameters(revision))?;
        rows.into_iter().map(sessions::to_closing).collect()
    }

    async fn trim(&self, limits: &Retention) -> Result<u64> {
        housekeeping::trim(self, &self.remembered, limits).await
    }

    async fn pepper_checks(&self) -> Result<Vec<(KeyId, [u8; 32])>> {
        self.connections.query_now(housekeeping::PEPPER_CHECKS, &[])?.into_iter().map(housekeeping::to_pepper_check).collect()
    }

    async fn add_pepper_check(&self, key: KeyId, check: [u8; 32]) -> Result<()> {
        self.write_one(housekeeping::ADD_PEPPER_CHECK, &[key.into(), check.to_vec().into()]).await.map(drop)
    }

    async fn ping(&self) -> Result<()> {
        self.head(Revision::default()).await.map(drop)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let mut session = self.session(Mode::Read).await?;
        let mut ask = async |sql| housekeeping::first_text(session.query(sql, &[]).await?);
        let integrity = ask("PRAGMA quick_check(1)").await?;
        let journal = ask("PRAGMA journal_mode").await?;
        let bytes = fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        let disk = rustix::fs::statvfs(&self.file).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Ok(vec![
            Finding::good("database", format!("SQLite, {} ({} KiB)", self.file.display(), bytes / 1_024)),
            Finding::check(
                "integrity",
                integrity.as_str(),
                integrity == "ok",
                "Stop the server and restore the file from a backup.",
            ),
            Finding::check(
                "journal mode",
                journal.as_str(),
                journal == "wal",
                "Write-ahead logging did not work: is the folder on a network file system? Put it on a local disk.",
            ),
            Finding::check(
                "free disk",
                format!("{} MiB", disk / MIB),
                disk >= LITTLE_DISK,
                "Make room: when the disk is full, nothing can be changed or revoked.",
            ),
        ])
    }

    fn system(&self) -> &'static str {
        "sqlite"
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Where the server listens that holds the lock, as far as it has said so.
fn server(folder: &Path) -> Option<SocketAddr> {
    fs::read_to_string(folder.join(LOCK)).ok()?.trim().parse().ok()
}

/// The schema's version (0: the file is empty). An error if the file is damaged, or another
/// program's.
fn version(file: &Path, connection: &rusqlite::Connection) -> Result<i64, OpenError> {
    let failed = |error: rusqlite::Error| errors::open(file, &error);
    let count = |sql: &str, name: &[&str]| {
        connection.query_row(sql, rusqlite::params_from_iter(name), |row| row.get::<_, i64>(0)).map_err(failed)
    };
    if count("SELECT count(*) FROM sqlite_schema WHERE name = ?1", &[HISTORY])? > 0 {
        return count(VERSION, &[]);
    }
    match count("SELECT count(*) FROM sqlite_schema", &[])? {
        0 => Ok(0),
        _ => Err(OpenError::NotOurs(format!("{} is another program's database", file.display()))),
    }
}

fn migrate(file: &Path) -> Result<(), OpenError> {
    let connection = connection::open(file).map_err(|error| errors::open(file, &error))?;
    let (found, known) = (version(file, &connection)?, migrations::known(&MIGRATIONS));
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    let run = |sql: &str| connection.execute_batch(sql).map_err(|error| OpenError::Migration(error.to_string()));
    if found < known {
        run(MAKE_HISTORY)?;
    }
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        run(&format!("BEGIN IMMEDIATE;\n{}\nCOMMIT;", migration.statements()))?;
        info!(version = migration.version, name = migration.name, "the database's schema was brought up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_migration_file_is_a_version_and_none_is_left_out() {
        crate::store::migrations::verify_files("sqlite", &super::MIGRATIONS);
    }
}
