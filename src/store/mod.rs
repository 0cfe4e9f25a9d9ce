//! Floor 1: what Latchkey keeps, behind one trait. SQLite for one process, PostgreSQL for any number; nothing above knows which.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

pub mod postgres;
pub mod sql;
pub mod sqlite;

use latchkey_core::model::{
    address::{Address, MailboxKey},
    change::{Change, Ended, Position, Revision, Scope},
    clock::Timestamp,
    device::{Device, Generation, KeyId, PasswordHash, StoredPassword},
    directory::{MailService, Mailbox, Member, Organization, Right, Standing},
    event::{Event, EventScope, LoginCount, TimeRange},
    id::{DeviceId, EventId, MailServiceId, MailboxId, NodeId, OrganizationId, RequestId, UserId},
    record::MailboxRead,
    session::{Closing, LiveSession, OpenSession, SessionKey},
};
use latchkey_core::{confirmation::Node, log::Head};

/// Why a store did not do what it was asked. Names no driver and no table; the driver's own words are logged where it arose.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Down, out of reach, too slow. Nothing was changed. Try later.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// The connection broke, or the wait for a standby was cancelled, while committing: it is not known whether the change was made.
    /// Not known is not done: saying the call again settles it.
    #[error("it is not known whether the change was made: {0}")]
    OutcomeUnknown(String),
    /// Another transaction was in the way (a lock, a deadlock, a unique key). Nothing was changed; the same again may work.
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
    #[error("the data directory {} is in use by another process: SQLite serves one. Stop that one, or use --database-url with PostgreSQL for several", .folder.display())]
    Locked { folder: PathBuf },
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
    #[error("the database can't be reached: {0}. Is it running, and is --database-url right?")]
    Unreachable(String),
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

    /// What a login needs of an address, and the log's head in the same snapshot: one statement, by one index.
    async fn read_mailbox(&self, address: &Address) -> Result<MailboxRead>;
    /// The hash of one password, current or remembered.
    async fn read_hash(&self, device_id: DeviceId, generation: Generation) -> Result<Option<PasswordHash>>;
    /// Puts a better form of the same password in place of `before` (a stronger hash, another key, a tag at last). Nothing if it changed meanwhile
    /// or has ended.
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

    /// Starts one. `name` names it in metrics and, as a comment, in its statements.
    async fn begin(&self, name: &'static str, mode: Mode) -> Result<Box<dyn Transaction>>;
    /// Makes mailboxes with their generic passwords, in one transaction with one row in the change log. Skips addresses that are there. Answers, for
    /// each, whether it was made.
    async fn import(&self, mailboxes: &[NewMailbox], origin: &Origin) -> Result<Vec<bool>>;

    // The change feed (DESIGN.md §6).

    /// Makes this process's row, committed when this returns. To be repeated with the same id after an error: the row may
    /// be there then, and is written anew.
    async fn join(&self, node: &Node) -> Result<()>;
    /// Takes the row away.
    async fn leave(&self, node_id: NodeId) -> Result<()>;
    /// One round trip: writes what was acknowledged if the row's counter is still `renewals` and the log is still the history that holds `applied`, and
    /// tells the log's head. `None`, and nothing written: the row is gone, somebody else counted it up, or the history is another.
    async fn sync(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<Option<Head>>;
    /// Writes what was acknowledged, on the same conditions as [`Self::sync`]. It renews no lease, so nothing is lost if a crash of the database undoes it,
    /// and it need not be waited for on any disk. Whether it was written.
    async fn acknowledge(&self, node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Result<bool>;
    /// The log's head, without writing anything.
    async fn head(&self, applied: Revision) -> Result<Head>;
    /// As [`Self::head`], over the connection that the feed has for itself: logins that take all others do not delay it.
    async fn feed_head(&self, applied: Revision) -> Result<Head>;
    /// At most `limit` rows of the log after `revision`, in order, up to `up_to`.
    async fn changes(&self, after: Revision, up_to: Revision, limit: usize) -> Result<Vec<Change>>;
    /// The rows of all processes.
    async fn nodes(&self) -> Result<Vec<Node>>;
    /// Takes a row away if its counter is still `renewals`, and its sessions with it. Whether it did.
    async fn remove_node(&self, node_id: NodeId, renewals: u64) -> Result<bool>;
    /// Calls `hint` whenever another process may have changed something, for ever. Only a hint: some may be lost, some may be for nothing.
    fn listen(&self, hint: Hint);

    // Sessions that watchers report.

    /// Writes which sessions a process's watchers have open now.
    async fn put_sessions(&self, node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> Result<()>;
    /// Writes how many sessions a change closed at a process's watchers. Before that process acknowledges the change.
    async fn add_closings(&self, node_id: NodeId, closings: &[Closing]) -> Result<()>;
    /// What all processes have written of that for one change.
    async fn closings(&self, revision: Revision) -> Result<Vec<Closing>>;

    // Housekeeping.

    /// Forgets rows of the log, remembered passwords, answered requests and login history that are past their time, some at a time. How many.
    async fn trim(&self, limits: &Retention) -> Result<u64>;
    /// The check values of the pepper keys that this database has passwords under.
    async fn pepper_checks(&self) -> Result<Vec<(KeyId, [u8; 32])>>;
    /// Remembers a key's check value. Conflict if another one is there under the same id.
    async fn add_pepper_check(&self, key: KeyId, check: [u8; 32]) -> Result<()>;
    /// Whether it answers at all.
    async fn ping(&self) -> Result<()>;
    /// What an operator should know of this database: (what, finding, what to do; healthy if `None`).
    async fn examine(&self) -> Result<Vec<Finding>>;
    /// How a metric and a person call it: `sqlite` or `postgresql`.
    fn system(&self) -> &'static str;
}

/// Whether a transaction may change something. One that may not sees one moment throughout: what a list shows is what its etag stands for. SQLite has one
/// writer; readers don't wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Read,
    Write,
}

/// One transaction. Dropped before its commit, it leaves nothing. After an error it can only be dropped. Lists are in the order of their key, after `after`.
#[async_trait]
pub trait Transaction: Send {
    // Directory.
    async fn organization(&mut self, id: &OrganizationId) -> Result<Option<Organization>>;
    async fn organizations(&mut self, after: Option<&OrganizationId>, limit: usize) -> Result<Vec<Organization>>;
    /// Makes or replaces; keeps the first create time.
    async fn put_organization(&mut self, organization: &Organization) -> Result<()>;
    /// Until the transaction ends nobody else locks it.
    async fn lock_organization(&mut self, id: &OrganizationId) -> Result<()>;
    /// Its members go with it.
    async fn delete_organization(&mut self, id: &OrganizationId) -> Result<bool>;

    async fn member(&mut self, organization: &OrganizationId, user: &UserId) -> Result<Option<Member>>;
    async fn members(&mut self, organization: &OrganizationId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>>;
    async fn put_member(&mut self, member: &Member) -> Result<()>;
    async fn delete_member(&mut self, organization: &OrganizationId, user: &UserId) -> Result<bool>;

    async fn mail_service(&mut self, id: &MailServiceId) -> Result<Option<MailService>>;
    async fn mail_services(
        &mut self,
        organization: &OrganizationId,
        after: Option<&MailServiceId>,
        limit: usize,
    ) -> Result<Vec<MailService>>;
    /// Makes or replaces, the organization too; keeps the first create time and `generic_login`.
    async fn put_mail_service(&mut self, service: &MailService) -> Result<()>;
    async fn set_generic_login(&mut self, id: &MailServiceId, enabled: bool) -> Result<()>;
    /// Its rights go with it.
    async fn delete_mail_service(&mut self, id: &MailServiceId) -> Result<bool>;

    async fn right(&mut self, service: &MailServiceId, user: &UserId) -> Result<Option<Right>>;
    async fn rights(&mut self, service: &MailServiceId, after: Option<&UserId>, limit: usize) -> Result<Vec<Right>>;
    async fn put_right(&mut self, right: &Right) -> Result<()>;
    async fn delete_right(&mut self, right: &Right) -> Result<bool>;
    /// Takes all of a person's rights on the mail services of an organization.
    async fn delete_rights(&mut self, organization: &OrganizationId, user: &UserId) -> Result<u64>;
    /// What a person is to an organization, and to one of its mail services if one is named.
    async fn standing(
        &mut self,
        user: &UserId,
        organization: &OrganizationId,
        service: Option<&MailServiceId>,
    ) -> Result<Standing>;

    async fn mailbox(&mut self, address: &Address) -> Result<Option<Mailbox>>;
    async fn mailboxes(&mut self, service: &MailServiceId, after: Option<&Address>, limit: usize) -> Result<Vec<Mailbox>>;
    /// As `mailbox`; and until the transaction ends nobody else locks it. Counts its `device_version` up (the answer holds the new one).
    async fn lock_mailbox(&mut self, address: &Address) -> Result<Option<Mailbox>>;
    /// Conflict if the address is taken.
    async fn insert_mailbox(&mut self, mailbox: &Mailbox) -> Result<()>;
    /// Writes its mail service, `suspended` and `generic_login`.
    async fn update_mailbox(&mut self, mailbox: &Mailbox) -> Result<()>;
    /// Its devices and login history go with it; its events stay.
    async fn delete_mailbox(&mut self, id: MailboxId) -> Result<bool>;

    // Devices. Of one that has had several passwords, the last generation is meant.
    async fn device(&mut self, mailbox: MailboxId, device: DeviceId) -> Result<Option<Device>>;
    /// In the order of their ids: oldest first.
    async fn devices(
        &mut self,
        mailbox: MailboxId,
        after: Option<DeviceId>,
        limit: usize,
        disconnected_too: bool,
    ) -> Result<Vec<Device>>;
    async fn count_active_devices(&mut self, mailbox: MailboxId) -> Result<usize>;
    async fn insert_device(&mut self, device: &Device, password: &StoredPassword) -> Result<()>;
    /// Writes its name, user and limits.
    async fn update_device(&mut self, device: &Device) -> Result<()>;
    /// Ends the current password as changed, at `now`, and puts `device` (its next generation and kind) with `password` in its place. Conflict if it has none:
    /// it was disconnected.
    async fn replace_password(&mut self, device: &Device, password: &StoredPassword, now: Timestamp) -> Result<()>;
    /// Ends a device's password as disconnected. Whether it was active.
    async fn disconnect_device(&mut self, device: DeviceId, now: Timestamp) -> Result<bool>;
    /// Ends a device's password as disconnected if it is of that generation or an older one: one that a lost history had ended. The device, if it was.
    async fn end_again(&mut self, ended: Ended, now: Timestamp) -> Result<Option<Device>>;
    /// The active devices of a person on one mailbox, on one mail service, or on all mail services of an organization; with the
    /// mailboxes' addresses.
    async fn devices_of_user(&mut self, user: &UserId, place: &UserPlace) -> Result<Vec<(Address, Device)>>;
    /// The open sessions of a mailbox, the newest first.
    async fn live_sessions(&mut self, mailbox: MailboxId, limit: usize) -> Result<Vec<OpenSession>>;

    // What every change ends with.

    /// An earlier call under the same id by the same caller.
    async fn request(&mut self, caller: &str, id: &RequestId) -> Result<Option<Request>>;
    /// Conflict if it is there.
    async fn insert_request(&mut self, caller: &str, id: &RequestId, request: &Request) -> Result<()>;
    /// Nobody else takes a revision until the transaction ends. What others have written before is seen from here on.
    async fn lock_log(&mut self) -> Result<()>;
    /// The last statement before the commit, since it takes the next revision: writes the change, its events (their `revision` is set), and the revision into the
    /// disconnected devices it `ended`.
    async fn append_change(&mut self, change: &NewChange) -> Result<Revision>;
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Writes events of what needs no row in the change log. Their revision is 0.
    async fn add_events(&mut self, events: &[Event]) -> Result<()>;
    /// The audit trail, newest first, after the (time, id) of `after`. Of a mailbox: changes and login counts merged.
    async fn events(
        &mut self,
        scope: &EventScope,
        range: TimeRange,
        device: Option<DeviceId>,
        after: Option<(Timestamp, EventId)>,
        limit: usize,
    ) -> Result<Vec<Event>>;
    /// The log's head.
    async fn revision(&mut self) -> Result<Revision>;
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
    /// What to do about it; `None` if it is as it should be.
    pub advice: Option<String>,
}
