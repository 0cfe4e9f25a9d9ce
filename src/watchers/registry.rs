//! The watchers of this process, by what the feed and the doors do with them.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Acknowledged, CutOff, Hello, MAX_SESSIONS, MAX_WATCHERS, Message, Misstep, Opened, QUEUE, Watch,
    board::{Board, Watcher},
    sync::{Mutex, MutexGuard},
    told::{self, Told},
};
use crate::{
    model::{
        change::{Change, Position, Revision},
        clock::{BootTime, SharedClock},
        lease::Lease,
        session::OpenSession,
        verdict::{Reason, Session},
    },
    store::{Closing, LiveSession, SessionKey},
};

/// See the floor.
pub struct Watchers {
    board: Mutex<Board>,
    clock: SharedClock,
    lease: Arc<Lease>,
    /// Told when something that was waited for was acknowledged.
    moved: Arc<Notify>,
}

impl Watchers {
    pub fn new(clock: SharedClock, lease: Arc<Lease>, moved: Arc<Notify>) -> Self {
        Self { board: Mutex::new(Board::begin()), clock, lease, moved }
    }

    // For the feed.

    /// Tells all of a change, which this process has applied.
    pub fn tell(&self, change: Arc<Change>) {
        self.lock().tell(&change, self.clock.boot());
    }

    /// How many changes the slowest of those connected has been told and has not acknowledged.
    pub fn furthest_behind(&self) -> usize {
        self.lock().connected.values().map(|watcher| watcher.told.unacknowledged()).max().unwrap_or(0)
    }

    /// Changes were missed, or undone: everybody begins again at `at`.
    pub fn tell_start_empty(&self, at: Position) {
        self.lock().tell_start_empty(at, self.clock.boot());
    }

    /// Up to where nobody who watches answers from before, given that this process has applied up to `applied`.
    pub fn settled(&self, applied: Revision) -> Revision {
        let mut board = self.lock();
        board.expire(self.clock.boot());
        board.settled().map_or(applied, |settled| settled.min(applied))
    }

    /// When somebody is waited for no longer.
    pub fn next_expiry(&self) -> Option<BootTime> {
        let board = self.lock();
        let connected = board.connected.values().filter_map(|watcher| watcher.told.next_expiry());
        connected.chain(board.departed.iter().filter_map(|departed| departed.told.next_expiry())).min()
    }

    /// Whether some watcher may still answer from its cache.
    pub fn has_leases(&self) -> bool {
        let (board, now) = (self.lock(), self.clock.boot());
        board.connected.values().any(|it| it.told.has_lease(now)) || board.departed.iter().any(|it| it.told.has_lease(now))
    }

    /// What changes up to `settled` did to sessions, once.
    pub fn take_closings(&self, settled: Revision) -> Vec<Closing> {
        self.lock().closings.extract_if(.., |closing| closing.revision <= settled).collect()
    }

    pub fn put_back_closings(&self, closings: Vec<Closing>) {
        self.lock().closings.extend(closings);
    }

    /// Sessions that the store does not know of yet, and those it need not know any more.
    pub fn take_unwritten_sessions(&self) -> (Vec<LiveSession>, Vec<SessionKey>) {
        self.lock().sessions.take_unwritten()
    }

    pub fn put_back_unwritten_sessions(&self, opened: &[LiveSession], closed: Vec<SessionKey>) {
        self.lock().sessions.put_back_unwritten(opened, closed);
    }

    pub fn write_sessions_anew(&self) {
        self.lock().sessions.write_anew();
    }

    /// The changes that ended passwords lately, as far as this process knows: the newest last.
    pub fn revocations(&self) -> Vec<Arc<Change>> {
        self.lock().recent.revocations().cloned().collect()
    }

    /// Tells who observes that a replica has acknowledged the changes after `before`, up to `reached`.
    pub fn replica_acknowledged(&self, before: Revision, reached: Revision, name: &str) {
        let now = self.clock.boot();
        let mut board = self.lock();
        for (revision, applied) in board.applied_between(before, reached) {
            let message = Acknowledged { revision, name: name.to_owned(), is_replica: true, took: now - applied, closed: 0 };
            board.observed(&message);
        }
    }

    pub fn is_observed(&self) -> bool {
        self.lock().observers > 0
    }

    /// Watchers, and their sessions.
    pub fn counts(&self) -> (usize, usize) {
        let board = self.lock();
        (board.connected.len(), board.sessions.len())
    }

    // For the doors.

