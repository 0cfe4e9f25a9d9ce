//! What logins, sessions and the following task of one mail host share in memory.
//!
//! One task follows a replica and calls [`MailHost::welcomed`], [`MailHost::hear`],
//! [`MailHost::poll`] and [`MailHost::disconnected`]. Logins and sessions come from any thread
//! meanwhile.

use std::{fmt, time::Duration};

use super::{
    admission::Admission,
    counts::Counts,
    follower::{ANSWER_TIMEOUT, Follower, HangUp, Message, Step},
    messages::{Close, Opening, Request, SessionNumber, Standing, Todo, TooManySessions, Welcome},
    sessions::Sessions,
};
use crate::{
    cache::{mailboxes::MailboxCache, memos::Memos},
    downstream::StreamKey,
    lease::Lease,
    model::{
        change::{Change, Position, Revision},
        clock::{BootTime, SharedClock},
        verdict::Reason,
    },
    sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError},
};

/// How often to ask whether there are leases now, of a replica that grants none.
const RENEW_WITHOUT_LEASE: Duration = Duration::from_secs(1);
const SHORTEST_RENEWAL: Duration = Duration::from_millis(50);
/// How often cached logins are reported.
const COUNTS_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two calls of [`MailHost::poll`].
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How a mail host is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Mailboxes cached, at most.
    pub cache_mailboxes: usize,
    /// Random, made at start.
    pub memo_key: [u8; 32],
    /// All sessions are closed after so long without a lease. `None`: they stay.
    pub close_when_cut_off_for: Option<Duration>,
}

/// See the module.
pub struct MailHost {
    pub(super) clock: SharedClock,
    pub(super) cache: MailboxCache,
    pub(super) memos: Memos,
    pub(super) lease: Lease,
    /// The revision of the follower's position, for logins.
    applied: AtomicU64,
    /// When the last lease that was granted had been asked for; 0 if none was.
    granted_from: AtomicU64,
    following: Mutex<Following>,
    /// Of the stream that is followed.
    pub(super) stream_key: Mutex<Option<StreamKey>>,
    sessions: Mutex<Sessions>,
    pub(super) counts: Mutex<Counts>,
    close_when_cut_off_for: Option<Duration>,
    /// Called when there is something to report. Must not wait.
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// What the following task alone changes.
#[derive(Debug, Default)]
struct Following {
    follower: Follower,
    stream: Option<Stream>,
    without_lease_since: Option<BootTime>,
}

/// The timing of one stream.
#[derive(Debug)]
struct Stream {
    began: BootTime,
    grants_leases: bool,
    renewal: Duration,
    next_renewal: BootTime,
    next_counts: BootTime,
}

impl MailHost {
    pub fn new(settings: &Settings, clock: SharedClock, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            clock,
            cache: MailboxCache::with_capacity(settings.cache_mailboxes),
            memos: Memos::with_capacity(settings.cache_mailboxes, &settings.memo_key),
            lease: Lease::default(),
            applied: AtomicU64::new(0),
            granted_from: AtomicU64::new(0),
            following: Mutex::default(),
            stream_key: Mutex::new(None),
            sessions: Mutex::default(),
            counts: Mutex::default(),
            close_when_cut_off_for: settings.close_when_cut_off_for,
            wake,
        }
    }

    /// Whether answers come from the cache just now.
    pub fn has_lease(&self) -> bool {
        self.lease.holds(self.clock.boot(), self.clock.wall())
    }

    /// When the last lease that was granted had been asked for: everything that was acknowledged
    /// before is known here.
    pub fn granted_from(&self) -> Option<BootTime> {
        Some(BootTime(self.granted_from.load(Ordering::Acquire))).filter(|from| from.0 > 0)
    }

    /// The last change that was applied.
    pub fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// Where the next stream resumes; `None`: it starts empty.
    pub fn position(&self) -> Option<Position> {
        lock(&self.following).follower.position()
    }

    /// How many mailboxes are cached.
    pub fn cached_mailboxes(&self) -> usize {
        self.cache.len()
    }

    // For the task that follows a replica.

    /// A stream begins.
    pub fn welcomed(&self, welcome: Welcome) -> Todo {
        let now = self.clock.boot();
        let mut todo = Todo::default();
        {
            let mut following = lock(&self.following);
            for step in following.follower.welcomed(welcome.position, welcome.start_empty) {
                self.carry_out(step, &mut todo);
            }
            self.publish(&following.follower);
            let renewal = if welcome.lease.is_zero() { RENEW_WITHOUT_LEASE } else { welcome.lease / 5 };
            following.stream = Some(Stream {
                began: now,
                grants_leases: !welcome.lease.is_zero(),
                renewal: renewal.max(SHORTEST_RENEWAL),
                next_renewal: now,
                next_counts: now + COUNTS_INTERVAL,
            });
        }
        self.lock_sessions().begin_reports();
        *lock(&self.stream_key) = Some(welcome.key);
        todo.requests.extend(self.take_reports());
        todo
    }

    /// A message of the stream.
    pub fn hear(&self, message: Message<Arc<Change>>) -> Todo {
        let mut todo = Todo::default();
        let mut following = lock(&self.following);
        for step in following.follower.hear(message) {
            self.carry_out(step, &mut todo);
            // Before the next step acknowledges it: what is asked from here on is as new as the
            // change.
            self.publish(&following.follower);
        }
        todo
    }

