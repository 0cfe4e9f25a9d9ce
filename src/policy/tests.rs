//! The policy server, from the outside: this test is the process that asks.

use std::{process::Command, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{Counts, run};
use crate::{
    authority::{
        Host, Standing,
        fake::{Fake, Told, admission},
    },
    smtp_logins::{Process, SmtpLogins},
    sockets::{Listener, PeerProcess, Place},
};
use latchkey_core::model::{
    address::Address,
    protocol::Protocol,
    secret::Secret,
    verdict::{Attempt, Reason},
};

const DEADLINE: Duration = Duration::from_secs(30);

struct Door {
    folder: TempDir,
    fake: Arc<Fake>,
    host: Host,
    logins: Arc<SmtpLogins>,
}

impl Door {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&Place::Unix { path: folder.path().join("policy"), mode: 0o600 }).await.unwrap();
        let fake = Fake::new();
        let host = fake.host();
        let (logins, report) = SmtpLogins::new(Arc::clone(&host.authority), Arc::clone(&host.closers), Arc::clone(&host.clock));
        tokio::spawn(report);
        tokio::spawn(run(listener, Arc::clone(&logins), Arc::<Counts>::default(), host.clone()));
        Self { folder, fake, host, logins }
    }

    async fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.folder.path().join("policy")).await.unwrap())
    }

    /// A login of this address, in this process.
    fn log_in(&self, pid: u32, user: &str) {
        let process = Arc::new(Process::hold(PeerProcess { pid: pid.cast_signed(), uid: 0 }).unwrap());
        let address = Address::parse("user", user).unwrap();
        let attempt = Attempt {
            address: address.clone(),
            password: Secret::new(vec![]),
            protocol: Protocol::Smtp,
            client_ip: Some([192, 0, 2, 7].into()),
            frontend: "".into(),
        };
        self.logins.admitted(&process, &admission(&address), &attempt).unwrap();
    }

    async fn told(&self, what: &Told) {
        let seen = async {
            while !self.fake.told().contains(what) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("{what:?} of {:?}", self.fake.told()));
    }
}

async fn ask(stream: &mut BufReader<UnixStream>, user: &str, address: &str, port: u16) -> String {
    let request = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address={address}\nclient_port={port}\nsasl_username={user}\n\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut action, mut empty) = (String::new(), String::new());
    timeout(DEADLINE, stream.read_line(&mut action)).await.unwrap().unwrap();
    timeout(DEADLINE, stream.read_line(&mut empty)).await.unwrap().unwrap();
    assert_eq!(empty, "\n");
    action.trim_end().strip_prefix("action=").expect("an action").to_owned()
}

const ALICE: &str = "alice@example.com";
const CLIENT: &str = "192.0.2.7";

#[tokio::test]
async fn a_session_whose_password_has_ended_is_refused_at_its_next_question() {
    let door = Door::open().await;
    door.log_in(std::process::id(), ALICE);
    let mut stream = door.connect().await;
    assert_eq!(ask(&mut stream, ALICE, CLIENT, 4711).await, "DUNNO");
    door.host.closers.close(1, Reason::DeviceDisconnected);
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.7.0 "));
    door.told(&Told::Refused(1)).await;
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.7.0 "));
    // The next client of this process logs in.
    door.log_in(std::process::id(), ALICE);
    assert_eq!(ask(&mut stream, ALICE, CLIENT, 4712).await, "DUNNO");
    let refusals = door.fake.told().into_iter().filter(|told| matches!(told, Told::Refused(_))).count();
    assert_eq!(refusals, 1);
}

#[tokio::test]
async fn a_login_is_judged_again_at_each_question() {
    let door = Door::open().await;
    door.log_in(std::process::id(), ALICE);
    let mut stream = door.connect().await;
    *door.fake.standing.lock().unwrap() = None;
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.3.0 "), "nobody can say");
    *door.fake.standing.lock().unwrap() = Some(Standing::Ended(Reason::PasswordChanged));
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.7.0 "));
    door.told(&Told::Refused(1)).await;
    *door.fake.standing.lock().unwrap() = Some(Standing::Valid);
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.7.0 "), "what has ended stays so");
}

#[tokio::test]
async fn a_question_that_fits_no_login_is_never_let_pass() {
    let door = Door::open().await;
    let mut stream = door.connect().await;
    assert_eq!(ask(&mut stream, "", CLIENT, 4711).await, "DUNNO", "there is no login to ask about");
    assert!(ask(&mut stream, ALICE, CLIENT, 4711).await.starts_with("421 4.3.0 "), "the agent was restarted");
    door.log_in(std::process::id(), ALICE);
    assert!(ask(&mut stream, "bob@example.com", CLIENT, 4711).await.starts_with("421 4.3.0 "));
    assert!(ask(&mut stream, ALICE, "192.0.2.8", 4711).await.starts_with("421 4.3.0 "));
    assert!(ask(&mut stream, ALICE, "unknown", 4711).await.starts_with("421 4.3.0 "));
    assert_eq!(ask(&mut stream, ALICE, "::ffff:192.0.2.7", 4711).await, "DUNNO");
    assert!(ask(&mut stream, ALICE, CLIENT, 4712).await.starts_with("421 4.3.0 "), "another client of the same address");
    // The login is of another process.
    let mut child = Child(Command::new("sleep").arg("60").spawn().unwrap());
    let other = Door::open().await;
    other.log_in(child.0.id(), ALICE);
    assert!(ask(&mut other.connect().await, ALICE, CLIENT, 4711).await.starts_with("421 4.3.0 "));
    child.end();
}

#[tokio::test]
async fn a_session_ends_with_its_process_or_with_the_next_login() {
    let door = Door::open().await;
    let mut child = Child(Command::new("sleep").arg("60").spawn().unwrap());
    door.log_in(child.0.id(), ALICE);
    door.log_in(child.0.id(), ALICE);
    door.told(&Told::Closed(1)).await;
    assert!(!door.fake.told().contains(&Told::Closed(2)));
    child.end();
    door.told(&Told::Closed(2)).await;
    assert!(door.logins.is_empty());
}

#[tokio::test]
async fn a_request_that_is_none_ends_the_connection() {
    let door = Door::open().await;
    for rubbish in ["\n", "request=junk\n\n", "GET / HTTP/1.0\r\n\r\n", &"x=y\n".repeat(200), &"x".repeat(20_000)] {
        let mut stream = door.connect().await;
        // It may be closed before all of it was taken.
        let _ = stream.write_all(rubbish.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it ends");
        assert_eq!(rest, b"", "{rubbish:.40}");
    }
}

#[tokio::test]
async fn who_closes_the_writing_side_is_answered_first() {
    // As Exim's ${readsocket} does.
    let door = Door::open().await;
    let mut stream = door.connect().await;
    stream.write_all(b"request=smtpd_access_policy\n\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "action=DUNNO\n\n");
}

/// A process that is ended when dropped.
struct Child(std::process::Child);

impl Child {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}
