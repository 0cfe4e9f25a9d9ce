//! What goes wrong: crashes, signals, databases that are away, files that are not as they should
//! be.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use latchkey::proto::{self, Decision, Reason};
use rustix::process::Signal;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    server::{Ground, Server, StoreKind},
    support::postgres::Cluster,
    world::{ADDRESS, World, attempt, on_each_store, reason_of},
};

on_each_store!(
    what_was_answered_survives_a_crash,
    a_drain_answers_what_is_under_way_and_ends_streams,
    a_second_signal_ends_it_at_once,
    the_database_knows_its_pepper,
    no_log_line_of_a_fresh_start_holds_a_path_of_the_build,
);

async fn what_was_answered_survives_a_crash(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, phone_password) = world.add("Phone").await;
    let (_, laptop_password) = world.add("Laptop").await;
    world.disconnect(&phone).await;
    let World { server, ground, .. } = world;
    server.kill();
    let server = ground.start();
    let mut logins = server.authorization().await;
    for (password, reason) in [(&phone_password, Reason::DeviceDisconnected), (&laptop_password, Reason::Ok)] {
        let answer = logins.authenticate(attempt(ADDRESS, password)).await.expect("answered").into_inner();
        assert_eq!(answer.reason(), reason);
    }
}

async fn a_drain_answers_what_is_under_way_and_ends_streams(store: StoreKind) {
    // The denial is still on its way when the signal comes.
    let mut world = World::with(store, &["--denial-delay", "700ms"]).await;
    let (requests, to_send) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(to_send);
    let mut answers = world.logins.authenticate_stream(stream).await.expect("a stream").into_inner();
    let wrong = proto::AuthenticateStreamRequest { request_id: 1, login: Some(attempt(ADDRESS, "wrong")) };
    requests.send(wrong).await.expect("sent");
    let mut unary = world.logins.clone();
    let under_way = tokio::spawn(async move { unary.authenticate(attempt(ADDRESS, "wrong")).await });
    // Both have arrived once the server has counted a login that came after them.
    world.logins.check_session(proto::CheckSessionRequest { session: vec![] }).await.expect_err("no session");
    world.server.signal(Signal::TERM);
    let answer = under_way.await.expect("no panic");
    let last = loop {
        match answers.next().await {
            Some(Ok(answer)) => assert_eq!(answer.request_id, 1),
            Some(Err(status)) => break status,
            None => panic!("the stream ended without a word"),
        }
    };
    assert_eq!((last.code(), reason_of(&last).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    assert_eq!(answer.expect("answered").into_inner().decision(), Decision::Deny);
    assert!(world.server.wait().success());
}

async fn a_second_signal_ends_it_at_once(store: StoreKind) {
    let mut world = World::with(store, &["--denial-delay", "10s", "--drain-timeout", "1h"]).await;
    let mut unary = world.logins.clone();
    let under_way = tokio::spawn(async move { unary.authenticate(attempt(ADDRESS, "wrong")).await });
    world.logins.check_session(proto::CheckSessionRequest { session: vec![] }).await.expect_err("no session");
    world.server.signal(Signal::TERM);
    while !world.server.log().contains("draining") {
        tokio::task::yield_now().await;
    }
    world.server.signal(Signal::TERM);
    assert_eq!(world.server.wait().code(), Some(130));
    assert!(under_way.await.expect("no panic").is_err());
}

async fn the_database_knows_its_pepper(store: StoreKind) {
    let ground = Ground::new(store).await;
    drop(ground.start());
    let file = ground.data_dir().join("pepper");
    let mode = std::fs::metadata(&file).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let pepper = std::fs::read(&file).expect("readable");
    let problem = |what: &str| match Server::start(ground.command(&[])) {
        Ok(_) => panic!("it started with a pepper that is {what}"),
        Err(problem) => problem,
    };

    std::fs::remove_file(&file).expect("removed");
    assert!(problem("missing").contains("put the file back from its backup"));
    assert!(!file.exists(), "never a new one in silence");

    std::fs::write(&file, &pepper).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("set");
    assert!(problem("readable by all").contains("chmod 600"));

    let other = ground.folder.path().join("other");
    latchkey::passwords::pepper::Pepper::random().create(&other).expect("made");
    std::fs::rename(&other, &file).expect("moved");
    assert!(problem("another").contains("put that file back"));

    std::fs::write(&file, &pepper).expect("written");
    drop(ground.start());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_used_is_told_with_what_to_do() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let _first = ground.start();
    let Err(problem) = Server::start(ground.command(&[])) else { panic!("two on one file") };
    assert!(problem.contains("in use by another process") && problem.contains("--database-url"), "{problem}");

    let ground = Ground::new(StoreKind::Sqlite).await;
    std::fs::write(ground.data_dir(), "a file").expect("written");
    let Err(problem) = Server::start(ground.command(&[])) else { panic!("a file is no folder") };
    assert!(problem.contains("--data-dir"), "{problem}");

    let ground = Ground::new(StoreKind::Sqlite).await;
    drop(ground.start());
    let database = rusqlite::Connection::open(ground.data_dir().join("latchkey.db")).expect("it opens");
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) VALUES (999, 'future', '', '0')";
    database.execute(newer, []).expect("written");
    let Err(problem) = Server::start(ground.command(&[])) else { panic!("a newer schema") };
    assert!(problem.contains("999") && problem.contains("newer version"), "{problem}");

    std::fs::write(ground.data_dir().join("latchkey.db"), "no database, but long enough to be looked at").expect("written");
    let Err(problem) = Server::start(ground.command(&[])) else { panic!("no database") };
    assert!(problem.contains("backup"), "{problem}");
}

/// What libraries log would name the file that logs it, where it was built.
async fn no_log_line_of_a_fresh_start_holds_a_path_of_the_build(store: StoreKind) {
    let ground = Ground::new(store).await;
    let server = ground.start_with(&["--log", "debug"]);
    while !server.log().contains("logins are served") {
        tokio::task::yield_now().await;
    }
    let log = server.log();
    assert!(log.contains("schema was brought up to date"), "{log}");
    for path in [env!("CARGO_MANIFEST_DIR"), "registry/src", "/rustc/"] {
        assert!(!log.contains(path), "{path} stands in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_in_without_being_named() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let Err(problem) = Server::start(ground.command(&["--listen", "0.0.0.0:0"])) else { panic!("open to all") };
    assert!(problem.contains("--callers-file"), "{problem}");
}

/// The second worst bug: a dependency that is down told as a wrong password.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_costs_no_login_its_answer_and_is_never_a_denial() {
    let mut cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    let ground = Ground { folder: tempfile::tempdir().expect("a folder"), database: Some(database) };
    let server = ground.start_with(&["--lease", "6s"]);
    let mut world = World::on(ground, server).await;
    let (_, password) = world.add("Phone").await;
    assert_eq!(world.reason(&password).await, Reason::Ok);
    world.put_mailbox("cold@example.com", "").await;

    cluster.stop();
    assert_eq!(world.reason(&password).await, Reason::Ok, "the lease holds");
    let status = world.logins.authenticate(attempt("cold@example.com", "x")).await.expect_err("it can't be read");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    // Until the lease ends it is allowed, then there is no answer: never a denial.
    loop {
        match world.logins.authenticate(attempt(ADDRESS, &password)).await {
            Ok(answer) => assert_eq!(answer.into_inner().reason(), Reason::Ok),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                break;
            }
        }
    }
    let disconnect = proto::ListDevicesRequest { address: ADDRESS.into(), ..Default::default() };
    assert_eq!(world.devices.list_devices(disconnect).await.expect_err("away").code(), Code::Unavailable);

    assert_eq!(world.server.health().await, "NOT_SERVING");
    cluster.resume().await;
    while world.logins.authenticate(attempt(ADDRESS, &password)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.reason(&password).await, Reason::Ok, "it finds the database again by itself");
    assert_eq!(world.server.health().await, "SERVING");
    let (phone, _) = world.add("Tablet").await;
    world.disconnect(&phone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_the_limit_are_refused_at_once() {
    let mut world = World::with(StoreKind::Sqlite, &["--max-calls", "1", "--denial-delay", "10s"]).await;
    let mut first = world.logins.clone();
    let under_way = tokio::spawn(async move {
        // One of ours may have the place at first.
        while let Err(status) = first.authenticate(attempt(ADDRESS, "wrong")).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
        }
    });
    let refused = loop {
        // A call of which nothing is left once it is answered: until the first one has arrived, it
        // gets its place.
        let session = proto::CheckSessionRequest { session: vec![] };
        let status = world.logins.check_session(session).await.expect_err("no session");
        if status.code() != Code::InvalidArgument {
            break status;
        }
    };
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
    under_way.abort();
}
