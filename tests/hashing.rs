//! The hashing pool's promises: a bounded queue, a deadline, one run for identical jobs, and none
//! for who has hung up.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use latchkey::{
    hashing::{HashingError, HashingPool, HashingSettings},
    passwords::{
        hash::{HashCost, Hasher, Memory},
        pepper::Pepper,
    },
};
use latchkey_core::model::{
    clock::{BootTime, Clock, Timestamp},
    secret::Secret,
};

/// Stands still until it is moved.
#[derive(Default)]
struct StillClock(AtomicU64);

impl Clock for StillClock {
    fn wall(&self) -> Timestamp {
        Timestamp(0)
    }

    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::SeqCst))
    }
}

const DEADLINE: Duration = Duration::from_secs(2);

struct World {
    pool: Arc<HashingPool>,
    clock: Arc<StillClock>,
    hasher: Hasher,
}

/// A pool of one thread, whose hash takes about a hundred milliseconds: long enough to do something
/// meanwhile.
fn world(queue: usize) -> World {
    let cost = HashCost { memory_kib: 32_768, passes: 2, lanes: 1 };
    let hasher = Hasher::new(&Pepper::random(), cost).expect("a good cost");
    let clock = Arc::new(StillClock::default());
    let settings = HashingSettings { threads: NonZeroUsize::new(1), queue, deadline: DEADLINE };
    let pool = Arc::new(HashingPool::new(hasher.clone(), Arc::clone(&clock) as _, settings));
    World { pool, clock, hasher }
}

impl World {
    /// Keeps the one thread busy, and returns once it is.
    async fn occupy(&self) -> tokio::task::JoinHandle<()> {
        let before = self.pool.counts().runs;
        let pool = Arc::clone(&self.pool);
        let busy = tokio::spawn(async move {
            pool.hash(Secret::from("busy".to_owned())).await.expect("hashed");
        });
        while self.pool.counts().runs == before {
            tokio::task::yield_now().await;
        }
        busy
    }

    async fn queued(&self, number: usize) {
        while self.pool.counts().queued < number {
            tokio::task::yield_now().await;
        }
    }
}

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let world = world(1);
    let busy = world.occupy().await;
    let pool = Arc::clone(&world.pool);
    let waiting = tokio::spawn(async move { pool.hash(secret("waits")).await });
    world.queued(1).await;
    assert_eq!(world.pool.hash(secret("one too many")).await, Err(HashingError::Overloaded));
    assert!(!busy.is_finished(), "it did not wait to say so");
    waiting.await.expect("no panic").expect("hashed in its turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_too_long_is_refused() {
    let world = world(10);
    let busy = world.occupy().await;
    let pool = Arc::clone(&world.pool);
    let waiting = tokio::spawn(async move { pool.hash(secret("waits")).await });
    world.queued(1).await;
    world.clock.0.store(u64::try_from(DEADLINE.as_nanos()).expect("short") + 1, Ordering::SeqCst);
    assert_eq!(waiting.await.expect("no panic"), Err(HashingError::Overloaded));
    busy.await.expect("what ran goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_logins_under_way_run_once() {
    let world = world(10);
    let hash = world.hasher.hash(b"right", &mut Memory::new()).expect("hashed");
    let _busy = world.occupy().await;
    let before = world.pool.counts().runs;
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let (pool, hash) = (Arc::clone(&world.pool), hash.clone());
            tokio::spawn(async move { pool.verify([7; 32], secret("right"), hash).await })
        })
        .collect();
    world.queued(1).await;
    for answer in asked {
        assert_eq!(answer.await.expect("no panic"), Ok(true));
    }
    assert_eq!(world.pool.counts().runs - before, 1);
    assert_eq!(world.pool.verify([8; 32], secret("wrong"), hash).await, Ok(false), "another one runs by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_hung_up_costs_no_run() {
    let world = world(10);
    let hash = world.hasher.hash(b"right", &mut Memory::new()).expect("hashed");
    let busy = world.occupy().await;
    let (pool, of_them) = (Arc::clone(&world.pool), hash.clone());
    let gone = tokio::spawn(async move { pool.verify([7; 32], secret("right"), of_them).await });
    world.queued(1).await;
    gone.abort();
    assert!(gone.await.expect_err("aborted").is_cancelled());
    let before = world.pool.counts();
    busy.await.expect("hashed");
    // The next one comes after it in the queue.
    assert_eq!(world.pool.verify([8; 32], secret("right"), hash).await, Ok(true));
    let after = world.pool.counts();
    assert_eq!((after.runs - before.runs, after.refused - before.refused), (1, 1));
}
