//! Logins at a mail host: answered from memory if that can allow them, else asked of a replica.

use super::{
    admission::{Admission, Answer, Reply},
    host::{MailHost, lock},
};
use crate::{
    cache::mailboxes::{Entry, Load},
    downstream::StreamKey,
    login::{policy, proof},
    model::{
        change::Revision,
        record::{MailboxRead, MailboxRecord},
        verdict::{Attempt, ProvenPassword, Reason, Session},
    },
    sync::Arc,
};

/// A login that a replica is to judge: begun before it is asked.
#[derive(Debug)]
pub struct Question<'a> {
    load: Load<'a>,
    applied: Revision,
    epoch: u64,
    stream_key: Option<StreamKey>,
}

impl Question<'_> {
    /// Goes with the question to the replica that is followed.
    pub fn stream_key(&self) -> Option<StreamKey> {
        self.stream_key
    }
}

impl MailHost {
    /// Answers a login from memory, if that can allow it. What is not allowed the replica is to
    /// say: whatever only allows, such as a new device, it need not have told this host yet.
    pub fn answer(&self, attempt: &Attempt) -> Option<Answer> {
        let entry = self.cache.get(attempt.address.key())?;
        let record = entry.read.mailbox.as_ref()?;
        let device = proof::find_remembered(attempt.password.expose(), record, &self.memos)?;
        // Before the entry is looked at: sessions that end after this are of this epoch.
        let epoch = self.epoch();
        let (now, applied) = (self.clock.wall(), self.applied());
        // Authority comes last: both must hold after the proof.
        if !self.lease.holds(self.clock.boot(), now) || !entry.is_current() {
            return None;
        }
        if policy::judge(record, device, attempt, now) != Reason::Ok {
            return None;
        }
        let password =
            ProvenPassword { mailbox_id: record.mailbox_id, device_id: device.device_id, generation: device.generation };
        let session = Session { password, revision: entry.read.revision.max(applied), address: attempt.address.clone() };
        lock(&self.counts).add(attempt, &session, now);
        Some(Answer { reason: Reason::Ok, admission: Some(Admission { session, epoch: Some(epoch) }), is_from_cache: true })
    }

    /// Begins a login that a replica is to judge. Changes applied from here on overtake its answer.
    pub fn ask(&self, attempt: &Attempt) -> Question<'_> {
        let stream_key = *lock(&self.stream_key);
        let epoch = self.epoch();
        let load = self.cache.begin_load(attempt.address.key());
        Question { load, applied: self.applied(), epoch, stream_key }
    }

    /// A replica's answer. `is_of_followed`: it was asked with the question's stream key.
    pub fn answered(&self, question: Question<'_>, attempt: &Attempt, reply: Reply, is_of_followed: bool) -> Answer {
        let Question { load, applied, epoch, stream_key } = question;
        // One that comes after its stream has ended may know less than the next stream tells.
        let is_followed_still = is_of_followed && stream_key.is_some() && *lock(&self.stream_key) == stream_key;
        let is_known = is_followed_still && reply.revision >= applied;
        if let (true, Some(session), Some(record)) = (is_known, &reply.session, reply.record) {
            self.remember(load, attempt, session.password, reply.revision, record);
        }
        let epoch = is_known.then_some(epoch);
        let admission = reply.session.map(|session| Admission { session, epoch });
        Answer { reason: reply.reason, admission, is_from_cache: false }
    }

    /// Puts a proven device into the cache, beside those of the mailbox that are there and still
    /// current.
    fn remember(&self, load: Load<'_>, attempt: &Attempt, password: ProvenPassword, revision: Revision, record: MailboxRecord) {
        let before: Option<Arc<Entry>> = self.cache.get(attempt.address.key()).filter(|entry| entry.is_current());
        let (mut record, mut revision) = (record, revision);
        if let Some(before) = &before
            && let Some(known) = before.read.mailbox.as_ref().filter(|known| known.mailbox_id == record.mailbox_id)
        {
            let others = known.active.iter().filter(|device| device.device_id != password.device_id).cloned();
            record.active = record.active.into_vec().into_iter().chain(others).collect();
            // The whole is as old as its oldest part.
            revision = revision.min(before.read.revision);
        }
        self.memos.insert(self.memos.of(password.device_id, password.generation, attempt.password.expose()));
        load.finish(MailboxRead { revision, mailbox: Some(record) });
    }
}
