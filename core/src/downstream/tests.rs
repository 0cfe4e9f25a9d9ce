//! What a replica may say of its watchers, and when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use uuid::Uuid;

use super::{test_stream::Watch, *};
use crate::{
    lease::Lease,
    model::{
        address::Address,
        change::{Change, Position, Revision, Scope, ServiceKey},
        clock::{BootTime, Clock, SharedClock, Timestamp},
        id::{DeviceId, MailboxId},
        protocol::Protocol,
        session::OpenSession,
        verdict::{ProvenPassword, Reason, Session},
    },
};

const LEASE: Duration = Duration::from_secs(10);

/// A clock that a test moves.
struct Held(AtomicU64);

impl Clock for Held {
    fn wall(&self) -> Timestamp {
        Timestamp(i64::try_from(self.0.load(Ordering::Relaxed) / 1_000).unwrap())
    }

    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::Relaxed))
    }
}

struct World {
    clock: Arc<Held>,
    lease: Arc<Lease>,
    watchers: Watchers,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(Held(AtomicU64::new(1_000_000_000_000)));
        let lease = Arc::new(Lease::default());
        let watchers = Watchers::new(Arc::clone(&clock) as SharedClock, Arc::clone(&lease), Arc::new(|| ()));
        let world = Self { clock, lease, watchers };
        world.renew_own();
        world
    }

    fn renew_own(&self) {
        self.lease.grant(self.clock.boot(), self.clock.wall(), LEASE);
    }

    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    fn change(&self, revision: u64) {
        let nonce = i64::try_from(revision).unwrap() * 10;
        let change = Change { revision: Revision(revision), nonce, scope: Scope::Mailboxes(vec![]), ended: vec![] };
        self.watchers.tell(&Arc::new(change));
    }

    /// A switch of a whole mail service: it does not say which passwords it bars.
    fn service_change(&self, revision: u64) {
        let nonce = i64::try_from(revision).unwrap() * 10;
        let scope = Scope::Service(ServiceKey(1));
        self.watchers.tell(&Arc::new(Change { revision: Revision(revision), nonce, scope, ended: vec![] }));
    }

    fn hello(&self, id: u128, resume: Option<u64>) -> Watch {
        let resume =
            resume.map(|revision| Position { revision: Revision(revision), nonce: i64::try_from(revision).unwrap() * 10 });
        let hello = Hello {
            name: format!("host-{id}"),
            id: Uuid::from_u128(id),
            resume,
            observes: false,
            key: StreamKey(id.to_be_bytes()),
        };
        Watch::open(&self.watchers, hello).unwrap()
    }

    /// One that holds a lease.
    fn host(&self, id: u128) -> Watch {
        let watch = self.hello(id, None);
        self.watchers.renew(watch.number, 1).unwrap();
        watch
    }

    fn settled(&self, applied: u64) -> u64 {
        self.watchers.settled(Revision(applied)).0
    }
}

fn received(watch: &Watch) -> Vec<String> {
    std::iter::from_fn(|| watch.messages.try_recv().ok()).map(|message| format!("{message:?}")).collect()
}

#[test]
fn a_change_is_settled_when_each_watcher_has_said_so() {
    let world = World::new();
    let (first, second) = (world.host(1), world.host(2));
    world.change(1);
    world.change(2);
    assert_eq!(world.settled(2), 0);
    world.watchers.acknowledge(first.number, Revision(2)).unwrap();
    world.watchers.acknowledge(second.number, Revision(1)).unwrap();
    assert_eq!(world.settled(2), 1);
    world.watchers.acknowledge(second.number, Revision(2)).unwrap();
    assert_eq!(world.settled(2), 2);
}

#[test]
fn a_grant_comes_after_the_changes_that_were_applied_before_it_and_is_no_longer_than_the_lease() {
    let world = World::new();
    let host = world.hello(1, None);
    world.pass(LEASE / 2);
    world.change(1);
    world.watchers.renew(host.number, 7).unwrap();
    let received = received(&host);
    assert!(received[0].starts_with("Change") && received[1].starts_with("Granted { number: 7"), "{received:?}");
    let own = world.lease.left(world.clock.boot(), world.clock.wall());
    assert!(received[1].contains(&format!("lease: {own:?}")), "{received:?}");
}

#[test]
fn who_is_gone_is_waited_for_as_long_as_its_lease_and_no_longer() {
    let world = World::new();
    let host = world.host(1);
    world.watchers.goodbye(host.number);
    world.change(1);
    assert_eq!(world.settled(1), 0, "it may answer from its cache");
    assert!(world.watchers.has_leases());
    world.pass(crate::lease::surely_over_elsewhere(LEASE));
    assert_eq!(world.settled(1), 1);
    assert!(!world.watchers.has_leases());
}

