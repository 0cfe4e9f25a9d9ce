//! The lease: until when this process may answer from its cache.

use std::time::Duration;

use crate::{
    model::clock::{BootTime, Timestamp},
    sync::{AtomicI64, AtomicU64, Ordering},
};

/// How much faster or slower than another a clock may run, in a thousand: all that is trusted about
/// clocks (docs/design.md, "A revocation").
pub const DRIFT_PER_MILLE: u32 = 10;
/// What is added on the waiting side, for scheduling and rounding.
pub const MARGIN: Duration = Duration::from_millis(250);

/// What a setting allows. The longest is also what is waited for while it is not known how long the
/// others' are.
pub const SHORTEST: Duration = Duration::from_millis(500);
pub const LONGEST: Duration = Duration::from_secs(60);

/// How long a sync's lease lasts, from just before the sync: `L (1 - e)`.
pub fn held(lease: Duration) -> Duration {
    lease * (1_000 - DRIFT_PER_MILLE) / 1_000
}

/// After how long a lease is over for whoever waits for it, by any clock within the bound: `L (1 +
/// e)` and a margin.
pub fn surely_over(lease: Duration) -> Duration {
    lease * (1_000 + DRIFT_PER_MILLE) / 1_000 + MARGIN
}

/// After how long, by this process's clock, a lease is over that it hands on to another, who counts
/// it from before it asked.
pub fn surely_over_elsewhere(left: Duration) -> Duration {
    left * (1_000 + DRIFT_PER_MILLE) / (1_000 - DRIFT_PER_MILLE)
}

/// Read by every login, so two plain atomics. Each alone only ends it sooner, so they need not be
/// read together.
#[derive(Debug, Default)]
pub struct Lease {
    end: AtomicU64,
    /// The wall clock at its end, were it to run evenly: if it has jumped further, this machine may
    /// have slept in a way that CLOCK_BOOTTIME did not see.
    wall_end: AtomicI64,
}

impl Lease {
    /// Grants it from a moment just before the sync was asked for.
    pub fn grant(&self, from: BootTime, wall_from: Timestamp, lease: Duration) {
        self.wall_end.store((wall_from + held(lease)).0, Ordering::Release);
        self.end.store((from + held(lease)).0, Ordering::Release);
    }

    /// Takes what another process's lease has left, counted from before it was asked. An earlier
    /// one that runs longer goes on.
    pub fn take(&self, asked: BootTime, wall_asked: Timestamp, left: Duration) {
        self.wall_end.fetch_max((wall_asked + left).0, Ordering::AcqRel);
        self.end.fetch_max((asked + left).0, Ordering::AcqRel);
    }

    pub fn end(&self) {
        self.end.store(0, Ordering::Release);
    }

    /// How long it still runs.
    pub fn left(&self, now: BootTime, wall_now: Timestamp) -> Duration {
        let wall_left = self.wall_end.load(Ordering::Acquire).saturating_sub(wall_now.0);
        let wall_left = Duration::from_micros(u64::try_from(wall_left).unwrap_or(0));
        (BootTime(self.end.load(Ordering::Acquire)) - now).min(wall_left)
    }

    pub fn holds(&self, now: BootTime, wall_now: Timestamp) -> bool {
        now.0 < self.end.load(Ordering::Acquire) && wall_now.0 < self.wall_end.load(Ordering::Acquire)
    }
}
