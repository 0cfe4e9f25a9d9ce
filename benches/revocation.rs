//! Revocations: from the call to EFFECTIVE, and to the last session closed, with three replicas and
//! many watchers; many a second; what leases cost the database; and what an outage costs.
//!
//! `cargo bench --bench revocation [-- latency | sustained | rest | faults]`; writes
//! docs/revocation.svg after `latency`.

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

#[path = "revocation/plot.rs"]
mod plot;
#[path = "../tests/service/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is used")]
mod server;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "revocation/watchers.rs"]
mod watchers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use latchkey::{
    clock::SystemClock,
    proto::{self, revocation::State},
};
use latchkey_core::model::clock::{BootTime, Clock};
use rustix::process::Signal;
use server::{Ground, Server};
use support::postgres::Cluster;
use watchers::Watchers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ADDRESS: &str = "alice@example.com";
/// Revocations measured for each number of watchers.
const REVOCATIONS: usize = 200;
/// In a mailbox.
const DEVICES: usize = 10;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if is_wanted("latency") {
            latency().await;
        }
        if is_wanted("sustained") {
            for watchers in [10, 100] {
                sustained(watchers).await;
            }
        }
        if is_wanted("rest") {
            rest().await;
        }
        if is_wanted("faults") {
            faults().await;
        }
    });
}

/// Three replicas over one durable PostgreSQL, and a mailbox.
struct Platform {
    replicas: Vec<Server>,
    ground: Ground,
    cluster: Cluster,
}

impl Platform {
    async fn start(replicas: usize, lease: &str) -> Self {
        let cluster = Cluster::start(&[]).await;
        let database = cluster.database().await;
        let ground = Ground { folder: tempfile::tempdir().expect("a folder"), database: Some(database) };
        let start = |number: usize| {
            ground.start_with(&["--lease", lease, "--node-name", &format!("replica-{number}"), "--max-devices", "1000"])
        };
        let replicas = (1..=replicas).map(start).collect::<Vec<_>>();
        let mut directory = replicas[0].directory().await;
        let organization = proto::PutOrganizationRequest { organization_id: "acme".into(), display_name: "Acme".into() };
        directory.put_organization(organization).await.expect("put");
        let service = proto::PutMailServiceRequest {
            mail_service_id: "mail".into(),
            organization_id: "acme".into(),
            display_name: "Mail".into(),
        };
        directory.put_mail_service(service).await.expect("put");
        let platform = Self { replicas, ground, cluster };
        platform.mailbox(ADDRESS).await;
        platform
    }

    async fn mailbox(&self, address: &str) {
        let request = proto::PutMailboxRequest { address: address.into(), mail_service_id: "mail".into(), ..Default::default() };
        self.replicas[0].directory().await.put_mailbox(request).await.expect("put");
    }

    /// Devices with their passwords.
    async fn devices(&self, address: &str, count: usize) -> Vec<(proto::Device, String)> {
        let mut client = self.replicas[0].devices().await;
        let mut devices = vec![];
        for number in 0..count {
            let request = proto::CreateDeviceRequest {
                address: address.into(),
                display_name: format!("Device {number}"),
                ..Default::default()
            };
            let created = client.create_device(request).await.expect("created").into_inner();
            devices.push((created.device.expect("a device"), created.password));
        }
        devices
    }
}

fn disconnect(device: &proto::Device) -> proto::DisconnectDeviceRequest {
    proto::DisconnectDeviceRequest { address: device.address.clone(), device_id: device.device_id.clone(), ..Default::default() }
}

fn login(address: &str, password: &str) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        address: address.into(),
        password: password.into(),
        protocol: proto::Protocol::Imap.into(),
        client_ip: "192.0.2.1".into(),
        frontend: "imap1".into(),
        stream_key: vec![],
    }
}

