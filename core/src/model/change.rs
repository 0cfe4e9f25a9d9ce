//! The change log: every change to a mailbox that a cache could have got wrong, in one order.

use std::fmt;

use sha2::{Digest, Sha256};

pub use super::revision::{Position, Revision};
use super::{
    Invalid,
    address::MailboxKey,
    device::Generation,
    id::{DeviceId, MailServiceId},
    verdict::Reason,
};

/// What a caller knows a revocation by: the position of its change. Opaque to the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RevocationId(pub Position);

impl RevocationId {
    const DIGITS: usize = 16;

    pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        Self::try_parse(text).ok_or_else(|| Invalid::new(field, "must be a revocation_id that was answered, unchanged"))
    }

    fn try_parse(text: &str) -> Option<Self> {
        let is_ours = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let (revision, nonce) =
            text.split_at_checked(Self::DIGITS).filter(|(_, nonce)| is_ours && nonce.len() == Self::DIGITS)?;
        let revision = Revision(u64::from_str_radix(revision, 16).ok()?);
        Some(Self(Position { revision, nonce: u64::from_str_radix(nonce, 16).ok()?.cast_signed() }))
    }
}

impl fmt::Display for RevocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0.revision.0, self.0.nonce.cast_unsigned())
    }
}

/// What caches know a mail service by: the first 8 bytes of SHA-256 over its id. Two that collide
/// lose a little cache, nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceKey(pub u64);

impl ServiceKey {
    pub fn of(id: &MailServiceId) -> Self {
        let digest = Sha256::digest(id.as_str().as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(key))
    }
}

/// Which mailboxes a change concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    Mailboxes(Vec<MailboxKey>),
    /// All of a mail service.
    Service(ServiceKey),
}

/// A password that a change ended, or took the right to log in from: sessions opened with it are to
/// close.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ended {
    pub device_id: DeviceId,
    pub generation: Generation,
    pub reason: Reason,
}

impl Ended {
    /// Whether the password is gone for good.
    pub fn is_for_good(self) -> bool {
        matches!(self.reason, Reason::DeviceDisconnected | Reason::PasswordChanged | Reason::MailboxDeleted)
    }
}

/// A row of the change log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub revision: Revision,
    /// Random: the same revision with another nonce is another history.
    pub nonce: i64,
    pub scope: Scope,
    pub ended: Vec<Ended>,
}

impl Change {
    pub fn position(&self) -> Position {
        Position { revision: self.revision, nonce: self.nonce }
    }

    /// Whether each password that it took the right to log in from is among those that it `ended`.
    /// If not (a device's limits, a switch of a whole mail service), sessions have to be judged.
    pub fn names_what_it_ended(&self) -> bool {
        !self.ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_id_names_its_change_and_nothing_else_is_one() {
        for nonce in [-1, 7] {
            let id = RevocationId(Position { revision: Revision(300), nonce });
            assert_eq!(RevocationId::parse("revocation_id", &id.to_string()), Ok(id));
        }
        for other in
            ["", "300", "000000000000012c", "000000000000012c0", "+00000000000012c", "000000000000012Cffffffffffffffff", "ä"]
        {
            assert!(RevocationId::parse("revocation_id", other).is_err(), "{other}");
        }
    }
}
