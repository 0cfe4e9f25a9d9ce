//! Whose password is it, by what is remembered alone.

use crate::{
    cache::memos::Memos,
    model::record::{Credential, MailboxRecord},
};

/// The device whose password it is, if a memo says so.
#[inline]
pub fn find_remembered<'a>(password: &[u8], mailbox: &'a MailboxRecord, memos: &Memos) -> Option<&'a Credential> {
    mailbox.active.iter().find(|device| memos.contains(memos.of(device.device_id, device.generation, password)))
}
