//! The watchers of this process, for several threads: the roster under its lock, and the queues
//! that lead to the watchers.

use std::{fmt, sync::Arc};

use hashbrown::HashMap;

use super::{
    Acknowledged, CutOff, Doubtful, End, Hello, Message, Opened, ProtocolError, StreamKey, Welcome,
    keys::StreamKeys,
    roster::{Action, Roster},
};
use crate::{
    lease::Lease,
    model::{
        change::{Change, Position, Revision},
        clock::{BootTime, SharedClock},
        session::{Closing, LiveSession, OpenSession, SessionKey},
        verdict::{Reason, Session},
    },
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Where the messages to one watcher go. Called under the lock that orders them, so it must not
/// wait.
pub trait Outbox: Send {
    /// Puts a message at the end of the queue. False if the queue is full, or nobody reads it any
    /// more.
    fn send(&mut self, message: Message) -> bool;
    /// Ends the stream.
    fn cut_off(self: Box<Self>, why: CutOff);
}

/// See the module.
pub struct Watchers {
    inner: Mutex<Inner>,
    /// Of the streams that are connected.
    keys: Arc<StreamKeys>,
    clock: SharedClock,
    lease: Arc<Lease>,
    /// Called when something that was waited for was acknowledged. Must not wait.
    wake: Arc<dyn Fn() + Send + Sync>,
}

struct Inner {
    roster: Roster,
    outboxes: HashMap<u64, Box<dyn Outbox>>,
}

impl Inner {
    /// Does what the roster asks for, in its order.
    fn carry_out(&mut self) {
        while let Some(action) = self.roster.next_action() {
            match action {
                Action::Send { watcher, message } => {
                    let has_room = self.outboxes.get_mut(&watcher).is_none_or(|outbox| outbox.send(message));
                    if !has_room {
                        self.roster.queue_is_full(watcher);
                    }
                }
                Action::CutOff { watcher, why } => {
                    if let Some(outbox) = self.outboxes.remove(&watcher) {
                        outbox.cut_off(why);
                    }
                }
            }
        }
    }
}

impl Watchers {
    pub fn new(clock: SharedClock, lease: Arc<Lease>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let keys = Arc::<StreamKeys>::default();
        let inner = Inner { roster: Roster::new(Arc::clone(&keys)), outboxes: HashMap::new() };
        Self { inner: Mutex::new(inner), keys, clock, lease, wake }
    }

    // For replication.

    /// Tells all of a change, which this process has applied.
    pub fn tell(&self, change: &Arc<Change>) {
        let now = self.clock.boot();
        self.act(|roster| roster.tell(change, now));
    }

    /// How many changes the slowest watcher was sent and has not acknowledged.
    pub fn furthest_behind(&self) -> usize {
        self.lock().roster.furthest_behind()
    }

    /// Changes were missed, or undone: everybody begins again at `at`.
    pub fn tell_start_empty(&self, at: Position) {
        let now = self.clock.boot();
        self.act(|roster| roster.tell_start_empty(at, now));
    }

    /// Up to where no watcher answers from before, given that this process has applied up to
    /// `applied`.
    pub fn settled(&self, applied: Revision) -> Revision {
        let now = self.clock.boot();
        self.act(|roster| {
            roster.expire(now);
            roster.settled().map_or(applied, |settled| settled.min(applied))
        })
    }

    /// When somebody is waited for no longer.
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.lock().roster.next_expiry()
    }

    /// Whether some watcher may still answer from its cache.
    pub fn has_leases(&self) -> bool {
        let inner = self.lock();
        inner.roster.has_leases(self.clock.boot())
    }

    /// What changes up to `settled` did to sessions, once.
    pub fn take_closings(&self, settled: Revision) -> Vec<Closing> {
        self.lock().roster.take_closings(settled)
    }

    pub fn put_back_closings(&self, closings: &[Closing]) {
        self.lock().roster.endings.unwritten.extend(closings.iter().map(|closing| closing.revision));
    }

    /// Sessions that the store does not know of yet, and those that it need not know any more.
    pub fn take_unwritten_sessions(&self) -> (Vec<LiveSession>, Vec<SessionKey>) {
        self.lock().roster.sessions.take_unwritten()
    }

    pub fn put_back_unwritten_sessions(&self, opened: &[LiveSession], closed: Vec<SessionKey>) {
        self.lock().roster.sessions.put_back_unwritten(opened, closed);
    }

    pub fn write_sessions_anew(&self) {
        self.lock().roster.sessions.write_anew();
    }

    /// The latest changes that ended passwords, as far as this process knows: the newest last.
    pub fn revocations(&self) -> Vec<Arc<Change>> {
        self.lock().roster.recent.revocations().cloned().collect()
    }

    /// Tells observers that a replica has acknowledged the changes after `before`, up to `reached`.
    pub fn replica_acknowledged(&self, before: Revision, reached: Revision, name: &str) {
        let now = self.clock.boot();
        self.act(|roster| {
            for (revision, applied) in roster.applied_between(before, reached) {
                let message = Acknowledged { revision, name: name.to_owned(), is_replica: true, took: now - applied };
                roster.observed(&Message::Acknowledged(message));
            }
        });
    }

    pub fn is_observed(&self) -> bool {
        self.lock().roster.observers > 0
    }

    /// How many watchers are connected, and how many sessions they have open.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.roster.connected.len(), inner.roster.sessions.len())
    }

    // For the handlers of streams.

    /// A watcher connects, or connects again. Its messages go to `outbox`.
    pub fn hello(&self, hello: Hello, outbox: Box<dyn Outbox>) -> Result<Welcome, ProtocolError> {
        let now = self.clock.boot();
        let mut inner = self.lock();
        let welcome = inner.roster.hello(hello, now);
        if let Ok(welcome) = welcome {
            inner.outboxes.insert(welcome.number, outbox);
        }
        inner.carry_out();
        welcome
    }

    /// Tells a watcher that this process stops.
    pub fn drain(&self, number: u64) {
        self.act(|roster| roster.drain(number));
    }

    /// The stream has ended: the watcher is waited for until its lease has expired.
    pub fn goodbye(&self, number: u64) {
        {
            let mut inner = self.lock();
            inner.roster.goodbye(number);
            inner.outboxes.remove(&number);
        }
        (self.wake)();
    }

    /// Hands on what this process's own lease has left.
    pub fn renew(&self, number: u64, asked: u64) -> Result<(), ProtocolError> {
        self.act(|roster| {
            let now = self.clock.boot();
            roster.renew(number, asked, self.lease.left(now, self.clock.wall()), now)
        })
    }

    /// Nothing from before `revision` is used by the watcher any more.
    pub fn acknowledge(&self, number: u64, revision: Revision) -> Result<(), ProtocolError> {
        let now = self.clock.boot();
        let lets_somebody_go_on = self.act(|roster| roster.acknowledge(number, revision, now))?;
        // Only then is a round trip to the database worth its cost.
        if lets_somebody_go_on {
            (self.wake)();
        }
        Ok(())
    }

    /// The watcher uses its cache no more.
    pub fn surrender(&self, number: u64) -> Result<(), ProtocolError> {
        let now = self.clock.boot();
        self.act(|roster| roster.surrender(number, now))?;
        (self.wake)();
        Ok(())
    }

    /// The watcher has opened a session; see [`Roster::session_opened`].
    pub fn session_opened(
        &self,
        number: u64,
        session_number: u64,
        session: Session,
        shown: OpenSession,
    ) -> Result<Opened, ProtocolError> {
        let now = self.clock.boot();
        self.act(|roster| roster.session_opened(number, session_number, session, shown, now))
    }

    /// Sessions have ended, or are refused at their next command.
    pub fn sessions_ended(&self, number: u64, session_numbers: &[u64], end: End) -> Result<(), ProtocolError> {
        let now = self.clock.boot();
        let is_counted = self.act(|roster| roster.sessions_ended(number, session_numbers, end, now))?;
        if is_counted {
            (self.wake)();
        }
        Ok(())
    }

    /// Whether a stream with this key is connected.
    pub fn is_connected(&self, key: &[u8]) -> bool {
        <[u8; 16]>::try_from(key).is_ok_and(|key| self.keys.contains(StreamKey(key)))
    }

    /// A session was judged; see [`Roster::judged`].
    pub fn judged(&self, number: u64, doubtful: &Doubtful, reason: Reason, revision: Revision) {
        let now = self.clock.boot();
        let lets_somebody_go_on = self.act(|roster| roster.judged(number, doubtful, reason, revision, now));
        if lets_somebody_go_on {
            (self.wake)();
        }
    }

    /// Does something with the roster, and what it asks for, under one lock: so each watcher's
    /// queue has the roster's order.
    fn act<T>(&self, with: impl FnOnce(&mut Roster) -> T) -> T {
        let mut inner = self.lock();
        let outcome = with(&mut inner.roster);
        inner.carry_out();
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (watchers, sessions) = self.counts();
        f.debug_struct("Watchers").field("watchers", &watchers).field("sessions", &sessions).finish_non_exhaustive()
    }
}
