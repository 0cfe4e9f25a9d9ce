//! The audit trail: who did what, when, from where; and the history of logins.

use std::net::IpAddr;

use super::{
    change::Revision,
    clock::Timestamp,
    id::{DeviceId, EventId, MailboxId},
    protocol::Protocol,
    verdict::Reason,
};

/// What happened. The numbers are the proto's; [`EventKind::Login`] never stands in the table of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    MailboxCreated = 1,
    MailboxImported = 2,
    MailboxMoved = 3,
    MailboxSuspended = 4,
    MailboxResumed = 5,
    MailboxDeleted = 6,
    DeviceCreated = 7,
    DeviceUpdated = 8,
    PasswordChanged = 9,
    DeviceDisconnected = 10,
    GenericLoginSwitchedOn = 11,
    GenericLoginSwitchedOff = 12,
    GenericPasswordSet = 13,
    Login = 14,
}

impl EventKind {
    pub const ALL: [Self; 14] = [
        Self::MailboxCreated,
        Self::MailboxImported,
        Self::MailboxMoved,
        Self::MailboxSuspended,
        Self::MailboxResumed,
        Self::MailboxDeleted,
        Self::DeviceCreated,
        Self::DeviceUpdated,
        Self::PasswordChanged,
        Self::DeviceDisconnected,
        Self::GenericLoginSwitchedOn,
        Self::GenericLoginSwitchedOff,
        Self::GenericPasswordSet,
        Self::Login,
    ];

    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// An entry of the audit trail, as ListEvents shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub event_id: EventId,
    pub mailbox_id: MailboxId,
    /// Of logins: the first of them.
    pub time: Timestamp,
    pub kind: EventKind,
    pub device_id: Option<DeviceId>,
    pub device_name: String,
    pub actor: String,
    pub caller: String,
    pub peer: String,
    /// 0 for logins.
    pub revision: Revision,
    pub detail: String,
    pub logins: Option<Logins>,
}

/// The logins of one hour with one device, protocol, address and outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logins {
    pub reason: Reason,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: String,
    pub count: u64,
    pub last_time: Timestamp,
}

/// What the history counts logins by. The address is left out where no device was proven (wrong guesses come from everywhere).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LoginKey {
    pub mailbox_id: MailboxId,
    pub device_id: Option<DeviceId>,
    pub reason: Reason,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    /// Hours since the Unix epoch.
    pub hour: i64,
}

/// Logins to add to the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginCount {
    pub key: LoginKey,
    /// Where the last one came from.
    pub last_client_ip: Option<IpAddr>,
    pub frontend: Box<str>,
    pub count: u64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
}
