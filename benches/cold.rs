//! Cold logins: GENERATED against the bare indexed read, on both stores; CHOSEN in units of one
//! argon2, with 1, 10 and 50 devices; the hashing pool against bare argon2 on all cores; and how a
//! login's time grows with the number of mailboxes.
//!
//! `cargo bench --bench cold`

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use common::{address, attempt, median, micros};
use latchkey::{
    manage::directory::ImportLine,
    passwords::{
        hash::{HashCost, Hasher, Memory},
        pepper::Pepper,
    },
    serve::replica::Replica,
    store::Store,
};
use latchkey_core::model::{address::Address, change::Revision, secret::Secret};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const READS: usize = 5_000;
const ROUNDS: usize = 5;
const HASHES: usize = 40;
const CHEAP: HashCost = HashCost { memory_kib: 64, passes: 1, lanes: 1 };

#[tokio::main]
async fn main() {
    let pepper = Pepper::random();
    let folder = tempfile::tempdir().expect("a folder");
    let database = support::postgres::fresh_database().await;

    println!("{:<52} {:>10} {:>10} {:>7}", "", "login µs", "bare µs", "ratio");
    generated("GENERATED, SQLite", common::sqlite(&folder.path().join("a")), &pepper).await;
    generated("GENERATED, PostgreSQL", common::postgres(&database.url).await, &pepper).await;

    println!("\n{:<52} {:>10} {:>10} {:>7}", "", "login ms", "argon2 ms", "ratio");
    chosen(common::sqlite(&folder.path().join("b")), &pepper).await;

    println!("\n{:<52} {:>10} {:>10} {:>7}", "", "pool /s", "bare /s", "ratio");
    pool(common::sqlite(&folder.path().join("c")), &pepper).await;

    println!("\n{:<52} {:>10} {:>10} {:>7}", "", "1 M µs", "10 k µs", "ratio");
    growth(&folder, &pepper).await;
}

fn row(what: &str, ours: f64, theirs: f64) {
    println!("{what:<52} {ours:>10.1} {theirs:>10.1} {:>7.2}", ours / theirs);
}

async fn generated(what: &str, store: Arc<dyn Store>, pepper: &Pepper) {
    let replica = common::replica(Arc::clone(&store), pepper, CHEAP, common::settings()).await;
    let alice = address("alice@example.com");
    common::mailbox(&replica, &alice).await;
    let password = common::device(&replica, &alice, "Phone", None).await;
    let (mut logins, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        logins.push(cold_login(&replica, &alice, &password).await);
        let begun = common::now();
        for _ in 0..READS {
            store.read_mailbox(&alice).await.expect("read");
        }
        reads.push(micros(common::now() - begun) / READS as f64);
    }
    row(what, median(&mut logins), median(&mut reads));
}

/// Microseconds a login with an empty cache.
async fn cold_login(replica: &Replica, address: &Address, password: &str) -> f64 {
    let attempt = attempt(address, password);
    let mut took = std::time::Duration::ZERO;
    for _ in 0..READS {
        replica.cache.clear(Revision(0));
        let begun = common::now();
        assert!(replica.login.authenticate(&attempt).await.expect("answered").is_allowed());
        took += common::now() - begun;
    }
    micros(took) / READS as f64
}

async fn chosen(store: Arc<dyn Store>, pepper: &Pepper) {
    let replica = common::replica(store, pepper, HashCost::default(), common::settings()).await;
    let hasher = Hasher::new(pepper, HashCost::default()).expect("a good cost");
    for devices in [1, 10, 50] {
        let alice = address(&format!("alice{devices}@example.com"));
        common::mailbox(&replica, &alice).await;
        let passwords: Vec<String> = (0..devices).map(|n| format!("violet-{n}-anchor-breeze-{n}47")).collect();
        for (n, password) in passwords.iter().enumerate() {
            common::device(&replica, &alice, &format!("Device {n}"), Some(password)).await;
        }
        let mut memory = Memory::new();
        let hash = hasher.hash(b"violet-anchor-breeze-47", &mut memory).expect("hashed");
        let (mut logins, mut bare) = (Vec::new(), Vec::new());
        for round in 0..HASHES {
            // A memo would spare argon2; another replica over the same store has none.
            let password = &passwords[round % passwords.len()];
            let fresh = common::fresh(&replica, pepper);
            let begun = common::now();
            assert!(fresh.authenticate(&attempt(&alice, password)).await.expect("answered").is_allowed());
            logins.push(micros(common::now() - begun) / 1e3);
            let begun = common::now();
            assert!(hasher.verify(b"violet-anchor-breeze-47", &hash, &mut memory).expect("verified"));
            bare.push(micros(common::now() - begun) / 1e3);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        row(&format!("CHOSEN, {devices} devices, mean"), mean(&logins), mean(&bare));
    }
}

async fn pool(store: Arc<dyn Store>, pepper: &Pepper) {
    let replica = common::replica(store, pepper, HashCost::default(), common::settings()).await;
    let hasher = Hasher::new(pepper, HashCost::default()).expect("a good cost");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let each = HASHES;
    let (mut pooled, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = common::now();
        let jobs: Vec<_> = (0..cores * each)
            .map(|n| {
                let hashing = Arc::clone(&replica.hashing);
                tokio::spawn(async move { hashing.hash(Secret::from(format!("password {n}"))).await })
            })
            .collect();
        for job in jobs {
            job.await.expect("no panic").expect("hashed");
        }
        pooled.push((cores * each) as f64 / (common::now() - begun).as_secs_f64());
        let begun = common::now();
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    let mut memory = Memory::new();
                    for n in 0..each {
                        hasher.hash(format!("password {n}").as_bytes(), &mut memory).expect("hashed");
                    }
                });
            }
        });
        bare.push((cores * each) as f64 / (common::now() - begun).as_secs_f64());
    }
    row("hashing pool, all cores", median(&mut pooled), median(&mut bare));
}

async fn growth(folder: &tempfile::TempDir, pepper: &Pepper) {
    let mut figures = Vec::new();
    for mailboxes in [10_000_u64, 1_000_000] {
        let store = common::sqlite(&folder.path().join(mailboxes.to_string()));
        let replica = common::replica(store, pepper, CHEAP, common::settings()).await;
        for first in (0..mailboxes).step_by(10_000) {
            let lines: Vec<_> = (first..first + 10_000)
                .map(|number| ImportLine {
                    number,
                    address: format!("user{number}@example.com"),
                    mail_service_id: common::SERVICE.to_owned(),
                    generic_password_hash: String::new(),
                })
                .collect();
            replica.directory.import(&common::who(), &lines, false).await.expect("imported");
        }
        let mut logins = Vec::new();
        for n in 0..500 {
            let user = address(&format!("user{}@example.com", n * (mailboxes / 500)));
            let password = common::device(&replica, &user, "Phone", None).await;
            replica.cache.clear(Revision(0));
            let attempt = attempt(&user, &password);
            let begun = common::now();
            assert!(replica.login.authenticate(&attempt).await.expect("answered").is_allowed());
            logins.push(micros(common::now() - begun));
        }
        figures.push(median(&mut logins));
    }
    row("cold GENERATED login, SQLite, by mailboxes", figures[1], figures[0]);
}