    /// A watcher comes, or comes back.
    pub fn hello(&self, hello: Hello) -> Result<Watch, Misstep> {
        let now = self.clock.boot();
        let mut board = self.lock();
        let before = board.connected.iter().find(|(_, watcher)| watcher.id == hello.id).map(|(number, _)| *number);
        if let Some(before) = before {
            board.cut_off(before, CutOff::Replaced);
        }
        if board.connected.len() >= MAX_WATCHERS {
            return Err(Misstep::TooManyWatchers);
        }
        let (queue, messages) = mpsc::channel(QUEUE);
        let (cut, cut_off) = oneshot::channel();
        let number = board.next_number;
        board.next_number += 1;
        let head = board.recent.head();
        let missed = hello.resume.and_then(|position| board.recent.since(position)).filter(|missed| missed.len() < QUEUE);
        let starts_empty = missed.is_none();
        let position = hello.resume.filter(|_| !starts_empty).unwrap_or(head);
        let earlier = board.departed.iter().position(|departed| departed.id == hello.id);
        let earlier = earlier.map(|at| board.departed.swap_remove(at));
        let told = match &earlier {
            Some(departed) if !starts_empty => departed.told.resumed(position.revision),
            _ => Told::begin(position.revision),
        };
        let watcher =
            Watcher { name: hello.name, id: hello.id, observes: hello.observes, told, sessions: 0, queue, cut_off: Some(cut) };
        board.observers += usize::from(hello.observes);
        board.connected.insert(number, watcher);
        for change in missed.into_iter().flatten() {
            board.tell_one(number, change.revision, now, false, Message::Change(change));
        }
        if let Some(departed) = earlier {
            board.rename_silent(departed.number, number);
            board.come_back(departed, position.revision, starts_empty, now);
        }
        Ok(Watch { number, position, starts_empty, messages, cut_off })
    }

    /// Tells a watcher that this process stops.
    pub fn drain(&self, number: u64) {
        self.lock().send(number, Message::Draining);
    }

    /// The stream has ended: the watcher is waited for until its lease has run out.
    pub fn goodbye(&self, number: u64) {
        self.lock().depart(number);
        self.moved.notify_one();
    }

    /// Hands on what this process's own lease has left.
    pub fn renew(&self, number: u64, asked: u64) -> Result<(), Misstep> {
        let mut board = self.lock();
        let (now, wall) = (self.clock.boot(), self.clock.wall());
        let lease = self.lease.left(now, wall);
        let watcher = board.connected.get_mut(&number).ok_or(Misstep::CutOff)?;
        watcher.told.grant(now, lease);
        board.send(number, Message::Granted { number: asked, lease });
        Ok(())
    }

    /// Nothing from before `revision` is used by it any more. `closed`: how many sessions which change closed.
    pub fn acknowledge(&self, number: u64, revision: Revision, closed: &[(Revision, u32)]) -> Result<(), Misstep> {
        let now = self.clock.boot();
        let mut board = self.lock();
        let watcher = board.connected.get_mut(&number).ok_or(Misstep::CutOff)?;
        let acknowledged = watcher.told.acknowledge(revision).map_err(|bad| match bad {
            told::BadAcknowledgement::FromTheFuture => Misstep::AcknowledgesTheFuture,
            told::BadAcknowledgement::Backwards => Misstep::AcknowledgesBackwards,
        })?;
        let before = board.settled();
        board.is_settled_by(number, &acknowledged, Some(closed), now);
        // Only what lets somebody go on is worth a round trip.
        if board.settled() != before {
            self.moved.notify_one();
        }
        Ok(())
    }

    /// It uses its cache no more.
    pub fn surrender(&self, number: u64) -> Result<(), Misstep> {
        let now = self.clock.boot();
        let mut board = self.lock();
        let watcher = board.connected.get_mut(&number).ok_or(Misstep::CutOff)?;
        let settled = watcher.told.surrender();
        // Its sessions it has not told about.
        board.is_settled_by(number, &settled, None, now);
        drop(board);
        self.moved.notify_one();
        Ok(())
    }

    /// It has opened a session. Whose password has ended since the login was answered is closed at once; what can't be told from memory is to be
    /// judged by the door.
    pub fn session_opened(
        &self,
        number: u64,
        session_number: u64,
        session: Session,
        shown: OpenSession,
    ) -> Result<Opened, Misstep> {
        let mut board = self.lock();
        let watcher = board.connected.get_mut(&number).ok_or(Misstep::CutOff)?;
        if watcher.sessions >= MAX_SESSIONS {
            return Err(Misstep::TooManySessions);
        }
        let key = SessionKey { watcher: number, number: session_number };
        let password = session.password;
        let revision = session.revision;
        if !board.sessions.open(key, session, shown) {
            return Err(Misstep::SessionNumberTaken);
        }
        if let Some(watcher) = board.connected.get_mut(&number) {
            watcher.sessions += 1;
        }
        if let Some(reason) = board.recent.end_of(password.device_id, password.generation, revision) {
            board.send(number, Message::Close { numbers: vec![session_number], reason });
            return Ok(Opened::Closed);
        }
        Ok(if board.recent.covers(revision) { Opened::Good } else { Opened::Doubtful })
    }

    pub fn session_closed(&self, number: u64, session_number: u64) -> Result<(), Misstep> {
        let mut board = self.lock();
        let watcher = board.connected.get_mut(&number).ok_or(Misstep::CutOff)?;
        watcher.sessions = watcher.sessions.saturating_sub(1);
        if board.sessions.close(SessionKey { watcher: number, number: session_number }) {
            Ok(())
        } else {
            Err(Misstep::SessionNotOpen)
        }
    }

    /// Tells a watcher to close a session that its door has judged, if it is still that one: numbers are used again.
    pub fn close(&self, number: u64, session_number: u64, judged: &Session, reason: Reason) {
        let mut board = self.lock();
        if board.sessions.get(SessionKey { watcher: number, number: session_number }) == Some(judged) {
            board.send(number, Message::Close { numbers: vec![session_number], reason });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (watchers, sessions) = self.counts();
        f.debug_struct("Watchers").field("watchers", &watchers).field("sessions", &sessions).finish_non_exhaustive()
    }
}
