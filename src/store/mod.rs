//! Floor 1: what Latchkey keeps, behind one trait. SQLite for one process, PostgreSQL for any
//! number; nothing above knows which.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

mod migrations;
pub mod postgres;
pub mod sql;
pub mod sqlite;
pub mod transact;

pub use self::sql::Transaction;

use latchkey_core::model::{
    address::{Address, MailboxKey},
    change::{Change, Ended, Position, Revision, Scope},
    clock::Timestamp,
    device::{Generation, KeyId, PasswordHash, StoredPassword},
    event::{Event, LoginCount},
    id::{DeviceId, MailServiceId, MailboxId, NodeId, OrganizationId},
    record::MailboxRead,
    session::{Closing, LiveSession, SessionKey},
};
use latchkey_core::{confirmation::Node, log::Head};

/// Why a store did not do what it was asked. Names no driver and no table; the driver's own words
/// are logged where it arose.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Down, out of reach, too slow. Nothing was changed. Try later.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// The connection broke, or the wait for a standby was cancelled, while committing: it is not
    /// known whether the change was made. Not known is not done: saying the call again settles it.
    #[error("it is not known whether the change was made: {0}")]
    OutcomeUnknown(String),
    /// Another transaction was in the way (a lock, a deadlock, a unique key). Nothing was changed;
    /// the same again may work.
    #[error("another change was in the way: {0}")]
    Conflict(String),
    /// Disk full, or read-only. Nothing was changed.
    #[error("the database can't write: {0}")]
    CannotWrite(String),
    /// What is stored can't be read: a bug, or somebody else wrote there.
    #[error("stored data can't be read: {0}")]
    Corrupt(String),
}

/// Why a store can't be opened, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {} can't be used: {cause}. Make it writable for this user, or name another with --data-dir", .folder.display())]
    DataDirectory { folder: PathBuf, cause: String },
    #[error(
        "the data directory {} is in use by another process{}: SQLite serves one. Stop that one, or use --database-url with PostgreSQL for several",
        .folder.display(),
        .server.map_or_else(String::new, |server| format!(", which listens on {server}"))
    )]
    Locked { folder: PathBuf, server: Option<SocketAddr> },
    #[error("{0}. Name another with --data-dir, or restore it from a backup")]
    NotOurs(String),
    #[error(
        "the database's schema is version {found}, and this program knows up to {known}: it was made by a newer version. Run that version or a newer one"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("there is no database yet: `latchkey serve` makes it")]
    NotThere,
    #[error("the database's schema is version {found}: `latchkey serve` of this version brings it to {known} at its start")]
    OlderSchema { found: i64, known: i64 },
    #[error("the database refuses the connection: {0}. Is --database-url right, and does that user and that database exist?")]
    Refused(String),
    #[error("the database can't be reached: {0}. Is it running, and is --database-url right?")]
    Unreachable(String),
    #[error("another replica is bringing the database's schema up to date: try again in a moment")]
    BeingMigrated,
    #[error(
        "the database is reached through a pooler that gives each transaction another session, as PgBouncer does with pool_mode = \
         transaction or statement. Set pool_mode = session there, or name PostgreSQL itself with --database-url"
    )]
    SharedSessions,
    #[error("--database-url: {0}")]
    Settings(String),
    #[error(
        "the database's schema can't be brought up to date: {0}. Does this user own the database, or may it create tables in its schema?"
    )]
    Migration(String),
}

/// What a generic device is called.
pub const GENERIC_NAME: &str = "Generic password";

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

