//! The server of the Dovecot protocol, from the outside: a Unix socket, and an authority that
//! answers as planned.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    ClientKind,
    sasl::{Sasl, Timeouts, run},
    services::Services,
};
use crate::{
    authority::{
        Host,
        fake::{Fake, Planned, Told},
    },
    smtp_logins::SmtpLogins,
    sockets::{Listener, Place},
};
use latchkey_core::model::{protocol::Protocol, verdict::Reason};

/// No test waits for longer.
const DEADLINE: Duration = Duration::from_secs(30);

struct Door {
    folder: TempDir,
    fake: Arc<Fake>,
    host: Host,
}

/// A client, after the server's handshake.
struct Client {
    stream: BufReader<UnixStream>,
    handshake: Vec<String>,
}

impl Door {
    async fn open(kind: ClientKind) -> Self {
        Self::open_with(kind, Timeouts::default()).await
    }

    async fn open_with(kind: ClientKind, timeouts: Timeouts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&Place::Unix { path: folder.path().join("sasl"), mode: 0o600 }).await.unwrap();
        let fake = Fake::new();
        let host = fake.host();
        let (logins, report) = SmtpLogins::new(Arc::clone(&host.authority), Arc::clone(&host.closers), Arc::clone(&host.clock));
        tokio::spawn(report);
        let sasl = Sasl { kind, services: Services::default(), logins: Some(logins), counts: Arc::default(), timeouts };
        tokio::spawn(run(listener, sasl, host.clone()));
        Self { folder, fake, host }
    }

    async fn connect(&self) -> Client {
        let mut stream = BufReader::new(UnixStream::connect(self.folder.path().join("sasl")).await.unwrap());
        let mut handshake = Vec::new();
        while handshake.last().is_none_or(|last| last != "DONE") {
            let mut line = String::new();
            timeout(DEADLINE, stream.read_line(&mut line)).await.unwrap().unwrap();
            handshake.push(line.trim_end().to_owned());
        }
        Client { stream, handshake }
    }

    /// A client that has said its handshake too.
    async fn client(&self) -> Client {
        let mut client = self.connect().await;
        client.send("VERSION\t1\t0\nCPID\t77\n").await;
        client
    }
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line; `None` at the connection's end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(DEADLINE, self.stream.read_line(&mut line)).await.expect("an answer or the end");
        // A reset is an end too: something was sent that nobody read.
        (read.unwrap_or(0) > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    async fn says(&mut self, text: &str) -> Option<String> {
        self.send(text).await;
        self.line().await
    }
}

fn plain(user: &str, password: &str) -> String {
    STANDARD.encode(format!("\0{user}\0{password}"))
}

fn auth(id: u32, password: &str) -> String {
    format!("AUTH\t{id}\tPLAIN\tservice=smtp\tnologin\trip=192.0.2.7\tresp={}\n", plain("Alice@example.com", password))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn a_good_password_is_answered_with_its_user_first() {
    let door = Door::open(ClientKind::Postfix).await;
    let mut client = door.client().await;
    assert_eq!(client.handshake[0], "VERSION\t1\t2");
    assert_eq!(client.says(&auth(1, "good")).await, some("OK\t1\tuser=alice@example.com"));
    // PLAIN that has to be asked for, on the same connection.
    assert_eq!(client.says("AUTH\t2\tPLAIN\tservice=smtp\n").await, some("CONT\t2\t"));
    let response = plain("alice@example.com", "good");
    assert_eq!(client.says(&format!("CONT\t2\t{response}\n")).await, some("OK\t2\tuser=alice@example.com"));
    // LOGIN, with and without its user at once.
    assert_eq!(client.says("AUTH\t3\tLOGIN\tservice=smtp\n").await, some("CONT\t3\tVXNlcm5hbWU6"));
    let user = STANDARD.encode("alice@example.com");
    assert_eq!(client.says(&format!("CONT\t3\t{user}\n")).await, some("CONT\t3\tUGFzc3dvcmQ6"));
    let password = STANDARD.encode("good");
    assert_eq!(client.says(&format!("CONT\t3\t{password}\n")).await, some("OK\t3\tuser=alice@example.com"));
    assert_eq!(client.says(&format!("AUTH\t4\tLOGIN\tservice=smtp\tresp={user}\n")).await, some("CONT\t4\tUGFzc3dvcmQ6"));
    assert_eq!(client.says(&format!("CONT\t4\t{password}\n")).await, some("OK\t4\tuser=alice@example.com"));

    let asked = door.fake.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.protocol, asked.client_ip), (Protocol::Smtp, Some([192, 0, 2, 7].into())));
    assert_eq!(&*asked.frontend, "postfix on host");
}

