//! 10,000 wrong guesses a second beside good warm logins, over gRPC, all in this process on the
//! machine's cores: what the good ones keep of their rate, and their p99. The guesses come from
//! many addresses, so the throttle does not help; a tenth of them hit a mailbox with chosen
//! passwords, where one in 256 meets argon2.
//!
//! `cargo bench --bench guesses`

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{address, attempt, micros};
use futures_util::StreamExt;
use latchkey::{
    grpc::{
        caller::CallerPolicy,
        server::{self, ServerSettings, Services},
    },
    lifecycle::Drain,
    passwords::{hash::HashCost, pepper::Pepper},
    proto::{self, authorization_client::AuthorizationClient},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GUESSES_A_SECOND: u64 = 10_000;
/// Good logins offered: each of so many callers asks again this long after its answer.
const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);
const SECONDS: u64 = 8;
/// A stream holds 4,096 denials that wait for their time; 10,000 a second for half a second are
/// 5,000.
const STREAMS: u64 = 4;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let pepper = Pepper::random();
    let replica = common::replica(common::sqlite(folder.path()), &pepper, HashCost::default(), common::settings()).await;
    let mut good = Vec::new();
    for n in 0..100 {
        let user = address(&format!("user{n}@example.com"));
        common::mailbox(&replica, &user).await;
        let chosen = format!("violet-{n}-anchor-breeze-{n}47");
        let password = common::device(&replica, &user, "Phone", (n % 10 == 0).then_some(&chosen)).await;
        assert!(replica.login.authenticate(&attempt(&user, &password)).await.expect("answered").is_allowed());
        good.push((user.to_string(), password));
    }
    let drain = Drain::new();
    let services = Services {
        authorization: replica.authorization(&drain),
        device_credentials: replica.device_credentials(),
        directory: replica.directory(&drain),
    };
    let routes = server::routes(services, &CallerPolicy::local()).expect("routes").0;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let settings = ServerSettings { tls: None, max_streams: 10_000, max_calls: 65_536, call_timeout: Duration::from_secs(60) };
    let serving = server::builder(&settings, tower::layer::util::Identity::new()).expect("a server").add_routes(routes);
    tokio::spawn(serving.serve_with_incoming(server::incoming(listener)));
    let good = Arc::new(good);

    println!("{:<44} {:>12} {:>12} {:>12}", "", "good /s", "p50 ms", "p99 ms");
    logins(&url, &good).await;
    let (rate, p50, p99) = logins(&url, &good).await;
    println!("{:<44} {rate:>12.0} {p50:>12.2} {p99:>12.2}", "alone");
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    for n in 0..STREAMS {
        tokio::spawn(guess(url.clone(), n, Arc::clone(&stop), Arc::clone(&made)));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, hashes, begun) = (made.load(Ordering::Relaxed), replica.hashing.counts().runs, common::now());
    let (beside, p50, p99) = logins(&url, &good).await;
    let seconds = (common::now() - begun).as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let guesses = (made.load(Ordering::Relaxed) - before) as f64 / seconds;
    let hashes = (replica.hashing.counts().runs - hashes) as f64 / seconds;
    println!(
        "{:<44} {beside:>12.0} {p50:>12.2} {p99:>12.2}",
        format!("beside {guesses:.0} guesses ({hashes:.0} argon2) a second")
    );
    println!("{:<44} {:>12.2}", "rate kept", beside / rate);
}

/// Good logins: how many a second, and their p50 and p99 in milliseconds.
async fn logins(url: &str, good: &Arc<Vec<(String, String)>>) -> (f64, f64, f64) {
    let begun = common::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (url, good) = (url.to_owned(), Arc::clone(good));
            tokio::spawn(async move {
                let mut client = AuthorizationClient::connect(url).await.expect("connected");
                let mut took = Vec::new();
                let mut n = caller;
                while common::now() - begun < Duration::from_secs(SECONDS) {
                    let (address, password) = &good[n % good.len()];
                    n += 7;
                    let asked = common::now();
                    let answer = client.authenticate(message(address, password, "192.0.2.1")).await.expect("answered");
                    assert_eq!(answer.into_inner().decision(), proto::Decision::Allow);
                    took.push(micros(common::now() - asked) / 1e3);
                    tokio::time::sleep(PAUSE).await;
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.expect("no panic"));
    }
    took.sort_by(f64::total_cmp);
    (took.len() as f64 / (common::now() - begun).as_secs_f64(), took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Wrong guesses at a steady pace, each from an address of its own.
async fn guess(url: String, stream: u64, stop: Arc<AtomicBool>, made: Arc<AtomicU64>) {
    let mut client = AuthorizationClient::connect(url).await.expect("connected");
    let (requests, to_send) = tokio::sync::mpsc::channel(1_024);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut n = stream;
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            for _ in 0..GUESSES_A_SECOND / STREAMS / 100 {
                n += STREAMS;
                let ip = std::net::Ipv4Addr::from(u32::try_from(n % 0x00ff_ffff).unwrap_or(0) | 0x0a00_0000).to_string();
                let login = message(&format!("user{}@example.com", n % 100), &format!("a wrong guess number {n}"), &ip);
                let request = proto::AuthenticateStreamRequest { request_id: n, login: Some(login) };
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut answers = client.authenticate_stream(ReceiverStream::new(to_send)).await.expect("a stream").into_inner();
    while let Some(Ok(_)) = answers.next().await {
        made.fetch_add(1, Ordering::Relaxed);
    }
}

fn message(address: &str, password: &str, client_ip: &str) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        stream_key: vec![],
        address: address.to_owned(),
        password: password.into(),
        protocol: proto::Protocol::Imap.into(),
        client_ip: client_ip.to_owned(),
        frontend: "imap1".to_owned(),
    }
}