async fn latency() {
    println!(
        "revoke to EFFECTIVE, 3 replicas, lease 10 s, one revocation at a time, {REVOCATIONS} each; {DEVICES} devices a mailbox, a session open with each"
    );
    println!("| watchers | p50 | p99 | longest | to the last session closed, p99 |");
    println!("| --- | --- | --- | --- | --- |");
    let mut points = vec![];
    for count in [1, 10, 100, 1_000, 10_000] {
        let platform = Platform::start(3, "10s").await;
        let mut devices = vec![];
        for number in 0..REVOCATIONS / DEVICES {
            let address = format!("user{number}@example.com");
            platform.mailbox(&address).await;
            devices.extend(platform.devices(&address, DEVICES).await);
        }
        let watchers = Watchers::start(&platform.replicas, count).await;
        let mut logins = platform.replicas[0].authorization().await;
        for (number, (device, password)) in devices.iter().enumerate() {
            let session = logins.authenticate(login(&device.address, password)).await.expect("answered").into_inner().session;
            watchers.open(number % count, session);
        }
        watchers.settle().await;
        let mut client = platform.replicas[0].devices().await;
        let (mut effective, mut closed) = (vec![], vec![]);
        for (device, _) in &devices {
            let begun = now();
            let answer = client.disconnect_device(disconnect(device)).await.expect("revoked").into_inner();
            effective.push(now() - begun);
            let revocation = answer.revocation.expect("a revocation");
            assert_eq!((revocation.state(), revocation.closed_sessions), (State::Effective, 1), "{revocation:?}");
            closed.push(watchers.closed_at(&device.device_id) - begun);
        }
        let (p50, p99) = (percentile(&mut effective, 50), percentile(&mut effective, 99));
        let longest = percentile(&mut effective, 100);
        println!(
            "| {count} | {} | {} | {} | {} |",
            millis(p50),
            millis(p99),
            millis(longest),
            millis(percentile(&mut closed, 99))
        );
        points.push((count as f64, p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3));
    }
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/revocation.svg"), plot::revocations(&points)).expect("written");
}

/// 200 revocations a second for a minute, while logins go on.
async fn sustained(watchers: usize) {
    const RATE: u64 = 200;
    const SECONDS: u64 = 60;
    const MAILBOXES: usize = 40;
    let platform = Arc::new(Platform::start(3, "10s").await);
    let _watchers = Watchers::start(&platform.replicas, watchers).await;
    let mut making = tokio::task::JoinSet::new();
    for number in 0..MAILBOXES {
        let platform = Arc::clone(&platform);
        making.spawn(async move {
            let address = format!("user{number}@example.com");
            platform.mailbox(&address).await;
            platform.devices(&address, (RATE * SECONDS) as usize / MAILBOXES).await
        });
    }
    let devices: Vec<_> = making.join_all().await.into_iter().flatten().collect();
    let kept = platform.devices(ADDRESS, 1).await.remove(0).1;
    let alone = login_rate(&platform, &kept, Duration::from_secs(10), &AtomicBool::new(false)).await;
    let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let logins = {
        let (platform, is_over, kept) = (Arc::clone(&platform), Arc::clone(&is_over), kept.clone());
        tokio::spawn(async move { login_rate(&platform, &kept, Duration::from_secs(SECONDS * 2), &is_over).await })
    };
    let begun = now();
    let mut running = tokio::task::JoinSet::new();
    let mut clients = vec![];
    for replica in &platform.replicas {
        clients.push(replica.devices().await);
    }
    let mut every = tokio::time::interval(Duration::from_nanos(1_000_000_000 / RATE));
    for (number, (device, _)) in devices.into_iter().enumerate() {
        every.tick().await;
        let (mut client, done) = (clients[number % clients.len()].clone(), Arc::clone(&done));
        running.spawn(async move {
            let begun = now();
            let answer = client.disconnect_device(disconnect(&device)).await.expect("revoked").into_inner();
            assert_eq!(answer.revocation.expect("a revocation").state(), State::Effective);
            done.fetch_add(1, Ordering::Relaxed);
            now() - begun
        });
    }
    let mut took = running.join_all().await;
    let elapsed = (now() - begun).as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let beside = logins.await.expect("no panic");
    println!(
        "sustained, {watchers} watchers: {:.0} revocations a second for {elapsed:.0} s (offered {RATE}), to EFFECTIVE p50 {} p99 {}; logins beside it {beside:.0} a second, alone {alone:.0}: {:.2}",
        done.load(Ordering::Relaxed) as f64 / elapsed,
        millis(percentile(&mut took, 50)),
        millis(percentile(&mut took, 99)),
        beside / alone
    );
}