    /// The replica wants sessions closed.
    pub fn close_sessions(&self, numbers: &[SessionNumber], reason: Reason, cause: Revision) -> Vec<Close> {
        let mut sessions = self.lock_sessions();
        numbers.iter().filter_map(|number| sessions.close(*number, reason, cause)).collect()
    }

    /// Asks for a lease now.
    pub fn renew(&self) -> Request {
        self.ask_for_lease(&mut lock(&self.following).follower)
    }

    fn ask_for_lease(&self, follower: &mut Follower) -> Request {
        // Before the replica is asked: the lease counts from here.
        Request::Renew { number: follower.ask(self.clock.boot(), self.clock.wall()) }
    }

    /// What time makes due. To be called again after the pause that is answered, with a stream or
    /// without.
    pub fn poll(&self) -> (Todo, Duration) {
        let now = self.clock.boot();
        let mut todo = Todo::default();
        let mut pause = LONGEST_PAUSE;
        let mut following = lock(&self.following);
        let Following { follower, stream, without_lease_since } = &mut *following;
        let without_lease = if self.has_lease() {
            *without_lease_since = None;
            Duration::ZERO
        } else {
            now - *without_lease_since.get_or_insert(now)
        };
        if let Some(stream) = stream {
            if stream.next_renewal <= now {
                stream.next_renewal = now + stream.renewal;
                todo.requests.push(self.ask_for_lease(follower));
            }
            if stream.next_counts <= now {
                stream.next_counts = now + COUNTS_INTERVAL;
                todo.requests.extend(lock(&self.counts).take().into_iter().map(Request::CachedLogins));
            }
            pause = pause.min(stream.next_renewal - now).min(stream.next_counts - now);
            let has_waited = |since: Duration| since > ANSWER_TIMEOUT && now - stream.began > ANSWER_TIMEOUT;
            if follower.is_silent(now) {
                todo.hang_up = Some(HangUp::Silent);
            } else if stream.grants_leases && has_waited(without_lease) {
                todo.hang_up = Some(HangUp::NoLease);
            }
        }
        if self.close_when_cut_off_for.is_some_and(|limit| without_lease >= limit) {
            todo.close = self.lock_sessions().close_all(Reason::DeviceDisconnected);
        }
        (todo, pause)
    }

    /// Sessions that opened or ended since this was asked last: asked after each wake.
    pub fn take_reports(&self) -> Vec<Request> {
        self.lock_sessions().take_reports()
    }

    /// The stream is gone. Cache, lease and sessions stay.
    pub fn disconnected(&self) {
        *lock(&self.stream_key) = None;
        self.lock_sessions().end_reports();
        let mut following = lock(&self.following);
        following.stream = None;
        following.follower.disconnected();
    }

    /// Uses the cache no more: for a host that stops.
    pub fn stop(&self) -> Todo {
        self.lease.end();
        Todo { requests: vec![Request::Surrender], close: vec![], hang_up: Some(HangUp::Stopping) }
    }

    fn carry_out(&self, step: Step<Arc<Change>>, todo: &mut Todo) {
        match step {
            Step::EndLease => self.lease.end(),
            Step::Clear(floor) => self.cache.clear(floor),
            Step::Apply(change) => {
                self.cache.apply(&change);
                todo.close.extend(self.lock_sessions().apply(&change));
            }
            Step::BeginSessions(at) => self.lock_sessions().begin_at(at),
            Step::Acknowledge(revision) => todo.requests.push(Request::Acknowledge(revision)),
            Step::TakeLease { asked, wall_asked, left } => {
                self.lease.take(asked, wall_asked, left);
                self.granted_from.store(asked.0, Ordering::Release);
            }
            Step::Surrender => todo.requests.push(Request::Surrender),
            Step::HangUp(why) => todo.hang_up = Some(why),
        }
    }

    fn publish(&self, follower: &Follower) {
        let revision = follower.position().unwrap_or_default().revision;
        self.applied.store(revision.0, Ordering::Release);
    }

    // For mail servers' sessions.

    /// Whether a session may still open that was allowed before: `None` if only the replica can
    /// tell.
    pub fn standing(&self, admission: &Admission) -> Option<Standing> {
        // Under the lock that a change takes before it is acknowledged: authority is judged last.
        let sessions = self.lock_sessions();
        let standing = sessions.standing(&admission.session, admission.epoch)?;
        self.has_lease().then_some(standing)
    }

    /// A session opens with an allowed login. If its password has ended meanwhile, it is to close
    /// at once.
    pub fn opened(&self, opening: Opening) -> Result<(SessionNumber, Option<Close>), TooManySessions> {
        let opened = self.lock_sessions().open(opening);
        (self.wake)();
        opened
    }

    /// A session has ended, by whomever.
    pub fn closed(&self, number: SessionNumber) {
        self.lock_sessions().closed(number);
        (self.wake)();
    }

    /// A session that was to close is still connected, and every further command in it is refused.
    pub fn refused(&self, number: SessionNumber) {
        self.lock_sessions().refused(number);
        (self.wake)();
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.lock_sessions().len()
    }

    /// Cached logins that were not reported, for lack of room.
    pub fn uncounted_logins(&self) -> u64 {
        lock(&self.counts).uncounted()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lock_sessions().epoch()
    }

    fn lock_sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MailHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailHost").field("applied", &self.applied()).finish_non_exhaustive()
    }
}
