//! Feed, watchers and their doors: what a replica acknowledges while watchers come, answer from their caches, and go. A watcher's cache is one flag: it holds the password that change 1 ends.

use std::time::Duration;

use shuttle::{
    rand::{Rng, thread_rng},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    RUNS,
    model::{
        address::Address,
        change::{Change, Ended, Position, Revision, Scope},
        clock::{BootTime, Clock, SharedClock, Timestamp},
        id::{DeviceId, MailboxId},
        lease::Lease,
        protocol::Protocol,
        session::OpenSession,
        verdict::{ProvenPassword, Reason, Session},
    },
    watchers::{Hello, Message, Opened, Watch, Watchers},
};

const LEASE: Duration = Duration::from_secs(10);
/// The change that ends the password.
const ENDS: Revision = Revision(1);
const NONCE: i64 = 10;

fn alice() -> Address {
    Address::parse("address", "alice@example.com").expect("good")
}

/// A clock that stands still.
struct Still;

impl Clock for Still {
    fn wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000)
    }

    fn boot(&self) -> BootTime {
        BootTime(1_000_000_000_000)
    }
}

/// A replica with a lease.
struct Replica {
    watchers: Watchers,
    lease: Arc<Lease>,
    /// How far its log is applied, and up to where it has said that nothing older is used.
    applied: AtomicU64,
    acknowledged: AtomicU64,
    device_id: DeviceId,
}

impl Replica {
    fn new() -> Arc<Self> {
        let (clock, lease) = (Arc::new(Still) as SharedClock, Arc::new(Lease::default()));
        lease.grant(clock.boot(), clock.wall(), LEASE);
        Arc::new(Self {
            watchers: Watchers::new(clock, Arc::clone(&lease), Arc::new(Notify::new())),
            lease,
            applied: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            device_id: DeviceId::new(Timestamp(1)),
        })
    }

    fn hello(&self, resume: Option<Position>) -> Watch {
        let hello = Hello { name: "host".to_owned(), id: Uuid::from_u128(7), resume, observes: false };
        self.watchers.hello(hello).expect("let in")
    }

    /// As `feed` does: applies, tells, and acknowledges in its next rounds.
    fn follow_the_log(&self, rounds: usize) {
        let ended = vec![Ended { device_id: self.device_id, generation: 1, reason: Reason::DeviceDisconnected }];
        let change = Change { revision: ENDS, nonce: NONCE, scope: Scope::Mailboxes(vec![alice().key()]), ended };
        self.applied.store(ENDS.0, Ordering::SeqCst);
        self.watchers.tell(Arc::new(change));
        for _ in 0..rounds {
            self.acknowledge();
            thread::yield_now();
        }
    }

    fn acknowledge(&self) {
        let settled = self.watchers.settled(Revision(self.applied.load(Ordering::SeqCst)));
        self.acknowledged.store(settled.0, Ordering::SeqCst);
    }

    fn is_effective(&self) -> bool {
        self.acknowledged.load(Ordering::SeqCst) >= ENDS.0
    }
}

/// A watcher's memory.
#[derive(Default)]
struct Host {
    /// It has the password cached.
    is_cached: AtomicBool,
    has_lease: AtomicBool,
    applied: AtomicU64,
}

impl Host {
    /// A login from the cache, as any thread of the host makes it: never one that was allowed after EFFECTIVE.
    fn login(&self, replica: &Replica) {
        let is_effective = replica.is_effective();
        thread::yield_now();
        let is_allowed = self.has_lease.load(Ordering::SeqCst) && self.is_cached.load(Ordering::SeqCst);
        assert!(!(is_effective && is_allowed), "a watcher allowed a login that began after EFFECTIVE");
    }

    /// Reads what it was told by now, and does it, as the proto says.
    fn read(&self, replica: &Replica, watch: &mut Watch) {
        while let Ok(message) = watch.messages.try_recv() {
            match message {
                Message::Granted { lease, .. } => self.has_lease.store(!lease.is_zero(), Ordering::SeqCst),
                Message::Change(change) => {
                    self.is_cached.store(false, Ordering::SeqCst);
                    self.applied.store(change.revision.0, Ordering::SeqCst);
                    // Cut off meanwhile, its word counts for nothing.
                    let _ = replica.watchers.acknowledge(watch.number, change.revision, &[]);
                }
                Message::StartEmpty(at) => {
                    self.is_cached.store(false, Ordering::SeqCst);
                    let _ = replica.watchers.acknowledge(watch.number, at.revision, &[]);
                }
                _ => (),
            }
            thread::yield_now();
        }
    }
}

