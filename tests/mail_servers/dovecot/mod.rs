//! Dovecot from Debian's packages: a revoked device is thrown out of IMAP, POP3, submission and
//! ManageSieve, and nobody else is.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod client;
mod host;

use std::{sync::Arc, time::Duration};

use latchkey::proto;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use self::{
    client::{Client, Protocol},
    host::Host,
};
use crate::world::ADDRESS;

/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// From the call that disconnects to the last session's end, on a machine that does more besides.
const BOUND: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);

/// What each protocol says to a client whose password is wrong, and to one that is to try later.
fn refused(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Imap => "a NO [AUTHENTICATIONFAILED]",
        Protocol::Pop3 => "-ERR [AUTH]",
        Protocol::Submission => "535 5.7.8",
        Protocol::Sieve => "NO \"Authentication failed.\"",
    }
}

fn later(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Imap => "a NO [UNAVAILABLE]",
        Protocol::Pop3 => "-ERR [SYS/TEMP]",
        Protocol::Submission => "454 4.7.0",
        Protocol::Sieve => "NO (TRYLATER)",
    }
}

/// A session of each protocol, the IMAP one in IDLE.
async fn open_all(host: &Host, password: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = host.log_in(protocol, ADDRESS, password).await.unwrap_or_else(|words| panic!("{protocol:?}: {words}"));
        if protocol == Protocol::Imap {
            client.idle().await;
        }
        clients.push(client);
    }
    clients
}

async fn assert_thrown_out(clients: Vec<Client>) {
    for (mut client, protocol) in clients.into_iter().zip(Protocol::ALL) {
        let words = client.last_words().await.to_lowercase();
        assert!(words.contains("shutting down"), "{protocol:?}: {words}");
    }
}

async fn assert_open(clients: &mut [Client]) {
    for (client, protocol) in clients.iter_mut().zip(Protocol::ALL) {
        if protocol == Protocol::Imap {
            client.done().await;
        }
        assert!(client.is_open().await, "{protocol:?}");
        if protocol == Protocol::Imap {
            client.idle().await;
        }
    }
}

