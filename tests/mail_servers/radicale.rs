//! Radicale behind the agent, configured by `deploy/radicale` as it stands: the same password
//! serves CalDAV.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::Signal;

use crate::host::{ALICE, Agent, Process, deployed, free_port, public_folder, sockets_folder, tool, wait_until, world};

/// The status of a CalDAV request.
fn propfind(port: u16, password: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("Radicale listens");
    let authorization = STANDARD.encode(format!("{ALICE}:{password}"));
    let request = format!(
        "PROPFIND /{ALICE}/ HTTP/1.0\r\nHost: dav.example\r\nDepth: 0\r\nAuthorization: Basic {authorization}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_password_serves_caldav_until_it_is_revoked() {
    let (mut world, folder, port) = (world().await, public_folder(), free_port());
    let sockets = folder.path().join("latchkey");
    sockets_folder(&sockets, "root");
    let listen = [("LATCHKEY_SASL_LISTEN", format!("unix:{},client=radicale", sockets.join("sasl").display()))];
    let _agent = Agent::start("radicale/agent.toml", &world.server.url(), &listen);
    let ours = fs::read_to_string(deployed("radicale/config")).expect("it is there");
    let ours = ours.replace("/run/latchkey-radicale/sasl", &sockets.join("sasl").display().to_string());
    let theirs = format!(
        "[server]\nhosts = 127.0.0.1:{port}\n[storage]\nfilesystem_folder = {}\n",
        folder.path().join("collections").display()
    );
    fs::write(folder.path().join("config"), theirs + &ours).expect("it is written");
    let radicale = tool("venv/bin/radicale");
    let _radicale = Process::start("Radicale", Command::new(radicale).arg("--config").arg(folder.path().join("config")));
    wait_until("Radicale listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());

    let (phone, password) = world.add("Phone").await;
    assert_eq!(propfind(port, &password), 207);
    assert_eq!(propfind(port, "wrong"), 401);
    world.disconnect(&phone).await;
    assert_eq!(propfind(port, &password), 401, "at once");
    let (_, other) = world.add("Laptop").await;
    world.server.signal(Signal::KILL);
    assert_eq!(propfind(port, &other), 500, "nobody answers: that is no wrong password");
}
