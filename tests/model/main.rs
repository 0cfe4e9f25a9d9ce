//! The lease protocol, model-checked (docs/design.md, "A revocation"): every order in which
//! processes, messages, clocks, crashes and a failover can meet, in worlds small enough to see all
//! of it.
//!
//! What decides is the crate's own code: how far a replica has got and what a head means to it
//! (`feed::progress`), whom a revocation waits for (`feed::waiting`), what a watcher was told
//! (`watchers::told`) and how long a lease is (`model::lease`). The model wires it together as
//! `feed/mod.rs`, `feed/confirm.rs`, `watchers/` and `login/` do, around a database, a network and
//! clocks that it plays itself, and can leave out one rule at a time: then it finds a login that
//! was allowed after EFFECTIVE. With all rules in, it finds none.
//!
//! Each world is searched to its end: it has no more states than were looked at. What bounds a
//! world is said in it: how long real time goes on, how many syncs, joins and faults there are.

mod login;
mod replica;
mod revoker;
mod rules;
mod steps;
mod store;
mod watcher;
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use revoker::Kind;
use rules::Rule;
use steps::PROMISE;
use world::{COARSE, Clocks, FINE, Limits, WORST, World};

/// One replica that serves logins, and a revocation.
fn leases() -> World {
    World {
        replicas: 1,
        has_watcher: false,
        clocks: vec![WORST],
        moments: COARSE,
        is_warm: true,
        hashed: false,
        logins: true,
        asks: false,
        reads: false,
        syncs: 3,
        joins: 1,
        revokers: &[Kind::Revokes],
        slow_statements: true,
        limits: Limits { given_up: 1, ..Limits::default() },
        without: None,
    }
}

/// Logins that argon2 holds up.
fn hashed() -> World {
    World { hashed: true, ..leases() }
}

/// A replica that begins with nothing, dies and comes back.
fn joining() -> World {
    World { is_warm: false, joins: 2, syncs: 2, limits: Limits { crashes: 1, ..Limits::default() }, ..leases() }
}

/// The device is gone when somebody asks again.
fn repeated() -> World {
    World { revokers: &[Kind::Revokes, Kind::Repeats], slow_statements: false, logins: false, ..leases() }
}

/// A log that is trimmed while a replica is behind.
fn trimmed() -> World {
    World { slow_statements: false, limits: Limits { others: 1, trims: 1, ..Limits::default() }, syncs: 2, ..leases() }
}

/// Two changes, each of which is waited for, and a replica that may look dead.
fn dead_rows() -> World {
    World {
        revokers: &[Kind::Revokes, Kind::Other],
        slow_statements: false,
        logins: false,
        joins: 2,
        moments: &[5_200, 10_400, 15_600, 20_800],
        limits: Limits::default(),
        ..leases()
    }
}

/// A replica and its watcher.
fn watched() -> World {
    World {
        has_watcher: true,
        logins: false,
        asks: true,
        slow_statements: false,
        syncs: 2,
        limits: Limits { renewals: 1, ..Limits::default() },
        ..leases()
    }
}

/// A watcher that is cut off, and comes back.
fn cut_off() -> World {
    World { asks: false, limits: Limits { renewals: 1, cuts: 1, ..Limits::default() }, ..watched() }
}

/// A watcher whose replica dies and comes back.
fn crashed() -> World {
    World { joins: 2, limits: Limits { crashes: 1, ..Limits::default() }, moments: &[5_200, 10_400], ..cut_off() }
}

/// A watcher among two replicas, of which one may know less than the other.
fn among_two() -> World {
    World { replicas: 2, joins: 2, moments: &[10_400], limits: Limits::default(), ..watched() }
}

/// A watcher whose replica begins anew, since it knows less of its row than the row says.
fn begun_anew() -> World {
    World {
        limits: Limits { given_up: 1, others: 1, ..Limits::default() },
        joins: 2,
        asks: false,
        syncs: 2,
        moments: &[10_400],
        ..watched()
    }
}

/// A watcher whose replica is overtaken by the log's trimming.
fn trimmed_watched() -> World {
    World {
        limits: Limits { others: 1, trims: 1, renewals: 1, ..Limits::default() },
        asks: false,
        moments: &[10_400],
        ..watched()
    }
}

/// Clocks that are wrong in every way within the bound.
fn drifting() -> World {
    World {
        clocks: in_all_ways(|a, b| [a, 1_000, 1_000, b]),
        moments: FINE,
        slow_statements: false,
        logins: false,
        syncs: 2,
        limits: Limits { jolts: 1, ..Limits::default() },
        ..leases()
    }
}

/// The same, of a replica and its watcher, while the revoker's is the fast one.
fn drifting_watched() -> World {
    World { clocks: in_all_ways(|a, b| [a, 1_000, b, 1_010]), moments: &[9_999, 10_250], asks: false, ..watched() }
}

