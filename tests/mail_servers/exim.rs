//! Exim behind the agent, configured by `deploy/exim` as it stands. Its package conflicts with
//! Postfix's, so its binary is unpacked aside.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    host::{
        ALICE, Agent, Process, certificate, deployed, free_port, public_folder, restart_replica, run, sockets_folder, tool,
        wait_until, world,
    },
    smtp::{Client, all, logins},
    world::World,
};

struct Host {
    world: World,
    agent: Agent,
    _exim: Process,
    folder: TempDir,
    port: u16,
}

fn agent_sockets(folder: &Path) -> [(&'static str, String); 2] {
    let sockets = folder.join("latchkey");
    [
        ("LATCHKEY_SASL_LISTEN", format!("unix:{},client=exim", sockets.join("sasl").display())),
        ("LATCHKEY_POLICY_LISTEN", format!("unix:{}", sockets.join("policy").display())),
    ]
}

/// What any installation has, besides what is included from `deploy/exim`. Mail is accepted and
/// goes nowhere.
fn configuration(folder: &Path, port: u16) -> String {
    let (certificate, key) = certificate(folder);
    run(Command::new("chgrp").arg("Debian-exim").arg(&key));
    let (folder, session) = (folder.display(), deployed("exim/session.conf"));
    format!(
        "LATCHKEY_SASL = {folder}/latchkey/sasl\nLATCHKEY_POLICY = {folder}/latchkey/policy\nprimary_hostname = mail.example\n\
         spool_directory = {folder}/spool\nlog_file_path = {folder}/spool/%slog\npid_file_path = {folder}/pid\n\
         daemon_smtp_ports = {port}\nlocal_interfaces = 127.0.0.1\nexim_user = Debian-exim\nexim_group = Debian-exim\n\
         keep_environment =\ntls_advertise_hosts = *\ntls_certificate = {certificate}\ntls_privatekey = {key}\nqueue_only\n\
         acl_smtp_rcpt = check_rcpt\nacl_smtp_data = check_data\n\
         begin acl\ncheck_rcpt:\n.include {session}\n  accept authenticated = *\n  deny\ncheck_data:\n.include {session}\n  accept\n\
         begin routers\nall:\n  driver = accept\n  transport = nowhere\n\
         begin transports\nnowhere:\n  driver = appendfile\n  file = /dev/null\n\
         begin authenticators\n.include {authenticators}\n",
        session = session.display(),
        certificate = certificate.display(),
        key = key.display(),
        authenticators = deployed("exim/authenticators.conf").display(),
    )
}

impl Host {
    async fn start() -> Self {
        let (world, folder, port) = (world().await, public_folder(), free_port());
        sockets_folder(&folder.path().join("latchkey"), "Debian-exim");
        fs::create_dir(folder.path().join("spool")).expect("it is made");
        run(Command::new("chown").arg("Debian-exim").arg(folder.path().join("spool")));
        let file = folder.path().join("exim.conf");
        fs::write(&file, configuration(folder.path(), port)).expect("it is written");
        let agent = Agent::start("exim/agent.toml", &world.server.url(), &agent_sockets(folder.path()));
        let exim = Process::start("Exim", Command::new(tool("exim/usr/sbin/exim4")).arg("-C").arg(&file).arg("-bdf"));
        wait_until("Exim listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { world, agent, _exim: exim, folder, port }
    }

    fn client(&self) -> Client {
        Client::connect_tls(self.port)
    }

    fn logged_in(&self, password: &str) -> Client {
        let mut client = self.client();
        let reply = client.auth("PLAIN", ALICE, password);
        assert!(reply.is(235, ""), "{reply:?}");
        client
    }
}

const MAIL: &str = "MAIL FROM:<alice@example.com>";
const RCPT: &str = "RCPT TO:<bob@example.net>";

#[tokio::test(flavor = "multi_thread")]
async fn exim_logs_in_by_each_mechanism_and_refuses_a_revoked_session_at_rcpt_and_data() {
    let mut host = Host::start().await;
    let (phone, phone_password) = host.world.add("Phone").await;
    let (_, laptop_password) = host.world.add("Laptop").await;
    for mechanism in ["PLAIN", "PLAIN-ASKED", "LOGIN"] {
        let wrong = host.client().auth(mechanism, ALICE, "wrong");
        assert!(wrong.is(535, ""), "{mechanism}: {wrong:?}");
        let good = host.client().auth(mechanism, ALICE, &phone_password);
        assert!(good.is(235, ""), "{mechanism}: {good:?}");
    }
    let (mut at_recipient, mut at_data) = (host.logged_in(&phone_password), host.logged_in(&phone_password));
    let mut laptop = host.logged_in(&laptop_password);
    for client in [&mut at_recipient, &mut at_data, &mut laptop] {
        assert!(client.command(MAIL).is(250, ""));
    }
    assert!(at_data.command(RCPT).is(250, ""));
    assert!(at_data.command("DATA").is(354, ""));
    at_data.send("Subject: hello\r\n\r\n");

    let revocation = host.world.disconnect(&phone).await;
    assert_eq!(revocation.state(), latchkey::proto::revocation::State::Effective, "{revocation:?}");
    let refused = at_recipient.command(RCPT);
    assert!(refused.is(421, "4.7.0"), "{refused:?}");
    at_data.send("hello\r\n.\r\n");
    let refused = at_data.read();
    assert!(refused.is(421, "4.7.0"), "{refused:?}");
    assert!(host.client().auth("PLAIN", ALICE, &phone_password).is(535, ""));

    let other = laptop.command(RCPT);
    assert!(other.is(250, ""), "the other device goes on: {other:?}");
    assert!(laptop.command("DATA").is(354, ""));
    laptop.send("Subject: hello\r\n\r\nhello\r\n.\r\n");
    assert!(laptop.read().is(250, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_down_behind_exim_is_ever_a_wrong_password() {
    let mut host = Host::start().await;
    let (_, password) = host.world.add("Phone").await;
    drop(host.logged_in(&password));
    host.world.server.signal(Signal::KILL);
    let mut outcomes = Vec::new();
    wait_until("the lease is over", || {
        let reply = host.client().auth("PLAIN", ALICE, &password);
        outcomes.push(reply.code);
        reply.code != 235
    });
    assert!(outcomes.iter().all(|code| [235, 435].contains(code)), "{outcomes:?}");
    assert_eq!(logins(host.port, ALICE, &password, 100), all("435", 100));
    restart_replica(&mut host.world);
    wait_until("logins are answered again", || host.client().auth("PLAIN", ALICE, &password).is(235, ""));

    let mut open = host.logged_in(&password);
    assert!(open.command(MAIL).is(250, ""));
    host.agent.kill();
    assert_eq!(logins(host.port, ALICE, &password, 50), all("435", 50));
    let unchecked = open.command(RCPT);
    assert!(unchecked.is(421, "4.3.0"), "{unchecked:?}");
    host.agent = Agent::start("exim/agent.toml", &host.world.server.url(), &agent_sockets(host.folder.path()));
    let unknown = open.command(RCPT);
    assert!(unknown.is(421, "4.3.0"), "the new agent does not know this login: {unknown:?}");
    drop(host.logged_in(&password));
}
