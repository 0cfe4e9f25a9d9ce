//! A replica: a log with one mailbox, and what a process shares in memory. The clock stands still
//! until the world moves it.

use std::time::Duration;

use shuttle::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    cache::mailboxes::MailboxCache,
    downstream::Watchers,
    model::{
        address::{Address, MailboxKey},
        change::{Change, Ended, Position, Revision, Scope, ServiceKey},
        clock::{BootTime, Clock, SharedClock, Timestamp},
        device::Generation,
        id::{DeviceId, MailServiceId, MailboxId},
        record::{MailboxRead, MailboxRecord},
        verdict::{ProvenPassword, Reason},
    },
    replica_state::ReplicaState,
};

/// Any other thread may go on here, for as long as it takes: shuttle knows no time.
pub(crate) fn step() {
    thread::sleep(Duration::ZERO);
}

pub(crate) const LEASE: Duration = Duration::from_secs(10);
const GENERATION: Generation = 1;

/// To read it is a step, before which any other thread may go on.
pub(crate) struct Time(AtomicU64);

impl Time {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).expect("a short time"), Ordering::SeqCst);
    }
}

impl Clock for Time {
    fn wall(&self) -> Timestamp {
        Timestamp(i64::try_from(self.0.load(Ordering::SeqCst) / 1_000).expect("not that late"))
    }

    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Replica {
    pub(crate) clock: Arc<Time>,
    pub(crate) cache: Arc<MailboxCache>,
    pub(crate) replica: ReplicaState,
    pub(crate) address: Address,
    pub(crate) password: ProvenPassword,
    service: ServiceKey,
    log: Mutex<Log>,
    /// The change that ends the password was answered EFFECTIVE.
    effective: AtomicBool,
}

/// The log's head, and the revision that ended the password.
#[derive(Clone, Copy)]
struct Log {
    head: Revision,
    ended: Option<Revision>,
}

/// A login's answer: whether it was let in, and as of which revision.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) is_allowed: bool,
    pub(crate) revision: Revision,
}

pub(crate) fn position(revision: Revision) -> Position {
    Position { revision, nonce: 1 }
}

pub(crate) fn is_allowed(read: &MailboxRead) -> bool {
    !read.mailbox.as_ref().expect("it exists").suspended
}

impl Replica {
    /// At revision 1, with a lease.
    pub(crate) fn new() -> Arc<Self> {
        let clock = Arc::new(Time(AtomicU64::new(1_000_000_000_000)));
        let cache = Arc::new(MailboxCache::with_capacity(100));
        let shared_clock: SharedClock = Arc::<Time>::clone(&clock);
        let replica = ReplicaState::new(Arc::clone(&cache), shared_clock, Arc::new(|| ()));
        let head = Revision(1);
        replica.begin(position(head));
        let now = Timestamp(1);
        let replica = Self {
            clock,
            cache,
            replica,
            address: Address::parse("address", "alice@example.com").expect("a good address"),
            password: ProvenPassword {
                mailbox_id: MailboxId::from_parts(now, [1; 10]),
                device_id: DeviceId::from_parts(now, [2; 10]),
                generation: GENERATION,
            },
            service: ServiceKey::of(&MailServiceId::parse("mail_service_id", "mail").expect("a good id")),
            log: Mutex::new(Log { head, ended: None }),
            effective: AtomicBool::new(false),
        };
        replica.grant();
        Arc::new(replica)
    }

    pub(crate) fn watchers(&self) -> &Watchers {
        self.replica.watchers()
    }

    /// As after a sync that begins now and finds nothing new.
    pub(crate) fn grant(&self) {
        self.replica.grant(self.clock.boot(), self.clock.wall(), LEASE);
    }

    /// Ends the password. No process knows of it yet.
    pub(crate) fn commit(&self) -> Change {
        let mut log = self.log.lock().expect("not poisoned");
        log.head.0 += 1;
        log.ended = Some(log.head);
        let ended = Ended {
            device_id: self.password.device_id,
            generation: self.password.generation,
            reason: Reason::DeviceDisconnected,
        };
        let Position { revision, nonce } = position(log.head);
        Change { revision, nonce, scope: Scope::Mailboxes(vec![self.address.key()]), ended: vec![ended] }
    }

    /// Changes somebody else's mailbox.
    pub(crate) fn commit_elsewhere(&self) -> Change {
        let mut log = self.log.lock().expect("not poisoned");
        log.head.0 += 1;
        let Position { revision, nonce } = position(log.head);
        Change { revision, nonce, scope: Scope::Mailboxes(vec![MailboxKey([0; 16])]), ended: vec![] }
    }

    /// What the feed writes into its row at each sync; whoever waits for the change reads it there.
    pub(crate) fn acknowledge(&self) {
        let settled = self.watchers().settled(self.replica.applied());
        let ended = self.log.lock().expect("not poisoned").ended;
        if ended.is_some_and(|ended| settled >= ended) {
            self.answer_effective();
        }
    }

    pub(crate) fn answer_effective(&self) {
        self.effective.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_effective(&self) -> bool {
        self.effective.load(Ordering::SeqCst)
    }

    pub(crate) fn record(&self, is_ended: bool) -> MailboxRecord {
        MailboxRecord {
            mailbox_id: self.password.mailbox_id,
            service: self.service,
            suspended: is_ended,
            generic_login: true,
            active: Box::new([]),
            ended: Box::new([]),
        }
    }

    /// A login as `login` makes it; `None` if it would wait for a sync.
    pub(crate) fn login(&self) -> Option<Answer> {
        let key = self.address.key();
        loop {
            let (entry, is_own_read) = match self.cache.get(key) {
                Some(entry) => (entry, false),
                None => {
                    let load = self.cache.begin_load(key);
                    let read = self.read();
                    step();
                    (load.finish(read), true)
                }
            };
            let revision =
                if is_own_read { self.replica.as_of(&entry) } else { self.replica.as_of_lease(&entry, self.clock.wall()) };
            match revision {
                Some(revision) => {
                    let answer = Answer { is_allowed: is_allowed(&entry.read), revision };
                    self.assert_is_true(answer);
                    return Some(answer);
                }
                None if entry.is_current() => return None,
                None => (),
            }
        }
    }

    fn read(&self) -> MailboxRead {
        let Log { head, ended } = *self.log.lock().expect("not poisoned");
        MailboxRead { revision: head, mailbox: Some(self.record(ended.is_some())) }
    }

    fn assert_is_true(&self, answer: Answer) {
        let ended = self.log.lock().expect("not poisoned").ended;
        let has_seen_it = ended.is_some_and(|ended| answer.revision >= ended);
        assert!(!(answer.is_allowed && has_seen_it), "a verdict passes for newer than what it was judged by");
    }
}
