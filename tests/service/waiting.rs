//! A replica that starts before its database.

use std::{net::TcpListener, os::unix::net::UnixDatagram, process::Command, thread, time::Duration};

use latchkey::proto::{Reason, authorization_client::AuthorizationClient};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    server::{Ground, Server, StoreKind},
    support::postgres::Cluster,
    world::{ADDRESS, World, attempt, reason_of},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").to_string()
}

async fn channel(address: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a good URL");
    let connected = async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_waits_for_its_database_and_is_not_ready_meanwhile() {
    let mut cluster = Cluster::start(&[]).await;
    let ground = Ground { folder: tempfile::tempdir().expect("a folder"), database: Some(cluster.database().await) };
    cluster.stop();
    let address = free_address();
    let command = ground.command(&["--listen", &address]);
    let starting = thread::spawn(move || Server::start(command));

    let channel = channel(&address).await;
    let (mut health, mut logins) = (HealthClient::new(channel.clone()), AuthorizationClient::new(channel));
    let request = || HealthCheckRequest { service: "latchkey.v1.Authorization".to_owned() };
    let answer = health.check(request()).await.expect("answered").into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    let mut watched = health.watch(request()).await.expect("a stream").into_inner();
    assert_eq!(watched.message().await.expect("answered").expect("a status").status(), ServingStatus::NotServing);
    let refused = logins.authenticate(attempt(ADDRESS, "x")).await.expect_err("there is no database");
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(!starting.is_finished(), "it waits");

    cluster.resume().await;
    let server = starting.join().expect("no panic").expect("it starts");
    assert_eq!(server.address, address);
    // Whoever watched the server that waited asks the one that serves.
    let ended = tokio::time::timeout(PATIENCE, watched.message()).await.expect("the stream ends");
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    assert_eq!(server.health().await, "SERVING");
    assert!(server.log().contains("waiting for the database"), "{}", server.log());
    let mut world = World::on(ground, server).await;
    let (_, password) = world.add("Phone").await;
    assert_eq!(world.reason(&password).await, Reason::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_waits_can_be_stopped_and_keeps_the_databases_password_to_itself() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let address = free_address();
    let url = "postgres://latchkey:s3cret@127.0.0.1:1/latchkey";
    let notified = ground.folder.path().join("notify");
    let socket = UnixDatagram::bind(&notified).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut command: Command = ground.command(&["--listen", &address, "--database-url", url]);
    command.env("NOTIFY_SOCKET", &notified);
    let child = command.spawn().expect("it runs");
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a notification");
    assert_eq!(&buffer[..length], b"STATUS=Waiting for the database");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("it runs");
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(PATIENCE, ended).await.expect("it stops").expect("no panic").expect("it ends");
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{log}");
    assert!(log.contains("waiting for the database") && log.contains("--database-url"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_is_not_waited_for() {
    let database = crate::support::postgres::fresh_database().await;
    let ground = Ground::new(StoreKind::Sqlite).await;
    let url = database.url.replace(&database.name, "no_such_database");
    let Err(problem) = Server::start(ground.command(&["--database-url", &url])) else { panic!("there is none") };
    assert!(problem.contains("no_such_database") && problem.contains("--database-url"), "{problem}");
}