#[test]
fn who_comes_back_with_what_it_has_applied_need_not_be_waited_for_twice() {
    let world = World::new();
    let host = world.host(1);
    world.change(1);
    world.watchers.acknowledge(host.number, Revision(1)).unwrap();
    world.watchers.goodbye(host.number);
    world.change(2);
    let back = world.hello(1, Some(1));
    assert!(!back.starts_empty);
    assert_eq!(back.position.revision, Revision(1));
    assert_eq!((received(&back).len(), world.settled(2)), (1, 1), "it is told, and waited for: its lease goes on");
    world.watchers.acknowledge(back.number, Revision(2)).unwrap();
    assert_eq!(world.settled(2), 2);
}

#[test]
fn who_comes_back_empty_is_waited_for_as_what_it_was() {
    let world = World::new();
    let host = world.host(1);
    world.watchers.goodbye(host.number);
    world.change(1);
    let back = world.hello(1, None);
    assert!(back.starts_empty);
    assert_eq!(world.settled(1), 0, "whether it has emptied its cache yet nobody knows");
}

#[test]
fn who_reads_nothing_is_cut_off_and_waited_for() {
    let world = World::new();
    let host = world.host(1);
    for revision in 1..=QUEUE as u64 + 1 {
        world.change(revision);
    }
    assert_eq!(host.cut_off.try_recv(), Ok(CutOff::TooSlow));
    assert_eq!(world.watchers.counts().0, 0);
    assert_eq!(world.settled(QUEUE as u64 + 1), 0);
    assert_eq!(world.watchers.acknowledge(host.number, Revision(1)), Err(ProtocolError::CutOff));
    world.pass(crate::lease::surely_over_elsewhere(LEASE));
    assert_eq!(world.settled(QUEUE as u64 + 1), QUEUE as u64 + 1);
}

#[test]
fn when_history_goes_back_nobody_is_settled_before_it_has_begun_anew() {
    let world = World::new();
    let host = world.host(1);
    for revision in 1..=3 {
        world.change(revision);
    }
    world.watchers.acknowledge(host.number, Revision(3)).unwrap();
    world.lease.end();
    world.watchers.tell_start_empty(Position { revision: Revision(5), nonce: 21 });
    assert_eq!(world.settled(5), 0, "1 to 5 of the new history it was never told of");
    assert!(received(&host).last().unwrap().starts_with("StartEmpty"));
    world.watchers.acknowledge(host.number, Revision(5)).unwrap();
    assert_eq!(world.settled(5), 5);
}

#[test]
fn what_is_acknowledged_of_a_lost_history_does_not_pass_for_having_begun_anew() {
    let world = World::new();
    let host = world.host(1);
    for revision in 1..=3 {
        world.change(revision);
    }
    world.watchers.tell_start_empty(Position { revision: Revision(2), nonce: 21 });
    assert_eq!(host.cut_off.try_recv(), Ok(CutOff::BeginsAnew));
    assert_eq!(world.watchers.acknowledge(host.number, Revision(2)), Err(ProtocolError::CutOff), "on its way since before");
    assert_eq!(world.settled(2), 0, "it holds a lease");
    let back = world.hello(1, Some(3));
    assert!(back.starts_empty);
    assert_eq!(world.settled(2), 0, "until it says so");
    world.pass(crate::lease::surely_over_elsewhere(LEASE));
    assert_eq!(world.settled(2), 2);
}

#[test]
fn more_watchers_than_the_limit_are_refused() {
    let world = World::new();
    let watches: Vec<_> = (0..MAX_WATCHERS as u128).map(|id| world.hello(id, None)).collect();
    let hello = Hello {
        name: "one too many".into(),
        id: Uuid::from_u128(u128::MAX),
        resume: None,
        observes: false,
        key: StreamKey([0; 16]),
    };
    assert_eq!(Watch::open(&world.watchers, hello).map(drop).unwrap_err(), ProtocolError::TooManyWatchers);
    drop(watches);
}

fn session(number: u64) -> (Session, OpenSession) {
    let password = ProvenPassword {
        mailbox_id: MailboxId::from_parts(Timestamp(0), [6; 10]),
        device_id: DeviceId::from_parts(Timestamp(0), [7; 10]),
        generation: 1,
    };
    let address = Address::parse("address", &format!("user{}@example.com", number % 100)).unwrap();
    let shown =
        OpenSession { password, protocol: Protocol::Imap, client_ip: None, open_time: Timestamp(0), frontend: "host".to_owned() };
    (Session { password, revision: Revision(0), address }, shown)
}

#[test]
fn more_sessions_than_the_limit_are_refused_and_none_is_lost() {
    let world = World::new();
    let (host, other) = (world.host(1), world.host(2));
    let open = |watch: &Watch, number| {
        let (session, shown) = session(number);
        world.watchers.session_opened(watch.number, number, session, shown)
    };
    for number in 0..MAX_SESSIONS as u64 {
        assert_eq!(open(&host, number), Ok(Opened::Good));
    }
    assert_eq!(open(&host, MAX_SESSIONS as u64), Err(ProtocolError::TooManySessions));
    assert_eq!(open(&other, 0), Ok(Opened::Good), "each has room of its own");
    assert_eq!(world.watchers.counts().1, MAX_SESSIONS + 1);
    world.watchers.sessions_ended(host.number, &[0], End::Closed).unwrap();
    assert_eq!(open(&host, MAX_SESSIONS as u64), Ok(Opened::Good));
}

