//! Tags: short keyed digests that find the one device that a password can belong to.
//!
//! A GENERATED password's tag is 128 bits wide and proof in itself. A CHOSEN or GENERIC one's has 8
//! bits: an index, so that database and pepper lost together still leave argon2 in the way. Two of
//! one mailbox can share such a value; the salt keeps them apart: a new password takes salt 0,
//! unless it matches the index of another under that one's salt (we know the new password, so we
//! can tell). Then it takes a higher salt than all of those, and a login tries higher salts first.
//! So a right password finds its own device first, but for one in 256 of the pairs that would have
//! collided.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{generated::Canonical, pepper::Pepper};
use latchkey_core::model::{
    device::{Generation, KeyId, Tag},
    id::{DeviceId, MailboxId},
};

const WIDE: u8 = 1;
const INDEX: u8 = 2;

/// Makes tags, under each key of the pepper.
pub struct Tagger {
    /// The active one first: nearly all tags are under it.
    keys: Box<[(KeyId, Hmac<Sha256>)]>,
}

impl Tagger {
    pub fn new(pepper: &Pepper) -> Self {
        let active = pepper.active();
        let mut keys: Vec<_> = pepper.keys().map(|id| (id, mac(&pepper.derive(id, "latchkey tag v1")))).collect();
        keys.sort_by_key(|(id, _)| *id != active);
        Self { keys: keys.into() }
    }

    /// The key that new passwords are kept under.
    pub fn active_key(&self) -> KeyId {
        self.keys[0].0
    }

    /// A generated password's tag. `None`: the pepper has no such key.
    pub fn wide(&self, key: KeyId, mailbox: MailboxId, password: &Canonical) -> Option<[u8; 16]> {
        let mac = self.begin(key, WIDE, mailbox)?;
        Some(first_16(mac.chain_update(password.as_slice())))
    }

    /// A generated password's tag under the active key.
    pub fn wide_active(&self, mailbox: MailboxId, password: &Canonical) -> [u8; 16] {
        first_16(started(&self.keys[0].1, WIDE, mailbox).chain_update(password.as_slice()))
    }

    /// A chosen or generic password's index. `None`: the pepper has no such key.
    pub fn index(&self, key: KeyId, mailbox: MailboxId, password: &[u8], salt: u8) -> Option<u8> {
        let mac = self.begin(key, INDEX, mailbox)?;
        Some(mac.chain_update([salt]).chain_update(password).finalize().into_bytes()[0])
    }

    /// The tag of a new chosen or generic password, beside the `others` of its mailbox: their keys,
    /// salts and values.
    pub fn new_index(&self, mailbox: MailboxId, password: &[u8], others: impl Iterator<Item = (KeyId, u8, u8)>) -> Tag {
        let collides = |(key, salt, value): &(KeyId, u8, u8)| self.index(*key, mailbox, password, *salt) == Some(*value);
        let salt = others.filter(collides).map(|(_, salt, _)| salt.saturating_add(1)).max().unwrap_or(0);
        let mac = started(&self.keys[0].1, INDEX, mailbox).chain_update([salt]).chain_update(password);
        Tag::Index { salt, value: mac.finalize().into_bytes()[0] }
    }

    /// Names a hashing job: identical ones under way run once.
    pub fn job(&self, device: DeviceId, generation: Generation, password: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(device.0).chain_update(generation.to_be_bytes()).chain_update(password).finalize().into()
    }

    fn begin(&self, key: KeyId, kind: u8, mailbox: MailboxId) -> Option<Hmac<Sha256>> {
        self.keys.iter().find(|(id, _)| *id == key).map(|(_, mac)| started(mac, kind, mailbox))
    }
}

impl fmt::Debug for Tagger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 §3)")]
    Hmac::new_from_slice(key).expect("any key is good")
}

fn started(mac: &Hmac<Sha256>, kind: u8, mailbox: MailboxId) -> Hmac<Sha256> {
    mac.clone().chain_update([kind]).chain_update(mailbox.0.as_bytes())
}

fn first_16(mac: Hmac<Sha256>) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passwords::generated;
    use crate::random::NewId as _;
    use latchkey_core::model::clock::Timestamp;

    #[test]
    fn a_tag_speaks_of_one_mailbox_one_password_and_one_key() {
        let pepper = Pepper::random();
        let tagger = Tagger::new(&pepper);
        let (mailbox, other) = (MailboxId::new(Timestamp(1)), MailboxId::new(Timestamp(1)));
        let password = generated::generate();
        let tag = tagger.wide_active(mailbox, &password);
        assert_eq!(tagger.wide(tagger.active_key(), mailbox, &password), Some(tag));
        assert_ne!(tagger.wide_active(other, &password), tag);
        assert_ne!(tagger.wide_active(mailbox, &generated::generate()), tag);
        assert_ne!(Tagger::new(&Pepper::random()).wide_active(mailbox, &password), tag);
        assert_eq!(tagger.wide(KeyId(999), mailbox, &password), None);
    }

    #[test]
    fn a_password_that_would_collide_gets_a_higher_salt() {
        let tagger = Tagger::new(&Pepper::random());
        let mailbox = MailboxId::new(Timestamp(1));
        let mut taken: Vec<(KeyId, u8, u8)> = Vec::new();
        let mut passwords = Vec::new();
        for n in 0..600_u32 {
            let password = format!("password number {n}");
            let Tag::Index { salt, value } = tagger.new_index(mailbox, password.as_bytes(), taken.iter().copied()) else {
                panic!("an index")
            };
            taken.push((tagger.active_key(), salt, value));
            passwords.push(password);
        }
        assert!(taken.iter().any(|(_, salt, _)| *salt > 0), "600 values of 256 collide");
        for (i, password) in passwords.iter().enumerate() {
            let (own_key, own_salt, own_value) = taken[i];
            assert_eq!(tagger.index(own_key, mailbox, password.as_bytes(), own_salt), Some(own_value));
            // Of those that were there before it, none that it matches is tried before it.
            let before = taken[..i].iter().filter(|(key, salt, value)| {
                tagger.index(*key, mailbox, password.as_bytes(), *salt) == Some(*value) && *salt >= own_salt
            });
            assert_eq!(before.count(), 0, "{password}");
        }
    }
}