fn in_all_ways(clocks: impl Fn(u16, u16) -> Clocks) -> Vec<Clocks> {
    const RATES: [u16; 3] = [990, 1_000, 1_010];
    RATES.iter().flat_map(|a| RATES.map(|b| clocks(*a, b))).collect()
}

/// A database that goes on as its standby, which lacks changes that the replica has seen.
fn rewound() -> World {
    World {
        slow_statements: false,
        joins: 2,
        syncs: 2,
        moments: &[10_400],
        limits: Limits { others: 2, failovers: 1, ..Limits::default() },
        ..leases()
    }
}

/// The same, with a sync that reaches the database late.
fn rewound_late() -> World {
    World { logins: false, limits: Limits { given_up: 1, others: 1, ..rewound().limits }, ..rewound() }
}

/// The same, with a watcher.
fn rewound_watched() -> World {
    World {
        has_watcher: true,
        logins: false,
        asks: true,
        limits: Limits { others: 1, failovers: 1, ..Limits::default() },
        ..rewound()
    }
}

/// The same, with `--freshness read`.
fn rewound_reading() -> World {
    World { reads: true, moments: &[], limits: Limits { others: 3, failovers: 1, ..Limits::default() }, ..rewound() }
}

/// Two replicas, of which one may die.
fn two() -> World {
    World {
        replicas: 2,
        joins: 2,
        slow_statements: false,
        logins: false,
        syncs: 2,
        limits: Limits { crashes: 1, ..Limits::default() },
        moments: &[5_200, 10_400],
        ..leases()
    }
}

fn holds(world: &World) {
    #[expect(clippy::disallowed_methods, reason = "how long the search took is told to people only")]
    let began = Instant::now();
    let checker = world.clone().checker().spawn_bfs().join();
    println!("{} states, depth {}, {:?}", checker.unique_state_count(), checker.max_depth(), began.elapsed());
    if let Some(path) = checker.discovery(PROMISE) {
        panic!("{:#?}", path.into_actions());
    }
    checker.assert_properties();
}

fn breaks(world: &World, rule: Rule) {
    #[expect(clippy::disallowed_methods, reason = "how long the search took is told to people only")]
    let began = Instant::now();
    let checker = world.without(rule).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("without {rule:?}: {} states, depth {}, {:?}", checker.unique_state_count(), checker.max_depth(), began.elapsed());
    let path = checker.discovery(PROMISE);
    if std::env::var_os("MODEL_PATHS").is_some()
        && let Some(path) = &path
    {
        println!("{:#?}", path.clone().into_actions());
    }
    assert!(path.is_some(), "the model does not miss {rule:?}");
}

#[test]
fn leases_hold() {
    holds(&leases());
}

#[test]
fn without_the_fence_a_stale_record_gets_in() {
    breaks(&leases(), Rule::Fence);
}

#[test]
fn a_lease_that_counts_from_the_answer_outlives_the_wait() {
    breaks(&leases(), Rule::LeaseFromBeforeTheSync);
}

#[test]
fn a_lease_that_begins_before_the_gap_is_applied_serves_what_the_gap_ends() {
    breaks(&leases(), Rule::ApplyBeforeLease);
}

#[test]
fn what_is_acknowledged_before_it_is_applied_is_served_after_effective() {
    breaks(&leases(), Rule::ApplyBeforeAcknowledgement);
}

#[test]
fn a_row_that_looks_expired_may_have_a_renewal_on_its_way() {
    breaks(&leases(), Rule::NoRowLooksExpired);
}

#[test]
fn a_sync_that_began_before_the_login_may_know_less_than_it() {
    breaks(&leases(), Rule::SyncBegunAfterTheLogin);
}

#[test]
fn logins_that_argon2_holds_up_hold() {
    holds(&hashed());
}

#[test]
fn authority_judged_before_argon2_is_old_after_it() {
    breaks(&hashed(), Rule::AuthorityLast);
}

#[test]
fn joining_and_dying_holds() {
    holds(&joining());
}

#[test]
fn rows_read_inside_the_revoking_transaction_lack_who_joins_meanwhile() {
    breaks(&joining(), Rule::RowsAfterCommit);
}

#[test]
fn a_first_lease_from_the_joining_write_itself_is_one_that_nobody_waits_for() {
    breaks(&joining(), Rule::RowBeforeLease);
}

#[test]
fn a_repeated_call_holds() {
    holds(&repeated());
}

#[test]
fn a_repeated_call_that_goes_by_the_device_being_gone_answers_too_soon() {
    breaks(&repeated(), Rule::RepeatedCallWaits);
}

#[test]
fn jumping_ahead_holds() {
    holds(&trimmed());
}

#[test]
fn without_the_floor_a_record_from_before_the_jump_gets_in() {
    breaks(&trimmed(), Rule::Floor);
}

#[test]
fn removing_dead_rows_holds() {
    holds(&dead_rows());
}

#[test]
fn a_row_removed_without_looking_again_may_have_come_to_life() {
    breaks(&dead_rows(), Rule::CompareAndSwap);
}

