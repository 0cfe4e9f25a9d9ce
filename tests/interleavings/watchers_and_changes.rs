//! A change goes through a replica and its watcher, while that renews its lease, goes, or comes
//! back, and logins look at its cache. Once the replica has acknowledged the change, none of them
//! is let in.

use shuttle::{sync::Arc, thread};

use crate::{
    explore::explore,
    host::{Host, Stream},
    replica::{LEASE, Replica, position, step},
};

const RUNS: usize = 3_000;

/// What the feed does meanwhile, and what the mail host does.
struct Race {
    feed: fn(&Replica),
    host: fn(&Host, &Replica, &mut Stream),
}

impl Race {
    /// Runs it, and hands over to what is to hold in the end.
    fn run(&self, in_the_end: impl FnOnce(&Host, &Replica, &mut Stream)) {
        let replica = Replica::new();
        let (host, mut stream) = Host::new(&replica);
        let following = {
            let (host, replica, run) = (Arc::clone(&host), Arc::clone(&replica), self.host);
            thread::spawn(move || {
                run(&host, &replica, &mut stream);
                stream
            })
        };
        let logins = {
            let host = Arc::clone(&host);
            thread::spawn(move || (0..3).for_each(|_| host.login()))
        };
        (self.feed)(&replica);
        let mut stream = following.join().expect("no assertion failed");
        logins.join().expect("no assertion failed");
        in_the_end(&host, &replica, &mut stream);
        host.login();
    }
}

fn apply_and_acknowledge(replica: &Replica) {
    let change = replica.commit();
    replica.replica.apply(change);
    for _ in 0..3 {
        replica.acknowledge();
        step();
    }
}

/// As above, while the leases from before run out.
fn apply_and_wait(replica: &Replica) {
    let change = replica.commit();
    replica.replica.apply(change);
    for _ in 0..2 {
        replica.acknowledge();
        // Twice this is a little more than a lease.
        replica.clock.pass(LEASE * 11 / 20);
    }
    replica.acknowledge();
}

fn is_effective_once_all_is_heard(host: &Host, replica: &Replica, stream: &mut Stream) {
    host.hear_all(stream);
    is_effective_now(host, replica, stream);
}

fn is_effective_now(_: &Host, replica: &Replica, _: &mut Stream) {
    replica.acknowledge();
    assert!(replica.is_effective(), "somebody is waited for in vain");
}

#[test]
fn a_watcher_lets_nobody_in_by_what_its_replica_has_acknowledged_as_ended() {
    explore(
        || {
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                for _ in 0..3 {
                    host.renew(stream);
                    host.hear(stream);
                }
            };
            Race { feed: apply_and_acknowledge, host }.run(is_effective_once_all_is_heard);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_says_nothing_is_waited_for_until_its_lease_is_over() {
    explore(
        || {
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
            };
            Race { feed: apply_and_wait, host }.run(is_effective_now);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_has_hung_up_is_waited_for_until_its_lease_is_over() {
    explore(
        || {
            let host = |host: &Host, replica: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
                replica.watchers().goodbye(stream.number);
            };
            Race { feed: apply_and_wait, host }.run(is_effective_now);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_comes_back_is_waited_for_by_the_lease_that_it_brings() {
    explore(
        || {
            let host = |host: &Host, replica: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
                let before = stream.number;
                // Its former stream is still there, and ends when that is noticed.
                *stream = host.follow(Some(host.position()));
                host.hear(stream);
                replica.watchers().goodbye(before);
            };
            Race { feed: apply_and_acknowledge, host }.run(is_effective_once_all_is_heard);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_was_away_is_waited_for_all_the_while() {
    explore(
        || {
            let host = |host: &Host, replica: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
                replica.watchers().goodbye(stream.number);
                *stream = host.follow(Some(host.position()));
                host.hear(stream);
            };
            Race { feed: apply_and_acknowledge, host }.run(is_effective_once_all_is_heard);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_comes_back_with_nothing_is_waited_for_until_its_former_lease_is_over() {
    explore(
        || {
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
                // It is let in, and has not emptied its cache yet.
                *stream = host.follow(None);
                host.login();
                host.renew(stream);
                host.hear(stream);
            };
            Race { feed: apply_and_wait, host }.run(is_effective_once_all_is_heard);
        },
        RUNS,
    );
}

#[test]
fn a_watcher_that_has_given_its_lease_up_is_waited_for_no_longer() {
    explore(
        || {
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
                host.surrender(stream);
            };
            Race { feed: apply_and_acknowledge, host }.run(is_effective_now);
        },
        RUNS,
    );
}

#[test]
fn what_a_watcher_asks_after_it_has_heard_of_a_change_is_answered_as_of_that_change() {
    explore(
        || {
            let feed = |replica: &Replica| {
                let change = replica.commit_elsewhere();
                replica.replica.apply(change);
            };
            // Without a lease each login is asked, and compares the answer with what was heard.
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                for _ in 0..2 {
                    host.hear(stream);
                    host.login();
                }
            };
            Race { feed, host }.run(|_, _, _| ());
        },
        RUNS,
    );
}

#[test]
fn a_watcher_of_a_replica_that_jumps_is_waited_for_until_it_has_begun_empty() {
    explore(
        || {
            let feed = |replica: &Replica| {
                // The first of them was missed, and is trimmed by now.
                replica.commit();
                let last = replica.commit();
                replica.replica.jump(position(last.revision));
                for _ in 0..3 {
                    replica.acknowledge();
                    step();
                }
            };
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                for _ in 0..2 {
                    host.renew(stream);
                    host.hear(stream);
                    host.hear(stream);
                }
            };
            Race { feed, host }.run(is_effective_once_all_is_heard);
        },
        RUNS,
    );
}

#[test]
fn a_replica_that_leaves_has_granted_nothing_that_nobody_waits_for() {
    explore(
        || {
            let feed = |replica: &Replica| {
                // Its row goes only then, and a change elsewhere waits for nobody.
                if replica.replica.stop() {
                    replica.commit();
                    replica.answer_effective();
                }
            };
            let host = |host: &Host, _: &Replica, stream: &mut Stream| {
                host.renew(stream);
                host.hear(stream);
            };
            Race { feed, host }.run(|_, _, _| ());
        },
        RUNS,
    );
}