#[async_trait]
pub trait Store: Send + Sync + 'static {
    // A login.

    /// What a login needs of an address, and the log's head in the same snapshot: one statement, by
    /// one index.
    async fn read_mailbox(&self, address: &Address) -> Result<MailboxRead>;
    /// The hash of one password, current or remembered.
    async fn read_hash(&self, device_id: DeviceId, generation: Generation) -> Result<Option<PasswordHash>>;
    /// Puts a better form of the same password in place of `before` (a stronger hash, another key,
    /// a tag at last). Nothing if it changed meanwhile or has ended.
    async fn upgrade_password(
        &self,
        device_id: DeviceId,
        generation: Generation,
        before: Option<&PasswordHash>,
        after: &StoredPassword,
        change: &NewChange,
    ) -> Result<Option<Revision>>;
    /// Adds to the history of logins and to the devices' last use.
    async fn add_logins(&self, logins: &[LoginCount]) -> Result<()>;

    // The use cases: each one transaction.

    /// Starts one. `name` names it in metrics and traces.
    async fn begin(&self, name: &'static str, mode: Mode) -> Result<Transaction>;
    /// Makes mailboxes with their generic passwords, in one transaction with one row in the change
    /// log. Skips addresses that are there. Answers, for each, whether it was made.
    async fn import(&self, mailboxes: &[NewMailbox], origin: &Origin) -> Result<Vec<bool>>;

    // The change feed (docs/design.md, "A revocation").

    /// Makes this process's row, committed when this returns. To be repeated with the same id after
    /// an error: the row may be there then, and is written anew.
    async fn join(&self, node: &Node) -> Result<()>;
    /// Takes the row away.
    async fn leave(&self, node_id: NodeId) -> Result<()>;
    /// One round trip: writes what was acknowledged if the row's counter is still `renewals` and
    /// the log is still the history that holds `applied`, and tells the log's head. `None`, and
    /// nothing written: the row is gone, somebody else counted it up, or the history is another.
    async fn sync(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<Option<Head>>;
    /// Writes what was acknowledged, on the same conditions as [`Self::sync`]. It renews no lease,
    /// so nothing is lost if a crash of the database undoes it, and it need not be waited for on
    /// any disk. Whether it was written.
    async fn acknowledge(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<bool>;
    /// The log's head, without writing anything.
    async fn head(&self, applied: Revision) -> Result<Head>;
    /// As [`Self::head`], over the connection that the feed has for itself: logins that take all
    /// others do not delay it.
    async fn feed_head(&self, applied: Revision) -> Result<Head>;
    /// At most `limit` rows of the log after `revision`, in order, up to `up_to`.
    async fn changes(&self, after: Revision, up_to: Revision, limit: usize) -> Result<Vec<Change>>;
    /// The rows of all processes.
    async fn nodes(&self) -> Result<Vec<Node>>;
    /// Takes a row away if its counter is still `renewals`, and its sessions with it. Whether it
    /// did.
    async fn remove_node(&self, node_id: NodeId, renewals: u64) -> Result<bool>;
    /// Calls `hint` whenever another process may have changed something, for ever. Only a hint:
    /// some may be lost, some may be for nothing.
    fn listen(&self, hint: Hint);

    // Sessions that watchers report.

    /// Writes which sessions a process's watchers have open now.
    async fn put_sessions(&self, node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> Result<()>;
    /// Writes how many sessions a change closed at a process's watchers. Before that process
    /// acknowledges the change.
    async fn add_closings(&self, node_id: NodeId, closings: &[Closing]) -> Result<()>;
    /// What all processes have written of that for one change.
    async fn closings(&self, revision: Revision) -> Result<Vec<Closing>>;

    // Housekeeping.

    /// Forgets rows of the log, remembered passwords, answered requests and login history that are
    /// past their time, some at a time. How many.
    async fn trim(&self, limits: &Retention) -> Result<u64>;
    /// The check values of the pepper keys that this database has passwords under.
    async fn pepper_checks(&self) -> Result<Vec<(KeyId, [u8; 32])>>;
    /// Remembers a key's check value. Conflict if another one is there under the same id.
    async fn add_pepper_check(&self, key: KeyId, check: [u8; 32]) -> Result<()>;
    /// Whether it answers at all.
    async fn ping(&self) -> Result<()>;
    /// What an operator should know of this database: (what, finding, what to do; healthy if
    /// `None`).
    async fn examine(&self) -> Result<Vec<Finding>>;
    /// How a metric and a person call it: `sqlite` or `postgresql`.
    fn system(&self) -> &'static str;
}

/// Whether a transaction may change something. One that may not sees one moment throughout: what a
/// list shows is what its etag stands for. SQLite has one writer; readers don't wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Read,
    Write,
}

/// A change to write: a row in the log, and its events.
#[derive(Clone, Debug)]
pub struct NewChange {
    pub nonce: i64,
    pub time: Timestamp,
    pub scope: Scope,
    pub ended: Vec<Ended>,
    /// Their `revision` is not set yet.
    pub events: Vec<Event>,
    /// For changes that are answered as revocations.
    pub revocation: Option<NewRevocation>,
}

/// What AwaitRevocation is to know of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRevocation {
    pub made_by: MadeBy,
    /// The passwords that it disconnected, replaced or barred: those of a mail service as a whole
    /// are not among `NewChange::ended`.
    pub ended_devices: u32,
}

/// The call that made a change, by the rights that it needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeBy {
    pub api: Api,
    /// `None`: what was asked for is not there, so nobody's.
    pub organization_id: Option<OrganizationId>,
    /// `None`: an actor must administer the organization.
    pub mail_service_id: Option<MailServiceId>,
}

