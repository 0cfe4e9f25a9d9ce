//! What goes wrong: at random by the seed, on several lanes at once, each fault healed before the lane's next.

use std::{sync::Arc, time::Duration};

use latchkey::model::clock::BootTime;
use rustix::process::Signal;

use crate::{
    checker::LEASE,
    dice::Dice,
    history::{Fault, now},
    proxy::Mode,
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

/// Breaks one thing of the database after the other.
pub async fn torment_database(world: Arc<World>, mut dice: Dice, until: BootTime) {
    tokio::time::sleep(dice.millis(0, 2_000)).await;
    while now() < until {
        let began = now();
        let (what, outage) =
            if dice.percent(70) { ("end the listeners", end_listeners(&world).await) } else { restart(&world, &mut dice).await };
        world.book.write().faults.push(Fault { what, replica: None, began, ended: now(), outage });
        tokio::time::sleep(dice.millis(500, 6_000)).await;
    }
}

type Done = (&'static str, Option<(BootTime, BootTime)>);

async fn cut(replica: &Replica) -> Done {
    replica.proxy.cut();
    ("cut connections", None)
}

/// Nothing moves between the replica and the database; then all that was held back does, or the connections break.
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

async fn end_listeners(world: &World) -> Option<(BootTime, BootTime)> {
    // The database's own nemesis comes after us, so it runs now.
    let cluster = world.cluster.lock().await;
    let client = cluster.client(&world.database.name).await;
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%LISTEN latchkey_change' AND pid <> pg_backend_pid()";
    client.execute(ended, &[]).await.expect("sessions are ended");
    None
}

async fn restart(world: &World, dice: &mut Dice) -> Done {
    let mut cluster = world.cluster.lock().await;
    tokio::task::block_in_place(|| cluster.stop());
    let from = now();
    tokio::time::sleep(dice.millis(0, 3_000)).await;
    let outage = Some((from, now()));
    cluster.resume().await;
    ("restart the database", outage)
}

fn longer_than_the_lease(dice: &mut Dice) -> Duration {
    let [from, to] = LONGER_THAN_THE_LEASE;
    assert!(LEASE * 12 / 10 <= Duration::from_millis(from));
    dice.millis(from, to)
}
