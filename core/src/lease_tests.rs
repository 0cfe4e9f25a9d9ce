//! What holds of the lease. Beside it, because `tests/interleavings` compiles it over shuttle.

use std::time::Duration;

use crate::{
    lease::{DRIFT_PER_MILLE, Lease, held, surely_over},
    model::clock::{BootTime, Timestamp},
};

const LEASE: Duration = Duration::from_secs(10);

#[test]
fn it_is_over_here_before_anybody_stops_to_wait_for_it() {
    // The holder's clock runs 1 % slow, the waiter's 1 % fast.
    assert!(held(LEASE) * 1_000 / (1_000 - DRIFT_PER_MILLE) <= surely_over(LEASE) * 1_000 / (1_000 + DRIFT_PER_MILLE));
}

#[test]
fn it_ends_by_either_clock() {
    let lease = Lease::default();
    let (boot, wall) = (BootTime(5_000_000_000), Timestamp(1_700_000_000_000_000));
    assert!(!lease.holds(boot, wall), "none was granted");
    lease.grant(boot, wall, LEASE);
    let later = Duration::from_millis(9_899);
    assert!(lease.holds(boot + later, wall + later));
    assert_eq!(lease.left(boot + later, wall + later), Duration::from_millis(1));
    assert_eq!(lease.left(boot + later, wall + LEASE), Duration::ZERO);
    let over = Duration::from_millis(9_900);
    assert!(!lease.holds(boot + over, wall + later), "the time since boot has passed");
    assert!(!lease.holds(boot + later, wall + over), "the wall clock has moved on");
    lease.end();
    assert!(!lease.holds(boot, wall));
    lease.take(boot, wall, LEASE);
    lease.take(boot + LEASE / 2, wall + LEASE / 2, LEASE / 4);
    assert_eq!(lease.left(boot, wall), LEASE, "the longer one");
}
