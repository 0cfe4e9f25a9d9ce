//! The cache's fence on real stores, with interleavings chosen on purpose: a login is stopped right
//! after the store has answered it, its device is disconnected (or changed, or its mailbox
//! suspended) until that is EFFECTIVE, and then the login goes on. And a store that does not answer
//! any more.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "../benches/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{address, attempt, who};
use latchkey::{
    clock::SystemClock,
    hashing::{HashingPool, HashingSettings},
    login::NoAnswer,
    manage::{Refusal, devices::MayAwait},
    passwords::{
        hash::{HashCost, Hasher},
        pepper::Pepper,
    },
    replication::{
        Freshness,
        confirmation::{Confirmation, Wait},
    },
    serve::replica::Replica,
    store::{Finding, Hint, Mode, NewChange, NewMailbox, Origin, Result, Retention, Store, StoreError, Transaction},
};
use latchkey_core::{
    confirmation::Node,
    downstream::{CutOff, Hello, Message, Outbox, StreamKey},
    log::Head,
    model::{
        address::Address,
        change::{Change, Position, Revision},
        clock::{BootTime, Clock, SharedClock, Timestamp},
        device::{Generation, KeyId, PasswordHash, StoredPassword},
        event::LoginCount,
        id::{DeviceId, NodeId},
        record::MailboxRead,
        session::{Closing, LiveSession, SessionKey},
        verdict::Reason,
    },
};
use tokio::sync::oneshot;

/// Where a login is stopped: after the store has answered, before it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    ReadMailbox,
    ReadHash,
    Head,
    Join,
}

/// One stop: says that it was reached, and waits to go on.
struct Stop {
    place: Place,
    reached: oneshot::Sender<()>,
    go_on: oneshot::Receiver<()>,
}

/// A real store, behind a door that a test can hold.
struct Held {
    store: Mutex<Arc<dyn Store>>,
    stop: Mutex<Option<Stop>>,
    is_away: AtomicBool,
    /// Who comes to this place next gets an error, though it was done.
    fails: Mutex<Option<Place>>,
}

impl Held {
    fn over(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::new(store),
            stop: Mutex::default(),
            is_away: AtomicBool::new(false),
            fails: Mutex::default(),
        })
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.lock().expect("not poisoned"))
    }

    /// Another one takes its place: a standby that was promoted.
    fn fail_over(&self, to: &Arc<dyn Store>) {
        *self.store.lock().expect("not poisoned") = Arc::clone(to);
    }

    /// The next one who comes to this place stops there.
    fn stop_at(&self, place: Place) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((reached, was_reached), (go, go_on)) = (oneshot::channel(), oneshot::channel());
        *self.stop.lock().expect("not poisoned") = Some(Stop { place, reached, go_on });
        (was_reached, go)
    }

    async fn pass(&self, place: Place) -> Result<()> {
        let stop = self.stop.lock().expect("not poisoned").take_if(|stop| stop.place == place);
        if let Some(Stop { reached, go_on, .. }) = stop {
            reached.send(()).expect("the test waits");
            go_on.await.expect("the test lets it go");
        }
        match self.fails.lock().expect("not poisoned").take_if(|fails| *fails == place) {
            Some(_) => Err(StoreError::Unavailable("the test lost the answer".to_owned())),
            None => Ok(()),
        }
    }
}

macro_rules! held_store {
    ($($method:ident($($name:ident: $argument:ty),*) -> $answer:ty $(, at $place:ident)?;)*) => {
        #[async_trait]
        impl Store for Held {
            $(async fn $method(&self, $($name: $argument),*) -> Result<$answer> {
                if self.is_away.load(Ordering::SeqCst) {
                    return Err(StoreError::Unavailable("the test took it away".to_owned()));
                }
                let answer = self.store().$method($($name),*).await;
                $(self.pass(Place::$place).await?;)?
                answer
            })*

            fn listen(&self, hint: Hint) {
                self.store().listen(hint);
            }

            fn system(&self) -> &'static str {
                self.store().system()
            }
        }
    };
}