async fn assert_each(host: &Host, password: &str, words: fn(Protocol) -> &'static str) {
    for protocol in Protocol::ALL {
        let answer = host.log_in(protocol, ADDRESS, password).await.expect_err("the login is not allowed");
        assert!(answer.starts_with(words(protocol)), "{protocol:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_device_is_thrown_out_of_every_protocol_and_the_mailboxs_other_device_stays() {
    let mut host = Host::start().await;
    let (phone, of_phone) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    let phones = open_all(&host, &of_phone).await;
    let mut laptops = open_all(&host, &of_laptop).await;

    let began = Instant::now();
    let revocation = host.world.disconnect(&phone).await;
    assert_eq!((revocation.closed_sessions, revocation.refused_sessions), (4, 0), "{revocation:?}");
    assert_thrown_out(phones).await;
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    assert_open(&mut laptops).await;
    assert_each(&host, &of_phone, refused).await;
    open_all(&host, &of_laptop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_closes_the_old_sessions_and_works_at_once() {
    let mut host = Host::start().await;
    let (phone, old) = host.world.add("phone").await;
    let phones = open_all(&host, &old).await;
    let request = proto::ChangePasswordRequest { address: ADDRESS.into(), device_id: phone.device_id, ..Default::default() };
    let new = host.world.devices.change_password(request).await.unwrap().into_inner().password;
    assert_thrown_out(phones).await;
    open_all(&host, &new).await;
    assert_each(&host, &old, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_of_a_mailbox_are_thrown_out_at_once_and_no_other_mailbox_is() {
    const OTHER: &str = "bob@example.com";
    let mut host = Host::start().await;
    let (_, of_phone) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    host.world.put_mailbox(OTHER, "").await;
    let request = proto::CreateDeviceRequest { address: OTHER.into(), display_name: "phone".into(), ..Default::default() };
    let (_, of_other) = host.world.add_with(request).await;
    let (phones, laptops) = (open_all(&host, &of_phone).await, open_all(&host, &of_laptop).await);
    let mut other = host.log_in(Protocol::Imap, OTHER, &of_other).await.unwrap();

    let etag = host.world.list().await.etag;
    let request = proto::DisconnectAllDevicesRequest { address: ADDRESS.into(), etag, ..Default::default() };
    host.world.devices.disconnect_all_devices(request).await.unwrap();
    assert_thrown_out(phones).await;
    assert_thrown_out(laptops).await;
    assert!(other.is_open().await);
    assert_each(&host, &of_phone, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_for_smtp_only_is_refused_elsewhere_even_after_smtp_let_it_in() {
    let mut host = Host::start().await;
    let request = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: "printer".into(),
        allowed_protocols: vec![proto::Protocol::Smtp.into()],
        ..Default::default()
    };
    let (_, password) = host.world.add_with(request).await;
    for _ in 0..2 {
        assert!(host.log_in(Protocol::Submission, ADDRESS, &password).await.unwrap().is_open().await);
        for protocol in [Protocol::Imap, Protocol::Pop3, Protocol::Sieve] {
            let answer = host.log_in(protocol, ADDRESS, &password).await.unwrap_err();
            assert!(answer.starts_with(refused(protocol)), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_revoked_before_its_session_begins_gets_no_session() {
    // The agent asks Dovecot's authentication server through us, who hold the answer back.
    let mut host = Host::start_with(&[], |folder| folder.join("held")).await;
    let (phone, password) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let listener = UnixListener::bind(host.path("held")).unwrap();
    let auth_master = host.path("run/auth-master");
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&go_on));
    tokio::spawn(async move {
        loop {
            let (mut process, _) = listener.accept().await.unwrap();
            let mut server = UnixStream::connect(&auth_master).await.unwrap();
            let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
            tokio::spawn(async move {
                let (mut bytes, mut of_server) = ([0; 16_384], [0; 16_384]);
                let mut seen = Vec::new();
                while !String::from_utf8_lossy(&seen).contains("USER\t") {
                    tokio::select! {
                        read = process.read(&mut bytes) => server.write_all(&bytes[..read.unwrap()]).await.unwrap(),
                        read = server.read(&mut of_server) => seen.extend_from_slice(&of_server[..read.unwrap()]),
                    }
                }
                tell.notify_one();
                wait.notified().await;
                process.write_all(&seen).await.unwrap();
                let _ = process.read(&mut bytes).await;
            });
        }
    });
    for protocol in [Protocol::Imap, Protocol::Sieve] {
        go_on.notify_one();
        assert!(host.log_in(protocol, ADDRESS, &of_laptop).await.unwrap().is_open().await);
        asked.notified().await;
    }
    let mut devices = host.world.devices.clone();
    let login = host.log_in(Protocol::Imap, ADDRESS, &password);
    let (answer, ()) = tokio::join!(login, async {
        timeout(DEADLINE, asked.notified()).await.expect("the session is asked about in time");
        let device_id = phone.device_id.clone();
        let request = proto::DisconnectDeviceRequest { address: ADDRESS.into(), device_id, ..Default::default() };
        devices.disconnect_device(request).await.unwrap();
        go_on.notify_one();
    });
    let answer = answer.unwrap_err();
    // Dovecot's login process may hang up before its mail process has said why.
    let is_told = answer.starts_with(later(Protocol::Imap)) && answer.contains("revoked");
    assert!(is_told || answer.is_empty(), "{answer}");
    assert_each(&host, &password, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_the_agents_restart_and_the_next_revocation_closes_its_own() {
    let mut host = Host::start().await;
    let (phone, of_phone) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    let phones = open_all(&host, &of_phone).await;
    let mut laptops = open_all(&host, &of_laptop).await;
    // It is killed: nothing could be put in order.
    host.agent.as_mut().unwrap().kill();
    host.agent = None;
    assert_each(&host, &of_laptop, later).await;
    assert_open(&mut laptops).await;
    host.start_agent();
    assert_open(&mut laptops).await;
    let revocation = host.world.disconnect(&phone).await;
    assert_thrown_out(phones).await;
    assert_open(&mut laptops).await;
    assert_eq!(revocation.closed_sessions, 4, "{revocation:?}");
    open_all(&host, &of_laptop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_device_revoked_while_no_agent_ran_are_closed_at_its_start() {
    let mut host = Host::start().await;
    let (phone, of_phone) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    let phones = open_all(&host, &of_phone).await;
    let mut laptops = open_all(&host, &of_laptop).await;
    host.agent = None;
    let request = proto::DisconnectDeviceRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id,
        max_wait: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    host.world.devices.disconnect_device(request).await.unwrap();
    host.start_agent();
    assert_thrown_out(phones).await;
    assert_open(&mut laptops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_warm_logins_go_on_for_the_lease_and_then_each_protocol_says_try_later() {
    let mut host = Host::start_with(&["--lease", "4s"], |folder| folder.join("run/latchkey-master")).await;
    let (_, warm) = host.world.add("phone").await;
    let (_, cold) = host.world.add("laptop").await;
    let mut clients = open_all(&host, &warm).await;
    host.world.server.signal(rustix::process::Signal::KILL);
    let warm_one = host.log_in(Protocol::Imap, ADDRESS, &warm).await;
    assert!(warm_one.is_ok(), "{warm_one:?}");
    assert_each(&host, &cold, later).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match host.log_in(Protocol::Imap, ADDRESS, &warm).await {
            Ok(_) => assert!(Instant::now() < deadline, "the lease ends"),
            Err(words) => {
                assert!(words.starts_with(later(Protocol::Imap)), "{words}");
                break;
            }
        }
        sleep(LOOK).await;
    }
    assert_each(&host, &warm, later).await;
    assert_open(&mut clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stay_over_dovecots_reload_and_the_next_revocation_closes_its_own() {
    let mut host = Host::start().await;
    let (phone, of_phone) = host.world.add("phone").await;
    let (_, of_laptop) = host.world.add("laptop").await;
    let phones = open_all(&host, &of_phone).await;
    let mut laptops = open_all(&host, &of_laptop).await;
    host.doveadm("reload");
    let more = open_all(&host, &of_phone).await;
    assert_open(&mut laptops).await;
    let revocation = host.world.disconnect(&phone).await;
    assert_eq!(revocation.closed_sessions, 8, "{revocation:?}");
    assert_thrown_out(phones).await;
    assert_thrown_out(more).await;
    assert_open(&mut laptops).await;
    // A stop of Dovecot ends them all, and the agent learns of it.
    host.doveadm("stop");
    assert_thrown_out(laptops).await;
    host.start_dovecot().await;
    open_all(&host, &of_laptop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_of_another_device_is_closed_when_a_hundred_are_open() {
    let mut host = Host::start().await;
    let mut devices = Vec::new();
    for number in 0..10 {
        let (device, password) = host.world.add(&format!("device {number}")).await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = host.log_in(Protocol::Imap, ADDRESS, &password).await.unwrap();
            client.idle().await;
            clients.push(client);
        }
        devices.push((device, clients));
    }
    while let Some((device, clients)) = devices.pop() {
        let revocation = host.world.disconnect(&device).await;
        assert_eq!(revocation.closed_sessions, 10, "{revocation:?}");
        for mut client in clients {
            assert_eq!(client.last_words().await, "* BYE Server shutting down.");
        }
        for client in devices.iter_mut().filter_map(|(_, clients)| clients.last_mut()) {
            client.done().await;
            client.idle().await;
        }
    }
}
