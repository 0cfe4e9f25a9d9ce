//! Postfix behind the agent, configured by `deploy/postfix` as it stands.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    host::{
        ALICE, Agent, Process, certificate, deployed, free_port, public_folder, restart_replica, run, sockets_folder, wait_until,
        world,
    },
    smtp::{Client, all, logins},
    world::World,
};

/// Postfix with a queue directory of its own.
struct Postfix {
    _process: Process,
    folder: TempDir,
    port: u16,
}

/// Where the agent listens, in a test's queue directory.
fn agent_sockets(queue: &Path) -> [(&'static str, String); 2] {
    let sockets = queue.join("latchkey");
    [
        ("LATCHKEY_SASL_LISTEN", format!("unix:{},client=postfix", sockets.join("sasl").display())),
        ("LATCHKEY_POLICY_LISTEN", format!("unix:{}", sockets.join("policy").display())),
    ]
}

fn queue_of(folder: &TempDir) -> PathBuf {
    folder.path().join("queue")
}

/// A folder with the directory where Postfix and the agent meet.
fn ground() -> TempDir {
    let folder = public_folder();
    sockets_folder(&queue_of(&folder).join("latchkey"), "postfix");
    folder
}

impl Postfix {
    /// With settings that differ from `deploy/`, for one walk.
    fn start(folder: TempDir, differs: &[(&str, &str)]) -> Self {
        let (configuration, queue, port) = (folder.path().join("etc"), queue_of(&folder), free_port());
        fs::create_dir_all(&configuration).expect("it is made");
        fs::create_dir_all(folder.path().join("data")).expect("it is made");
        run(Command::new("chown").arg("postfix").arg(folder.path().join("data")));
        let (certificate, key) = certificate(folder.path());
        // What any installation has, besides Latchkey. Mail is accepted and goes nowhere.
        let mut main = format!(
            "compatibility_level = 3.6\nqueue_directory = {queue}\ndata_directory = {data}\nmeta_directory = /etc/postfix\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\n\
             myhostname = mail.example\nmydestination =\nmynetworks =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             default_transport = discard:\nrelay_transport = discard:\nmaillog_file = /dev/stdout\n\
             smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\nalias_maps =\nalias_database =\n",
            queue = queue.display(),
            data = folder.path().join("data").display(),
            certificate = certificate.display(),
            key = key.display(),
        );
        main += &fs::read_to_string(deployed("postfix/main.cf")).expect("it is there");
        for (name, value) in differs {
            writeln!(main, "{name} = {value}").expect("a String takes it");
        }
        fs::write(configuration.join("main.cf"), main).expect("it is written");
        let theirs = fs::read_to_string("/usr/share/postfix/master.cf.dist").expect("Postfix is installed by scripts/test");
        let theirs: String =
            theirs.lines().filter(|line| !line.starts_with("smtp      inet")).fold(String::new(), |all, line| all + line + "\n");
        let ours = fs::read_to_string(deployed("postfix/master.cf")).expect("it is there");
        // Only the ports differ.
        let ours = ours.replace("\nsubmission inet", &format!("\n127.0.0.1:{port} inet"));
        let ours = ours.replace("\nsubmissions inet", &format!("\n127.0.0.1:{} inet", free_port()));
        fs::write(configuration.join("master.cf"), theirs + &ours).expect("it is written");
        let process = Process::start("Postfix", Command::new("postfix").arg("-c").arg(&configuration).arg("start-fg"));
        wait_until("Postfix listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { _process: process, folder, port }
    }
}

impl Drop for Postfix {
    /// What `start-fg` started is a child of it, and does not end with it.
    fn drop(&mut self) {
        let _ = Command::new("postfix").arg("-c").arg(self.folder.path().join("etc")).arg("stop").output();
    }
}

/// A replica, an agent and Postfix.
struct Host {
    world: World,
    agent: Agent,
    postfix: Postfix,
}

impl Host {
    async fn start(differs: &[(&str, &str)]) -> Self {
        let (world, folder) = (world().await, ground());
        let agent = Agent::start("postfix/agent.toml", &world.server.url(), &agent_sockets(&queue_of(&folder)));
        Self { world, agent, postfix: Postfix::start(folder, differs) }
    }

    fn client(&self) -> Client {
        Client::connect_tls(self.postfix.port)
    }

    fn restart_agent(&mut self) {
        self.agent.kill();
        let sockets = agent_sockets(&queue_of(&self.postfix.folder));
        self.agent = Agent::start("postfix/agent.toml", &self.world.server.url(), &sockets);
    }

    /// A client that has logged in.
    fn logged_in(&self, password: &str) -> Client {
        let mut client = self.client();
        let reply = client.auth("PLAIN", ALICE, password);
        assert!(reply.is(235, "2.7.0"), "{reply:?}");
        client
    }
}

const MAIL: &str = "MAIL FROM:<alice@example.com>";
const RCPT: &str = "RCPT TO:<bob@example.net>";

#[tokio::test(flavor = "multi_thread")]
async fn postfix_logs_in_by_each_mechanism_and_sends() {
    let mut host = Host::start(&[]).await;
    let (_, password) = host.world.add("Phone").await;
    for mechanism in ["PLAIN", "PLAIN-ASKED", "LOGIN"] {
        let mut client = host.client();
        let wrong = client.auth(mechanism, ALICE, "wrong");
        assert!(wrong.is(535, "5.7.8"), "{mechanism}: {wrong:?}");
        let good = client.auth(mechanism, ALICE, &password);
        assert!(good.is(235, "2.7.0"), "{mechanism}: {good:?}");
        assert!(client.command(MAIL).is(250, ""));
        let recipient = client.command(RCPT);
        assert!(recipient.is(250, ""), "{recipient:?}");
        assert!(client.command("DATA").is(354, ""));
        client.send("Subject: hello\r\n\r\nhello\r\n.\r\n");
        let queued = client.read();
        assert!(queued.is(250, "2.0.0"), "{queued:?}");
    }
    // A device that may not send is no wrong password to us, and nothing else to its client.
    let (_, imap_only) = host
        .world
        .add_with(latchkey::proto::CreateDeviceRequest {
            address: ALICE.into(),
            display_name: "Reader".into(),
            allowed_protocols: vec![latchkey::proto::Protocol::Imap.into()],
            ..Default::default()
        })
        .await;
    assert!(host.client().auth("PLAIN", ALICE, &imap_only).is(535, "5.7.8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_revoked_in_an_smtp_session_ends_it_at_the_next_recipient_or_message() {
    let mut host = Host::start(&[]).await;
    let (phone, phone_password) = host.world.add("Phone").await;
    let (_, laptop_password) = host.world.add("Laptop").await;
    let mut at_recipient = host.logged_in(&phone_password);
    let mut at_data = host.logged_in(&phone_password);
    let mut at_bdat = host.logged_in(&phone_password);
    let mut laptop = host.logged_in(&laptop_password);
    for client in [&mut at_recipient, &mut at_data, &mut at_bdat, &mut laptop] {
        assert!(client.command(MAIL).is(250, ""));
    }
    for client in [&mut at_data, &mut at_bdat] {
        let recipient = client.command(RCPT);
        assert!(recipient.is(250, ""), "{recipient:?}");
    }
    assert!(at_data.command("DATA").is(354, ""));
    at_data.send("Subject: hello\r\n\r\n");
    at_bdat.send("BDAT 9\r\nSubject: ");
    assert!(at_bdat.read().is(250, ""));

    let revocation = host.world.disconnect(&phone).await;
    assert_eq!(revocation.state(), latchkey::proto::revocation::State::Effective, "{revocation:?}");
    let refused = at_recipient.command(RCPT);
    assert!(refused.is(421, "4.7.0"), "{refused:?}");
    assert!(at_recipient.is_at_end());
    at_data.send("hello\r\n.\r\n");
    let refused = at_data.read();
    assert!(refused.is(421, "4.7.0"), "{refused:?}");
    at_bdat.send("BDAT 9 LAST\r\nhello\r\n\r\n");
    let refused = at_bdat.read();
    assert!(refused.is(421, "4.7.0"), "{refused:?}");
    assert!(host.client().auth("PLAIN", ALICE, &phone_password).is(535, "5.7.8"));

    let other = laptop.command(RCPT);
    assert!(other.is(250, ""), "the other device goes on: {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_down_behind_postfix_is_ever_a_wrong_password() {
    let mut host = Host::start(&[("throttle_time", "1s")]).await;
    let (_, password) = host.world.add("Phone").await;
    let (_, cold_password) = host.world.add("Cold").await;
    drop(host.logged_in(&password));
    let port = host.postfix.port;
    // The replica hangs: warm logins go on for the lease, others are told to try later.
    host.world.server.signal(Signal::STOP);
    assert_eq!(logins(port, ALICE, &password, 5), all("235", 5));
    let cold = host.client().auth("LOGIN", ALICE, &cold_password);
    assert!(cold.is(454, "4.7.0"), "{cold:?}");
    // It is gone, and the lease runs out.
    host.world.server.signal(Signal::KILL);
    let mut outcomes = Vec::new();
    wait_until("the lease is over", || {
        let reply = host.client().auth("PLAIN", ALICE, &password);
        outcomes.push(reply.clone());
        reply.code != 235
    });
    assert!(outcomes.iter().all(|reply| reply.code == 235 || reply.is(454, "4.7.0")), "{outcomes:?}");
    assert_eq!(logins(port, ALICE, &password, 200), all("454", 200));
    restart_replica(&mut host.world);
    wait_until("logins are answered again", || host.client().auth("PLAIN", ALICE, &cold_password).is(235, ""));

    // The agent is gone, killed or stopped in an orderly way: the socket is there, and nobody
    // answers.
    let mut open = host.logged_in(&password);
    assert!(open.command(MAIL).is(250, ""));
    host.agent.kill();
    // An smtpd that finds no socket when a client connects gives up, and master waits before the
    // next one.
    let codes = logins(port, ALICE, &password, 5);
    assert!(codes.keys().all(|code| ["454", "closed"].contains(&code.as_str())), "{codes:?}");
    let unchecked = open.command(RCPT);
    assert!(unchecked.is(421, "4.3.0"), "{unchecked:?}");

    // Back again: logins work, and a session from before is asked to log in anew, for its login is
    // not known.
    host.restart_agent();
    let mut client = host.logged_in(&password);
    assert!(client.command(MAIL).is(250, ""));
    host.restart_agent();
    let unknown = client.command(RCPT);
    assert!(unknown.is(421, "4.3.0"), "{unknown:?}");
    drop(host.logged_in(&password));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_share_an_smtp_process_keep_their_own_logins() {
    // One process serves one client after the other, and restrictions are judged at once.
    let differs = [("default_process_limit", "1"), ("smtpd_delay_reject", "no"), ("smtpd_authorized_xclient_hosts", "127.0.0.1")];
    let mut host = Host::start(&differs).await;
    let (phone, phone_password) = host.world.add("Phone").await;
    let (_, laptop_password) = host.world.add("Laptop").await;
    let mut first = host.logged_in(&phone_password);
    assert!(first.command(MAIL).is(250, ""));
    assert!(first.command(RCPT).is(250, ""));
    assert!(first.command("QUIT").is(221, ""));
    drop(first);
    // The same process: the phone's login is over there, whatever becomes of it.
    let mut second = host.logged_in(&laptop_password);
    host.world.disconnect(&phone).await;
    assert!(second.command(MAIL).is(250, ""));
    let recipient = second.command(RCPT);
    assert!(recipient.is(250, ""), "{recipient:?}");
    assert!(second.command("QUIT").is(221, ""));
    drop(second);
    // XCLIENT sets a login that nobody has made: it is not known, so it is asked to log in.
    let mut third = host.client();
    let taken = third.command(&format!("XCLIENT LOGIN={ALICE}"));
    assert!(taken.is(220, ""), "{taken:?}");
    assert!(third.command("EHLO client.example").is(250, ""));
    assert!(third.command(MAIL).is(250, ""));
    let unknown = third.command(RCPT);
    assert!(unknown.is(421, "4.3.0"), "{unknown:?}");
}
