//! A right password in an old form is kept in a better one, beside the login's way: a generic one gets argon2id and its tag, a weaker hash a stronger one,
//! one under an old pepper key the active one.

use std::{fmt, sync::Arc};

use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Login;
use crate::random;
use crate::store::NewChange;
use latchkey_core::model::{
    change::Scope,
    device::{PasswordHash, StoredPassword, Tag},
    record::{Credential, MailboxRecord},
    verdict::Attempt,
};

/// So many at a time, waiting ones too; more are left for a later login.
const MAX_UNDER_WAY: usize = 1_024;

/// The upgrades under way.
#[derive(Clone)]
pub struct Upgrades(Arc<Semaphore>);

impl Upgrades {
    #[expect(clippy::new_without_default, reason = "one a process; it is not a plain value")]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_UNDER_WAY)))
    }
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upgrades({} under way)", MAX_UNDER_WAY - self.0.available_permits())
    }
}

impl Login {
    pub(super) fn upgrade_if_due(
        self: &Arc<Self>,
        mailbox: &MailboxRecord,
        device: &Credential,
        attempt: &Attempt,
        hash: &PasswordHash,
    ) {
        let is_due = device.tag == Tag::Unknown || self.hashing.hasher().needs_upgrade(hash);
        let Some(permit) = is_due.then(|| Arc::clone(&self.upgrades.0).try_acquire_owned().ok()).flatten() else {
            return;
        };
        let others = mailbox.active.iter().filter(|other| other.device_id != device.device_id);
        let tag = self.tagger.new_index(
            mailbox.mailbox_id,
            attempt.password.expose(),
            others.filter_map(|other| match other.tag {
                Tag::Index { salt, value } => Some((other.key, salt, value)),
                Tag::Proof(_) | Tag::Unknown => None,
            }),
        );
        let (login, before, password) = (Arc::clone(self), hash.clone(), attempt.password.clone());
        let (device_id, generation, key) = (device.device_id, device.generation, attempt.address.key());
        tokio::spawn(async move {
            let hash = match login.hashing.hash(password).await {
                Ok(hash) => hash,
                Err(error) => return debug!(%device_id, %error, "the password stays in its old form for now"),
            };
            let after = StoredPassword { tag, key: login.tagger.active_key(), hash: Some(hash) };
            let change = NewChange {
                nonce: random::nonce(),
                time: login.clock.wall(),
                scope: Scope::Mailboxes(vec![key]),
                ended: vec![],
                events: vec![],
            };
            match login.store.upgrade_password(device_id, generation, Some(&before), &after, &change).await {
                Ok(_) => login.feed.hint(),
                Err(error) => warn!(%device_id, %error, "the password stays in its old form for now"),
            }
            drop(permit);
        });
    }
}
