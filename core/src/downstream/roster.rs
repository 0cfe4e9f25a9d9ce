//! The watchers of a process as a state machine: events and the time come in, [`Action`]s go out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use uuid::Uuid;

use super::{
    Acknowledged, CutOff, Doubtful, End, Hello, MAX_SESSIONS, MAX_WATCHERS, Message, Opened, ProtocolError, QUEUE, SessionsEnded,
    StreamKey, Welcome,
    delivery::{BadAcknowledgement, Delivery},
    ending::{Counted, Endings},
    keys::StreamKeys,
    recent::Recent,
    sessions::Sessions,
};
use crate::model::{
    change::{Change, Position, Revision},
    clock::BootTime,
    session::{Closing, OpenSession, SessionKey},
    verdict::{Reason, Session},
};

/// What the owner of the queues is to do, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Put a message at the end of a watcher's queue; if that is full, say so with
    /// [`Roster::queue_is_full`].
    Send { watcher: u64, message: Message },
    /// End a watcher's stream.
    CutOff { watcher: u64, why: CutOff },
}

/// See the module.
#[derive(Debug)]
pub struct Roster {
    /// What is to be done, not taken yet.
    actions: VecDeque<Action>,
    keys: Arc<StreamKeys>,
    pub(super) recent: Recent,
    pub(super) next_number: u64,
    pub(super) connected: HashMap<u64, Watcher>,
    /// Cut off or gone, and perhaps not over yet.
    pub(super) departed: Vec<Departed>,
    pub(super) sessions: Sessions,
    /// How many of those connected observe.
    pub(super) observers: usize,
    /// Changes that some watcher has not acknowledged.
    pub(super) open: BTreeMap<Revision, OpenChange>,
    /// When the newest changes were applied: for observers.
    pub(super) applied: VecDeque<(Revision, BootTime)>,
    /// The sessions that changes ended, or may have ended.
    pub(super) endings: Endings,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) name: String,
    pub(super) id: Uuid,
    pub(super) observes: bool,
    pub(super) delivery: Delivery,
    pub(super) key: StreamKey,
    /// The last one put into its queue.
    pub(super) position: Position,
    pub(super) sessions: usize,
}

#[derive(Debug)]
pub(super) struct Departed {
    pub(super) number: u64,
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) delivery: Delivery,
}

/// A change on its way through the watchers.
#[derive(Debug)]
pub(super) struct OpenChange {
    /// Up to where nobody is waited for while it is the first.
    pub(super) settled: Revision,
    pub(super) applied: BootTime,
    /// Who has not acknowledged it.
    pub(super) waited_for: usize,
}

impl Roster {
    pub(super) fn new(keys: Arc<StreamKeys>) -> Self {
        Self {
            keys,
            actions: VecDeque::new(),
            recent: Recent::begin(Position::default()),
            next_number: 1,
            connected: HashMap::new(),
            departed: vec![],
            sessions: Sessions::default(),
            observers: 0,
            open: BTreeMap::new(),
            applied: VecDeque::new(),
            endings: Endings::default(),
        }
    }

    /// The next thing to do, if there is one.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A message did not fit: the watcher is cut off.
    pub fn queue_is_full(&mut self, number: u64) {
        self.cut_off(number, CutOff::TooSlow);
    }

    /// How many changes the slowest watcher was sent and has not acknowledged.
    pub fn furthest_behind(&self) -> usize {
        self.connected.values().map(|watcher| watcher.delivery.unacknowledged()).max().unwrap_or(0)
    }

    /// When somebody is waited for no longer.
    pub fn next_expiry(&self) -> Option<BootTime> {
        let connected = self.connected.values().filter_map(|watcher| watcher.delivery.next_expiry());
        connected.chain(self.departed.iter().filter_map(|departed| departed.delivery.next_expiry())).min()
    }

    /// Whether some watcher may still answer from its cache.
    pub fn has_leases(&self, now: BootTime) -> bool {
        self.connected.values().any(|it| it.delivery.has_lease(now)) || self.departed.iter().any(|it| it.delivery.has_lease(now))
    }

