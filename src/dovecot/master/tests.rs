//! The relay between a mail process, played by the test's own process, and Dovecot's authentication
//! server, played by a task.

use std::{
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{UnixListener, unix::OwnedWriteHalf},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::*;
use crate::{
    authority::{Admission, Answer, Authority, NoAnswer, SessionNumber, Standing, TooManySessions},
    clock::SystemClock,
    closing::Closers,
    lifecycle::Drain,
    sessions,
    sockets::Place,
};
use latchkey_core::model::{
    address::Address,
    change::Revision,
    clock::Timestamp,
    id::{DeviceId, MailboxId},
    protocol::Protocol,
    verdict::{Attempt, ProvenPassword, Reason, Session},
};

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(20);

/// What the replica says of every admission, and what it was told.
#[derive(Default)]
struct Replica {
    standing: Mutex<Option<Standing>>,
    next: AtomicU64,
    events: Mutex<Vec<String>>,
    /// Closes each session in the very moment in which it is opened.
    closes_at_once: Option<Arc<Closers>>,
}

#[async_trait]
impl Authority for Replica {
    async fn authenticate(&self, _: &Attempt) -> Result<Answer, NoAnswer> {
        Err(NoAnswer::NoReplica("not asked here".to_owned()))
    }

    fn encode(&self, _: &Admission) -> String {
        "good".to_owned()
    }

    fn decode(&self, text: &str) -> Option<Admission> {
        (text == "good").then(admission)
    }

    async fn judge(&self, _: &Admission) -> Result<Standing, NoAnswer> {
        self.standing.lock().unwrap().ok_or_else(|| NoAnswer::NoReplica("down".to_owned()))
    }

    fn opened(
        &self,
        _: &Admission,
        protocol: Protocol,
        client_ip: Option<IpAddr>,
        _: Timestamp,
    ) -> Result<SessionNumber, TooManySessions> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let ip = client_ip.map_or_else(String::new, |ip| format!(" {ip}"));
        self.events.lock().unwrap().push(format!("opened {number} {}{ip}", protocol.name()));
        if let Some(closers) = &self.closes_at_once {
            closers.close(number, Reason::DeviceDisconnected);
        }
        Ok(number)
    }

    fn closed(&self, number: SessionNumber) {
        self.events.lock().unwrap().push(format!("closed {number}"));
    }

    fn refused(&self, _: SessionNumber) {}
}

fn admission() -> Admission {
    let password = ProvenPassword { mailbox_id: MailboxId(Uuid::nil()), device_id: DeviceId(Uuid::nil()), generation: 1 };
    let address = Address::parse("address", "alice@example.com").unwrap();
    Admission { session: Session { password, revision: Revision(1), address }, epoch: Some(1) }
}

struct World {
    folder: TempDir,
    host: Host,
    replica: Arc<Replica>,
    sessions: Sessions,
    relay: JoinHandle<()>,
}

/// A mail process.
struct Client {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl World {
    async fn new(replica: Replica) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let closers = replica.closes_at_once.clone().unwrap_or_default();
        let replica = Arc::new(replica);
        let host = Host {
            authority: Arc::clone(&replica) as _,
            closers,
            clock: SystemClock::shared(),
            drain: Drain::new(),
            connections: TaskTracker::new(),
            name: "mail-1".into(),
        };
        let settings = sessions::Settings { folder: folder.path().join("sessions"), kill_after: SOON };
        let sessions = Sessions::new(host.clone(), settings).unwrap();
        let place = Place::Unix { path: folder.path().join("relay"), mode: 0o600 };
        let listener = Listener::bind(&place).await.unwrap();
        let settings = Settings { auth_master: folder.path().join("auth-master"), services: Services::default() };
        let relay = tokio::spawn(run(listener, settings, host.clone(), sessions.clone()));
        Self { folder, host, replica, sessions, relay }
    }

    async fn valid() -> Self {
        let world = Self::new(Replica::default()).await;
        world.judge(Some(Standing::Valid));
        world
    }

    fn judge(&self, standing: Option<Standing>) {
        *self.replica.standing.lock().unwrap() = standing;
    }

    fn auth_master(&self) -> PathBuf {
        self.folder.path().join("auth-master")
    }

    async fn connect(&self) -> Client {
        Client::connect(&self.folder.path().join("relay")).await
    }

