//! The sessions that this process's watchers have open, and what a change does to them.

use hashbrown::{HashMap, HashSet};

use crate::model::{
    address::MailboxKey,
    change::{Change, Scope},
    session::{LiveSession, OpenSession, SessionKey},
    verdict::Session,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: HashMap<SessionKey, Open>,
    by_mailbox: HashMap<MailboxKey, HashSet<SessionKey>>,
    by_watcher: HashMap<u64, HashSet<u64>>,
    /// Not in the store yet.
    opened: Vec<SessionKey>,
    closed: Vec<SessionKey>,
}

#[derive(Debug)]
struct Open {
    /// As the frontend was answered it.
    session: Session,
    shown: OpenSession,
}

/// The sessions that a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned {
    /// Opened with a password that it ended.
    pub ended: Vec<SessionKey>,
    /// Of its mailboxes otherwise: to be judged anew.
    pub doubtful: Vec<SessionKey>,
}

impl Sessions {
    /// Whether the number was free.
    pub(super) fn open(&mut self, key: SessionKey, session: Session, shown: OpenSession) -> bool {
        if self.open.contains_key(&key) {
            return false;
        }
        self.by_mailbox.entry(session.address.key()).or_default().insert(key);
        self.by_watcher.entry(key.watcher).or_default().insert(key.number);
        self.open.insert(key, Open { session, shown });
        self.opened.push(key);
        true
    }