    /// A watcher connects, or connects again.
    pub fn hello(&mut self, hello: Hello, now: BootTime) -> Result<Welcome, ProtocolError> {
        let before = self.connected.iter().find(|(_, watcher)| watcher.id == hello.id).map(|(number, _)| *number);
        if let Some(before) = before {
            self.cut_off(before, CutOff::Replaced);
        }
        if self.connected.len() >= MAX_WATCHERS {
            return Err(ProtocolError::TooManyWatchers);
        }
        let number = self.next_number;
        self.next_number += 1;
        let head = self.recent.head();
        let missed = hello.resume.and_then(|position| self.recent.since(position)).filter(|missed| missed.len() < QUEUE);
        let starts_empty = missed.is_none();
        let position = hello.resume.filter(|_| !starts_empty).unwrap_or(head);
        let earlier = self.departed.iter().position(|departed| departed.id == hello.id);
        let earlier = earlier.map(|at| self.departed.swap_remove(at));
        let delivery = match &earlier {
            Some(departed) if !starts_empty => departed.delivery.resumed(position.revision),
            _ => Delivery::begin(position.revision),
        };
        let watcher =
            Watcher { name: hello.name, id: hello.id, observes: hello.observes, delivery, key: hello.key, position, sessions: 0 };
        self.observers += usize::from(hello.observes);
        self.keys.insert(hello.key);
        self.connected.insert(number, watcher);
        for change in missed.into_iter().flatten() {
            self.tell_one(number, &change, now);
        }
        if let Some(departed) = earlier {
            self.endings.rename(departed.number, number);
            self.come_back(departed, position.revision, starts_empty, now);
        }
        Ok(Welcome { number, position, starts_empty })
    }

    /// Tells a watcher that this process stops.
    pub fn drain(&mut self, number: u64) {
        self.send(number, Message::Draining);
    }

    /// The stream has ended: the watcher is waited for until its lease has expired.
    pub fn goodbye(&mut self, number: u64) {
        self.depart(number);
    }

    /// Hands on what this process's own lease has left.
    pub fn renew(&mut self, number: u64, asked: u64, lease: Duration, now: BootTime) -> Result<(), ProtocolError> {
        let watcher = self.connected.get_mut(&number).ok_or(ProtocolError::CutOff)?;
        watcher.delivery.grant(now, lease);
        // Every change so far was sent to it, so both are the same.
        let position = watcher.position;
        self.send(number, Message::Granted { number: asked, lease, previous: position, position });
        Ok(())
    }

    /// Nothing from before `revision` is used by the watcher any more. Whether somebody may go on
    /// who waited for this.
    pub fn acknowledge(&mut self, number: u64, revision: Revision, now: BootTime) -> Result<bool, ProtocolError> {
        let watcher = self.connected.get_mut(&number).ok_or(ProtocolError::CutOff)?;
        let acknowledged = watcher.delivery.acknowledge(revision).map_err(|bad| match bad {
            BadAcknowledgement::FromTheFuture => ProtocolError::AcknowledgesTheFuture,
            BadAcknowledgement::Backwards => ProtocolError::AcknowledgesBackwards,
        })?;
        let before = self.settled();
        self.is_settled_by(number, &acknowledged, true, now);
        Ok(self.settled() != before)
    }

    /// The watcher uses its cache no more.
    pub fn surrender(&mut self, number: u64, now: BootTime) -> Result<(), ProtocolError> {
        let watcher = self.connected.get_mut(&number).ok_or(ProtocolError::CutOff)?;
        let settled = watcher.delivery.surrender();
        self.is_settled_by(number, &settled, false, now);
        Ok(())
    }