held_store! {
    read_mailbox(address: &Address) -> MailboxRead, at ReadMailbox;
    read_hash(device_id: DeviceId, generation: Generation) -> Option<PasswordHash>, at ReadHash;
    upgrade_password(
        device_id: DeviceId, generation: Generation, before: Option<&PasswordHash>, after: &StoredPassword, change: &NewChange
    ) -> Option<Revision>;
    add_logins(logins: &[LoginCount]) -> ();
    begin(name: &'static str, mode: Mode) -> Transaction;
    import(mailboxes: &[NewMailbox], origin: &Origin) -> Vec<bool>;
    join(node: &Node) -> (), at Join;
    leave(node_id: NodeId) -> ();
    sync(node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Option<Head>, at Head;
    acknowledge(node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> bool;
    head(applied: Revision) -> Head, at Head;
    feed_head(applied: Revision) -> Head, at Head;
    changes(after: Revision, up_to: Revision, limit: usize) -> Vec<Change>;
    nodes() -> Vec<Node>;
    remove_node(node_id: NodeId, renewals: u64) -> bool;
    put_sessions(node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> ();
    add_closings(node_id: NodeId, closings: &[Closing]) -> ();
    closings(revision: Revision) -> Vec<Closing>;
    trim(limits: &Retention) -> u64;
    pepper_checks() -> Vec<(KeyId, [u8; 32])>;
    add_pepper_check(key: KeyId, check: [u8; 32]) -> ();
    ping() -> ();
    examine() -> Vec<Finding>;
}

const CHEAP: HashCost = HashCost { memory_kib: 64, passes: 1, lanes: 1 };
const CHOSEN: &str = "violet-anchor-breeze-47";

/// What a store stands on for as long as it is used.
struct Ground {
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

async fn sqlite() -> Ground {
    let folder = tempfile::tempdir().expect("a folder");
    Ground { store: common::sqlite(folder.path()), _folder: folder }
}

async fn postgres() -> Ground {
    let database = support::postgres::fresh_database().await;
    Ground { store: common::postgres(&database.url).await, _folder: tempfile::tempdir().expect("a folder") }
}

/// What ends a password.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Disconnect,
    Change,
    Suspend,
}

impl Ending {
    /// Does it, and sees it EFFECTIVE.
    async fn act(self, replica: &Replica, alice: &Address, device: DeviceId) {
        let who = who();
        let revocation = match self {
            Self::Disconnect => {
                replica.devices.disconnect(&who, alice, device, None, Wait::UntilEffective).await.expect("disconnected")
            }
            Self::Change => {
                let changed = replica.devices.change_password(&who, alice, device, None, None, Wait::UntilEffective).await;
                changed.expect("changed").revocation
            }
            Self::Suspend => replica.directory.suspend_mailbox(&who, alice, Wait::UntilEffective).await.expect("suspended").1,
        };
        assert!(matches!(revocation.confirmation, Confirmation::Effective(_)));
    }

    fn reason(self) -> Reason {
        match self {
            Self::Disconnect => Reason::DeviceDisconnected,
            Self::Change => Reason::PasswordChanged,
            Self::Suspend => Reason::MailboxSuspended,
        }
    }
}

async fn a_login_under_way_is_not_let_in(ground: Ground, chosen: Option<&str>, place: Place, ending: Ending) {
    let held = Held::over(Arc::clone(&ground.store));
    let mut settings = common::settings();
    settings.denial_delay = Duration::ZERO;
    let replica = Arc::new(common::replica(Arc::clone(&held) as _, &Pepper::random(), CHEAP, settings).await);
    let alice = address("alice@example.com");
    common::mailbox(&replica, &alice).await;
    let password = common::device(&replica, &alice, "Phone", chosen).await;
    let device = replica.devices.list(&who(), &alice, None, 10, false).await.expect("listed").devices.remove(0).device_id;

    let (reached, go) = held.stop_at(place);
    let (login, request) = (Arc::clone(&replica.login), attempt(&alice, &password));
    let under_way = tokio::spawn(async move { login.authenticate(&request).await });
    reached.await.expect("the login comes there");
    ending.act(&replica, &alice, device).await;
    go.send(()).expect("it waits");
    let judged = under_way.await.expect("no panic").expect("answered");
    assert_eq!(judged.verdict.reason, ending.reason(), "a login under way, stopped {place:?}, {ending:?}");
    let next = replica.login.authenticate(&attempt(&alice, &password)).await.expect("answered");
    assert_eq!(next.verdict.reason, ending.reason(), "a stale entry was left behind: {place:?}, {ending:?}");
}

macro_rules! on_each_store {
    ($($name:ident: $chosen:expr, $place:ident;)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                for ending in [super::Ending::Disconnect, super::Ending::Change, super::Ending::Suspend] {
                    super::a_login_under_way_is_not_let_in(super::sqlite().await, $chosen, super::Place::$place, ending).await;
                }
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                for ending in [super::Ending::Disconnect, super::Ending::Change, super::Ending::Suspend] {
                    super::a_login_under_way_is_not_let_in(super::postgres().await, $chosen, super::Place::$place, ending).await;
                }
            })*
        }
    };
}

on_each_store! {
    a_generated_password_that_ends_while_its_record_is_read: None, ReadMailbox;
    a_chosen_password_that_ends_while_its_record_is_read: Some(super::CHOSEN), ReadMailbox;
    a_chosen_password_that_ends_while_it_is_hashed: Some(super::CHOSEN), ReadHash;
}

/// Goes with the machine's, and can be moved ahead.
#[derive(Default)]
struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn wall(&self) -> Timestamp {
        SystemClock.wall() + Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn boot(&self) -> BootTime {
        SystemClock.boot() + Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// Its feed has synced, and it has changed nothing.
async fn bare_replica(store: Arc<dyn Store>, pepper: &Pepper, clock: SharedClock, freshness: Freshness) -> Replica {
    let hashing = HashingSettings { threads: None, queue: 10, deadline: Duration::from_secs(60) };
    let hashing = HashingPool::new(Hasher::new(pepper, CHEAP).expect("good"), SystemClock::shared(), hashing);
    let mut settings = common::settings();
    settings.denial_delay = Duration::ZERO;
    settings.feed.freshness = freshness;
    let replica = Replica::assemble(store, pepper, Arc::new(hashing), clock, settings);
    tokio::spawn(Arc::clone(&replica.feed).run());
    replica.feed.health().wait_for(|synced| *synced).await.expect("the feed runs");
    replica
}

async fn without_a_store(freshness: Freshness) -> (Arc<Held>, Arc<MovedClock>, Replica, Address, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let held = Held::over(common::sqlite(folder.path()));
    let clock = Arc::new(MovedClock::default());
    let replica = bare_replica(Arc::clone(&held) as _, &Pepper::random(), Arc::clone(&clock) as _, freshness).await;
    common::provision(&replica).await;
    let alice = address("alice@example.com");
    common::mailbox(&replica, &alice).await;
    let password = common::device(&replica, &alice, "Phone", None).await;
    // A change that is applied after the record was read keeps it out of the cache.
    let head = held.head(Revision::default()).await.expect("the store answers").revision;
    while replica.feed.applied() < head {
        replica.feed.hint();
        tokio::task::yield_now().await;
    }
    assert!(replica.login.authenticate(&attempt(&alice, &password)).await.expect("answered").is_allowed());
    held.is_away.store(true, Ordering::SeqCst);
    (held, clock, replica, alice, password, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_a_warm_login_is_let_in_until_the_lease_ends_and_then_gets_no_answer() {
    let (held, clock, replica, alice, password, _folder) = without_a_store(Freshness::Lease).await;
    let good = attempt(&alice, &password);
    assert!(replica.login.authenticate(&good).await.expect("the lease holds").is_allowed());
    // Another replica may have made a device with it since: the lease does not say that it has not.
    let unknown = replica.login.authenticate(&attempt(&alice, "wrong")).await;
    assert!(matches!(unknown, Err(NoAnswer::StoreUnavailable)), "never a denial by the lease alone: {unknown:?}");
    let lease = common::settings().feed.lease;
    clock.0.store(u64::try_from(lease.as_nanos()).expect("short"), Ordering::SeqCst);
    for attempt in [good.clone(), attempt(&alice, "wrong")] {
        let answer = replica.login.authenticate(&attempt).await;
        assert!(matches!(answer, Err(NoAnswer::StoreUnavailable)), "never a denial: {answer:?}");
    }
    held.is_away.store(false, Ordering::SeqCst);
    replica.feed.hint();
    while replica.login.authenticate(&good).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_stands_still_is_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let held = Held::over(common::sqlite(folder.path()));
    let clock = Arc::new(MovedClock::default());
    let replica = bare_replica(Arc::clone(&held) as _, &Pepper::random(), Arc::clone(&clock) as _, Freshness::Lease).await;
    // A sync that gets no answer, and no error either.
    let (reached, go_on) = held.stop_at(Place::Head);
    replica.feed.hint();
    reached.await.expect("the feed syncs");
    let lease = common::settings().feed.lease * 2;
    clock.0.store(u64::try_from(lease.as_nanos()).expect("short"), Ordering::SeqCst);
    let mut health = replica.feed.health();
    let noticed = tokio::time::timeout(Duration::from_secs(30), health.wait_for(|synced| !synced)).await;
    noticed.expect("readiness ends").expect("the feed runs");
    go_on.send(()).expect("it waits");
    health.wait_for(|synced| *synced).await.expect("ready again");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_freshness_read_no_login_is_answered_without_the_store() {
    let (_held, _clock, replica, alice, password, _folder) = without_a_store(Freshness::Read).await;
    let answer = replica.login.authenticate(&attempt(&alice, &password)).await;
    assert!(matches!(answer, Err(NoAnswer::StoreUnavailable)), "{answer:?}");
}

/// A replica and its database, and a standby that was promoted: with all up to some moment, and
/// nothing after it.
struct Rewound {
    held: Arc<Held>,
    replica: Replica,
    /// Who makes changes on one of the databases, past the replica.
    first: Replica,
    second: Replica,
    alice: Address,
    phone: DeviceId,
    password: String,
    /// Of no interest but for the changes that their ends make.
    others: Vec<DeviceId>,
}

impl Rewound {
    async fn new() -> Self {
        let database = support::postgres::fresh_database().await;
        let (first, pepper) = (common::postgres(&database.url).await, Pepper::random());
        let held = Held::over(Arc::clone(&first));
        let replica_on = async |store| bare_replica(store, &pepper, SystemClock::shared(), Freshness::Lease).await;
        let replica = replica_on(Arc::clone(&held) as _).await;
        common::provision(&replica).await;
        let alice = address("alice@example.com");
        common::mailbox(&replica, &alice).await;
        let password = common::device(&replica, &alice, "Phone", None).await;
        for number in 0..8 {
            common::device(&replica, &alice, &format!("Other {number}"), None).await;
        }
        let listed = replica.devices.list(&who(), &alice, None, 10, false).await.expect("listed").devices;
        let (phone, others) = listed.into_iter().partition::<Vec<_>, _>(|device| device.name.as_str() == "Phone");
        replica.feed.sync().await.expect("synced");
        let copy = support::postgres::copy_of(&database).await;
        // Its connections were cut.
        while replica.feed.sync().await.is_err() {}
        let renewals = first.nodes().await.expect("read")[0].renewals;
        // As far as the standby goes: with the row as it is now.
        let row = format!("UPDATE node SET renewals = {renewals}");
        support::postgres::client(&copy).await.batch_execute(&row).await.expect("written");
        let (first, second) = (replica_on(first).await, replica_on(common::postgres(&copy.url).await).await);
        let others = others.into_iter().map(|device| device.device_id).collect();
        Self { held, replica, first, second, alice, phone: phone[0].device_id, password, others }
    }

    async fn login(&self) -> Reason {
        self.replica.login.authenticate(&attempt(&self.alice, &self.password)).await.expect("answered").verdict.reason
    }

    /// Stops the feed after the next head that it is answered.
    async fn stop_feed(&self) -> oneshot::Sender<()> {
        let (reached, go) = self.held.stop_at(Place::Head);
        self.replica.feed.hint();
        reached.await.expect("the feed comes there");
        go
    }

    async fn end(&self, device: DeviceId, on: &Replica) -> Confirmation {
        let revocation = on.devices.disconnect(&who(), &self.alice, device, None, Wait::AtMost(Duration::ZERO)).await;
        revocation.expect("disconnected").confirmation
    }

    async fn change(&mut self, on: fn(&Self) -> &Replica) {
        let device = self.others.pop().expect("there are enough");
        self.end(device, on(self)).await;
    }

    /// The second database takes over; the feed goes on, and syncs with it.
    async fn fail_over(&self, feed: oneshot::Sender<()>) {
        self.held.fail_over(&self.second.store);
        feed.send(()).expect("it waits");
        for _ in 0..2 {
            while self.replica.feed.sync().await.is_err() {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_new_history_are_not_applied_on_top_of_a_lost_one() {
    let mut world = Rewound::new().await;
    world.change(|world| &world.first).await;
    world.replica.feed.sync().await.expect("applied");
    assert_eq!(world.login().await, Reason::Ok, "and warm again");
    // Of this the feed hears the head, and then no row.
    let go = world.stop_feed().await;
    world.change(|world| &world.first).await;
    let (reached, stopped) = world.held.stop_at(Place::Head);
    world.replica.feed.hint();
    go.send(()).expect("it waits");
    reached.await.expect("the feed comes there");
    world.end(world.phone, &world.second).await;
    world.change(|world| &world.second).await;
    world.change(|world| &world.second).await;
    world.fail_over(stopped).await;
    assert_eq!(world.login().await, Reason::DeviceDisconnected);
    assert_eq!(world.replica.feed.lost_histories(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_lost_history_ends_with_a_change_of_the_new_one_though_it_says_that_it_is_newer() {
    let mut world = Rewound::new().await;
    let stopped = world.stop_feed().await;
    for _ in 0..5 {
        world.change(|world| &world.first).await;
    }
    assert_eq!(world.login().await, Reason::Ok, "read from the history that is lost next");
    world.end(world.phone, &world.second).await;
    world.fail_over(stopped).await;
    assert_eq!(world.login().await, Reason::DeviceDisconnected);
    assert_eq!(world.replica.feed.lost_histories(), 0, "it had applied nothing of what was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_has_applied_of_a_lost_history_acknowledges_nothing_of_the_new_one() {
    let mut world = Rewound::new().await;
    for _ in 0..5 {
        world.change(|world| &world.first).await;
    }
    world.replica.feed.sync().await.expect("applied");
    world.replica.feed.sync().await.expect("acknowledged");
    assert_eq!(world.login().await, Reason::Ok);
    let stopped = world.stop_feed().await;
    world.second.feed.leave().await.expect("nobody else is waited for");
    world.held.fail_over(&world.second.store);
    let confirmation = world.end(world.phone, &world.replica).await;
    assert_eq!(world.login().await, Reason::Ok, "it holds a lease, and knows nothing of the change");
    assert!(matches!(confirmation, Confirmation::Pending { .. }), "{confirmation:?}");
    world.fail_over(stopped).await;
    assert_eq!(world.login().await, Reason::DeviceDisconnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_the_database_has_lost_is_not_said_to_be_effective() {
    let mut world = Rewound::new().await;
    let stopped = world.stop_feed().await;
    let before = world.first.store.head(Revision::default()).await.expect("read").revision;
    let (devices, alice, phone) = (Arc::clone(&world.replica.devices), world.alice.clone(), world.phone);
    let revoking = tokio::spawn(async move { devices.disconnect(&who(), &alice, phone, None, Wait::UntilEffective).await });
    while world.first.store.head(Revision::default()).await.expect("read").revision == before {
        tokio::task::yield_now().await;
    }
    // Others take its number.
    for _ in 0..3 {
        world.change(|world| &world.second).await;
    }
    world.fail_over(stopped).await;
    let outcome = revoking.await.expect("no panic");
    assert!(matches!(outcome, Err(Refusal::ChangeLost(_))), "{outcome:?}");
    assert_eq!(world.login().await, Reason::Ok, "it has to be said again");
}

/// What a watcher's stream gets.
struct Queue(std::sync::mpsc::Sender<Message>);

impl Outbox for Queue {
    fn send(&mut self, message: Message) -> bool {
        self.0.send(message).is_ok()
    }

    fn cut_off(self: Box<Self>, _why: CutOff) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_joining_failed_half_way_does_not_go_on_from_before() {
    let mut world = Rewound::new().await;
    let nodes = world.first.store.nodes().await.expect("read");
    let row = nodes.into_iter().min_by_key(|node| node.node_id).expect("it was the first to join");
    let stopped = world.stop_feed().await;
    world.change(|world| &world.first).await;
    world.first.store.leave(row.node_id).await.expect("the row is gone");
    let (joined, go) = world.held.stop_at(Place::Join);
    *world.held.fails.lock().expect("not poisoned") = Some(Place::Join);
    stopped.send(()).expect("it waits");
    joined.await.expect("the feed joins anew");
    // A watcher comes, and begins where the replica does. Then the former row is back: a failover
    // undid its end.
    let (queue, messages) = std::sync::mpsc::channel();
    let key = StreamKey([7; 16]);
    let hello = Hello { name: "imap1".to_owned(), id: uuid::Uuid::from_u128(7), resume: None, observes: false, key };
    let welcome = world.replica.feed.watchers().hello(hello, Box::new(Queue(queue))).expect("there is room");
    world.first.store.join(&row).await.expect("the row is back");
    go.send(()).expect("it waits");
    while world.replica.feed.sync().await.is_err() {}
    world.replica.feed.sync().await.expect("applied");
    let before = messages.try_iter().find_map(|message| match message {
        Message::Change { change, .. } => Some(change.revision).filter(|revision| *revision <= welcome.position.revision),
        _ => None,
    });
    assert_eq!(before, None, "the watcher has begun at {:?}", welcome.position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_awaited_after_the_database_has_lost_it_is_said_to_be_lost() {
    let mut world = Rewound::new().await;
    let stopped = world.stop_feed().await;
    let pending = async |world: &Rewound, device| {
        let not = Wait::AtMost(Duration::ZERO);
        world.replica.devices.disconnect(&who(), &world.alice, device, None, not).await.expect("disconnected").id
    };
    let (phone, other) = (world.phone, world.others.pop().expect("there are enough"));
    let (reused, above) = (pending(&world, phone).await, pending(&world, other).await);
    // Another change takes the first one's number; the second one's is above the head.
    world.change(|world| &world.second).await;
    world.fail_over(stopped).await;
    let may = MayAwait { device_credentials: true, directory: true };
    for (id, what) in [(reused, "another's number"), (above, "above the head")] {
        let outcome = world.replica.devices.await_revocation(&who(), may, id, Wait::UntilEffective).await;
        assert!(matches!(outcome, Err(Refusal::ChangeLost(_))), "{what}: {outcome:?}");
    }
}