/// A service of the contract that revokes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    DeviceCredentials = 1,
    Directory = 2,
}

/// A change as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    pub position: Position,
    pub ended_devices: u32,
    /// `None`: it was answered to nobody.
    pub made_by: Option<MadeBy>,
}

/// Where a person's devices are looked for.
#[derive(Clone, Debug)]
pub enum UserPlace {
    Mailbox(MailboxId),
    Service(MailServiceId),
    Organization(OrganizationId),
}

/// What became of a changing call, for when it is said again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// A digest of the call's method and target: the same id with another is refused.
    pub fingerprint: [u8; 16],
    pub device_id: Option<DeviceId>,
    pub revision: Revision,
    pub count: u32,
    pub time: Timestamp,
}

/// Where an import comes from, for the audit trail.
#[derive(Clone, Debug)]
pub struct Origin {
    pub actor: String,
    pub caller: String,
    pub peer: String,
    pub time: Timestamp,
    pub nonce: i64,
}

/// A mailbox to import.
#[derive(Clone, Debug)]
pub struct NewMailbox {
    pub mailbox_id: MailboxId,
    pub address: Address,
    pub key: MailboxKey,
    pub mail_service_id: MailServiceId,
    /// The id of its generic device, and the imported hash.
    pub generic: Option<(DeviceId, PasswordHash)>,
}

/// Called when something may have changed.
pub type Hint = Arc<dyn Fn() + Send + Sync>;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Rows of the log before this go.
    pub changes_before: Timestamp,
    /// Secrets of passwords that ended before this are forgotten.
    pub passwords_before: Timestamp,
    /// So are those beyond the newest so many of a mailbox.
    pub passwords_per_mailbox: usize,
    pub requests_before: Timestamp,
    pub logins_before: Timestamp,
}

impl Retention {
    /// By how long before `now` each is kept.
    pub fn before(
        now: Timestamp,
        changes: Duration,
        passwords: Duration,
        passwords_per_mailbox: usize,
        requests: Duration,
        logins: Duration,
    ) -> Self {
        let ago = |kept: Duration| Timestamp(now.0.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX)));
        Self {
            changes_before: ago(changes),
            passwords_before: ago(passwords),
            passwords_per_mailbox,
            requests_before: ago(requests),
            logins_before: ago(logins),
        }
    }
}

/// One thing that `latchkey doctor` looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub found: String,
    /// What to do about it, or to know of it; `None` if it is as it should be.
    pub advice: Option<String>,
    /// Whether something has to be done.
    pub is_problem: bool,
}

impl Finding {
    /// As it should be.
    pub fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), advice: None, is_problem: false }
    }

    /// Right in some installations, and wrong in others.
    pub fn note(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, found: found.into(), advice: Some(advice.into()), is_problem: false }
    }

    pub fn problem(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, found: found.into(), advice: Some(advice.into()), is_problem: true }
    }

    /// A problem unless it is good.
    pub fn check(what: &'static str, found: impl Into<String>, is_good: bool, advice: impl Into<String>) -> Self {
        if is_good { Self::good(what, found) } else { Self::problem(what, found, advice) }
    }
}
