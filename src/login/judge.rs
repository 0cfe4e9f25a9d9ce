//! Floor 3: a login, from the question to the answer (DESIGN.md §5): record, proof, authority, policy. A warm one passes through [`Login::judge_warm`] alone, without an
//! await.

mod proof;
mod upgrade;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use tracing::error;

use self::proof::{Candidate, Place, Proof};
pub use self::upgrade::Upgrades;
use crate::{
    hashing::{HashingError, HashingPool},
    login_log::{LoginHistory, Noted},
    passwords::tag::Tagger,
    replication::Feed,
    store::{Store, StoreError},
    throttle::Throttle,
};
use latchkey_core::{
    cache::{
        mailboxes::{Entry, MailboxCache},
        memos::Memos,
    },
    login::policy,
    model::{
        address::{Address, MailboxKey},
        change::{Revision, ServiceKey},
        clock::{BootTime, SharedClock, Timestamp},
        device::{Generation, Limits},
        protocol::Protocol,
        record::MailboxRecord,
        verdict::{Attempt, ProvenPassword, Reason, Session, Verdict},
    },
};

/// A mailbox that changes this often while one login is under way is not worth more tries.
const MAX_ROUNDS: usize = 8;
/// Denials wait together for a sync: so many syncs in the time that one denial takes, however many guesses
/// there are.
const SYNCS_PER_DENIAL: u32 = 4;

/// No answer: the mail program is told to try later. Never a denial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("the database does not answer")]
    StoreUnavailable,
    #[error("too many logins wait to be hashed")]
    HashingOverloaded,
    #[error("the mailbox changes too fast to be judged")]
    TooManyChanges,
    #[error("the login could not be judged")]
    Internal,
}

/// What a watcher may cache of a login that was allowed.
#[derive(Clone, Debug)]
pub struct Cacheable {
    pub mailbox: MailboxKey,
    pub service: ServiceKey,
    pub generation: Generation,
    pub limits: Limits,
}

/// Logins of one device that were alike, and that a watcher answered from its cache.
#[derive(Clone, Debug)]
pub struct CachedLogins {
    pub session: Session,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: Box<str>,
    pub reason: Reason,
    pub count: u32,
    pub last_time: Timestamp,
}

/// A verdict, and the record that it was judged by.
struct Judged {
    verdict: Verdict,
    entry: Arc<Entry>,
    /// The record was read for this very login, so it is as new as the login.
    is_own_read: bool,
}

/// What judges logins.
pub struct Login {
    pub store: Arc<dyn Store>,
    pub cache: Arc<MailboxCache>,
    pub memos: Arc<Memos>,
    pub feed: Arc<Feed>,
    pub tagger: Arc<Tagger>,
    pub hashing: Arc<HashingPool>,
    pub throttle: Throttle,
    pub history: Arc<LoginHistory>,
    pub upgrades: Upgrades,
    pub clock: SharedClock,
    /// Denials are answered at a multiple of this after the login's arrival: nearly always the first.
    pub denial_delay: Duration,
}

impl Login {
    /// Judges a login, and counts it. A denial takes one fixed time, whatever its cause.
    pub async fn authenticate(self: &Arc<Self>, attempt: &Attempt) -> Result<Verdict, NoAnswer> {
        if let Some(verdict) = self.authenticate_warm(attempt) {
            return Ok(verdict);
        }
        let arrived = self.clock.boot();
        let mut judged = self.judge(attempt, arrived).await?;
        if !judged.verdict.is_allowed() {
            // CreateDevice and whatever else revokes nothing answer at once. A lease says that nothing was
            // revoked unseen; that nothing was allowed unseen, only a sync begun after the login does.
            if !judged.is_own_read && judged.verdict.reason != Reason::Throttled {
                self.feed.sync_with_others(self.denial_delay / SYNCS_PER_DENIAL).await.map_err(|_| NoAnswer::StoreUnavailable)?;
                if !judged.entry.is_current() {
                    judged = self.judge(attempt, arrived).await?;
                }
            }
        }
        let Judged { verdict, entry, .. } = judged;
        if let Some(mailbox) = &entry.read.mailbox {
            self.note(mailbox, attempt, &verdict, self.clock.wall());
        }
        if !verdict.is_allowed() {
            self.wait_for_denial(arrived).await;
        }
        Ok(verdict)
    }

    async fn wait_for_denial(&self, arrived: BootTime) {
        tokio::time::sleep(time_to_denial(self.clock.boot() - arrived, self.denial_delay)).await;
    }