#[test]
fn a_watcher_closes_no_session_of_another() {
    let world = World::new();
    let (host, other) = (world.host(1), world.host(2));
    let (session, shown) = session(7);
    world.watchers.session_opened(host.number, 7, session, shown).unwrap();
    assert_eq!(world.watchers.sessions_ended(other.number, &[7], End::Closed), Err(ProtocolError::SessionNotOpen));
    assert_eq!(world.watchers.counts().1, 1);
}

/// What is written of a change: closed, and not known yet.
fn written(world: &World, revision: u64) -> Option<(u32, u32)> {
    world.settled(revision);
    let closings = world.watchers.take_closings(Revision(revision));
    let closing = closings.into_iter().find(|closing| closing.revision == Revision(revision))?;
    Some((closing.closed, closing.silent.iter().map(|host| host.sessions).sum()))
}

fn doubts(watch: &Watch) -> Vec<Doubtful> {
    let messages = std::iter::from_fn(|| watch.messages.try_recv().ok());
    let doubts = messages.filter_map(|message| if let Message::Judge(doubts) = message { Some(doubts) } else { None });
    doubts.flatten().collect()
}

#[test]
fn a_change_that_may_have_ended_sessions_counts_them_until_they_are_judged() {
    let world = World::new();
    let watch = world.hello(1, None);
    for number in [1, 2, 3] {
        let (session, shown) = session(number);
        world.watchers.session_opened(watch.number, number, session, shown).unwrap();
    }
    world.service_change(1);
    let doubts = doubts(&watch);
    assert_eq!(doubts.len(), 3);
    assert_eq!(written(&world, 1), Some((0, 3)), "nothing is known of them");
    for doubtful in &doubts {
        let reason = if doubtful.number == 1 { Reason::GenericLoginOff } else { Reason::Ok };
        world.watchers.judged(watch.number, doubtful, reason, Revision(2));
    }
    assert_eq!(written(&world, 1), Some((0, 1)), "one is told to close, and has not reported");
    world.watchers.sessions_ended(watch.number, &[1], End::Closed).unwrap();
    assert_eq!(written(&world, 1), Some((1, 0)));
}

#[test]
fn a_session_that_ends_by_itself_before_it_is_judged_was_ended_by_no_change() {
    let world = World::new();
    let watch = world.hello(1, None);
    let (session, shown) = session(1);
    world.watchers.session_opened(watch.number, 1, session, shown).unwrap();
    world.service_change(1);
    assert_eq!(written(&world, 1), Some((0, 1)));
    world.watchers.sessions_ended(watch.number, &[1], End::Closed).unwrap();
    assert_eq!(written(&world, 1), Some((0, 0)));
    let doubts = doubts(&watch);
    world.watchers.judged(watch.number, &doubts[0], Reason::GenericLoginOff, Revision(2));
    assert_eq!(received(&watch), Vec::<String>::new(), "nobody is told to close what is closed");
}

#[test]
fn a_session_of_which_two_changes_were_in_doubt_is_counted_by_both() {
    let world = World::new();
    let watch = world.hello(1, None);
    let (session, shown) = session(1);
    world.watchers.session_opened(watch.number, 1, session, shown).unwrap();
    world.service_change(1);
    world.service_change(2);
    let doubts = doubts(&watch);
    world.watchers.judged(watch.number, &doubts[0], Reason::GenericLoginOff, Revision(2));
    world.watchers.sessions_ended(watch.number, &[1], End::Closed).unwrap();
    world.watchers.judged(watch.number, &doubts[1], Reason::GenericLoginOff, Revision(2));
    let closings = world.watchers.take_closings(Revision(2));
    let counts: Vec<_> = closings.iter().map(|it| (it.revision.0, it.closed, it.silent.len())).collect();
    assert_eq!(counts, [(1, 1, 0), (2, 1, 0)]);
}

#[test]
fn a_session_that_is_reported_late_is_judged_if_a_change_may_have_ended_it() {
    let world = World::new();
    let watch = world.hello(1, None);
    world.service_change(1);
    let (session, shown) = session(1);
    let opened = world.watchers.session_opened(watch.number, 1, session.clone(), shown.clone());
    assert_eq!(opened, Ok(Opened::Doubtful { cause: Some(Revision(1)) }));
    let knows = Session { revision: Revision(1), ..session };
    assert_eq!(world.watchers.session_opened(watch.number, 2, knows, shown), Ok(Opened::Good));
}