#[test]
fn a_row_removed_at_first_sight_may_hold_a_lease() {
    breaks(&dead_rows(), Rule::SeenForAWholeLease);
}

#[test]
fn a_watcher_holds() {
    holds(&watched());
}

#[test]
fn a_watchers_lease_longer_than_what_its_replica_has_left_outlives_the_wait() {
    breaks(&watched(), Rule::LeaseHandedOn);
}

#[test]
fn a_replica_that_does_not_wait_for_its_watchers_acknowledges_too_soon() {
    breaks(&watched(), Rule::WaitForWatchers);
}

#[test]
fn without_its_own_fence_a_watcher_caches_what_was_ended_meanwhile() {
    breaks(&watched(), Rule::WatcherFence);
}

#[test]
fn a_watcher_that_is_cut_off_holds() {
    holds(&cut_off());
}

#[test]
fn a_watcher_that_is_cut_off_has_its_lease_all_the_same() {
    breaks(&cut_off(), Rule::DepartedIsWaitedFor);
}

#[test]
fn a_watcher_that_comes_back_has_its_lease_all_the_same() {
    breaks(&cut_off(), Rule::ResumedIsWaitedFor);
}

#[test]
fn a_watcher_whose_replica_dies_holds() {
    holds(&crashed());
}

#[test]
fn a_watcher_among_two_replicas_holds() {
    holds(&among_two());
}

#[test]
fn an_answer_of_a_replica_that_is_behind_is_not_one_to_cache() {
    breaks(&among_two(), Rule::AskWhomItWatches);
}

#[test]
fn beginning_anew_holds() {
    holds(&begun_anew());
}

#[test]
fn who_begins_anew_must_not_acknowledge_what_its_watchers_were_not_told() {
    breaks(&begun_anew(), Rule::StartEmptyHoldsAllBack);
}

#[test]
fn jumping_ahead_holds_for_watchers_too() {
    holds(&trimmed_watched());
}

#[test]
fn who_jumps_ahead_must_not_acknowledge_what_its_watchers_were_not_told() {
    breaks(&trimmed_watched(), Rule::StartEmptyHoldsAllBack);
}

#[test]
fn clocks_within_the_bound_hold() {
    holds(&drifting());
}

#[test]
fn without_the_margin_a_fast_clock_stops_waiting_too_soon() {
    breaks(&drifting(), Rule::Drift);
}

#[test]
fn without_the_last_quarter_of_a_second_a_clock_that_jumps_stops_waiting_too_soon() {
    breaks(&drifting(), Rule::Margin);
}

#[test]
fn a_watchers_clock_within_the_bound_holds() {
    holds(&drifting_watched());
}

#[test]
fn a_watcher_on_a_slow_clock_outlives_a_replica_that_waits_no_longer_than_its_lease() {
    breaks(&drifting_watched(), Rule::WatcherDrift);
}

#[test]
fn a_rewound_history_holds() {
    holds(&rewound());
}

#[test]
fn what_a_process_knows_of_itself_may_be_of_a_lost_history() {
    breaks(&rewound(), Rule::OwnHistory);
}

#[test]
fn a_record_read_at_a_revision_of_a_lost_history_survives_the_change_of_the_new_one() {
    breaks(&rewound(), Rule::AnyRevisionEnds);
}

#[test]
fn a_rewound_history_holds_when_a_sync_is_late() {
    holds(&rewound_late());
}

#[test]
fn an_acknowledgement_of_a_lost_history_passes_for_one_of_the_new() {
    breaks(&rewound_late(), Rule::AcknowledgedHistory);
}

#[test]
fn without_nonces_a_revision_used_again_passes_for_the_first() {
    breaks(&rewound_late(), Rule::Nonce);
}

#[test]
fn a_rewound_history_holds_for_watchers_too() {
    holds(&rewound_watched());
}

#[test]
fn a_watchers_acknowledgement_of_a_lost_history_passes_for_one_of_the_new() {
    breaks(&rewound_watched(), Rule::NewHistoryNewStream);
}

#[test]
fn an_answer_of_a_lost_history_survives_the_change_of_the_new_one_at_a_watcher() {
    breaks(&rewound_watched(), Rule::AnyRevisionEnds);
}

#[test]
fn a_rewound_history_holds_without_leases() {
    holds(&rewound_reading());
}

#[test]
fn without_nonces_and_leases_a_revision_used_again_passes_for_the_first() {
    breaks(&rewound_reading(), Rule::Nonce);
}

#[test]
fn rows_of_a_new_history_applied_on_top_of_a_lost_one_hide_what_was_missed() {
    breaks(&rewound_reading(), Rule::AppliedHistory);
}

#[test]
fn without_leases_a_sync_that_began_before_the_login_may_know_less_than_it() {
    breaks(&rewound_reading(), Rule::SyncBegunAfterTheLogin);
}

#[test]
fn two_replicas_hold() {
    holds(&two());
}
