//! Judges logins: record, proof, authority, policy (docs/design.md, "A login"). A warm login passes
//! through [`Login::authenticate_warm`] alone, without an await and without an allocation.

use std::{fmt, sync::Arc, time::Duration};

use tracing::error;

use super::{
    answer::{Judged, NoAnswer},
    proof::{self, Candidate, Place, Proof},
    upgrade::Upgrades,
};
use crate::{
    hashing::{HashingError, HashingPool},
    login_log::{LoginLog, Noted},
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
        address::Address,
        change::Revision,
        clock::{BootTime, SharedClock, Timestamp},
        record::MailboxRecord,
        verdict::{Attempt, ProvenPassword, Reason, Verdict},
    },
};

/// A mailbox that changes this often while one login is under way is not worth more tries.
pub(super) const MAX_ROUNDS: usize = 8;
/// Denials wait together for a sync: so many syncs in the time that one denial takes, however many
/// guesses there are.
const SYNCS_PER_DENIAL: u32 = 4;

/// What was found of a login that memory alone could not allow. Judging it takes this over, so that
/// nothing is looked up or proven twice.
#[derive(Debug)]
pub struct Cold(Option<Found>);

/// A mailbox's record, and which of its devices the login's password belongs to.
#[derive(Debug)]
struct Found {
    entry: Arc<Entry>,
    /// Read for this very login.
    is_own_read: bool,
    /// `None`: there is no mailbox.
    proof: Option<Proof>,
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
    pub login_log: Arc<LoginLog>,
    pub upgrades: Upgrades,
    pub clock: SharedClock,
    /// Denials are answered at a multiple of this after the login's arrival: nearly always the
    /// first.
    pub denial_delay: Duration,
}

impl Login {
    /// Judges a login, and counts it. A denial takes one fixed time, whatever its cause.
    pub async fn authenticate(&self, attempt: &Attempt) -> Result<Judged, NoAnswer> {
        match self.authenticate_warm(attempt) {
            Ok(judged) => Ok(judged),
            Err(cold) => self.authenticate_cold(attempt, cold).await,
        }
    }

    /// A login that can be allowed at once, from memory: without I/O, argon2 or waiting. Counts it.
    pub fn authenticate_warm(&self, attempt: &Attempt) -> Result<Judged, Cold> {
        let Some(entry) = self.cache.get(attempt.address.key()) else {
            return Err(Cold(None));
        };
        let Some(mailbox) = &entry.read.mailbox else {
            return Err(Cold(Some(Found { entry, is_own_read: false, proof: None })));
        };
        let proof = proof::find(attempt.password.expose(), mailbox, &self.tagger, &self.memos);
        if let Proof::Proven(place) = proof {
            // Authority comes last: both must hold after the proof.
            let now = self.clock.wall();
            if let Some(revision) = self.feed.as_of_lease(&entry, now) {
                let verdict = Self::verdict(mailbox, place, attempt, now, revision);
                if verdict.is_allowed() {
                    self.note(mailbox, attempt, &verdict, now);
                    return Ok(Judged { verdict, entry, place: Some(place), is_own_read: false });
                }
            }
        }
        Err(Cold(Some(Found { entry, is_own_read: false, proof: Some(proof) })))
    }

    /// Judges a login that [`Self::authenticate_warm`] could not allow, and counts it.
    pub async fn authenticate_cold(&self, attempt: &Attempt, cold: Cold) -> Result<Judged, NoAnswer> {
        let arrived = self.clock.boot();
        let mut judged = self.judge(attempt, arrived, cold).await?;
        if !judged.is_allowed() {
            // CreateDevice and whatever else revokes nothing answer at once. A lease says that
            // nothing was revoked unseen; that nothing was allowed unseen, only a sync begun after
            // the login does.
            if !judged.is_own_read && judged.verdict.reason != Reason::Throttled {
                self.feed.sync_with_others(self.denial_delay / SYNCS_PER_DENIAL).await.map_err(|_| NoAnswer::StoreUnavailable)?;
                if !judged.entry.is_current() {
                    judged = self.judge(attempt, arrived, Cold(None)).await?;
                }
            }
        }
        if let Some(mailbox) = &judged.entry.read.mailbox {
            self.note(mailbox, attempt, &judged.verdict, self.clock.wall());
        }
        if !judged.is_allowed() {
            self.login_log.count_denial(judged.verdict.reason);
            self.wait_for_denial(arrived).await;
        }
        Ok(judged)
    }

    async fn wait_for_denial(&self, arrived: BootTime) {
        tokio::time::sleep(time_to_denial(self.clock.boot() - arrived, self.denial_delay)).await;
    }