    /// A login that can be allowed at once, from memory: without I/O, argon2 or waiting. Counts it.
    pub fn authenticate_warm(&self, attempt: &Attempt) -> Option<Verdict> {
        let entry = self.cache.get(attempt.address.key())?;
        let mailbox = entry.read.mailbox.as_ref()?;
        let Proof::Proven(place) = proof::find(attempt.password.expose(), mailbox, &self.tagger, &self.memos) else {
            return None;
        };
        // Authority comes last: both must hold after the proof.
        let now = self.clock.wall();
        let revision = self.feed.as_of_lease(&entry, now)?;
        let verdict = Self::verdict(mailbox, place, attempt, now, revision);
        verdict.is_allowed().then(|| {
            self.note(mailbox, attempt, &verdict, now);
            verdict
        })
    }

    /// Counts logins that a watcher answered from its cache.
    pub fn note_cached(&self, cached: &CachedLogins) {
        let Session { password, revision, .. } = &cached.session;
        self.history.note(Noted {
            mailbox_id: password.mailbox_id,
            protocol: cached.protocol,
            client_ip: cached.client_ip,
            frontend: &cached.frontend,
            verdict: &Verdict { reason: cached.reason, revision: *revision, password: Some(*password), retry_after: None },
            time: cached.last_time,
            count: cached.count,
        });
    }

    /// What a watcher may cache of a verdict that allows: as of the verdict's revision, or later.
    pub fn cacheable(&self, address: &Address, verdict: &Verdict) -> Option<Cacheable> {
        let ProvenPassword { device_id, generation, .. } = verdict.password.filter(|_| verdict.is_allowed())?;
        let mailbox = address.key();
        let entry = self.cache.get(mailbox)?;
        let record = entry.read.mailbox.as_ref()?;
        let device = record.active.iter().find(|it| (it.device_id, it.generation) == (device_id, generation))?;
        let limits = device.limits.as_deref().cloned().unwrap_or_default();
        Some(Cacheable { mailbox, service: record.service, generation, limits })
    }

    /// Whether a session is still good. Answers the reason why it ended.
    pub async fn check_session(&self, session: &Session) -> Result<(Reason, Revision), NoAnswer> {
        if session.revision > self.feed.applied() {
            // Its login was answered by a replica that is ahead of this one, or in a history that is lost.
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        for _ in 0..MAX_ROUNDS {
            let (entry, is_own_read) = self.entry(&session.address, session.address.key()).await?;
            let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                continue;
            };
            return Ok((session_state(&entry, session, self.clock.wall()), revision));
        }
        Err(NoAnswer::TooManyChanges)
    }

