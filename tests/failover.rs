//! Failover of PostgreSQL: with a synchronous standby no acknowledged revocation is lost; with a
//! history that went back, what the replicas remember is written once more.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]
#![expect(
    unreachable_pub,
    dead_code,
    unused_macros,
    unused_imports,
    reason = "a test program exports nothing, and uses a part of what it shares"
)]

#[path = "service/server.rs"]
mod server;
mod support;
#[path = "service/world.rs"]
mod world;

use std::time::Duration;

use latchkey::proto::{self, Decision, Reason, revocation::State};
use server::{Ground, Server};
use support::postgres::{Cluster, TestDatabase};
use world::{ADDRESS, World, attempt};

/// A replica on either of two clusters, whichever takes writes.
fn ground(first: &Cluster, second: &Cluster, name: &str) -> Ground {
    let url = format!("postgres://latchkey@127.0.0.1:{},127.0.0.1:{}/{name}?sslmode=disable", first.port(), second.port());
    Ground { folder: tempfile::tempdir().expect("a folder"), database: Some(TestDatabase { url, name: name.to_owned() }) }
}

/// From here on each commit waits for the standby.
async fn wait_for_the_standby(primary: &Cluster, operator: &tokio_postgres::Client) {
    operator.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("set");
    primary.reload();
    let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while operator.query_one(state, &[]).await.expect("asked").get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
}

