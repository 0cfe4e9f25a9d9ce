//! Histories: real processes, a real database, watchers, logins and revocations at random, while a
//! nemesis breaks what can break; a checker reads what came of it (docs/design.md, "A revocation").
//! `LATCHKEY_HISTORIES_SEED` and `LATCHKEY_HISTORIES_SECONDS` make it another run, or a long one.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]
#![expect(unreachable_pub, reason = "a test program exports nothing")]

mod checker;
mod database;
mod dice;
mod history;
mod load;
mod mail_host;
mod nemesis;
#[path = "../service/server.rs"]
#[expect(dead_code, reason = "the service's tests use more of it")]
mod server;
#[path = "../support/mod.rs"]
mod support;
mod watcher;
mod world;
mod wrong_histories;

use std::{sync::Arc, time::Duration};

use self::{
    checker::{SETTLES, check, count},
    dice::Dice,
    history::{History, at, now, seconds},
    load::Load,
    mail_host::{Client, MailHost},
    watcher::Watcher,
    world::{REPLICAS, World},
};

const SEED: u64 = 20_260_727;
/// The short run's, of which nothing is broken at the beginning and at the end.
const SECONDS: u64 = 36;
const HEALTHY_AT_FIRST: Duration = Duration::from_secs(2);
const HEALTHY_AT_LAST: Duration = Duration::from_secs(5);
const WATCHERS: usize = 4;
const REVOKERS: u64 = 6;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_password_is_good_anywhere_once_its_revocation_is_effective_whatever_breaks() {
    let (seed, length) = (setting("LATCHKEY_HISTORIES_SEED", SEED), setting("LATCHKEY_HISTORIES_SECONDS", SECONDS));
    println!("LATCHKEY_HISTORIES_SEED={seed} LATCHKEY_HISTORIES_SECONDS={length}");
    let world = Arc::new(World::new().await);
    // Half of them are the library's own mail hosts, the others were written from the proto's
    // comments alone.
    let clients = (0..WATCHERS).map(|number| match number / 2 {
        0 => Client::Watcher(Watcher::new(number, Arc::clone(&world), number % 2 == 0)),
        _ => Client::Host(MailHost::new(number, Arc::clone(&world))),
    });
    let clients: Vec<_> = clients.collect();
    let load = Load::new(Arc::clone(&world), clients.clone(), &mut Dice::new(seed, 0)).await;
    let mut lanes = 1..;
    let mut dice = || Dice::new(seed, lanes.next().expect("endless"));
    for client in clients {
        match client {
            Client::Watcher(watcher) => drop(tokio::spawn(watcher.run(dice()))),
            Client::Host(host) => drop(tokio::spawn(host.run())),
        }
    }
    let from = now();
    let ends = from + Duration::from_secs(length);
    let mut tasks = vec![];
    for replica in 0..REPLICAS {
        tasks.push(tokio::spawn(Arc::clone(&load).log_in_at(replica, dice(), ends)));
    }
    for watcher in 0..WATCHERS {
        tasks.push(tokio::spawn(Arc::clone(&load).log_in_through(watcher, dice(), ends)));
    }
    for _ in 0..REVOKERS {
        tasks.push(tokio::spawn(Arc::clone(&load).revoke(dice(), ends)));
    }
    tokio::time::sleep(HEALTHY_AT_FIRST).await;
    // The longest fault takes some seconds more.
    let healed = from + Duration::from_secs(length).saturating_sub(HEALTHY_AT_LAST + SETTLES + Duration::from_secs(4));
    let nemeses = [
        tokio::spawn(nemesis::torment_replicas(Arc::clone(&world), dice(), healed)),
        tokio::spawn(nemesis::torment_replicas(Arc::clone(&world), dice(), healed)),
        tokio::spawn(nemesis::torment_database(Arc::clone(&world), dice(), healed)),
    ];
    for task in nemeses.into_iter().chain(tasks) {
        task.await.expect("no panic");
    }
    load.under_way.close();
    load.under_way.wait().await;
    let mut history = world.book.write().clone();
    history.ended = now();
    report(&world, &history, seed).await;
}

/// Prints what happened; fails with all that is wrong.
async fn report(world: &World, history: &History, seed: u64) {
    let counts = count(history);
    println!("{counts:#?}");
    println!("{} sessions; slowest EFFECTIVE: {}", counts.sessions, seconds(counts.slowest_effective));
    let mut rewinds = 0;
    for replica in &world.replicas {
        rewinds += replica.log().await.matches("DATABASE HAS LOST CHANGES").count();
    }
    println!("replicas saw the database go back in time {rewinds} times");
    let ends = world.stream_ends.lock().expect("no panic").clone();
    println!("streams ended: {ends:#?}");
    let violations = check(history);
    if violations.is_empty() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("latchkey-histories-{seed}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let start = history.logins.iter().map(|login| login.began).min().unwrap_or_default();
    let mut events = String::new();
    for fault in &history.faults {
        let (began, ended) = (at(fault.began, start), at(fault.ended, start));
        events += &format!("{began} to {ended} {} {:?}\n", fault.what, fault.replica);
    }
    for revocation in &history.revocations {
        let (began, ended) = (at(revocation.began, start), at(revocation.ended, start));
        events += &format!(
            "{began} to {ended} {:?} {} at {}: {:?}\n",
            revocation.how, revocation.password, revocation.replica, revocation.outcome
        );
    }
    std::fs::write(folder.join("events.txt"), events).expect("written");
    for replica in &world.replicas {
        std::fs::write(folder.join(format!("replica-{}.log", replica.number)), replica.log().await).expect("written");
    }
    let told: Vec<String> = violations.iter().map(ToString::to_string).collect();
    panic!("seed {seed}: {} violations (see {}):\n{}", told.len(), folder.display(), told.join("\n"));
}