    fn events(&self) -> Vec<String> {
        self.replica.events.lock().unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

impl Client {
    async fn connect(path: &Path) -> Self {
        let (read, write) = UnixStream::connect(path).await.unwrap().into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    async fn say(&mut self, lines: &str) {
        self.write.write_all(lines.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> Option<String> {
        timeout(SOON, self.lines.next_line()).await.expect("a line in time").unwrap()
    }

    /// Asks as an imap process does, and returns the answer behind the handshake.
    async fn request(&mut self, id: u32, session_pid: u32) -> String {
        self.say(&format!("VERSION\t1\t1\nREQUEST\t{id}\t9\t1\tabcdef\tsession_pid={session_pid}\n")).await;
        loop {
            let line = self.line().await.expect("an answer");
            if !line.starts_with("VERSION") && !line.starts_with("SPID") {
                return line;
            }
        }
    }
}

/// Answers every request with these fields. What it was asked comes back.
fn dovecot(path: &Path, fields: &'static str) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let (listener, seen) = (UnixListener::bind(path).unwrap(), Arc::clone(&asked));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                write.write_all(b"VERSION\t1\t1\nSPID\t77\n").await.unwrap();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    seen.lock().unwrap().push(line.clone());
                    let mut parts = line.split('\t');
                    if parts.next() == Some("REQUEST") {
                        let answer = format!("USER\t{}\talice@example.com\tuid=8{fields}\n", parts.next().unwrap());
                        let _ = write.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    asked
}

const OURS: &str = "\tlatchkey_session=good\tlatchkey_service=pop3\tlatchkey_rip=192.0.2.1";

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.expect("it comes to hold in time");
}

#[tokio::test]
async fn a_session_begins_after_a_second_judgement_and_is_reported() {
    let world = World::valid().await;
    let asked = dovecot(&world.auth_master(), OURS);
    let answer = world.connect().await.request(7, std::process::id()).await;
    assert_eq!(answer, "USER\t7\talice@example.com\tuid=8");
    assert_eq!(world.events(), ["opened 1 pop3 192.0.2.1"]);
    assert_eq!(*asked.lock().unwrap(), ["VERSION\t1\t1", "REQUEST\t7\t9\t1\tabcdef"]);
}

#[tokio::test]
async fn a_login_of_another_passdb_passes_unchanged() {
    let world = World::new(Replica::default()).await;
    dovecot(&world.auth_master(), "\tmaster_user=root");
    let answer = world.connect().await.request(7, std::process::id()).await;
    assert_eq!(answer, "USER\t7\talice@example.com\tuid=8\tmaster_user=root");
    assert_eq!(world.events(), Vec::<String>::new());
}

#[tokio::test]
async fn a_login_that_was_revoked_meanwhile_or_cannot_be_judged_does_not_begin() {
    let world = World::valid().await;
    dovecot(&world.auth_master(), OURS);
    for (standing, words) in [(Some(Standing::Ended(Reason::DeviceDisconnected)), REVOKED), (None, TRY_LATER)] {
        world.judge(standing);
        let answer = world.connect().await.request(7, std::process::id()).await;
        assert_eq!(answer, format!("FAIL\t7\treason={words}"));
    }
    assert!(world.events().is_empty() && world.sessions.is_empty());
}

#[tokio::test]
async fn a_session_that_is_closed_in_the_moment_it_opens_does_not_begin() {
    let world = World::new(Replica { closes_at_once: Some(Arc::default()), ..Replica::default() }).await;
    world.judge(Some(Standing::Valid));
    dovecot(&world.auth_master(), OURS);
    // Our own process is the one that would be closed: it is not.
    let answer = world.connect().await.request(7, std::process::id()).await;
    assert_eq!(answer, format!("FAIL\t7\treason={REVOKED}"));
    assert_eq!(world.events(), ["opened 1 pop3 192.0.2.1", "closed 1"]);
    assert_eq!(std::fs::read_dir(world.folder.path().join("sessions")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_process_that_is_not_the_sockets_peer_gets_no_session() {
    let world = World::valid().await;
    dovecot(&world.auth_master(), OURS);
    let answer = world.connect().await.request(7, 1).await;
    assert_eq!(answer, format!("FAIL\t7\treason={TRY_LATER}"));
    assert!(world.events().is_empty());
}

#[tokio::test]
async fn an_admission_or_a_service_that_is_none_of_ours_gets_no_session() {
    for fields in [
        "\tlatchkey_session=bad\tlatchkey_service=pop3",
        "\tlatchkey_session=good\tlatchkey_service=ftp",
        "\tlatchkey_session=good",
        "\tlatchkey_session=good\tlatchkey_service=imap\tlatchkey_rip=x",
    ] {
        let world = World::valid().await;
        dovecot(&world.auth_master(), fields);
        let answer = world.connect().await.request(7, std::process::id()).await;
        assert_eq!(answer, format!("FAIL\t7\treason={TRY_LATER}"), "{fields}");
        assert!(world.events().is_empty(), "{fields}");
    }
}

#[tokio::test]
async fn a_process_that_takes_its_next_client_has_ended_the_session_before() {
    let world = World::valid().await;
    dovecot(&world.auth_master(), OURS);
    let mut client = world.connect().await;
    client.request(7, std::process::id()).await;
    assert!(client.request(8, std::process::id()).await.starts_with("USER\t8"));
    assert_eq!(world.events(), ["opened 1 pop3 192.0.2.1", "closed 1", "opened 2 pop3 192.0.2.1"]);
    assert_eq!(world.sessions.len(), 1);
}

#[tokio::test]
async fn without_an_answer_of_dovecots_server_the_client_is_told_to_try_later() {
    let world = World::valid().await;
    // Nobody listens; then one that hangs up when it is asked.
    let answer = world.connect().await.request(7, std::process::id()).await;
    assert_eq!(answer, format!("FAIL\t7\treason={TRY_LATER}"));
    let listener = UnixListener::bind(world.auth_master()).unwrap();
    let mut client = world.connect().await;
    let request = client.request(8, std::process::id());
    let (answer, _) = tokio::join!(request, async {
        let (mut server, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 512];
        while !String::from_utf8_lossy(&bytes).contains("abcdef") {
            let _ = server.read(&mut bytes).await.unwrap();
        }
    });
    assert_eq!(answer, format!("FAIL\t8\treason={TRY_LATER}"));
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_its_connection_and_no_other() {
    let world = World::valid().await;
    dovecot(&world.auth_master(), OURS);
    let mut good = world.connect().await;
    let long = format!("VERSION\t1\t1\n{}", "x".repeat(40_000));
    let pile: String = (0..200).map(|id| format!("CANCEL\t{id}\nREQUEST\t1\t9\t1\tabc\nREQUEST\t1\t9\t1\tabc\n")).collect();
    for wrong in ["PASS\t1\talice@example.com\n", "LIST\t1\n", "REQUEST\t1\n", "VERSION\t9\t0\n", &long, &pile, "\0\0\n"] {
        let mut client = world.connect().await;
        let _ = client.write.write_all(wrong.as_bytes()).await;
        while let Ok(Some(line)) = timeout(SOON, client.lines.next_line()).await.expect("it ends in time") {
            assert!(!line.contains("PASS") && !line.contains("LIST"), "{line}");
        }
    }
    assert!(good.request(7, std::process::id()).await.starts_with("USER\t7"));
}

#[tokio::test]
async fn the_drain_waits_for_what_is_under_way_and_for_nothing_else() {
    let world = World::valid().await;
    let listener = UnixListener::bind(world.auth_master()).unwrap();
    let (mut idle, mut busy) = (world.connect().await, world.connect().await);
    busy.say("VERSION\t1\t1\nREQUEST\t7\t9\t1\tabc\n").await;
    let (_first, _) = listener.accept().await.unwrap();
    let (mut second, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 512];
    while !String::from_utf8_lossy(&bytes).contains("abc") {
        let _ = second.read(&mut bytes).await.unwrap();
    }
    world.host.drain.start();
    assert_eq!(idle.line().await, None);
    second.write_all(b"USER\t7\tbob@example.com\n").await.unwrap();
    assert_eq!(busy.line().await.unwrap(), "USER\t7\tbob@example.com");
    world.host.connections.close();
    timeout(SOON, world.host.connections.wait()).await.expect("all end");
}

#[tokio::test]
async fn a_session_is_closed_by_its_own_processs_end_and_no_other() {
    let world = World::valid().await;
    let spawn = || std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let mut children = [spawn(), spawn()];
    for child in &children {
        let process = Process::open(child.id().cast_signed()).unwrap();
        let opening = Opening { admission: "good".to_owned(), protocol: Protocol::Imap, client_ip: None };
        world.sessions.begin(process, opening).await.unwrap();
    }
    world.host.closers.close(2, Reason::DeviceDisconnected);
    until(|| world.events().contains(&"closed 2".to_owned())).await;
    assert_eq!(world.sessions.len(), 1);
    // The next agent finds the other one, and only that.
    let resumed =
        Sessions::new(world.host.clone(), sessions::Settings { folder: world.folder.path().join("sessions"), kill_after: SOON })
            .unwrap();
    std::fs::write(world.folder.path().join("sessions/999999"), "latchkey session 1\nrubbish").unwrap();
    assert_eq!(resumed.resume().unwrap(), 1);
    world.host.closers.close(3, Reason::DeviceDisconnected);
    until(|| world.events().contains(&"closed 3".to_owned())).await;
    for child in &mut children {
        child.wait().unwrap();
    }
    assert_eq!(std::fs::read_dir(world.folder.path().join("sessions")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_process_that_does_not_end_when_asked_is_killed() {
    let world = World::valid().await;
    let settings = sessions::Settings { folder: world.folder.path().join("other"), kill_after: Duration::from_millis(100) };
    let sessions = Sessions::new(world.host.clone(), settings).unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' TERM; echo; while :; do sleep 600; done"]).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its trap is set once it has said something.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let process = Process::open(child.id().cast_signed()).unwrap();
    let opening = Opening { admission: "good".to_owned(), protocol: Protocol::Imap, client_ip: None };
    sessions.begin(process, opening).await.unwrap();
    world.host.closers.close(1, Reason::PasswordChanged);
    until(|| world.events().contains(&"closed 1".to_owned())).await;
    assert!(!child.wait().unwrap().success());
}