/// Warm logins a second, at a steady pace that leaves room: how many of them were answered in time.
async fn login_rate(platform: &Platform, password: &str, most: Duration, is_over: &AtomicBool) -> f64 {
    let mut client = platform.replicas[1].authorization().await;
    client.authenticate(login(ADDRESS, password)).await.expect("warm");
    let begun = now();
    let mut answered = 0;
    let mut every = tokio::time::interval(Duration::from_micros(500));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while now() - begun < most && !is_over.load(Ordering::Relaxed) {
        every.tick().await;
        client.authenticate(login(ADDRESS, password)).await.expect("answered");
        answered += 1;
    }
    f64::from(answered) / (now() - begun).as_secs_f64()
}

/// Statements a second that leases cost the database, by its own count.
async fn rest() {
    println!("statements a second at rest, lease 10 s");
    for (replicas, count) in [(1, 0), (3, 0), (3, 300), (6, 0)] {
        let platform = Platform::start(replicas, "10s").await;
        let _watchers = Watchers::start(&platform.replicas, count).await;
        let database = platform.ground.database.as_ref().expect("PostgreSQL").name.clone();
        let client = platform.cluster.client("postgres").await;
        let transactions = async || {
            let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
            client.query_one(sql, &[&database]).await.expect("asked").get::<_, i64>(0)
        };
        // Statistics are written behind, by each backend.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let (before, begun) = (transactions().await, now());
        tokio::time::sleep(Duration::from_secs(30)).await;
        let rate = (transactions().await - before) as f64 / (now() - begun).as_secs_f64();
        println!("| {replicas} replicas, {count} watchers | {rate:.1} a second | {:.2} a replica |", rate / replicas as f64);
    }
}

/// A replica that is stopped; the store gone and back.
async fn faults() {
    let platform = Platform::start(3, "2s").await;
    let devices = platform.devices(ADDRESS, 4).await;
    let mut client = platform.replicas[0].devices().await;
    platform.replicas[2].signal(Signal::STOP);
    for (number, (device, _)) in devices.iter().take(2).enumerate() {
        let begun = now();
        let answer = client.disconnect_device(disconnect(device)).await.expect("revoked").into_inner();
        assert_eq!(answer.revocation.expect("a revocation").state(), State::Effective);
        println!("a replica stopped, lease 2 s, revocation {}: {} to EFFECTIVE", number + 1, millis(now() - begun));
    }
    platform.replicas[2].signal(Signal::CONT);

    let Platform { replicas, mut cluster, .. } = platform;
    let mut logins = replicas[1].authorization().await;
    let password = &devices[3].1;
    logins.authenticate(login(ADDRESS, password)).await.expect("warm");
    cluster.stop();
    let gone = now();
    let mut answered_for = Duration::ZERO;
    while let Ok(answer) = logins.authenticate(login(ADDRESS, password)).await {
        assert_eq!(answer.into_inner().reason(), proto::Reason::Ok, "never a wrong DENY");
        answered_for = now() - gone;
    }
    cluster.resume().await;
    let back = now();
    while logins.authenticate(login(ADDRESS, password)).await.is_err() {}
    println!(
        "store gone, lease 2 s: warm logins were answered for {}, and again {} after its return",
        millis(answered_for),
        millis(now() - back)
    );
}

fn now() -> BootTime {
    SystemClock.boot()
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn percentile(durations: &mut [Duration], percent: usize) -> Duration {
    durations.sort();
    durations[((durations.len() * percent).div_ceil(100)).clamp(1, durations.len()) - 1]
}
