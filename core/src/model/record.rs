//! What a login needs to know of a mailbox: small, since millions are cached.

use super::{
    change::{Revision, ServiceKey},
    device::{DeviceKind, Generation, KeyId, Limits, Tag},
    id::{DeviceId, MailboxId},
};

/// A mailbox as of one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxRecord {
    pub mailbox_id: MailboxId,
    pub service: ServiceKey,
    pub suspended: bool,
    /// Whether its generic password may log in, by the mailbox's and by the mail service's switch.
    pub generic_login: bool,
    /// At most 50 by default (`--max-devices`), in the order that they are tried: by tag salt,
    /// highest first.
    pub active: Box<[Credential]>,
    /// Remembered: disconnected and changed ones, the newest first.
    pub ended: Box<[EndedCredential]>,
}

/// A device's current password and what it may do. The hash is not here: it is read when argon2
/// runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    pub device_id: DeviceId,
    pub generation: Generation,
    pub tag: Tag,
    pub key: KeyId,
    pub kind: DeviceKind,
    /// The person whose device it is, is suspended as a member.
    pub user_suspended: bool,
    /// `None`: unlimited, as most are.
    pub limits: Option<Box<Limits>>,
}

/// A password that works no more, kept to tell "disconnected" from "wrong".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedCredential {
    pub device_id: DeviceId,
    pub generation: Generation,
    pub tag: Tag,
    pub key: KeyId,
    pub kind: DeviceKind,
    pub end: EndReason,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EndReason {
    Disconnected = 1,
    Changed = 2,
}

impl EndReason {
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Disconnected, Self::Changed].into_iter().find(|reason| *reason as i64 == number)
    }
}

/// What one indexed read tells of an address: its mailbox if there is one, and the log's head in
/// the same snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxRead {
    pub revision: Revision,
    pub mailbox: Option<MailboxRecord>,
}