/// Asks until there is an answer. A revoked password is never allowed meanwhile.
async fn answered(server: &Server, password: &str, is_revoked: bool) -> Reason {
    let mut logins = server.authorization().await;
    loop {
        if let Ok(answer) = logins.authenticate(attempt(ADDRESS, password)).await {
            let answer = answer.into_inner();
            assert!(!is_revoked || answer.decision() == Decision::Deny, "a revoked password was let in");
            assert!(is_revoked || answer.decision() == Decision::Allow, "a good one was denied: {:?}", answer.reason());
            return answer.reason();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A lease that only the primary knows of is none: the standby that takes over would not wait for
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn while_waits_for_the_standby_are_canceled_no_replica_has_a_lease() {
    let mut primary = Cluster::start(&[]).await;
    let database = primary.database().await;
    let mut standby = primary.copy(true, &[]).await;
    standby.resume().await;
    let operator = primary.client("postgres").await;
    wait_for_the_standby(&primary, &operator).await;
    let ground = ground(&primary, &standby, &database.name);
    let server = ground.start_with(&["--lease", "2s", "--node-name", "one"]);
    let mut world = World::on(ground, server).await;
    let (phone, password) = world.add("Phone").await;
    assert_eq!(answered(&world.server, &password, false).await, Reason::Ok);

    standby.stop();
    let impatient = tokio::spawn(async move {
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while operator.batch_execute(cancel).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    // Its lease ends, and is not renewed: neither by a sync nor by joining anew.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut unanswered = 0;
    while unanswered < 100 {
        assert!(tokio::time::Instant::now() < deadline, "it still answers from its cache");
        match world.logins.authenticate(attempt(ADDRESS, &password)).await {
            Ok(_) => unanswered = 0,
            Err(_) => unanswered += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    primary.kill();
    impatient.await.expect("no panic");
    standby.resume().await;
    standby.promote().await;
    assert_eq!(answered(&world.server, &password, false).await, Reason::Ok);
    while world.devices.list_devices(proto::ListDevicesRequest { address: ADDRESS.into(), ..Default::default() }).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.disconnect(&phone).await.state(), State::Effective);
    assert_eq!(answered(&world.server, &password, true).await, Reason::DeviceDisconnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_revocation_is_lost_with_a_synchronous_standby() {
    let mut primary = Cluster::start(&[]).await;
    let database = primary.database().await;
    let mut standby = primary.copy(true, &[]).await;
    standby.resume().await;
    wait_for_the_standby(&primary, &primary.client("postgres").await).await;

    let ground = ground(&primary, &standby, &database.name);
    let server = ground.start_with(&["--lease", "2s", "--node-name", "one"]);
    let other = ground.start_with(&["--lease", "2s", "--node-name", "two"]);
    let mut world = World::on(ground, server).await;
    let mut revoked = vec![];
    for number in 0..5 {
        let (device, password) = world.add(&format!("Phone {number}")).await;
        assert_eq!(answered(&other, &password, false).await, Reason::Ok);
        revoked.push((device, password));
    }
    let (_, kept) = world.add("Laptop").await;
    for (device, _) in &revoked {
        assert_eq!(world.disconnect(device).await.state(), State::Effective);
    }
    primary.kill();
    standby.promote().await;
    for server in [&world.server, &other] {
        for (_, password) in &revoked {
            assert_eq!(answered(server, password, true).await, Reason::DeviceDisconnected);
        }
        assert_eq!(answered(server, &kept, false).await, Reason::Ok);
        assert!(!server.log().contains("DATABASE HAS LOST CHANGES"));
    }
    // The new primary takes changes, and both replicas acknowledge them.
    let (device, password) = world.add("Tablet").await;
    assert_eq!(answered(&other, &password, false).await, Reason::Ok);
    assert_eq!(world.disconnect(&device).await.state(), State::Effective);
    assert_eq!(answered(&other, &password, true).await, Reason::DeviceDisconnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_went_back_is_noticed_and_what_it_lost_is_revoked_once_more() {
    let mut primary = Cluster::start(&[]).await;
    let database = primary.database().await;
    let mut world_ground = ground(&primary, &primary, &database.name);
    let server = world_ground.start_with(&["--lease", "2s"]);
    let mut world = World::on(world_ground, server).await;
    let (phone, phone_password) = world.add("Phone").await;
    let (laptop, laptop_password) = world.add("Laptop").await;
    let (_, kept) = world.add("Tablet").await;
    assert_eq!(answered(&world.server, &phone_password, false).await, Reason::Ok);
    // What an asynchronous standby had got when its primary was lost.
    let mut behind = primary.copy(false, &[]).await;
    let World { server, ground: first_ground, .. } = world;
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    world_ground = ground(&primary, &behind, &database.name);
    std::fs::rename(first_ground.data_dir(), world_ground.data_dir()).expect("moved with its pepper");
    let server = world_ground.start_with(&["--lease", "2s"]);
    world = World::on(world_ground, server).await;

    assert_eq!(world.disconnect(&phone).await.state(), State::Effective);
    let change =
        proto::ChangePasswordRequest { address: ADDRESS.into(), device_id: laptop.device_id.clone(), ..Default::default() };
    let changed = world.devices.change_password(change).await.expect("changed").into_inner();
    assert_eq!(changed.revocation.expect("a revocation").state(), State::Effective);
    assert_eq!(answered(&world.server, &kept, false).await, Reason::Ok);

    primary.kill();
    behind.resume().await;
    // While the lease runs they are judged as of before; never otherwise than as denied.
    while !world.server.log().contains("DATABASE HAS LOST CHANGES") || !world.server.log().contains("revoking again") {
        for password in [&phone_password, &laptop_password] {
            answered(&world.server, password, true).await;
        }
    }
    assert_eq!(answered(&world.server, &phone_password, true).await, Reason::DeviceDisconnected);
    // The new password is lost, which nobody can help; the old one must not come back.
    assert_eq!(answered(&world.server, &laptop_password, true).await, Reason::DeviceDisconnected);
    assert_eq!(answered(&world.server, &kept, false).await, Reason::Ok);
    let events = world.devices.list_events(proto::ListEventsRequest {
        scope: Some(proto::list_events_request::Scope::Address(ADDRESS.into())),
        ..Default::default()
    });
    let events = events.await.expect("listed").into_inner().events;
    assert_eq!(events.iter().filter(|event| event.detail.contains("the database had lost it")).count(), 2);
    let (device, password) = world.add("Watch").await;
    assert_eq!(answered(&world.server, &password, false).await, Reason::Ok);
    assert_eq!(world.disconnect(&device).await.state(), State::Effective);
}
