//! Whose password is it? The tag finds the one device that it can belong to; only if that needs
//! argon2, and no memo says that it ran before, it runs.

use subtle::ConstantTimeEq;

use crate::passwords::{generated, tag::Tagger};
use latchkey_core::{
    cache::memos::{Memo, Memos},
    model::{
        device::{Generation, KeyId, Tag},
        id::{DeviceId, MailboxId},
        record::MailboxRecord,
    },
};

/// Of the remembered passwords, so many are tried with argon2 at most: they end in a denial either
/// way.
const MAX_ENDED_HASHED: usize = 1;

/// Where in a record a credential stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Active(usize),
    Ended(usize),
}

/// A device that a password can belong to; only argon2 can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub place: Place,
    pub device_id: DeviceId,
    pub generation: Generation,
    pub memo: Memo,
}

/// What can be said without argon2.
#[derive(Debug)]
pub(super) enum Proof {
    Proven(Place),
    /// It is one of these, or none: to be tried in this order. Nearly always one.
    NeedsHashing(Vec<Candidate>),
    Wrong,
}

/// Looks for the password in a mailbox's record. Does no argon2, no I/O, and on the way of a right
/// password nothing that grows with the number of devices but comparing tags.
pub(super) fn find(password: &[u8], mailbox: &MailboxRecord, tagger: &Tagger, memos: &Memos) -> Proof {
    if let Some(place) = find_generated(password, mailbox, tagger) {
        return Proof::Proven(place);
    }
    let mut indexes = Indexes { password, mailbox_id: mailbox.mailbox_id, tagger, last: None };
    let mut candidates = Vec::new();
    let active = mailbox.active.iter().enumerate().map(|(i, c)| (Place::Active(i), c.device_id, c.generation, c.tag, c.key));
    let ended = mailbox.ended.iter().enumerate().map(|(i, c)| (Place::Ended(i), c.device_id, c.generation, c.tag, c.key));
    let mut ended_hashed = 0;
    for (place, device_id, generation, tag, key) in active.chain(ended) {
        if !indexes.matches(key, tag) {
            continue;
        }
        let memo = memos.of(device_id, generation, password);
        // The same password may have been given again: an ended device decides only when no active
        // one can.
        let may_decide = matches!(place, Place::Active(_)) || candidates.is_empty();
        if may_decide && memos.contains(memo) {
            return Proof::Proven(place);
        }
        if matches!(place, Place::Ended(_)) {
            ended_hashed += 1;
            if ended_hashed > MAX_ENDED_HASHED {
                continue;
            }
        }
        candidates.push(Candidate { place, device_id, generation, memo });
    }
    if candidates.is_empty() { Proof::Wrong } else { Proof::NeedsHashing(candidates) }
}

/// A generated password's tag is proof in itself.
fn find_generated(password: &[u8], mailbox: &MailboxRecord, tagger: &Tagger) -> Option<Place> {
    let canonical = generated::canonical(password)?;
    let mut last: Option<(KeyId, Option<[u8; 16]>)> = None;
    let mut matches = |key: KeyId, tag: Tag| {
        let Tag::Proof(stored) = tag else {
            return false;
        };
        // One computation for all devices under one key.
        let typed = match last {
            Some((last_key, typed)) if last_key == key => typed,
            _ => last.insert((key, tagger.wide(key, mailbox.mailbox_id, &canonical))).1,
        };
        typed.is_some_and(|typed| bool::from(typed.ct_eq(&stored)))
    };
    let active = mailbox.active.iter().position(|device| matches(device.key, device.tag)).map(Place::Active);
    active.or_else(|| mailbox.ended.iter().position(|device| matches(device.key, device.tag)).map(Place::Ended))
}

/// The typed password's 8-bit indexes, computed once for each key and salt in a row: nearly always
/// once.
struct Indexes<'a> {
    password: &'a [u8],
    mailbox_id: MailboxId,
    tagger: &'a Tagger,
    last: Option<(KeyId, u8, Option<u8>)>,
}

impl Indexes<'_> {
    fn matches(&mut self, key: KeyId, tag: Tag) -> bool {
        match tag {
            Tag::Proof(_) => false,
            Tag::Unknown => true,
            Tag::Index { salt, value } => {
                let typed = match self.last {
                    Some((last_key, last_salt, typed)) if (last_key, last_salt) == (key, salt) => typed,
                    _ => self.last.insert((key, salt, self.tagger.index(key, self.mailbox_id, self.password, salt))).2,
                };
                typed == Some(value)
            }
        }
    }
}
