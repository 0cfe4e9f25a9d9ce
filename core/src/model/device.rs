//! A device: one named password of one mailbox, for one mail program.

use std::net::IpAddr;

use super::{
    Invalid,
    clock::Timestamp,
    id::{DeviceId, MailboxId, UserId},
    network::Networks,
    protocol::{Protocol, Protocols},
    revision::Revision,
};

/// Counts up each time a device's password changes, from 1. With the device's id it is never used
/// twice.
pub type Generation = u32;

/// Where a device's password came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DeviceKind {
    Generated = 1,
    Chosen = 2,
    Generic = 3,
}

impl DeviceKind {
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Generated, Self::Chosen, Self::Generic].into_iter().find(|kind| *kind as i64 == number)
    }
}

/// A person's name for a device: 1 to 64 characters, not blank, no control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceName(Box<str>);

impl DeviceName {
    pub const MAX_CHARACTERS: usize = 64;

    pub fn parse(field: &'static str, typed: &str) -> Result<Self, Invalid> {
        let name = typed.trim();
        if name.is_empty() {
            return Err(Invalid::new(field, "must not be blank"));
        }
        if name.chars().count() > Self::MAX_CHARACTERS {
            return Err(Invalid::new(field, "must be at most 64 characters"));
        }
        if name.chars().any(char::is_control) {
            return Err(Invalid::new(field, "must not hold control characters"));
        }
        Ok(Self(name.into()))
    }

    pub fn from_store(stored: String) -> Self {
        Self(stored.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a device may do, whatever its password.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    pub protocols: Protocols,
    pub networks: Networks,
    pub expire_time: Option<Timestamp>,
}

/// The last login that was allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastUse {
    pub time: Timestamp,
    pub client_ip: Option<IpAddr>,
    pub protocol: Protocol,
}

/// When, and by which change, a device was disconnected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disconnection {
    pub time: Timestamp,
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    pub device_id: DeviceId,
    pub mailbox_id: MailboxId,
    pub name: DeviceName,
    pub kind: DeviceKind,
    pub generation: Generation,
    pub user: Option<UserId>,
    pub limits: Limits,
    pub create_time: Timestamp,
    pub disconnection: Option<Disconnection>,
    pub last_use: Option<LastUse>,
}

/// The pepper key that a tag and a hash were made with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(pub u16);

/// A short keyed digest of a password, which finds the device that it can belong to
/// (docs/design.md, "Passwords").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// 128 bits, of a GENERATED password: proof in itself.
    Proof([u8; 16]),
    /// 8 bits, of a CHOSEN or GENERIC one: an index, not a verifier. The salt sets apart two
    /// passwords of one mailbox that would otherwise share a value (see `passwords::tag`).
    Index { salt: u8, value: u8 },
    /// A GENERIC password nobody has logged in with yet: only its imported hash is known.
    Unknown,
}

/// A password at rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPassword {
    pub tag: Tag,
    /// The pepper key of tag and hash. Of no meaning while the tag is unknown.
    pub key: KeyId,
    /// `None` for GENERATED ones, whose tag is enough.
    pub hash: Option<PasswordHash>,
}

/// A password hash: a PHC string, or a legacy scheme's. Prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
