//! The newest rows of the change log, in memory: for watchers that come back after a cut, for
//! sessions that open late, and for a database that has lost some.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashMap;

use crate::model::{
    address::MailboxKey,
    change::{Change, Ended, Position, Revision, Scope},
    device::Generation,
    id::DeviceId,
    verdict::Reason,
};

/// Rows kept, at most.
const MAX_CHANGES: usize = 16_384;
/// Mailboxes that they name, at most: a row of an import names thousands.
const MAX_MAILBOXES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Recent {
    /// The row before the first one kept.
    before: Position,
    changes: VecDeque<Arc<Change>>,
    mailboxes: usize,
    /// Which passwords they ended, and when.
    ended: HashMap<DeviceId, Vec<(Ended, Revision)>>,
    /// The newest change of a mailbox that does not name what it ended.
    unnamed: HashMap<MailboxKey, Revision>,
    /// The newest such change of a whole mail service, whichever.
    unnamed_of_service: Revision,
}

impl Recent {
    pub fn begin(at: Position) -> Self {
        Self {
            before: at,
            changes: VecDeque::new(),
            mailboxes: 0,
            ended: HashMap::new(),
            unnamed: HashMap::new(),
            unnamed_of_service: Revision::default(),
        }
    }

    pub fn head(&self) -> Position {
        self.changes.back().map_or(self.before, |change| change.position())
    }

    pub fn push(&mut self, change: Arc<Change>) {
        for ended in &change.ended {
            self.ended.entry(ended.device_id).or_default().push((*ended, change.revision));
        }
        if !change.names_what_it_ended() {
            match &change.scope {
                Scope::Mailboxes(keys) => self.unnamed.extend(keys.iter().map(|key| (*key, change.revision))),
                Scope::Service(_) => self.unnamed_of_service = change.revision,
            }
        }
        self.mailboxes += mailboxes_of(&change);
        self.changes.push_back(change);
        while self.changes.len() > MAX_CHANGES || self.mailboxes > MAX_MAILBOXES {
            self.forget_oldest();
        }
    }

    /// What came after a position: `None` if that is not known any more, or of another history.
    pub fn since(&self, position: Position) -> Option<Vec<Arc<Change>>> {
        let skipped = position.revision.0.checked_sub(self.before.revision.0)?;
        let skipped = usize::try_from(skipped).ok()?;
        let known = match skipped.checked_sub(1) {
            None => self.before,
            Some(last) => self.changes.get(last)?.position(),
        };
        (known == position).then(|| self.changes.range(skipped..).cloned().collect())
    }

    /// Whether it knows of every change after `revision`. Of one that is still to come it does not:
    /// that may be of another history.
    pub fn covers(&self, revision: Revision) -> bool {
        (self.before.revision..=self.head().revision).contains(&revision)
    }

    /// Why, and by which change, a password has ended after `revision`, if it has.
    pub fn end_of(&self, device_id: DeviceId, generation: Generation, after: Revision) -> Option<(Reason, Revision)> {
        let ended = self.ended.get(&device_id)?;
        let found = ended.iter().find(|(last, revision)| last.generation >= generation && *revision > after);
        found.map(|(ended, revision)| (ended.reason, *revision))
    }

    /// The newest change after `after` that may have ended sessions of the mailbox without naming
    /// their passwords.
    pub fn doubt_about(&self, mailbox: &MailboxKey, after: Revision) -> Option<Revision> {
        let of_mailbox = self.unnamed.get(mailbox).copied().unwrap_or_default();
        Some(of_mailbox.max(self.unnamed_of_service)).filter(|revision| *revision > after)
    }

    /// All rows that ended passwords.
    pub fn revocations(&self) -> impl Iterator<Item = &Arc<Change>> {
        self.changes.iter().filter(|change| !change.ended.is_empty())
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.changes.pop_front() else {
            return;
        };
        self.before = oldest.position();
        self.mailboxes -= mailboxes_of(&oldest);
        if let Scope::Mailboxes(keys) = &oldest.scope {
            for key in keys {
                if self.unnamed.get(key) == Some(&oldest.revision) {
                    self.unnamed.remove(key);
                }
            }
        }
        for ended in &oldest.ended {
            if let Some(kept) = self.ended.get_mut(&ended.device_id) {
                kept.retain(|(_, revision)| *revision > oldest.revision);
                if kept.is_empty() {
                    self.ended.remove(&ended.device_id);
                }
            }
        }
    }
}

