//! What the benchmarks share: a replica in this process, and ratios of medians.

#![allow(dead_code, unreachable_pub, clippy::expect_used, reason = "each benchmark uses a part of it, and fails by panicking")]

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use latchkey::replication::confirmation::Wait;
use latchkey::{
    clock::SystemClock,
    hashing::{HashingPool, HashingSettings},
    manage::devices::NewDevice,
    passwords::{
        hash::{HashCost, Hasher},
        pepper::Pepper,
    },
    replication::{FeedSettings, Freshness},
    serve::replica::{Replica, ReplicaSettings},
    store::{
        Store,
        postgres::{PostgresSettings, PostgresStore},
        sqlite::SqliteStore,
    },
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    clock::{BootTime, Clock},
    device::{DeviceName, Limits},
    id::{MailServiceId, OrganizationId},
    protocol::Protocol,
    secret::Secret,
    verdict::Attempt,
};

pub const SERVICE: &str = "mail";

pub fn settings() -> ReplicaSettings {
    ReplicaSettings {
        feed: FeedSettings { lease: Duration::from_secs(60), freshness: Freshness::Lease, node_name: "bench".to_owned() },
        cache_mailboxes: 8_000_000,
        cache_memos: 8_000_000,
        max_devices: 1_000,
        denial_delay: Duration::from_millis(500),
    }
}

pub fn sqlite(folder: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(folder).expect("a store"))
}

pub async fn postgres(url: &str) -> Arc<dyn Store> {
    let settings = PostgresSettings { url: url.to_owned(), ca: None, connections: 16 };
    Arc::new(PostgresStore::open(&settings).await.expect("a store"))
}

/// A replica whose feed has synced, with an organization and a mail service in it.
pub async fn replica(store: Arc<dyn Store>, pepper: &Pepper, cost: HashCost, settings: ReplicaSettings) -> Replica {
    let clock = SystemClock::shared();
    let hashing = HashingSettings { threads: None, queue: 100_000, deadline: Duration::from_secs(60) };
    let hasher = Hasher::new(pepper, cost).expect("a good cost");
    let hashing = Arc::new(HashingPool::new(hasher, Arc::clone(&clock), hashing));
    let replica = Replica::assemble(store, pepper, hashing, clock, settings);
    tokio::spawn(Arc::clone(&replica.feed).run());
    replica.feed.health().wait_for(|synced| *synced).await.expect("the feed runs");
    provision(&replica).await;
    replica
}

/// An organization with a mail service.
pub async fn provision(replica: &Replica) {
    let organization = OrganizationId::parse("organization_id", "acme").expect("good");
    replica.directory.put_organization(&who(), &organization, "Acme").await.expect("put");
    replica.directory.put_mail_service(&who(), &service(), &organization, "Mail").await.expect("put");
}

pub fn threads(number: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(number)
}

pub fn who() -> Requester {
    Requester { caller: "bench".to_owned(), peer: "local".to_owned(), actor: None }
}

pub fn service() -> MailServiceId {
    MailServiceId::parse("mail_service_id", SERVICE).expect("good")
}

pub fn address(text: &str) -> Address {
    Address::parse("address", text).expect("good")
}

/// A mailbox with a device; answers its password.
pub async fn device(replica: &Replica, address: &Address, name: &str, chosen: Option<&str>) -> String {
    let new = NewDevice {
        name: DeviceName::parse("name", name).expect("good"),
        password: chosen.map(|password| Secret::from(password.to_owned())),
        user: None,
        limits: Limits::default(),
    };
    let created = replica.devices.create(&who(), address, &new, None).await.expect("created");
    created.shown.map_or_else(|| chosen.unwrap_or_default().to_owned(), |shown| shown.to_string())
}

pub async fn mailbox(replica: &Replica, address: &Address) {
    replica.directory.put_mailbox(&who(), address, &service(), None, Wait::UntilEffective).await.expect("put");
}

pub fn attempt(address: &Address, password: &str) -> Attempt {
    Attempt {
        address: address.clone(),
        password: Secret::from(password.to_owned()),
        protocol: Protocol::Imap,
        client_ip: "192.0.2.1".parse().ok(),
        frontend: "imap1".into(),
    }
}

pub fn now() -> BootTime {
    SystemClock.boot()
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Logins over the same store and cache, without any memo.
pub fn fresh(replica: &Replica, pepper: &Pepper) -> Arc<latchkey::login::Login> {
    let login = &replica.login;
    Arc::new(latchkey::login::Login {
        store: Arc::clone(&login.store),
        cache: Arc::clone(&login.cache),
        memos: Arc::new(latchkey_core::cache::memos::Memos::with_capacity(1_000, &latchkey::random::bytes())),
        feed: Arc::clone(&login.feed),
        tagger: Arc::new(latchkey::passwords::tag::Tagger::new(pepper)),
        hashing: Arc::clone(&login.hashing),
        throttle: latchkey::throttle::Throttle::new(),
        login_log: Arc::clone(&login.login_log),
        upgrades: login.upgrades.clone(),
        clock: Arc::clone(&login.clock),
        denial_delay: login.denial_delay,
    })
}
