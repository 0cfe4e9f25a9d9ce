//! What is known of a login after it was answered: whether its session is still good, and the
//! logins that a watcher answered from its cache.

use super::{
    answer::{CachedLogins, NoAnswer},
    judge::{Login, MAX_ROUNDS},
};
use crate::login_log::Noted;
use latchkey_core::{
    cache::mailboxes::Entry,
    login::policy,
    model::{
        change::Revision,
        clock::Timestamp,
        verdict::{ProvenPassword, Reason, Session, Verdict},
    },
};

impl Login {
    /// Whether a session is still good. Answers the reason why it ended.
    pub async fn check_session(&self, session: &Session) -> Result<(Reason, Revision), NoAnswer> {
        if session.revision > self.feed.applied() {
            // Its login was answered by a replica that is ahead of this one, or in a history that
            // is lost.
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        for _ in 0..MAX_ROUNDS {
            let (entry, is_own_read) = self.entry(&session.address).await?;
            let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                continue;
            };
            return Ok((session_state(&entry, session, self.clock.wall()), revision));
        }
        Err(NoAnswer::TooManyChanges)
    }

    /// Counts logins that a watcher answered from its cache. Answers false, and counts nothing, if
    /// the mailbox's record is cached here and names no such device: a handle is not signed. What
    /// is not cached is counted as it is, since reading it would cost more than the login did.
    pub fn note_cached(&self, cached: &CachedLogins) -> bool {
        let Session { password, revision, address } = &cached.session;
        let entry = self.cache.get(address.key());
        let mailbox = entry.as_ref().and_then(|entry| entry.read.mailbox.as_ref());
        // Of another mailbox that had the address, nothing is known: its logins may have been just
        // before its end.
        let is_known = mailbox.filter(|mailbox| mailbox.mailbox_id == password.mailbox_id).is_none_or(|mailbox| {
            mailbox.active.iter().any(|device| device.device_id == password.device_id)
                || mailbox.ended.iter().any(|device| device.device_id == password.device_id)
        });
        if is_known {
            let password = Some(*password);
            self.login_log.note(Noted {
                mailbox_id: cached.session.password.mailbox_id,
                protocol: cached.protocol,
                client_ip: cached.client_ip,
                frontend: &cached.frontend,
                verdict: &Verdict { reason: cached.reason, revision: *revision, password, retry_after: None },
                time: cached.last_time,
                count: cached.count,
            });
        }
        is_known
    }
}

fn session_state(entry: &Entry, session: &Session, now: Timestamp) -> Reason {
    let Some(mailbox) = entry.read.mailbox.as_ref().filter(|mailbox| mailbox.mailbox_id == session.password.mailbox_id) else {
        return Reason::MailboxDeleted;
    };
    let ProvenPassword { device_id, generation, .. } = session.password;
    match mailbox.active.iter().find(|device| device.device_id == device_id) {
        None => Reason::DeviceDisconnected,
        Some(device) if device.generation != generation => Reason::PasswordChanged,
        Some(device) => policy::judge_session(mailbox, device, now),
    }
}
