//! What `Watchers` keeps under its lock, and what becomes of it with each event. No I/O but sending into queues, no clock: the time comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Acknowledged, CutOff, Message, QUEUE, SESSIONS_WAIT, recent::Recent, sessions::Sessions, told::Told};
use crate::{
    model::{
        change::{Change, Position, Revision},
        clock::BootTime,
        verdict::Session,
    },
    store::Closing,
};

/// See the module.
pub(super) struct Board {
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
    /// What is to be written of changes that all have acknowledged.
    pub(super) closings: Vec<Closing>,
}

pub(super) struct Watcher {
    pub(super) name: String,
    pub(super) id: Uuid,
    pub(super) observes: bool,
    pub(super) told: Told,
    pub(super) sessions: usize,
    pub(super) queue: mpsc::Sender<Message>,
    pub(super) cut_off: Option<oneshot::Sender<CutOff>>,
}

pub(super) struct Departed {
    pub(super) number: u64,
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) told: Told,
}

/// A change on its way through the watchers.
pub(super) struct OpenChange {
    /// Up to where nobody is waited for while it is the first.
    pub(super) settled: Revision,
    pub(super) applied: BootTime,
    /// Who has not acknowledged it.
    pub(super) waited_for: usize,
    pub(super) closed: u32,
    /// Watchers that have sessions of it open, until they say that they closed them.
    pub(super) silent: HashMap<u64, String>,
}

impl Board {
    pub(super) fn begin() -> Self {
        Self {
            recent: Recent::begin(Position::default()),
            next_number: 1,
            connected: HashMap::new(),
            departed: vec![],
            sessions: Sessions::default(),
            observers: 0,
            open: BTreeMap::new(),
            applied: VecDeque::new(),
            closings: vec![],
        }
    }

