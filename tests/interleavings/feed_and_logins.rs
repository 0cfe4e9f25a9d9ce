//! Logins at a replica that has lost its lease, and gets it back.

use shuttle::{sync::Arc, thread};

use crate::{
    explore::explore,
    lease::Lease,
    model::{
        change::Change,
        clock::{BootTime, Clock, Timestamp},
    },
    replica::{LEASE, Replica, position},
};

const RUNS: usize = 5_000;

/// The lease runs out, so a change is EFFECTIVE without this process. Then it learns of it, and has
/// a lease again.
fn a_lease_is_lost_and_granted_anew(catch_up: fn(&Replica, Change)) {
    let replica = Replica::new();
    assert!(replica.login().expect("it has a lease").is_allowed);
    let logins = {
        let replica = Arc::clone(&replica);
        thread::spawn(move || {
            for _ in 0..3 {
                let was_effective = replica.is_effective();
                let is_allowed = replica.login().is_some_and(|answer| answer.is_allowed);
                assert!(!(was_effective && is_allowed), "a login that began after EFFECTIVE was let in");
            }
        })
    };
    replica.clock.pass(LEASE);
    let change = replica.commit();
    replica.answer_effective();
    let (from, wall_from) = (replica.clock.boot(), replica.clock.wall());
    catch_up(&replica, change);
    replica.replica.grant(from, wall_from, LEASE);
    logins.join().expect("no assertion failed");
    assert!(!replica.login().expect("it has a lease").is_allowed);
}

#[test]
fn a_login_that_begins_without_a_lease_is_not_let_in_by_the_next_one() {
    explore(|| a_lease_is_lost_and_granted_anew(|replica, change| replica.replica.apply(change)), RUNS);
}

#[test]
fn a_login_that_begins_before_a_jump_is_not_let_in_by_what_was_before_it() {
    explore(|| a_lease_is_lost_and_granted_anew(|replica, change| replica.replica.jump(position(change.revision))), RUNS);
}

#[test]
fn a_lease_that_is_renewed_in_time_never_seems_to_have_lapsed() {
    explore(
        || {
            let (boot, wall) = (BootTime(1_000_000_000_000), Timestamp(1_000_000_000));
            let lease = Arc::new(Lease::default());
            lease.grant(boot, wall, LEASE);
            let renewing = {
                let lease = Arc::clone(&lease);
                thread::spawn(move || {
                    (1..=2).for_each(|fifths| lease.grant(boot + LEASE / 5 * fifths, wall + LEASE / 5 * fifths, LEASE))
                })
            };
            let (now, wall_now) = (boot + LEASE / 2, wall + LEASE / 2);
            for _ in 0..3 {
                assert!(lease.holds(now, wall_now));
                assert!(!lease.left(now, wall_now).is_zero());
            }
            renewing.join().expect("no panic");
            lease.end();
            assert!(!lease.holds(now, wall_now) && lease.left(now, wall_now).is_zero());
        },
        RUNS,
    );
}
