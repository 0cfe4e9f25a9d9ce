//! When a call answers: what revokes nothing answers at once, what is not known is said to be
//! unknown, and a process that stops leaves before anything else.

use std::time::Duration;

use latchkey::proto::{self, Reason};
use rustix::process::Signal;

use crate::{
    server::StoreKind,
    support::postgres,
    world::{ADDRESS, ORGANIZATION, World, attempt, reason_of},
};

/// Far below the lease of these tests, and far above what a slow machine needs.
const AT_ONCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_revokes_nothing_does_not_wait_for_a_dead_replica() {
    let mut world = World::with(StoreKind::Postgres, &["--lease", "60s"]).await;
    world.ground.start_with(&["--lease", "60s"]).kill();
    let calls = async {
        let (_, password) = world.add("Phone").await;
        world.put_mailbox("new@example.com", "").await;
        assert_eq!(world.reason(&password).await, Reason::Ok);
    };
    tokio::time::timeout(AT_ONCE, calls).await.expect("nobody has to be waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_is_let_in_at_once_by_a_replica_that_has_the_mailbox_cached() {
    let mut world = World::new(StoreKind::Postgres).await;
    let other = world.ground.start();
    let mut logins = other.authorization().await;
    let (_, first) = world.add("First").await;
    for number in 0..30 {
        // Cached there, without the device that is made next.
        let cached = logins.authenticate(attempt(ADDRESS, &first)).await.expect("answered").into_inner();
        assert_eq!(cached.reason(), Reason::Ok);
        let (_, password) = world.add(&format!("Device {number}")).await;
        let answer = logins.authenticate(attempt(ADDRESS, &password)).await.expect("answered").into_inner();
        assert_eq!(answer.reason(), Reason::Ok, "device {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_may_have_changed_something_never_says_that_nothing_was_changed() {
    let world = World::new(StoreKind::Postgres).await;
    world.put_member("bob", proto::Role::Collaborator).await;
    let request = proto::DeleteMemberRequest { organization_id: ORGANIZATION.into(), user_id: "bob".into(), max_wait: None };
    let mut directory = world.server.directory().await;
    directory.delete_member(request.clone()).await.expect("deleted");
    // Repeated, it finds the member gone, and has to make sure of it. That needs the log's head.
    let mut client = postgres::client(world.ground.database.as_ref().expect("PostgreSQL")).await;
    let held = client.transaction().await.expect("a transaction");
    held.execute("SELECT revision FROM change_head WHERE id = 1 FOR UPDATE", &[]).await.expect("the head is locked");
    let status = directory.delete_member(request).await.expect_err("the head can't be locked");
    assert_eq!(reason_of(&status), "OUTCOME_UNKNOWN", "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_leaves_before_it_writes_the_login_log() {
    let mut world = World::new(StoreKind::Postgres).await;
    let (_, password) = world.add("Phone").await;
    let database = world.ground.database.as_ref().expect("PostgreSQL");
    let mut locker = postgres::client(database).await;
    let held = locker.transaction().await.expect("a transaction");
    held.batch_execute("LOCK TABLE login_history IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let mut logins = world.logins.clone();
    let answer = logins.authenticate(attempt(ADDRESS, &password)).await.expect("answered").into_inner();
    assert_eq!(answer.reason(), Reason::Ok);
    world.server.signal(Signal::TERM);
    // It has left while its last logins still wait to be written.
    let look = "SELECT (SELECT count(*) FROM node) = 0 AND EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    let looker = postgres::client(database).await;
    let has_left = async {
        while !looker.query_one(look, &[]).await.expect("asked").get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(AT_ONCE, has_left).await.expect("no revocation has to wait for it");
    drop(held);
    assert!(world.server.wait().success());
}