    /// Whether it was open.
    pub(super) fn close(&mut self, key: SessionKey) -> bool {
        let Some(Open { session, .. }) = self.open.remove(&key) else {
            return false;
        };
        let mailbox = session.address.key();
        if let Some(keys) = self.by_mailbox.get_mut(&mailbox) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_mailbox.remove(&mailbox);
            }
        }
        if let Some(numbers) = self.by_watcher.get_mut(&key.watcher) {
            numbers.remove(&key.number);
            if numbers.is_empty() {
                self.by_watcher.remove(&key.watcher);
            }
        }
        self.closed.push(key);
        true
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.open.get(&key).map(|open| &open.session)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// All of one watcher's.
    pub(super) fn of_watcher(&self, watcher: u64) -> Vec<SessionKey> {
        let numbers = self.by_watcher.get(&watcher).into_iter().flatten();
        numbers.map(|number| SessionKey { watcher, number: *number }).collect()
    }

    pub(super) fn concerned(&self, change: &Change) -> Concerned {
        let mut concerned = Concerned::default();
        let mut sort = |key: SessionKey, open: &Open| {
            let session = &open.session;
            // Its login was judged after the change; or in another history, which only the store
            // knows.
            let is_later = session.revision >= change.revision;
            let has_ended = change
                .ended
                .iter()
                .any(|ended| ended.device_id == session.password.device_id && ended.generation >= session.password.generation);
            if has_ended && !is_later { concerned.ended.push(key) } else { concerned.doubtful.push(key) }
        };
        match &change.scope {
            Scope::Mailboxes(mailboxes) => {
                let keys = mailboxes.iter().filter_map(|mailbox| self.by_mailbox.get(mailbox)).flatten();
                keys.for_each(|key| sort(*key, &self.open[key]));
            }
            // Which service a session's mailbox belongs to is not known here.
            Scope::Service(_) => self.open.iter().for_each(|(key, open)| sort(*key, open)),
        }
        concerned
    }

    /// What the store does not know yet. What was opened and closed meanwhile it need not know.
    pub(super) fn take_unwritten(&mut self) -> (Vec<LiveSession>, Vec<SessionKey>) {
        let opened = std::mem::take(&mut self.opened);
        let opened = opened.into_iter().filter_map(|key| {
            let session = self.open.get(&key)?.shown.clone();
            Some(LiveSession { key, session })
        });
        (opened.collect(), std::mem::take(&mut self.closed))
    }

    pub(super) fn put_back_unwritten(&mut self, opened: &[LiveSession], closed: Vec<SessionKey>) {
        self.opened.extend(opened.iter().map(|live| live.key));
        self.closed.extend(closed);
    }

    /// The store knows none of them: they are written once more.
    pub(super) fn write_anew(&mut self) {
        self.opened = self.open.keys().copied().collect();
        self.closed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        address::Address,
        change::{Ended, Revision, ServiceKey},
        clock::Timestamp,
        id::{DeviceId, MailboxId},
        protocol::Protocol,
        verdict::{ProvenPassword, Reason},
    };

    fn session(address: &str, device_id: DeviceId, generation: u32) -> (Session, OpenSession) {
        let password = ProvenPassword { mailbox_id: MailboxId::from_parts(Timestamp(0), [8; 10]), device_id, generation };
        let address = Address::parse("address", address).unwrap();
        let shown = OpenSession {
            password,
            protocol: Protocol::Imap,
            client_ip: None,
            open_time: Timestamp(0),
            frontend: "imap1".to_owned(),
        };
        (Session { password, revision: Revision(1), address }, shown)
    }

    fn key(number: u64) -> SessionKey {
        SessionKey { watcher: 1, number }
    }

    #[test]
    fn a_change_ends_exactly_the_sessions_of_its_device_and_generation() {
        let (phone, laptop) = (DeviceId::from_parts(Timestamp(0), [9; 10]), DeviceId::from_parts(Timestamp(0), [10; 10]));
        let mut sessions = Sessions::default();
        for (number, address, device, generation) in [
            (1, "alice@example.com", phone, 1),
            (2, "alice@example.com", phone, 2),
            (3, "alice@example.com", phone, 3),
            (4, "alice@example.com", laptop, 1),
            (5, "bob@example.com", phone, 1),
        ] {
            let (session, shown) = session(address, device, generation);
            assert!(sessions.open(key(number), session, shown));
        }
        let alice = Address::parse("address", "alice@example.com").unwrap().key();
        let ended = vec![Ended { device_id: phone, generation: 2, reason: Reason::DeviceDisconnected }];
        let change = |scope| Change { revision: Revision(2), nonce: 1, scope, ended: ended.clone() };
        let sorted = |concerned: Concerned| {
            let numbers = |mut keys: Vec<SessionKey>| {
                keys.sort_unstable();
                keys.into_iter().map(|key| key.number).collect::<Vec<_>>()
            };
            (numbers(concerned.ended), numbers(concerned.doubtful))
        };
        let concerned = sessions.concerned(&change(Scope::Mailboxes(vec![alice])));
        assert_eq!(sorted(concerned), (vec![1, 2], vec![3, 4]));
        let concerned = sessions.concerned(&change(Scope::Service(ServiceKey(1))));
        assert_eq!(sorted(concerned).1, vec![3, 4]);
        let mut before = change(Scope::Mailboxes(vec![alice]));
        before.revision = Revision(1);
        assert_eq!(
            sorted(sessions.concerned(&before)),
            (vec![], vec![1, 2, 3, 4]),
            "their logins have seen it, or another history"
        );
    }

    #[test]
    fn the_store_learns_what_is_open_and_no_more() {
        let mut sessions = Sessions::default();
        let device = DeviceId::from_parts(Timestamp(0), [11; 10]);
        let open = |sessions: &mut Sessions, number| {
            let (session, shown) = session("alice@example.com", device, 1);
            sessions.open(key(number), session, shown)
        };
        assert!(open(&mut sessions, 1) && open(&mut sessions, 2));
        assert!(!open(&mut sessions, 2), "a number is used once at a time");
        assert!(sessions.close(key(1)) && !sessions.close(key(1)));
        let numbers = |(opened, closed): (Vec<LiveSession>, Vec<SessionKey>)| {
            (opened.iter().map(|live| live.key.number).collect::<Vec<_>>(), closed.len())
        };
        assert_eq!(numbers(sessions.take_unwritten()), (vec![2], 1));
        assert_eq!(numbers(sessions.take_unwritten()), (vec![], 0));
        sessions.write_anew();
        assert_eq!(numbers(sessions.take_unwritten()), (vec![2], 0));
        sessions.close(key(2));
        assert!(sessions.by_mailbox.is_empty() && sessions.len() == 0);
    }
}