fn mailboxes_of(change: &Change) -> usize {
    match &change.scope {
        Scope::Mailboxes(keys) => keys.len(),
        Scope::Service(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{change::ServiceKey, clock::Timestamp};

    fn at(revision: u64) -> Position {
        Position { revision: Revision(revision), nonce: i64::try_from(revision).unwrap() * 10 }
    }

    fn change(revision: u64, ended: Vec<Ended>) -> Arc<Change> {
        let Position { revision, nonce } = at(revision);
        Arc::new(Change { revision, nonce, scope: Scope::Mailboxes(vec![]), ended })
    }

    fn recent(ended: &[Ended]) -> Recent {
        let mut recent = Recent::begin(at(4));
        recent.push(change(5, vec![]));
        recent.push(change(6, ended.to_vec()));
        recent
    }

    #[test]
    fn who_comes_back_is_told_exactly_what_it_missed() {
        let recent = recent(&[]);
        let revisions = |from: Position| recent.since(from).map(|all| all.iter().map(|c| c.revision.0).collect::<Vec<_>>());
        assert_eq!(revisions(at(4)), Some(vec![5, 6]));
        assert_eq!(revisions(at(5)), Some(vec![6]));
        assert_eq!(revisions(at(6)), Some(vec![]));
        assert_eq!(revisions(at(3)), None, "too old");
        assert_eq!(revisions(at(7)), None, "from the future");
        for revision in [4, 5, 6] {
            assert_eq!(revisions(Position { nonce: 1, ..at(revision) }), None, "of another history");
        }
    }

    #[test]
    fn it_knows_which_mailboxes_may_have_lost_sessions_without_saying_whose() {
        let (alice, bob) = (MailboxKey([1; 16]), MailboxKey([2; 16]));
        let ended = Ended { device_id: DeviceId::from_parts(Timestamp(0), [12; 10]), generation: 1, reason: Reason::Ok };
        let of = |revision, scope, ended| Arc::new(Change { scope, ..(*change(revision, ended)).clone() });
        let mut recent = Recent::begin(at(4));
        recent.push(of(5, Scope::Mailboxes(vec![alice]), vec![]));
        recent.push(of(6, Scope::Mailboxes(vec![alice, bob]), vec![ended]));
        assert_eq!(recent.doubt_about(&alice, Revision(4)), Some(Revision(5)));
        assert_eq!(recent.doubt_about(&alice, Revision(5)), None, "its login has seen it");
        assert_eq!(recent.doubt_about(&bob, Revision(4)), None, "what ended is named");
        recent.push(of(7, Scope::Service(ServiceKey(1)), vec![]));
        assert_eq!(recent.doubt_about(&bob, Revision(6)), Some(Revision(7)));
        for revision in 8..=7 + MAX_CHANGES as u64 {
            recent.push(change(revision, vec![]));
        }
        assert!(recent.unnamed.is_empty());
    }

    #[test]
    fn it_knows_which_passwords_ended_and_forgets_in_bounds() {
        let device_id = DeviceId::from_parts(Timestamp(0), [12; 10]);
        let mut recent = recent(&[Ended { device_id, generation: 2, reason: Reason::DeviceDisconnected }]);
        let ended = |recent: &Recent, generation, after| recent.end_of(device_id, generation, Revision(after)).is_some();
        assert!(ended(&recent, 2, 5) && ended(&recent, 1, 5), "and those before it");
        assert!(!ended(&recent, 3, 5) && !ended(&recent, 2, 6), "neither a later one nor a later login");
        for revision in 7..=6 + MAX_CHANGES as u64 {
            recent.push(change(revision, vec![]));
        }
        assert!(!ended(&recent, 2, 5) && !recent.covers(Revision(5)) && recent.covers(Revision(6)));
        assert!(recent.ended.is_empty());
    }
}