    pub(super) fn tell(&mut self, change: &Arc<Change>, now: BootTime) {
        self.recent.push(Arc::clone(change));
        self.applied.push_back((change.revision, now));
        if self.applied.len() > QUEUE {
            self.applied.pop_front();
        }
        let concerned = self.sessions.concerned(change);
        let mut silent = HashMap::new();
        for key in &concerned.ended {
            let name = self.connected.get(&key.watcher).map(|watcher| watcher.name.clone());
            let name = name.or_else(|| self.departed.iter().find(|it| it.number == key.watcher).map(|it| it.name.clone()));
            silent.extend(name.map(|name| (key.watcher, name)));
        }
        let mut doubtful: HashMap<u64, Vec<(u64, Session)>> = HashMap::new();
        for key in concerned.doubtful {
            if let Some(session) = self.sessions.get(key) {
                doubtful.entry(key.watcher).or_default().push((key.number, session.clone()));
            }
        }
        let settled = Revision(change.revision.0.saturating_sub(1));
        self.open.insert(change.revision, OpenChange { settled, applied: now, waited_for: 0, closed: 0, silent });
        // Who is cut off does not hear of it, and is waited for all the same, while it may hold a lease.
        let mut waited_for = 0;
        for departed in &mut self.departed {
            if departed.told.has_lease(now) {
                departed.told.tell(change.revision, now);
                waited_for += 1;
            }
        }
        if let Some(open) = self.open.get_mut(&change.revision) {
            open.waited_for += waited_for;
        }
        let numbers: Vec<u64> = self.connected.keys().copied().collect();
        for number in numbers {
            let has_sessions = self.open.get(&change.revision).is_some_and(|open| open.silent.contains_key(&number));
            self.tell_one(number, change.revision, now, has_sessions, Message::Change(Arc::clone(change)));
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
        self.closings.clear();
        let ambiguous = self.connected.iter().filter(|(_, watcher)| watcher.told.restart_is_ambiguous(at.revision));
        for number in ambiguous.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.cut_off(number, CutOff::BeginsAnew);
        }
        let mut waited_for = 0;
        for departed in &mut self.departed {
            if departed.told.has_lease(now) {
                departed.told.restart(at.revision);
                waited_for += 1;
            } else {
                departed.told.surrender();
            }
        }
        let numbers: Vec<u64> = self.connected.keys().copied().collect();
        for watcher in self.connected.values_mut() {
            watcher.told.restart(at.revision);
            waited_for += 1;
        }
        // Until all have begun again nothing is settled: some of what they were not told of may be of another history.
        let settled = Revision::default();
        self.open.insert(at.revision, OpenChange { settled, applied: now, waited_for, closed: 0, silent: HashMap::new() });
        for number in numbers {
            self.send(number, Message::StartEmpty(at));
            // Among what was missed may be the end of any of its sessions.
            let sessions = self.sessions.of_watcher(number).into_iter();
            let doubtful: Vec<_> = sessions.filter_map(|key| Some((key.number, self.sessions.get(key)?.clone()))).collect();
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

    /// A watcher that has come back says on its new stream what it closes.
    pub(super) fn rename_silent(&mut self, before: u64, after: u64) {
        for open in self.open.values_mut() {
            if let Some(name) = open.silent.remove(&before) {
                open.silent.insert(after, name);
            }
        }
    }

    /// A watcher has come back on another stream. What it had applied by then, it has acknowledged; what it is told once more, the new stream waits for. If it begins
    /// empty, the old one is waited for until its lease is over.
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
            departed.told.surrender().into_iter().partition(|revision| *revision <= applied);
        // How many sessions it had closed for them, it does not say any more.
        self.is_settled_by(number, &has_applied, None, now);
        self.is_settled_by(number, &is_told_again, None, now);
    }

    /// Tells one watcher of a change, and notes that it is waited for: as long as the lease that it had before, or a moment for its sessions.
    pub(super) fn tell_one(&mut self, number: u64, revision: Revision, now: BootTime, has_sessions: bool, message: Message) {
        let Some(watcher) = self.connected.get_mut(&number) else {
            return;
        };
        let at_least = if has_sessions { now + SESSIONS_WAIT } else { now };
        watcher.told.tell(revision, at_least);
        if watcher.told.unacknowledged() > QUEUE {
            self.cut_off(number, CutOff::TooSlow);
        }
        if let Some(open) = self.open.get_mut(&revision) {
            open.waited_for += 1;
        }
        self.send(number, message);
    }

    pub(super) fn send(&mut self, number: u64, message: Message) {
        let is_full = self.connected.get(&number).is_some_and(|watcher| watcher.queue.try_send(message).is_err());
        if is_full {
            self.cut_off(number, CutOff::TooSlow);
        }
    }

    pub(super) fn cut_off(&mut self, number: u64, why: CutOff) {
        if let Some(cut_off) = self.connected.get_mut(&number).and_then(|watcher| watcher.cut_off.take()) {
            // Its door may be gone already.
            let _ = cut_off.send(why);
        }
        self.depart(number);
    }

    pub(super) fn depart(&mut self, number: u64) {
        if let Some(Watcher { name, id, told, observes, .. }) = self.connected.remove(&number) {
            self.observers -= usize::from(observes);
            self.departed.push(Departed { number, id, name, told });
        }
    }

    /// Changes that a watcher has acknowledged, with the sessions that each closed (`said`), or that it is not waited for any more.
    pub(super) fn is_settled_by(&mut self, number: u64, revisions: &[Revision], said: Option<&[(Revision, u32)]>, now: BootTime) {
        for revision in revisions {
            let Some(open) = self.open.get_mut(revision) else {
                continue;
            };
            if let Some(closed) = said {
                open.silent.remove(&number);
                let closed = closed.iter().filter(|(of, _)| of == revision).map(|(_, closed)| *closed);
                let closed = closed.fold(0, u32::saturating_add);
                open.closed = open.closed.saturating_add(closed);
                let took = now - open.applied;
                if let Some(watcher) = self.connected.get(&number) {
                    let name = watcher.name.clone();
                    self.observed(&Acknowledged { revision: *revision, name, is_replica: false, took, closed });
                }
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
        if open.waited_for == 0
            && let Some(open) = self.open.remove(&revision)
            && (open.closed > 0 || !open.silent.is_empty())
        {
            self.closings.push(Closing { revision, closed: open.closed, silent: open.silent.into_values().collect() });
        }
    }

    /// Goes on without those whose lease has run out.
    pub(super) fn expire(&mut self, now: BootTime) {
        let mut expired: Vec<(u64, Vec<Revision>)> = vec![];
        for (number, watcher) in &mut self.connected {
            expired.push((*number, watcher.told.expire(now)));
        }
        for departed in &mut self.departed {
            expired.push((departed.number, departed.told.expire(now)));
        }
        for (number, revisions) in expired {
            self.is_settled_by(number, &revisions, None, now);
        }
        let over =
            self.departed.extract_if(.., |departed| !departed.told.has_lease(now) && departed.told.next_expiry().is_none());
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

    pub(super) fn observed(&mut self, message: &Acknowledged) {
        if self.observers == 0 {
            return;
        }
        let observers: Vec<u64> = self.connected.iter().filter(|(_, it)| it.observes).map(|(number, _)| *number).collect();
        for number in observers {
            self.send(number, Message::Acknowledged(message.clone()));
        }
    }
}
