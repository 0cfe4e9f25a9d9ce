//! `latchkey doctor` beside running servers.

use std::process::Command;

use crate::{
    server::{Ground, Server, StoreKind},
    support::postgres::Cluster,
};

fn doctor(ground: &Ground, server: &Server) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.arg("doctor").arg("--data-dir").arg(ground.data_dir()).args(["--server", &server.url()]);
    if let Some(database) = &ground.database {
        command.args(["--database-url", &database.url]);
    }
    let output = command.output().expect("the binary runs");
    (output.status.code().expect("it ended by itself"), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_the_server_that_holds_the_database_from_another_one() {
    let (ours, other) = (Ground::new(StoreKind::Sqlite).await, Ground::new(StoreKind::Sqlite).await);
    let (server, another) = (ours.start(), other.start());
    let (exit, out) = doctor(&ours, &server);
    assert!(exit == 0 && out.contains("in use by the running server"), "{out}");
    let (exit, out) = doctor(&ours, &another);
    assert!(exit == 1 && !out.contains("in use by the running server"), "{out}");
    assert!(out.contains(&server.address) && out.contains("--server"), "{out}");
    let Err(problem) = Server::start(ours.command(&[])) else { panic!("two on one file") };
    assert!(problem.contains(&server.address), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_takes_no_damaged_file_for_a_database_of_an_old_version() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    drop(ground.start());
    let file = ground.data_dir().join("latchkey.db");
    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[100..4_096].fill(0x5a);
    std::fs::write(&file, bytes).expect("written");
    let another = Ground::new(StoreKind::Sqlite).await;
    let (exit, out) = doctor(&ground, &another.start());
    assert!(exit == 1 && out.contains("damaged") && !out.contains("version 0"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_local_postgresql_without_tls_or_standby_is_well() {
    let cluster = Cluster::start(&[]).await;
    let ground = Ground { folder: tempfile::tempdir().expect("a folder"), database: Some(cluster.database().await) };
    let (exit, out) = doctor(&ground, &ground.start());
    assert!(exit == 0 && out.contains("No problems found"), "{out}");
    assert!(out.contains("note synchronous replication: none"), "{out}");
}
