//! The audit trail: who did what, when, from where; and the history of logins.

use std::net::IpAddr;

use super::{
    change::Revision,
    clock::Timestamp,
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, UserId},
    protocol::Protocol,
    verdict::Reason,
};

/// What happened. The numbers are the proto's; [`EventKind::Login`] never stands in the table of
/// changes.
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
    MemberAdded = 15,
    RoleChanged = 16,
    MemberSuspended = 17,
    MemberResumed = 18,
    MemberRemoved = 19,
    RightGranted = 20,
    RightRevoked = 21,
}

impl EventKind {
    pub const ALL: [Self; 21] = [
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
        Self::MemberAdded,
        Self::RoleChanged,
        Self::MemberSuspended,
        Self::MemberResumed,
        Self::MemberRemoved,
        Self::RightGranted,
        Self::RightRevoked,
    ];

    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// An entry of the audit trail, as ListEvents shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub event_id: EventId,
    /// `None`: the event concerns a mail service or an organization as a whole.
    pub mailbox_id: Option<MailboxId>,
    /// The mail service concerned. When an event is written, `None` stands for the mailbox's own.
    pub mail_service_id: Option<MailServiceId>,
    /// The organization concerned. When an event is written, `None` stands for the mail service's
    /// own.
    pub organization_id: Option<OrganizationId>,
    /// The person whose role, membership or right was changed.
    pub user: Option<UserId>,
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

/// Whose events are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventScope {
    /// Of a mailbox, also a deleted one: changes and logins.
    Mailbox(MailboxId),
    /// Of a mail service: its rights and switches, and the changes of all its mailboxes. No logins.
    Service(MailServiceId),
    /// Of an organization: its members, and what concerns its mail services. No logins.
    Organization(OrganizationId),
}

/// A part of the audit trail.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TimeRange {
    /// Events at or after this time. `None`: from the first one kept.
    pub start: Option<Timestamp>,
    /// Events before this time. `None`: up to now.
    pub end: Option<Timestamp>,
}

/// The logins of one hour with one device, protocol, address and outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logins {
    pub reason: Reason,
    pub protocol: Protocol,
    /// The last one's.
    pub client_ip: Option<IpAddr>,
    /// Whether others came from other addresses: wrong guesses, beyond the addresses that are kept
    /// apart.
    pub from_several_addresses: bool,
    pub frontend: String,
    pub count: u64,
    pub last_time: Timestamp,
}

/// What the history counts logins by. The address is left out for wrong guesses from more addresses
/// than are kept apart.
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
