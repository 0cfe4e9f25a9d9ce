//! What systemd learns of a replica.

use std::{os::unix::net::UnixDatagram, time::Duration};

use rustix::process::Signal;

use crate::server::{Ground, Server, StoreKind};

/// So long for a notification: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn systemd_learns_when_a_replica_is_ready_and_when_it_stops() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let path = ground.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let next = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = ground.command(&[]);
    command.env("NOTIFY_SOCKET", &path);
    let server = Server::start(command).expect("it starts");
    assert_eq!(next(), "READY=1");
    server.signal(Signal::TERM);
    assert_eq!(next(), "STOPPING=1");
    assert!(server.wait().success());
}
