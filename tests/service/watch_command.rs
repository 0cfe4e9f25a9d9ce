//! `latchkey watch`, against real replicas.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    server::{Ground, StoreKind},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_each_revocation_and_who_has_acknowledged_it() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--node-name", "one"]);
    let other = ground.start_with(&["--node-name", "two"]);
    let mut world = World::on(ground, server).await;
    let (phone, _) = world.add("Phone").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.args(["watch", "--revocations", "--count", "2", "--server", &other.url()]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // It has to be connected before there is something to see.
    while !other.log().contains("latchkey watch") {
        tokio::task::yield_now().await;
    }
    world.add("Laptop").await;
    world.disconnect(&phone).await;
    let tablet = world.add("Tablet").await.0;
    world.disconnect(&tablet).await;
    let lines: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
    assert!(child.wait().expect("it ends").success());
    let shown = lines.join("\n");
    assert_eq!(shown.matches("1 mailbox").count(), 2, "only the revocations:\n{shown}");
    assert!(shown.contains(&format!("ended: device {}, generation 1 (device disconnected)", phone.device_id)), "{shown}");
    assert!(shown.contains("acknowledged by replica") && shown.contains(" ms"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_a_sentence_when_its_server_stops_and_does_not_hold_the_server_up() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let server = ground.start_with(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.args(["watch", "--server", &server.url()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    while !server.log().contains("latchkey watch") {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "the server waited {:?} for the command", began.elapsed());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the server is stopping") && !said.contains("change"), "{said}");
}