/// A stream that comes, renews, answers and goes on; another thread's logins find its cache.
#[test]
fn no_watcher_answers_from_its_cache_after_its_replica_has_acknowledged() {
    shuttle::check_random(
        || {
            let (replica, host) = (Replica::new(), Arc::new(Host::default()));
            let feed = Arc::clone(&replica);
            let feed = thread::spawn(move || feed.follow_the_log(3));
            let (logins, served_by) = (Arc::clone(&host), Arc::clone(&replica));
            let logins = thread::spawn(move || (0..4).for_each(|_| logins.login(&served_by)));
            let mut watch = replica.hello(None);
            // It asks about a login. An answer from before the change is followed by the change.
            host.is_cached.store(watch.position.revision < ENDS, Ordering::SeqCst);
            for renewal in 0..2 {
                // A replica that it was told to leave says so by an error.
                let _ = replica.watchers.renew(watch.number, renewal);
                host.read(&replica, &mut watch);
            }
            feed.join().expect("no panic");
            logins.join().expect("no assertion failed");
            host.read(&replica, &mut watch);
            replica.acknowledge();
            assert!(replica.is_effective(), "all has been acknowledged");
            host.login(&replica);
        },
        RUNS,
    );
}

/// A stream breaks while a change is told, and the watcher comes back with what it had, or another stream of the same watcher cuts it off.
#[test]
fn a_watcher_that_goes_and_comes_back_is_waited_for_all_the_while() {
    shuttle::check_random(
        || {
            let (replica, host) = (Replica::new(), Arc::new(Host::default()));
            let mut watch = replica.hello(None);
            host.is_cached.store(true, Ordering::SeqCst);
            replica.watchers.renew(watch.number, 0).expect("it watches");
            host.read(&replica, &mut watch);
            let feed = Arc::clone(&replica);
            let feed = thread::spawn(move || feed.follow_the_log(3));
            let (logins, served_by) = (Arc::clone(&host), Arc::clone(&replica));
            let logins = thread::spawn(move || (0..4).for_each(|_| logins.login(&served_by)));
            if thread_rng().gen_bool(0.5) {
                replica.watchers.goodbye(watch.number);
            }
            thread::yield_now();
            let applied = Revision(host.applied.load(Ordering::SeqCst));
            let resume = Position { revision: applied, nonce: if applied == ENDS { NONCE } else { 0 } };
            let mut again = replica.hello(Some(resume));
            if again.starts_empty {
                host.is_cached.store(false, Ordering::SeqCst);
            }
            host.read(&replica, &mut again);
            feed.join().expect("no panic");
            logins.join().expect("no assertion failed");
            host.read(&replica, &mut again);
            replica.acknowledge();
            assert!(replica.is_effective(), "nobody is waited for twice");
            host.login(&replica);
        },
        RUNS,
    );
}

/// A lease that is ended, and a watcher that renews: what it is granted it was granted before the end, and it is told to begin empty.
#[test]
fn who_begins_anew_acknowledges_nothing_before_its_watchers_have() {
    shuttle::check_random(
        || {
            let (replica, host) = (Replica::new(), Arc::new(Host::default()));
            let mut watch = replica.hello(None);
            host.is_cached.store(true, Ordering::SeqCst);
            let feed = Arc::clone(&replica);
            let feed = thread::spawn(move || {
                // It has missed the change, and jumps over it.
                feed.lease.end();
                feed.watchers.tell_start_empty(Position { revision: ENDS, nonce: NONCE });
                feed.applied.store(ENDS.0, Ordering::SeqCst);
                for _ in 0..3 {
                    feed.acknowledge();
                    thread::yield_now();
                }
            });
            let (logins, served_by) = (Arc::clone(&host), Arc::clone(&replica));
            let logins = thread::spawn(move || (0..4).for_each(|_| logins.login(&served_by)));
            for renewal in 0..2 {
                let _ = replica.watchers.renew(watch.number, renewal);
                host.read(&replica, &mut watch);
            }
            feed.join().expect("no panic");
            logins.join().expect("no assertion failed");
            host.read(&replica, &mut watch);
            replica.acknowledge();
            assert!(replica.is_effective());
            host.login(&replica);
        },
        RUNS,
    );
}

/// The session of a login that was under way when its device was revoked.
#[test]
fn a_session_that_opens_while_its_password_ends_is_closed() {
    shuttle::check_random(
        || {
            let replica = Replica::new();
            let mut watch = replica.hello(None);
            let feed = Arc::clone(&replica);
            let feed = thread::spawn(move || feed.follow_the_log(1));
            let password =
                ProvenPassword { mailbox_id: MailboxId::new(Timestamp(1)), device_id: replica.device_id, generation: 1 };
            let session = Session { password, revision: Revision(0), address: alice() };
            let shown = OpenSession {
                password,
                protocol: Protocol::Imap,
                client_ip: None,
                open_time: Timestamp(1),
                frontend: "host".to_owned(),
            };
            let opened = replica.watchers.session_opened(watch.number, 5, session, shown).expect("open");
            feed.join().expect("no panic");
            let mut is_told = false;
            while let Ok(message) = watch.messages.try_recv() {
                // By its number, or by the change, which comes after it was opened.
                is_told |= matches!(message, Message::Close { .. } | Message::Change(_));
            }
            assert!(is_told);
            assert_ne!(opened, Opened::Doubtful, "memory covers it");
            replica.acknowledge();
            assert!(opened == Opened::Closed || !replica.is_effective(), "a session that is to be closed is waited for");
        },
        RUNS,
    );
}