#[tokio::test]
async fn a_denial_is_a_fail_and_no_answer_is_said_in_the_words_of_who_asks() {
    for kind in ClientKind::ALL {
        let short = Timeouts { answer: Duration::from_millis(50), ..Timeouts::default() };
        let door = Door::open_with(kind, short).await;
        door.fake.plan("down", Planned(Duration::ZERO, None));
        door.fake.plan("slow", Planned(DEADLINE, Some(Reason::Ok)));
        door.fake.plan("guessed", Planned(Duration::ZERO, Some(Reason::Throttled)));
        door.fake.plan("suspended", Planned(Duration::ZERO, Some(Reason::MailboxSuspended)));
        let mut client = door.client().await;
        for password in ["wrong", "suspended"] {
            assert_eq!(client.says(&auth(1, password)).await, some("FAIL\t1\tuser=alice@example.com"), "{kind:?}");
        }
        let unknown_service = format!("AUTH\t1\tPLAIN\tservice=ftp\tresp={}\n", plain("alice@example.com", "good"));
        for request in [auth(1, "down"), auth(1, "slow"), auth(1, "guessed"), unknown_service] {
            let mut client = door.client().await;
            let later = (kind == ClientKind::Dovecot).then(|| "FAIL\t1\tcode=temp_fail".to_owned());
            assert_eq!(client.says(&request).await, later, "{kind:?}: {request}");
        }
    }
}

#[tokio::test]
async fn a_broken_protocol_ends_that_connection_and_no_other() {
    let door = Door::open(ClientKind::Dovecot).await;
    let mut other = door.client().await;
    let hello = "VERSION\t1\t0\nCPID\t77\n";
    let long = format!("{hello}AUTH\t1\tPLAIN\tservice={}\n", "x".repeat(17_000));
    let endless = "x".repeat(20_000);
    let twice = format!("{hello}AUTH\t1\tPLAIN\tservice=smtp\nAUTH\t1\tPLAIN\tservice=smtp\n");
    for rubbish in [
        "VERSION\t2\t0\n",
        "VERSION\t1\t0\nVERSION\t1\t0\n",
        "CPID\t77\n",
        "VERSION\t1\t0\nCPID\t77\nCPID\t77\n",
        "AUTH\t1\tPLAIN\tservice=smtp\n",
        "VERSION\t1\t0\nAUTH\t1\tPLAIN\tservice=smtp\n",
        "\n",
        "GET / HTTP/1.0\r\n",
        "VERSION\tx\n",
        "VERSION\t1\t0\nCPID\t77\nAUTH\n",
        "VERSION\t1\t0\nCPID\t77\nAUTH\t1\n",
        "VERSION\t1\t0\nCPID\t77\nAUTH\t1\tPLAIN\n",
        "VERSION\t1\t0\nCPID\t77\nAUTH\t99999999999\tPLAIN\tservice=smtp\n",
        "VERSION\t1\t0\nCPID\t77\nAUTH\t1\tPLAIN\tservice=a\x01b\n",
        &long,
        &endless,
    ] {
        let mut client = door.connect().await;
        assert_eq!(client.says(rubbish).await, None, "{rubbish:.60?}");
    }
    let mut client = door.connect().await;
    client.send(&twice).await;
    assert!(matches!(client.line().await.as_deref(), None | Some("CONT\t1\t")));
    assert_eq!(client.line().await, None, "an id that is open already");
    assert_eq!(other.says(&auth(1, "good")).await, some("OK\t1\tuser=alice@example.com"));
}

