//! What goes wrong: at random by the seed, on several lanes at once, each fault healed before the
//! lane's next.

use std::{sync::Arc, time::Duration};

use latchkey_core::model::clock::BootTime;
use rustix::process::Signal;

use crate::{
    checker::{LEASE, LOSE_COMMITS},
    dice::Dice,
    history::{Fault, now},
    support::proxy::Mode,
    world::{Replica, World},
};

/// Longer than any wait for a lease: 2.27 s at 2 s.
const LONGER_THAN_THE_LEASE: [u64; 2] = [2_400, 4_500];

/// Breaks one thing of replicas after the other.
pub async fn torment_replicas(world: Arc<World>, mut dice: Dice, until: BootTime) {
    while now() < until {
        let replica = &world.replicas[dice.below(world.replicas.len())];
        let began = now();
        let (what, outage) = match dice.below(6) {
            0 => cut(replica).await,
            1 => hold(replica, &mut dice).await,
            2 => refuse(replica, &mut dice).await,
            3 => stop(replica, &mut dice).await,
            4 => end(replica, &mut dice, Signal::KILL, "kill").await,
            _ => end(replica, &mut dice, Signal::TERM, "drain").await,
        };
        let fault = Fault { what, replica: Some(replica.number), began, ended: now(), outage };
        world.book.write().faults.push(fault);
        tokio::time::sleep(dice.millis(100, 1_500)).await;
    }
}

/// Breaks one thing of the database after the other: each once, then at random.
pub async fn torment_database(world: Arc<World>, mut dice: Dice, until: BootTime) {
    let mut first = vec![0, 1, 2, 3, 4];
    while now() < until {
        tokio::time::sleep(dice.millis(200, 3_000)).await;
        let began = now();
        let kind = if first.is_empty() { dice.below(8) } else { first.swap_remove(dice.below(first.len())) };
        let (what, outage) = match kind {
            0 => restart(&world, &mut dice).await,
            1 => cancel_commits(&world, &mut dice).await,
            2 => fail_over(&world).await,
            3 => lose_commits(&world, &mut dice).await,
            _ => end_listeners(&world).await,
        };
        world.book.write().faults.push(Fault { what, replica: None, began, ended: now(), outage });
    }
}

type Done = (&'static str, Option<(BootTime, BootTime)>);

async fn cut(replica: &Replica) -> Done {
    replica.proxy.cut();
    ("cut connections", None)
}

/// Nothing moves between the replica and the database; then all that was held back does, or the
/// connections break.
async fn hold(replica: &Replica, dice: &mut Dice) -> Done {
    // Its process stays as it is meanwhile, so that it is the database alone that it lacks.
    let _server = replica.server.lock().await;
    replica.proxy.set(Mode::Held);
    let from = now();
    tokio::time::sleep(longer_than_the_lease(dice)).await;
    let outage = Some((from, now()));
    if dice.percent(50) {
        replica.proxy.cut();
    }
    replica.proxy.set(Mode::Open);
    ("hold all bytes", outage)
}

async fn refuse(replica: &Replica, dice: &mut Dice) -> Done {
    let _server = replica.server.lock().await;
    replica.proxy.set(Mode::Refusing);
    replica.proxy.cut();
    let from = now();
    tokio::time::sleep(dice.millis(300, 4_000)).await;
    let outage = Some((from, now()));
    replica.proxy.set(Mode::Open);
    ("refuse connections", outage)
}

async fn stop(replica: &Replica, dice: &mut Dice) -> Done {
    let server = replica.server.lock().await;
    if let Some(server) = &*server {
        server.signal(Signal::STOP);
        tokio::time::sleep(longer_than_the_lease(dice)).await;
        server.signal(Signal::CONT);
    }
    ("stop the process", None)
}

async fn end(replica: &Replica, dice: &mut Dice, signal: Signal, what: &'static str) -> Done {
    let mut server = replica.server.lock().await;
    replica.end(&mut server, signal).await;
    tokio::time::sleep(dice.millis(0, 3_000)).await;
    replica.start_again(&mut server).await;
    (what, None)
}

async fn end_listeners(world: &World) -> Done {
    world.database.lock().await.end_listeners().await;
    ("end the listeners", None)
}

async fn restart(world: &World, dice: &mut Dice) -> Done {
    let outage = world.database.lock().await.restart(dice.millis(0, 3_000)).await;
    ("restart the database", Some(outage))
}

/// Commits are cancelled that wait for the standby; it gets them later.
async fn cancel_commits(world: &World, dice: &mut Dice) -> Done {
    let mut database = world.database.lock().await;
    database.cancel_commits(dice.millis(100, 2_000)).await;
    database.reunite().await;
    ("cancel commits", None)
}

/// Nothing that was answered as done may be lost.
async fn fail_over(world: &World) -> Done {
    let mut database = world.database.lock().await;
    let from = now();
    database.fail_over(true).await;
    let outage = Some((from, now()));
    world.lead_to(database.address());
    database.follow().await;
    ("fail over", outage)
}

/// Commits are cancelled that wait for the standby; it never gets them, and takes over. Replicas
/// that have seen them see another history then.
async fn lose_commits(world: &World, dice: &mut Dice) -> Done {
    let mut database = world.database.lock().await;
    database.cancel_commits(dice.millis(100, 2_000)).await;
    let from = now();
    database.fail_over(false).await;
    let outage = Some((from, now()));
    world.lead_to(database.address());
    database.follow().await;
    (LOSE_COMMITS, outage)
}

fn longer_than_the_lease(dice: &mut Dice) -> Duration {
    let [from, to] = LONGER_THAN_THE_LEASE;
    assert!(LEASE * 12 / 10 <= Duration::from_millis(from));
    dice.millis(from, to)
}