    /// The watcher has opened a session. If its password has ended since the login was answered, it
    /// is closed at once. What memory can't decide is for the stream's handler to judge.
    pub fn session_opened(
        &mut self,
        number: u64,
        session_number: u64,
        session: Session,
        shown: OpenSession,
        now: BootTime,
    ) -> Result<Opened, ProtocolError> {
        let watcher = self.connected.get_mut(&number).ok_or(ProtocolError::CutOff)?;
        if watcher.sessions >= MAX_SESSIONS {
            return Err(ProtocolError::TooManySessions);
        }
        let key = SessionKey { watcher: number, number: session_number };
        let password = session.password;
        let (mailbox, revision) = (session.address.key(), session.revision);
        if !self.sessions.open(key, session, shown) {
            return Err(ProtocolError::SessionNumberTaken);
        }
        watcher.sessions += 1;
        if let Some((reason, cause)) = self.recent.end_of(password.device_id, password.generation, revision) {
            self.endings.add(cause, key, &watcher.name, now);
            self.send(number, Message::Close { numbers: vec![session_number], reason, revision: cause });
            return Ok(Opened::Closed);
        }
        if !self.recent.covers(revision) {
            return Ok(Opened::Doubtful { cause: None });
        }
        let Some(cause) = self.recent.doubt_about(&mailbox, revision) else {
            return Ok(Opened::Good);
        };
        self.endings.doubt(cause, key, &watcher.name);
        Ok(Opened::Doubtful { cause: Some(cause) })
    }

    /// Sessions have ended, or are refused at their next command. Whether a change had ended their
    /// passwords, so that somebody may wait for this.
    pub fn sessions_ended(
        &mut self,
        number: u64,
        session_numbers: &[u64],
        end: End,
        now: BootTime,
    ) -> Result<bool, ProtocolError> {
        let mut is_counted = false;
        for session_number in session_numbers {
            let watcher = self.connected.get_mut(&number).ok_or(ProtocolError::CutOff)?;
            let key = SessionKey { watcher: number, number: *session_number };
            let is_open = match end {
                End::Closed => {
                    watcher.sessions = watcher.sessions.saturating_sub(1);
                    self.sessions.close(key)
                }
                End::Refused => self.sessions.get(key).is_some(),
            };
            if !is_open {
                return Err(ProtocolError::SessionNotOpen);
            }
            is_counted |= self.report(key, end, now);
        }
        Ok(is_counted)
    }

    /// What became of a session that a change may have ended.
    fn report(&mut self, key: SessionKey, end: End, now: BootTime) -> bool {
        let Some(Counted { revision, took }) = self.endings.report(key, end, now) else {
            return false;
        };
        if self.observers > 0
            && let Some(watcher) = self.connected.get(&key.watcher)
        {
            let (closed, refused) = match end {
                End::Closed => (1, 0),
                End::Refused => (0, 1),
            };
            let name = watcher.name.clone();
            self.observed(&Message::SessionsEnded(SessionsEnded { revision, name, took, closed, refused }));
        }
        true
    }

    /// What is to be written of changes up to `settled`, once.
    pub(super) fn take_closings(&mut self, settled: Revision) -> Vec<Closing> {
        let later = self.endings.unwritten.split_off(&Revision(settled.0.saturating_add(1)));
        let due = std::mem::replace(&mut self.endings.unwritten, later);
        due.into_iter().filter_map(|revision| self.endings.closing(revision)).collect()
    }

    /// A session was judged as of `revision`: if it is not valid any more, its watcher is told to
    /// close it. Nothing if it is another session by now, since numbers are used again. Whether
    /// somebody may go on who waited for this.
    pub fn judged(&mut self, number: u64, doubtful: &Doubtful, reason: Reason, revision: Revision, now: BootTime) -> bool {
        let key = SessionKey { watcher: number, number: doubtful.number };
        if self.sessions.get(key) != Some(&doubtful.session) {
            return false;
        }
        if reason == Reason::Ok {
            return doubtful.cause.is_some_and(|cause| self.endings.clear_doubts(cause, key));
        }
        let Some(watcher) = self.connected.get(&number) else {
            return false;
        };
        if let Some(cause) = doubtful.cause {
            self.endings.blame(cause, key, &watcher.name, now);
        }
        // If it is not known which change was the cause, it is that one or an earlier one.
        let revision = doubtful.cause.unwrap_or(revision);
        self.send(number, Message::Close { numbers: vec![doubtful.number], reason, revision });
        false
    }