#[tokio::test]
async fn what_names_no_user_and_password_is_a_fail_and_the_connection_goes_on() {
    let door = Door::open(ClientKind::Postfix).await;
    let mut client = door.client().await;
    for resp in ["?", "AA==", "YWxpY2U=", &STANDARD.encode("bob@example.com\0alice@example.com\0good")] {
        let request = format!("AUTH\t1\tPLAIN\tservice=smtp\tresp={resp}\n");
        assert_eq!(client.says(&request).await, some("FAIL\t1"), "{resp}");
    }
    for user in ["alice", "a b@example.com", "\"q\"@", "a\tb@example.com", "a\nb@example.com", "%d@", "alice@example.com\r", "é"]
    {
        let request = format!("AUTH\t1\tPLAIN\tservice=smtp\tresp={}\n", plain(user, "good"));
        assert_eq!(client.says(&request).await, some("FAIL\t1"), "{user:?}");
    }
    assert_eq!(client.says("AUTH\t1\tCRAM-MD5\tservice=smtp\n").await, some("FAIL\t1"));
    assert_eq!(client.says(&auth(1, "good")).await, some("OK\t1\tuser=alice@example.com"));
}

#[tokio::test]
async fn each_answer_belongs_to_its_own_request() {
    let door = Door::open(ClientKind::Dovecot).await;
    let mut client = door.client().await;
    let mut requests = String::new();
    for id in 0..300_u32 {
        let (password, reason) = match id % 3 {
            0 => (format!("allowed{id}"), Some(Reason::Ok)),
            1 => (format!("denied{id}"), Some(Reason::WrongPassword)),
            _ => (format!("down{id}"), None),
        };
        // In another order than they were asked in.
        door.fake.plan(&password, Planned(Duration::from_millis(u64::from(id * 7 % 50)), reason));
        requests += &format!("AUTH\t{id}\tPLAIN\tservice=imap\tresp={}\n", plain(&format!("u{id}@example.com"), &password));
    }
    client.send(&requests).await;
    let mut answers = Vec::new();
    for _ in 0..300 {
        answers.push(client.line().await.expect("an answer"));
    }
    answers.sort();
    let mut expected: Vec<String> = (0..300_u32)
        .map(|id| match id % 3 {
            0 => format!("OK\t{id}\tuser=u{id}@example.com"),
            1 => format!("FAIL\t{id}\tuser=u{id}@example.com"),
            _ => format!("FAIL\t{id}\tcode=temp_fail"),
        })
        .collect();
    expected.sort();
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_canceled_request_is_not_answered_and_its_id_is_free() {
    let door = Door::open(ClientKind::Dovecot).await;
    door.fake.plan("slow", Planned(Duration::from_millis(100), Some(Reason::Ok)));
    door.fake.plan("slower", Planned(Duration::from_millis(200), Some(Reason::WrongPassword)));
    let mut client = door.client().await;
    client.send(&auth(1, "slow")).await;
    client.send("CANCEL\t1\nCANCEL\t9\n").await;
    assert_eq!(client.says(&auth(1, "slower")).await, some("FAIL\t1\tuser=alice@example.com"), "not the first one's answer");
    // A question that is canceled has no answer to go on with.
    assert_eq!(client.says("AUTH\t2\tPLAIN\tservice=smtp\n").await, some("CONT\t2\t"));
    client.send("CANCEL\t2\n").await;
    assert_eq!(client.says("CONT\t2\tAA==\n").await, some("FAIL\t2\tcode=temp_fail"));
}

#[tokio::test]
async fn whoever_lets_us_wait_is_given_up() {
    let short = Duration::from_millis(50);
    let timeouts = Timeouts { handshake: short, half_line: short, question: short, write: short, ..Timeouts::default() };
    let door = Door::open_with(ClientKind::Postfix, timeouts).await;
    assert_eq!(door.connect().await.line().await, None, "no handshake");
    assert_eq!(door.client().await.says("AUTH\t1\tPLA").await, None, "half a line");
    let mut client = door.client().await;
    assert_eq!(client.says("AUTH\t1\tPLAIN\tservice=smtp\n").await, some("CONT\t1\t"));
    assert_eq!(client.line().await, None, "a question without its answer");
    let door = Door::open_with(ClientKind::Dovecot, timeouts).await;
    let mut client = door.client().await;
    assert_eq!(client.says("AUTH\t1\tPLAIN\tservice=imap\n").await, some("CONT\t1\t"));
    assert_eq!(client.line().await, some("FAIL\t1\tcode=temp_fail"));
    // A client that never reads: what it is answered fills the socket.
    let flood = "AUTH\t1\tNONE\tservice=imap\n".repeat(1_000);
    let flooded = async { while client.stream.write_all(flood.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, flooded).await.expect("the connection is closed");
    assert_eq!(door.client().await.says(&auth(1, "good")).await, some("OK\t1\tuser=alice@example.com"));
}

#[tokio::test]
async fn too_many_open_requests_are_told_to_try_later() {
    let door = Door::open(ClientKind::Dovecot).await;
    let mut client = door.client().await;
    let mut later = 0;
    for id in 0..1_030_u32 {
        match client.says(&format!("AUTH\t{id}\tPLAIN\tservice=imap\n")).await.unwrap() {
            answer if answer == format!("CONT\t{id}\t") => (),
            answer if answer == format!("FAIL\t{id}\tcode=temp_fail") => later += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(later, 6);
}

#[tokio::test]
async fn a_login_for_smtp_is_remembered_by_its_process_and_without_room_it_is_told_to_try_later() {
    let door = Door::open(ClientKind::Postfix).await;
    let mut client = door.client().await;
    assert_eq!(client.says(&auth(1, "good")).await, some("OK\t1\tuser=alice@example.com"));
    let opened = Told::Opened(1, "alice@example.com".to_owned(), Some([192, 0, 2, 7].into()));
    assert_eq!(door.fake.told(), std::slice::from_ref(&opened));
    assert_eq!(client.says(&auth(2, "good")).await, some("OK\t2\tuser=alice@example.com"));
    assert_eq!(door.fake.told()[..2], [opened, Told::Closed(1)], "one process serves one client at a time");
    *door.fake.is_full.lock().unwrap() = true;
    assert_eq!(client.says(&auth(3, "good")).await, None);
}

#[tokio::test]
async fn a_drain_answers_what_was_asked_and_ends_the_connections() {
    let door = Door::open(ClientKind::Dovecot).await;
    door.fake.plan("slow", Planned(Duration::from_millis(100), Some(Reason::Ok)));
    let (mut idle, mut busy) = (door.client().await, door.client().await);
    assert_eq!(busy.says("AUTH\t1\tPLAIN\tservice=imap\n").await, some("CONT\t1\t"));
    busy.send(&auth(2, "slow")).await;
    while door.fake.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    door.host.drain.start();
    assert_eq!(idle.line().await, None);
    assert_eq!(busy.line().await, some("FAIL\t1\tcode=temp_fail"));
    assert_eq!(busy.line().await, some("OK\t2\tuser=alice@example.com"));
    assert_eq!(busy.line().await, None);
    door.host.connections.close();
    timeout(DEADLINE, door.host.connections.wait()).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_end_in_answers_or_the_connections_end(
        bytes in vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\t'), 1 => Just(1)], 0..300),
        has_handshake in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let door = Door::open(ClientKind::Dovecot).await;
            let mut client = if has_handshake { door.client().await } else { door.connect().await };
            // It may be closed before all of it was taken.
            let _ = client.stream.write_all(&bytes).await;
            let _ = client.stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = timeout(DEADLINE, client.stream.read_to_end(&mut rest)).await.expect("it ends");
            let answer = door.client().await.says(&auth(1, "good")).await;
            assert_eq!(answer, some("OK\t1\tuser=alice@example.com"));
        });
    }
}
