//! A mail host that watches a replica. What it does with each message it does in the order of `watching/follow.rs`, and its logins look at what those of
//! `watching/mod.rs` look at, in that order.

use std::collections::VecDeque;

use shuttle::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::sync::mpsc;
use uuid::Uuid;

use crate::{
    cache::mailboxes::MailboxCache,
    downstream::{Hello, Message, StreamKey, test_stream::Watch},
    lease::Lease,
    model::{
        change::{Position, Revision},
        clock::{BootTime, Clock, Timestamp},
        record::MailboxRead,
    },
    replica::{Answer, Replica, is_allowed, position, step},
};

pub(crate) const NAME: &str = "host";

pub(crate) struct MailHost {
    replica: Arc<Replica>,
    cache: MailboxCache,
    lease: Lease,
    applied: AtomicU64,
}

/// A stream to the replica, and the leases that were asked for on it.
pub(crate) struct Stream {
    pub(crate) number: u64,
    messages: mpsc::Receiver<Message>,
    asked: VecDeque<(u64, BootTime, Timestamp)>,
}

impl MailHost {
    /// Follows the replica, and has the mailbox in its cache.
    pub(crate) fn new(replica: &Arc<Replica>) -> (Arc<Self>, Stream) {
        let cache = MailboxCache::with_capacity(100);
        let host = Self { replica: Arc::clone(replica), cache, lease: Lease::default(), applied: AtomicU64::new(0) };
        let stream = host.follow(None);
        host.login();
        (Arc::new(host), stream)
    }

    pub(crate) fn position(&self) -> Position {
        position(Revision(self.applied.load(Ordering::SeqCst)))
    }

    pub(crate) fn follow(&self, resume: Option<Position>) -> Stream {
        let hello = Hello { name: NAME.to_owned(), id: Uuid::from_u128(1), resume, observes: false, key: StreamKey([1; 16]) };
        let watch = Watch::open(self.replica.watchers(), hello).expect("there is room");
        let Watch { number, position, starts_empty, messages, .. } = watch;
        if starts_empty || resume.is_none() {
            self.start_empty(position);
        }
        Stream { number, messages, asked: VecDeque::new() }
    }

    /// Asks for a lease. It counts from before.
    pub(crate) fn renew(&self, stream: &mut Stream) {
        let number = stream.asked.back().map_or(1, |(last, ..)| last + 1);
        stream.asked.push_back((number, self.replica.clock.boot(), self.replica.clock.wall()));
        self.replica.watchers().renew(stream.number, number).expect("it is not cut off");
    }

    /// Hears the next message, if one is there. Whether one was.
    pub(crate) fn hear(&self, stream: &mut Stream) -> bool {
        step();
        let Ok(message) = stream.messages.try_recv() else {
            return false;
        };
        match message {
            Message::Change { change, .. } => {
                self.cache.apply(&change);
                self.applied.store(change.revision.0, Ordering::SeqCst);
                self.acknowledge(stream, change.revision);
            }
            Message::StartEmpty(at) => {
                self.start_empty(at);
                self.acknowledge(stream, at.revision);
            }
            Message::Granted { number, lease, .. } => {
                let at = stream.asked.iter().position(|(asked, ..)| *asked == number).expect("it was asked for");
                let (_, boot, wall) = stream.asked.drain(..=at).next_back().expect("that one");
                self.lease.take(boot, wall, lease);
            }
            Message::Close { .. }
            | Message::Judge(_)
            | Message::Acknowledged(_)
            | Message::SessionsEnded(_)
            | Message::Draining => (),
        }
        true
    }

    /// Hears all that was said.
    pub(crate) fn hear_all(&self, stream: &mut Stream) {
        while self.hear(stream) {}
    }

    pub(crate) fn surrender(&self, stream: &Stream) {
        self.lease.end();
        self.replica.watchers().surrender(stream.number).expect("it is not cut off");
    }

    /// A login, from memory if that can let it in. Never by a password whose end was EFFECTIVE before.
    pub(crate) fn login(&self) {
        let was_effective = self.replica.is_effective();
        let is_allowed = self.login_by_memory() || self.ask().is_some_and(|answer| answer.is_allowed);
        assert!(!(was_effective && is_allowed), "a login that began after EFFECTIVE was let in");
    }

    fn login_by_memory(&self) -> bool {
        let Some(entry) = self.cache.get(self.replica.address.key()) else {
            return false;
        };
        step();
        let wall = self.replica.clock.wall();
        self.lease.holds(self.replica.clock.boot(), wall) && entry.is_current() && is_allowed(&entry.read)
    }

    /// Asks the replica, and remembers what it allows.
    fn ask(&self) -> Option<Answer> {
        let load = self.cache.begin_load(self.replica.address.key());
        let applied = Revision(self.applied.load(Ordering::SeqCst));
        let answer = self.replica.login()?;
        assert!(answer.revision >= applied, "the replica has told of a change, and answers as of before");
        step();
        if answer.is_allowed {
            load.finish(MailboxRead { revision: answer.revision, mailbox: Some(self.replica.record(false)) });
        }
        Some(answer)
    }

    fn acknowledge(&self, stream: &Stream, revision: Revision) {
        step();
        // The stream may have been replaced meanwhile: then nobody hears it.
        let _ = self.replica.watchers().acknowledge(stream.number, revision);
    }

    fn start_empty(&self, at: Position) {
        self.cache.clear(at.revision);
        self.applied.store(at.revision.0, Ordering::SeqCst);
    }
}
