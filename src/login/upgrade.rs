//! A right password in an old form is kept in a better one, beside the login's way: a generic one
//! gets argon2id and its tag, a weaker hash a stronger one, one under an old pepper key the active
//! one.

use std::{fmt, sync::Arc};

use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::{
    hashing::HashingPool,
    passwords::tag::Tagger,
    random,
    replication::Feed,
    store::{NewChange, Store},
};
use latchkey_core::model::{
    change::Scope,
    clock::SharedClock,
    device::{PasswordHash, StoredPassword, Tag},
    record::{Credential, MailboxRecord},
    verdict::Attempt,
};

/// So many at a time, waiting ones too; more are left for a later this.
const MAX_UNDER_WAY: usize = 1_024;

/// The upgrades under way, and what they need.
#[derive(Clone)]
pub struct Upgrades {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    tagger: Arc<Tagger>,
    hashing: Arc<HashingPool>,
    clock: SharedClock,
    under_way: Arc<Semaphore>,
}

impl Upgrades {
    pub fn new(
        store: Arc<dyn Store>,
        feed: Arc<Feed>,
        tagger: Arc<Tagger>,
        hashing: Arc<HashingPool>,
        clock: SharedClock,
    ) -> Self {
        Self { store, feed, tagger, hashing, clock, under_way: Arc::new(Semaphore::new(MAX_UNDER_WAY)) }
    }

    /// Brings a device's password up to date, if it was proven and is in an old form.
    pub(super) fn begin_if_due(&self, mailbox: &MailboxRecord, device: &Credential, attempt: &Attempt, hash: &PasswordHash) {
        let is_due = device.tag == Tag::Unknown || self.hashing.hasher().needs_upgrade(hash);
        let Some(permit) = is_due.then(|| Arc::clone(&self.under_way).try_acquire_owned().ok()).flatten() else {
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
        let (this, before, password) = (self.clone(), hash.clone(), attempt.password.clone());
        let (device_id, generation, key) = (device.device_id, device.generation, attempt.address.key());
        tokio::spawn(async move {
            let hash = match this.hashing.hash(password).await {
                Ok(hash) => hash,
                Err(error) => return debug!(%device_id, %error, "the password stays in its old form for now"),
            };
            let after = StoredPassword { tag, key: this.tagger.active_key(), hash: Some(hash) };
            let change = NewChange {
                nonce: random::nonce(),
                time: this.clock.wall(),
                scope: Scope::Mailboxes(vec![key]),
                ended: vec![],
                events: vec![],
                revocation: None,
            };
            match this.store.upgrade_password(device_id, generation, Some(&before), &after, &change).await {
                Ok(_) => this.feed.hint(),
                Err(error) => warn!(%device_id, %error, "the password stays in its old form for now"),
            }
            drop(permit);
        });
    }
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upgrades({} under way)", MAX_UNDER_WAY - self.under_way.available_permits())
    }
}