    pub(super) fn tell(&mut self, change: &Arc<Change>, now: BootTime) {
        self.recent.push(Arc::clone(change));
        self.applied.push_back((change.revision, now));
        if self.applied.len() > QUEUE {
            self.applied.pop_front();
        }
        let concerned = self.sessions.concerned(change);
        let counted = if change.names_what_it_ended() { &[][..] } else { &concerned.doubtful[..] };
        let (connected, departed) = (&self.connected, &self.departed);
        self.endings.begin(change.revision, &concerned.ended, counted, now, |number| {
            let name = connected.get(&number).map(|watcher| &watcher.name);
            name.or_else(|| departed.iter().find(|it| it.number == number).map(|it| &it.name)).cloned()
        });
        let cause = (!change.names_what_it_ended()).then_some(change.revision);
        let mut doubtful: HashMap<u64, Vec<Doubtful>> = HashMap::new();
        for key in concerned.doubtful {
            if let Some(session) = self.sessions.get(key) {
                let session = session.clone();
                doubtful.entry(key.watcher).or_default().push(Doubtful { number: key.number, session, cause });
            }
        }
        let settled = Revision(change.revision.0.saturating_sub(1));
        self.open.insert(change.revision, OpenChange { settled, applied: now, waited_for: 0 });
        // A watcher that is cut off is not sent it, and is waited for all the same, while it may
        // hold a lease.
        let mut waited_for = 0;
        for departed in &mut self.departed {
            if departed.delivery.has_lease(now) {
                departed.delivery.send(change.revision, now);
                waited_for += 1;
            }
        }
        if let Some(open) = self.open.get_mut(&change.revision) {
            open.waited_for += waited_for;
        }
        let numbers: Vec<u64> = self.connected.keys().copied().collect();
        for number in numbers {
            self.tell_one(number, change, now);
            if let Some(doubtful) = doubtful.remove(&number) {
                self.send(number, Message::Judge(doubtful));
            }
        }
        self.settle(change.revision, 0);
    }

