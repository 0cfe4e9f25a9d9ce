//! The cache's fence: logins that read the store as `login` does, and a feed that applies what was
//! committed. The "store" is one counter behind a lock.

use latchkey::random::NewId as _;
use latchkey_core::model::{
    address::{Address, MailboxKey},
    change::{Change, Revision, Scope, ServiceKey},
    clock::Timestamp,
    id::{MailServiceId, MailboxId},
    record::{MailboxRead, MailboxRecord},
};
use shuttle::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{RUNS, cache::mailboxes::MailboxCache};

/// The truth: the log's head, and the revision at which the mailbox was last changed. Its record
/// says `suspended` once it was changed.
struct Store {
    state: Mutex<(u64, Option<u64>)>,
    /// What the feed has applied; an answer EFFECTIVE waits for it.
    applied: AtomicU64,
}

struct World {
    cache: MailboxCache,
    store: Store,
    key: MailboxKey,
    mailbox_id: MailboxId,
    service: ServiceKey,
}

impl World {
    fn new(capacity: usize) -> Arc<Self> {
        let address = Address::parse("address", "alice@example.com").expect("a good address");
        let service = MailServiceId::parse("mail_service_id", "mail").expect("a good id");
        Arc::new(Self {
            cache: MailboxCache::with_capacity(capacity),
            store: Store { state: Mutex::new((1, None)), applied: AtomicU64::new(1) },
            key: address.key(),
            mailbox_id: MailboxId::new(Timestamp(1)),
            service: ServiceKey::of(&service),
        })
    }

    fn read(&self) -> MailboxRead {
        let (head, changed) = *self.store.state.lock().expect("not poisoned");
        let mailbox = MailboxRecord {
            mailbox_id: self.mailbox_id,
            service: self.service,
            suspended: changed.is_some(),
            generic_login: true,
            active: Box::new([]),
            ended: Box::new([]),
        };
        MailboxRead { revision: Revision(head), mailbox: Some(mailbox) }
    }

    /// A login as `login` makes it: whether it is let in. The proof lies between the read and the
    /// look at authority.
    fn login(&self) -> bool {
        loop {
            let entry = match self.cache.get(self.key) {
                Some(entry) => entry,
                None => {
                    let load = self.cache.begin_load(self.key);
                    let read = self.read();
                    thread::yield_now();
                    load.finish(read)
                }
            };
            thread::yield_now();
            let was_applied = self.store.applied.load(Ordering::SeqCst) > 1;
            if entry.is_current() {
                let allowed = !entry.read.mailbox.as_ref().expect("it exists").suspended;
                assert!(!(was_applied && allowed), "an entry says that it is current, and has not seen what was applied");
                return allowed;
            }
        }
    }

    /// Commits a change to the mailbox; nobody's cache knows of it yet.
    fn commit(&self) -> u64 {
        let mut state = self.store.state.lock().expect("not poisoned");
        state.0 += 1;
        state.1 = Some(state.0);
        state.0
    }

    fn apply(&self, revision: u64, scope: Scope) {
        self.cache.apply(&Change { revision: Revision(revision), nonce: 1, scope, ended: vec![] });
        self.store.applied.store(revision, Ordering::SeqCst);
    }
}

/// Logins race with a change; once it is applied, none that begins is let in, and none finds a
/// stale entry, now or later.
fn no_login_after_the_change(make_scope: fn(&World) -> Scope, capacity: usize) {
    let world = World::new(capacity);
    let logins: Vec<_> = (0..2)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for _ in 0..2 {
                    let effective = world.store.applied.load(Ordering::SeqCst) > 1;
                    let allowed = world.login();
                    assert!(!(effective && allowed), "a login that began after EFFECTIVE was let in");
                }
            })
        })
        .collect();
    let revision = world.commit();
    world.apply(revision, make_scope(&world));
    assert!(!world.login(), "a stale entry is in the cache");
    for login in logins {
        login.join().expect("no assertion failed");
    }
    assert!(!world.login(), "a stale entry was left behind");
}

#[test]
fn a_login_under_way_while_its_mailbox_changes_leaves_nothing_stale() {
    shuttle::check_random(|| no_login_after_the_change(|world| Scope::Mailboxes(vec![world.key]), 1_000), RUNS);
}

#[test]
fn a_login_under_way_while_its_mail_service_changes_leaves_nothing_stale() {
    shuttle::check_random(|| no_login_after_the_change(|world| Scope::Service(world.service), 1_000), RUNS);
}

#[test]
fn an_entry_that_leaves_for_lack_of_room_is_not_trusted_any_more() {
    shuttle::check_random(
        || {
            let world = World::new(1);
            let load = world.cache.begin_load(world.key);
            let entry = load.finish(world.read());
            assert!(entry.is_current());
            let others: Vec<_> = (1..=2)
                .map(|n| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        let load = world.cache.begin_load(MailboxKey([n; 16]));
                        load.finish(world.read());
                    })
                })
                .collect();
            for other in others {
                other.join().expect("no panic");
            }
            let revision = world.commit();
            world.apply(revision, Scope::Mailboxes(vec![world.key]));
            assert!(!entry.is_current(), "the holder of an evicted entry missed the change");
        },
        RUNS / 100,
    );
}

#[test]
fn a_read_from_before_a_jump_stays_out() {
    shuttle::check_random(
        || {
            let world = World::new(1_000);
            let reader = Arc::clone(&world);
            let login = thread::spawn(move || {
                reader.login();
            });
            // The process missed the change, and jumps over it.
            let revision = world.commit();
            world.cache.clear(Revision(revision));
            assert!(!world.login(), "what was read before the jump is trusted");
            login.join().expect("no panic");
            assert!(!world.login(), "a stale entry was left behind");
        },
        RUNS,
    );
}
