//! Floor 2: a pool of threads of its own for hashing, so that argon2 takes no time from the event
//! loop: each keeps its memory, and yields to whoever answers warm logins.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::error;

use crate::passwords::hash::{HashError, Hasher, Memory};
use latchkey_core::model::{
    clock::{BootTime, SharedClock},
    device::PasswordHash,
    secret::Secret,
};

/// How much less than others the threads ask for: a warm login's thread goes first.
const NICENESS: i32 = 10;
/// Logins that wait for one run.
const MAX_SHARING: usize = 1_024;

#[derive(Clone, Copy, Debug)]
pub struct HashingSettings {
    /// `None`: one a core.
    pub threads: Option<NonZeroUsize>,
    /// Jobs that may wait.
    pub queue: usize,
    /// How long one may wait.
    pub deadline: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashingError {
    /// The queue is full, or the job waited too long: try later.
    #[error("too many passwords wait to be hashed")]
    Overloaded,
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("hashing panicked")]
    Panicked,
}

/// See the module.
pub struct HashingPool {
    shared: Arc<Shared>,
    hasher: Arc<Hasher>,
    clock: SharedClock,
    settings: HashingSettings,
}

type Verdict = Result<bool, HashingError>;
type Job = Box<dyn FnOnce(&mut Memory, bool) + Send>;

struct Waiting {
    job: Job,
    until: BootTime,
    is_wanted: Box<dyn Fn() -> bool + Send>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Verifications under way, and who waits for each.
    under_way: Mutex<HashMap<[u8; 32], Vec<oneshot::Sender<Verdict>>>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    stopped: bool,
    /// Counts, for metrics.
    counts: HashingCounts,
}

/// What the pool has done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HashingCounts {
    pub runs: u64,
    pub refused: u64,
    pub queued: usize,
}

impl HashingPool {
    pub fn new(hasher: Hasher, clock: SharedClock, settings: HashingSettings) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = settings.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        for number in 0..threads {
            let (shared, clock) = (Arc::clone(&shared), Arc::clone(&clock));
            let started = thread::Builder::new().name(format!("hashing-{number}")).spawn(move || work(&shared, &clock));
            if let Err(cause) = started {
                error!(%cause, "a hashing thread can't be started");
            }
        }
        Self { shared, hasher: Arc::new(hasher), clock, settings }
    }

    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    pub fn counts(&self) -> HashingCounts {
        let state = lock(&self.shared.state);
        HashingCounts { queued: state.queue.len(), ..state.counts }
    }

    /// Whether a password is a hash's. Joins a run under way for the same `job`: a digest of hash
    /// and password.
    pub async fn verify(&self, job: [u8; 32], password: Secret, hash: PasswordHash) -> Verdict {
        let (done, answer) = oneshot::channel();
        let is_first = {
            let mut under_way = lock(&self.shared.under_way);
            let sharing = under_way.entry(job).or_default();
            if sharing.len() >= MAX_SHARING {
                return Err(HashingError::Overloaded);
            }
            sharing.push(done);
            sharing.len() == 1
        };
        if is_first {
            let (shared, hasher) = (Arc::clone(&self.shared), Arc::clone(&self.hasher));
            let answer_all = move |verdict: Verdict| {
                for login in lock(&shared.under_way).remove(&job).unwrap_or_default() {
                    // Who hung up needs no answer.
                    let _ = login.send(verdict.clone());
                }
            };
            let refuse = answer_all.clone();
            let run: Job = Box::new(move |memory, in_time| {
                let verdict = if in_time {
                    caught(|| hasher.verify(password.expose(), &hash, memory).map_err(Into::into))
                } else {
                    Err(HashingError::Overloaded)
                };
                answer_all(verdict);
            });
            let shared = Arc::clone(&self.shared);
            let is_wanted =
                move || lock(&shared.under_way).get(&job).is_some_and(|sharing| sharing.iter().any(|login| !login.is_closed()));
            if !self.enqueue(run, is_wanted) {
                refuse(Err(HashingError::Overloaded));
            }
        }
        answer.await.unwrap_or(Err(HashingError::Panicked))
    }

    /// A new hash.
    pub async fn hash(&self, password: Secret) -> Result<PasswordHash, HashingError> {
        let (done, answer) = oneshot::channel();
        let hasher = Arc::clone(&self.hasher);
        let run: Job = Box::new(move |memory, in_time| {
            let hash = if in_time {
                caught(|| hasher.hash(password.expose(), memory).map_err(Into::into))
            } else {
                Err(HashingError::Overloaded)
            };
            let _ = done.send(hash);
        });
        if !self.enqueue(run, || true) {
            return Err(HashingError::Overloaded);
        }
        answer.await.unwrap_or(Err(HashingError::Panicked))
    }

    /// Whether there was room.
    fn enqueue(&self, job: Job, is_wanted: impl Fn() -> bool + Send + 'static) -> bool {
        let mut state = lock(&self.shared.state);
        if state.stopped || state.queue.len() >= self.settings.queue {
            state.counts.refused += 1;
            return false;
        }
        let until = self.clock.boot() + self.settings.deadline;
        state.queue.push_back(Waiting { job, until, is_wanted: Box::new(is_wanted) });
        drop(state);
        self.shared.wake.notify_one();
        true
    }
}

impl Drop for HashingPool {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.wake.notify_all();
    }
}

impl fmt::Debug for HashingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashingPool").field("settings", &self.settings).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

fn work(shared: &Shared, clock: &SharedClock) {
    // Best effort: without it hashing only takes its fair share. On Linux this is the thread's own.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
    let mut memory = Memory::new();
    loop {
        let waiting = {
            let mut state = lock(&shared.state);
            loop {
                if let Some(waiting) = state.queue.pop_front() {
                    break waiting;
                }
                if state.stopped {
                    return;
                }
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let in_time = clock.boot() <= waiting.until && (waiting.is_wanted)();
        {
            let mut state = lock(&shared.state);
            let counts = &mut state.counts;
            *(if in_time { &mut counts.runs } else { &mut counts.refused }) += 1;
        }
        (waiting.job)(&mut memory, in_time);
    }
}

/// A panic costs the one job.
fn caught<T>(run: impl FnOnce() -> Result<T, HashingError>) -> Result<T, HashingError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(HashingError::Panicked))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