    pub(super) fn tell_start_empty(&mut self, at: Position, now: BootTime) {
        self.recent = Recent::begin(at);
        self.open.clear();
        self.applied.clear();
        self.endings.clear();
        let ambiguous = self.connected.iter().filter(|(_, watcher)| watcher.delivery.restart_is_ambiguous(at.revision));
        for number in ambiguous.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.cut_off(number, CutOff::BeginsAnew);
        }
        let mut waited_for = 0;
        for departed in &mut self.departed {
            if departed.delivery.has_lease(now) {
                departed.delivery.restart(at.revision);
                waited_for += 1;
            } else {
                departed.delivery.surrender();
            }
        }
        let numbers: Vec<u64> = self.connected.keys().copied().collect();
        for watcher in self.connected.values_mut() {
            watcher.delivery.restart(at.revision);
            watcher.position = at;
            waited_for += 1;
        }
        // Until all have begun again nothing is settled: some of what they were not sent may be of
        // another history.
        let settled = Revision::default();
        self.open.insert(at.revision, OpenChange { settled, applied: now, waited_for });
        for number in numbers {
            self.send(number, Message::StartEmpty(at));
            // Among what was missed may be the end of any of its sessions.
            let sessions = self.sessions.of_watcher(number).into_iter();
            let doubtful = sessions.filter_map(|key| {
                let session = self.sessions.get(key)?.clone();
                Some(Doubtful { number: key.number, session, cause: None })
            });
            let doubtful: Vec<_> = doubtful.collect();
            if !doubtful.is_empty() {
                self.send(number, Message::Judge(doubtful));
            }
        }
        self.settle(at.revision, 0);
    }

    /// Up to where nobody who watches is waited for; `None` if for nothing at all.
    pub(super) fn settled(&self) -> Option<Revision> {
        self.open.values().next().map(|first| first.settled)
    }

    /// A watcher has come back on another stream. What it had applied by then, it has acknowledged;
    /// what it is sent again, the new stream waits for. If it begins empty, the old one is waited
    /// for until its lease is over.
    pub(super) fn come_back(&mut self, mut departed: Departed, applied: Revision, starts_empty: bool, now: BootTime) {
        for key in self.sessions.of_watcher(departed.number) {
            self.sessions.close(key);
        }
        if starts_empty {
            self.departed.push(departed);
            return;
        }
        let number = departed.number;
        let (has_applied, is_told_again): (Vec<_>, Vec<_>) =
            departed.delivery.surrender().into_iter().partition(|revision| *revision <= applied);
        self.is_settled_by(number, &has_applied, false, now);
        self.is_settled_by(number, &is_told_again, false, now);
    }

    /// Sends one watcher a change, and notes that it is waited for: as long as the lease that it
    /// had before.
    pub(super) fn tell_one(&mut self, number: u64, change: &Arc<Change>, now: BootTime) {
        let Some(watcher) = self.connected.get_mut(&number) else {
            return;
        };
        watcher.delivery.send(change.revision, now);
        let previous = std::mem::replace(&mut watcher.position, change.position());
        if watcher.delivery.unacknowledged() > QUEUE {
            self.cut_off(number, CutOff::TooSlow);
        }
        if let Some(open) = self.open.get_mut(&change.revision) {
            open.waited_for += 1;
        }
        self.send(number, Message::Change { change: Arc::clone(change), previous });
    }

    fn send(&mut self, number: u64, message: Message) {
        if self.connected.contains_key(&number) {
            self.actions.push_back(Action::Send { watcher: number, message });
        }
    }

    fn cut_off(&mut self, number: u64, why: CutOff) {
        if self.connected.contains_key(&number) {
            self.actions.push_back(Action::CutOff { watcher: number, why });
            self.depart(number);
        }
    }

    fn depart(&mut self, number: u64) {
        if let Some(Watcher { name, id, delivery, key, observes, .. }) = self.connected.remove(&number) {
            self.keys.remove(key);
            self.observers -= usize::from(observes);
            self.departed.push(Departed { number, id, name, delivery });
        }
    }

    /// Changes that a watcher has acknowledged, or that it is not waited for any more.
    pub(super) fn is_settled_by(&mut self, number: u64, revisions: &[Revision], has_acknowledged: bool, now: BootTime) {
        for revision in revisions {
            let Some(open) = self.open.get(revision) else {
                continue;
            };
            if has_acknowledged && let Some(watcher) = self.connected.get(&number) {
                let (took, name) = (now - open.applied, watcher.name.clone());
                self.observed(&Message::Acknowledged(Acknowledged { revision: *revision, name, is_replica: false, took }));
            }
            self.settle(*revision, 1);
        }
    }

    /// `by` fewer are waited for; with nobody left the change has gone through.
    pub(super) fn settle(&mut self, revision: Revision, by: usize) {
        let Some(open) = self.open.get_mut(&revision) else {
            return;
        };
        open.waited_for = open.waited_for.saturating_sub(by);
        if open.waited_for == 0 {
            self.open.remove(&revision);
            self.endings.unwritten.insert(revision);
        }
    }

    /// Goes on without those whose lease has run out.
    pub(super) fn expire(&mut self, now: BootTime) {
        let mut expired: Vec<(u64, Vec<Revision>)> = vec![];
        for (number, watcher) in &mut self.connected {
            expired.push((*number, watcher.delivery.expire(now)));
        }
        for departed in &mut self.departed {
            expired.push((departed.number, departed.delivery.expire(now)));
        }
        for (number, revisions) in expired {
            self.is_settled_by(number, &revisions, false, now);
        }
        let over = self
            .departed
            .extract_if(.., |departed| !departed.delivery.has_lease(now) && departed.delivery.next_expiry().is_none());
        for departed in over.collect::<Vec<_>>() {
            for key in self.sessions.of_watcher(departed.number) {
                self.sessions.close(key);
            }
        }
    }

    /// The changes after one, up to another, and when they were applied here: of the newest.
    pub(super) fn applied_between(&self, after: Revision, up_to: Revision) -> Vec<(Revision, BootTime)> {
        self.applied.iter().filter(|(revision, _)| *revision > after && *revision <= up_to).copied().collect()
    }

    pub(super) fn observed(&mut self, message: &Message) {
        if self.observers == 0 {
            return;
        }
        let observers: Vec<u64> = self.connected.iter().filter(|(_, it)| it.observes).map(|(number, _)| *number).collect();
        for number in observers {
            self.send(number, message.clone());
        }
    }
}