    async fn judge(self: &Arc<Self>, attempt: &Attempt, arrived: BootTime) -> Result<Judged, NoAnswer> {
        let key = attempt.address.key();
        for _ in 0..MAX_ROUNDS {
            let (entry, is_own_read) = self.entry(&attempt.address, key).await?;
            let Some(mailbox) = &entry.read.mailbox else {
                let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                    continue;
                };
                self.throttle.count(attempt.client_ip, None, self.clock.boot());
                return Ok(Judged { verdict: denied(Reason::UnknownAddress, revision), entry, is_own_read });
            };
            let (proof, hashed) = match proof::find(attempt.password.expose(), mailbox, &self.tagger, &self.memos) {
                Proof::Proven(place) => (Some(place), false),
                Proof::Wrong => (None, false),
                Proof::NeedsHashing(candidates) => match self.throttle.wait(attempt.client_ip, key, arrived) {
                    Some(wait) => {
                        let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                            continue;
                        };
                        let verdict = Verdict { retry_after: Some(wait), ..denied(Reason::Throttled, revision) };
                        return Ok(Judged { verdict, entry, is_own_read });
                    }
                    None => (self.try_candidates(attempt, mailbox, &candidates).await?, true),
                },
            };
            // Authority comes last. What was read before argon2 ran needs a sync or a lease, as if it came from the cache.
            let Some(revision) = self.as_of(&entry, is_own_read && !hashed).await? else {
                continue;
            };
            let now = self.clock.wall();
            let verdict = match proof {
                Some(place) => Self::verdict(mailbox, place, attempt, now, revision),
                None => {
                    self.throttle.count(attempt.client_ip, hashed.then_some(key), self.clock.boot());
                    denied(Reason::WrongPassword, revision)
                }
            };
            return Ok(Judged { verdict, entry, is_own_read });
        }
        Err(NoAnswer::TooManyChanges)
    }

    /// The address's record, from the cache or by one indexed read; and whether it was read for this very login.
    async fn entry(&self, address: &Address, key: MailboxKey) -> Result<(Arc<Entry>, bool), NoAnswer> {
        if let Some(entry) = self.cache.get(key) {
            return Ok((entry, false));
        }
        for _ in 0..MAX_ROUNDS {
            let (load, applied) = (self.cache.begin_load(key), self.feed.applied());
            let read = self.store.read_mailbox(address).await.map_err(no_answer)?;
            if read.revision >= applied {
                return Ok((load.finish(read), true));
            }
            // Older than what was known before it was asked: a database that has gone back in time. The feed has to see to that first.
            drop(load);
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        Err(NoAnswer::StoreUnavailable)
    }

    /// As of which revision a record may be judged by: if it is as new as the login, and no change to the mailbox was applied since it was read. Its own read
    /// is as new as the login; any other needs the lease, or a sync that begins now.
    async fn as_of(&self, entry: &Entry, is_own_read: bool) -> Result<Option<Revision>, NoAnswer> {
        // After an outage an own read is not trusted either: the database may be another one than before, and the feed has to see that first.
        let is_trusted = self.feed.has_lease() || (is_own_read && self.feed.is_synced());
        if !is_trusted {
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        Ok(self.feed.as_of(entry))
    }

    /// Tries them in their order. A right one is remembered, and brought up to date at rest.
    async fn try_candidates(
        self: &Arc<Self>,
        attempt: &Attempt,
        mailbox: &MailboxRecord,
        candidates: &[Candidate],
    ) -> Result<Option<Place>, NoAnswer> {
        for candidate in candidates {
            let hash = self.store.read_hash(candidate.device_id, candidate.generation).await.map_err(no_answer)?;
            // Ended or forgotten meanwhile: the check of authority sees to it.
            let Some(hash) = hash else {
                continue;
            };
            let job = candidate.memo.job();
            if self.hashing.verify(job, attempt.password.clone(), hash.clone()).await.map_err(no_hash)? {
                self.memos.insert(candidate.memo);
                if let Place::Active(place) = candidate.place {
                    self.upgrade_if_due(mailbox, &mailbox.active[place], attempt, &hash);
                }
                return Ok(Some(candidate.place));
            }
        }
        Ok(None)
    }

    fn verdict(mailbox: &MailboxRecord, place: Place, attempt: &Attempt, now: Timestamp, revision: Revision) -> Verdict {
        let (reason, device_id, generation) = match place {
            Place::Active(at) => {
                let device = &mailbox.active[at];
                (policy::judge(mailbox, device, attempt, now), device.device_id, device.generation)
            }
            Place::Ended(at) => {
                let device = &mailbox.ended[at];
                (policy::judge_ended(device), device.device_id, device.generation)
            }
        };
        let password = Some(ProvenPassword { mailbox_id: mailbox.mailbox_id, device_id, generation });
        Verdict { reason, revision, password, retry_after: None }
    }

    fn note(&self, mailbox: &MailboxRecord, attempt: &Attempt, verdict: &Verdict, time: Timestamp) {
        self.history.note(Noted {
            mailbox_id: mailbox.mailbox_id,
            protocol: attempt.protocol,
            client_ip: attempt.client_ip,
            frontend: &attempt.frontend,
            verdict,
            time,
            count: 1,
        });
    }
}

fn denied(reason: Reason, revision: Revision) -> Verdict {
    Verdict { reason, revision, password: None, retry_after: None }
}

/// How much of the delay is left. Who took longer than one waits for the end of the next, so that only the number of delays tells anything.
fn time_to_denial(taken: Duration, delay: Duration) -> Duration {
    let (taken, delay) = (taken.as_nanos(), delay.as_nanos());
    if delay == 0 {
        return Duration::ZERO;
    }
    Duration::from_nanos(u64::try_from(delay - taken % delay).unwrap_or(0))
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

fn no_answer(error: StoreError) -> NoAnswer {
    match error {
        StoreError::Corrupt(_) => {
            error!(%error, "a login could not be judged");
            NoAnswer::Internal
        }
        _ => NoAnswer::StoreUnavailable,
    }
}

fn no_hash(error: HashingError) -> NoAnswer {
    match error {
        HashingError::Overloaded => NoAnswer::HashingOverloaded,
        error => {
            error!(%error, "a password could not be hashed");
            NoAnswer::Internal
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("denial_delay", &self.denial_delay).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_takes_a_whole_number_of_delays() {
        let delay = Duration::from_millis(500);
        for taken in [0, 1, 17, 499, 500, 501, 1_499].map(Duration::from_millis) {
            let total = taken + time_to_denial(taken, delay);
            assert_eq!(total.as_millis() % 500, 0, "{taken:?}");
            assert!(total > taken && total - taken <= delay, "{taken:?}");
        }
    }
}