    /// The verdict, and the record that it was judged by.
    async fn judge(&self, attempt: &Attempt, arrived: BootTime, cold: Cold) -> Result<Judged, NoAnswer> {
        let mut found = cold.0;
        for _ in 0..MAX_ROUNDS {
            let Found { entry, is_own_read, proof } = match found.take() {
                Some(found) => found,
                None => self.find(attempt).await?,
            };
            let (Some(mailbox), Some(proof)) = (&entry.read.mailbox, proof) else {
                let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                    continue;
                };
                self.throttle.count(attempt.client_ip, None, self.clock.boot());
                return Ok(Judged { verdict: denied(Reason::UnknownAddress, revision), entry, place: None, is_own_read });
            };
            let key = attempt.address.key();
            let (place, hashed) = match proof {
                Proof::Proven(place) => (Some(place), false),
                Proof::Wrong => (None, false),
                Proof::NeedsHashing(candidates) => match self.throttle.wait(attempt.client_ip, key, arrived) {
                    Some(wait) => {
                        let Some(revision) = self.as_of(&entry, is_own_read).await? else {
                            continue;
                        };
                        let verdict = Verdict { retry_after: Some(wait), ..denied(Reason::Throttled, revision) };
                        return Ok(Judged { verdict, entry, place: None, is_own_read });
                    }
                    None => (self.try_candidates(attempt, mailbox, &candidates).await?, true),
                },
            };
            // Authority comes last. What was read before argon2 ran needs a sync or a lease, as if
            // it came from the cache.
            let Some(revision) = self.as_of(&entry, is_own_read && !hashed).await? else {
                continue;
            };
            let now = self.clock.wall();
            let verdict = match place {
                Some(place) => Self::verdict(mailbox, place, attempt, now, revision),
                None => {
                    self.throttle.count(attempt.client_ip, hashed.then_some(key), self.clock.boot());
                    denied(Reason::WrongPassword, revision)
                }
            };
            return Ok(Judged { verdict, entry, place, is_own_read });
        }
        Err(NoAnswer::TooManyChanges)
    }

    async fn find(&self, attempt: &Attempt) -> Result<Found, NoAnswer> {
        let (entry, is_own_read) = self.entry(&attempt.address).await?;
        let mailbox = entry.read.mailbox.as_ref();
        let proof = mailbox.map(|mailbox| proof::find(attempt.password.expose(), mailbox, &self.tagger, &self.memos));
        Ok(Found { entry, is_own_read, proof })
    }

    /// The address's record, from the cache or by one indexed read; and whether it was read for
    /// this very login.
    pub(super) async fn entry(&self, address: &Address) -> Result<(Arc<Entry>, bool), NoAnswer> {
        let key = address.key();
        if let Some(entry) = self.cache.get(key) {
            return Ok((entry, false));
        }
        for _ in 0..MAX_ROUNDS {
            let (load, applied) = (self.cache.begin_load(key), self.feed.applied());
            let read = self.store.read_mailbox(address).await.map_err(no_answer)?;
            if read.revision >= applied {
                return Ok((load.finish(read), true));
            }
            // Older than what was known before it was asked: a database that has gone back in time.
            // The feed has to see to that first.
            drop(load);
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        Err(NoAnswer::StoreUnavailable)
    }

    /// As of which revision a record may be judged by: if it is as new as the login, and no change
    /// to the mailbox was applied since it was read. Its own read is as new as the login; any other
    /// needs the lease, or a sync that begins now.
    pub(super) async fn as_of(&self, entry: &Entry, is_own_read: bool) -> Result<Option<Revision>, NoAnswer> {
        // After an outage an own read is not trusted either: the database may be another one than
        // before, and the feed has to see that first.
        let is_trusted = self.feed.has_lease() || (is_own_read && self.feed.is_synced());
        if !is_trusted {
            self.feed.sync().await.map_err(|_| NoAnswer::StoreUnavailable)?;
        }
        Ok(self.feed.as_of(entry))
    }

    /// Tries them in their order. A right one is remembered, and brought up to date at rest.
    async fn try_candidates(
        &self,
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
                    self.upgrades.begin_if_due(mailbox, &mailbox.active[place], attempt, &hash);
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
        self.login_log.note(Noted {
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

/// How much of the delay is left. A login that took longer waits for the end of the next delay, so
/// that only the number of delays can reveal anything.
fn time_to_denial(taken: Duration, delay: Duration) -> Duration {
    let (taken, delay) = (taken.as_nanos(), delay.as_nanos());
    if delay == 0 {
        return Duration::ZERO;
    }
    Duration::from_nanos(u64::try_from(delay - taken % delay).unwrap_or(0))
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
