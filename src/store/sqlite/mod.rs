//! SQLite, bundled: one process, one file, durable. One writer at a time; readers don't wait for it
//! (WAL).

mod connection;
mod errors;

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;

use self::connection::{Connections, SqliteSession};
use super::{
    Finding, Hint, Mode, NewChange, NewMailbox, OpenError, Origin, Result, Retention, Store, Transaction,
    sql::{Session, Value, changes, events, housekeeping, reads, sessions},
};
use crate::random::NewId as _;
use latchkey_core::model::{
    address::Address,
    change::{Change, Position, Revision, Scope},
    device::{Device, DeviceKind, DeviceName, Generation, KeyId, Limits, PasswordHash, StoredPassword, Tag},
    directory::Mailbox,
    event::{Event, EventKind, LoginCount},
    id::{DeviceId, EventId, NodeId, OrganizationId},
    record::MailboxRead,
    session::{Closing, LiveSession, SessionKey},
};
use latchkey_core::{confirmation::Node, log::Head};

const FILE: &str = "latchkey.db";
const LOCK: &str = "latchkey.lock";
const MIB: u64 = 1 << 20;
/// Free bytes below which an operator is told: the log of one large import, and a day to act.
const LITTLE_DISK: u64 = 1_024 * MIB;

mod embedded {
    refinery::embed_migrations!("src/store/sqlite/migrations");
}

/// See the module.
pub struct SqliteStore {
    connections: Arc<Connections>,
    file: PathBuf,
    /// How far the one process has acknowledged: nobody else reads it, and a restart begins anew.
    acknowledged: AtomicU64,
    /// Held as long as the store: one process at a time.
    _lock: File,
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
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { folder: folder.to_owned() }),
            Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
        }
        let file = folder.join(FILE);
        // Made here, so that it is never readable by others, not even for a moment.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(unusable)?;
        migrate(&file)?;
        let connections = Connections::open(&file).map_err(|error| errors::open(&file, &error))?;
        Ok(Self { connections: Arc::new(connections), file, acknowledged: AtomicU64::new(0), _lock: lock })
    }

    /// Opens a store that is there, and neither makes nor changes it: for who only looks.
    pub fn open_as_it_is(folder: &Path) -> Result<Self, OpenError> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Err(OpenError::NotThere);
        }
        let connection = connection::open_reader(&file).map_err(|error| errors::open(&file, &error))?;
        let (found, known) = schema(&connection);
        if found < known {
            return Err(OpenError::OlderSchema { found, known });
        }
        drop(connection);
        Self::open(folder)
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
        let mut tx = Transaction::over(self.session(Mode::Write).await?);
        let mut made = Vec::with_capacity(mailboxes.len());
        let mut change = NewChange {
            nonce: origin.nonce,
            time: origin.time,
            scope: Scope::Mailboxes(vec![]),
            ended: vec![],
            events: vec![],
            revocation: None,
        };
        let mut keys = Vec::new();
        for new in mailboxes {
            let is_new = tx.mailbox(&new.address).await?.is_none();
            made.push(is_new);
            if is_new {
                import_one(&mut tx, new, origin).await?;
                change.events.push(imported_event(new, origin));
                keys.push(new.key);
            }
        }
        if !keys.is_empty() {
            change.scope = Scope::Mailboxes(keys);
            tx.append_change(&change).await?;
            tx.commit().await?;
        }
        Ok(made)
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
        let (is_sound, is_wal) = (integrity == "ok", journal == "wal");
        Ok(vec![
            Finding { what: "database", found: format!("SQLite, {} ({} KiB)", self.file.display(), bytes / 1_024), advice: None },
            Finding {
                what: "integrity",
                found: integrity,
                advice: (!is_sound).then(|| "Stop the server and restore the file from a backup.".to_owned()),
            },
            Finding {
                what: "journal mode",
                found: journal,
                advice: (!is_wal).then(|| {
                    "Write-ahead logging did not work: is the folder on a network file system? Put it on a local disk.".to_owned()
                }),
            },
            Finding {
                what: "free disk",
                found: format!("{} MiB", disk / MIB),
                advice: (disk < LITTLE_DISK)
                    .then(|| "Make room: when the disk is full, nothing can be changed or revoked.".to_owned()),
            },
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

/// The schema's version, and the one that this program makes of it.
fn schema(connection: &rusqlite::Connection) -> (i64, i64) {
    let runner = embedded::migrations::runner();
    let known = runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0);
    let found = connection.query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get::<_, Option<i64>>(0));
    (found.ok().flatten().unwrap_or(0), known)
}

fn migrate(file: &Path) -> Result<(), OpenError> {
    let mut connection = connection::open(file).map_err(|error| errors::open(file, &error))?;
    let (found, known) = schema(&connection);
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    embedded::migrations::runner().run(&mut connection).map_err(|error| OpenError::Migration(error.to_string())).map(drop)
}

async fn import_one(tx: &mut Transaction, new: &NewMailbox, origin: &Origin) -> Result<()> {
    let mailbox = Mailbox {
        mailbox_id: new.mailbox_id,
        address: new.address.clone(),
        mail_service_id: new.mail_service_id.clone(),
        // Not a column of the mailbox's.
        organization_id: OrganizationId::from_store(String::new()),
        suspended: false,
        generic_login: true,
        service_generic_login: true,
        device_version: 1,
        create_time: origin.time,
    };
    tx.insert_mailbox(&mailbox).await?;
    let Some((device_id, hash)) = &new.generic else {
        return Ok(());
    };
    let device = Device {
        device_id: *device_id,
        mailbox_id: new.mailbox_id,
        name: DeviceName::from_store(super::GENERIC_NAME.to_owned()),
        kind: DeviceKind::Generic,
        generation: 1,
        user: None,
        limits: Limits::default(),
        create_time: origin.time,
        disconnection: None,
        last_use: None,
    };
    let password = StoredPassword { tag: Tag::Unknown, key: KeyId(0), hash: Some(hash.clone()) };
    tx.insert_device(&device, &password).await
}

fn imported_event(new: &NewMailbox, origin: &Origin) -> Event {
    Event {
        event_id: EventId::new(origin.time),
        mailbox_id: Some(new.mailbox_id),
        mail_service_id: Some(new.mail_service_id.clone()),
        organization_id: None,
        user: None,
        time: origin.time,
        kind: EventKind::MailboxImported,
        device_id: None,
        device_name: String::new(),
        actor: origin.actor.clone(),
        caller: origin.caller.clone(),
        peer: origin.peer.clone(),
        revision: Revision::default(),
        detail: String::new(),
        logins: None,
    }
}
