//! Dovecot with the configuration of `deploy/dovecot`, on loopback ports, with the agent and a
//! replica.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use super::client::{Client, Protocol};
use crate::{
    host::{Agent, free_port, public_folder},
    server::StoreKind,
    world::World,
};

const CONFIGURATION: &str = include_str!("../../../deploy/dovecot/latchkey.conf");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dovecot/latchkey.lua");
/// Debian's user `mail`, whom the mail belongs to.
const MAIL_UID: u32 = 8;

/// A mail host. Dovecot is stopped when it is dropped.
pub(super) struct Host {
    pub(super) world: World,
    /// `None` while it is down.
    pub(super) agent: Option<Agent>,
    differs: Vec<(&'static str, String)>,
    ports: [u16; 4],
    folder: TempDir,
}

impl Host {
    pub(super) async fn start() -> Self {
        Self::start_with(&[], |folder| folder.join("run/latchkey-master")).await
    }

    /// With more settings of the replica, and the socket that the agent takes for Dovecot's
    /// `auth-master`.
    pub(super) async fn start_with(of_replica: &[&str], auth_master: impl Fn(&Path) -> PathBuf) -> Self {
        let world = World::with(StoreKind::Sqlite, of_replica).await;
        let folder = public_folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(path("latchkey/dovecot")).unwrap();
        fs::create_dir(path("mail")).unwrap();
        chown(path("mail"), Some(MAIL_UID), Some(MAIL_UID)).unwrap();
        fs::write(path("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();

        let http = format!("127.0.0.1:{}", free_port());
        let differs = vec![
            ("LATCHKEY_HTTP_LISTEN", http.clone()),
            ("LATCHKEY_HTTP_SECRET_FILE", path("secret")),
            ("LATCHKEY_DOVECOT_MASTER_LISTEN", path("latchkey/dovecot/auth-master")),
            ("LATCHKEY_DOVECOT_AUTH_MASTER", auth_master(folder.path()).to_str().unwrap().to_owned()),
            ("LATCHKEY_RUNTIME_DIR", path("latchkey")),
        ];

        let mut configuration = CONFIGURATION.to_owned();
        for (usual, ours) in
            [("/etc/dovecot/latchkey.lua", SCRIPT), ("/run/latchkey/", &path("latchkey/")), ("user = latchkey", "user = root")]
        {
            assert!(configuration.contains(usual), "deploy/dovecot has no {usual}");
            configuration = configuration.replace(usual, ours);
        }
        fs::write(path("latchkey.conf"), configuration).unwrap();
        let ports = std::array::from_fn(|_| free_port());
        let [imap, pop3, submission, sieve] = ports;
        let relay = start_relay().await;
        let dir = folder.path().display();
        fs::write(
            path("dovecot.conf"),
            format!(
                "base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/dovecot.log
import_environment = $import_environment LATCHKEY_URL=http://{http}/login LATCHKEY_SECRET_FILE={dir}/secret
ssl = no
disable_plaintext_auth = no
listen = 127.0.0.1
hostname = localhost
protocols = imap pop3 submission sieve
auth_failure_delay = 0
mail_location = maildir:{dir}/mail/%u
mail_max_userip_connections = 1000
first_valid_uid = {MAIL_UID}
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
userdb {{
  driver = static
  args = uid={MAIL_UID} gid={MAIL_UID} home={dir}/mail/%u
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service submission-login {{
  inet_listener submission {{
    port = {submission}
  }}
  inet_listener submissions {{
    port = 0
  }}
}}
service managesieve-login {{
  inet_listener sieve {{
    port = {sieve}
  }}
}}
!include {dir}/latchkey.conf
"
            ),
        )
        .unwrap();
        let mut host = Self { world, agent: None, differs, ports, folder };
        host.start_agent();
        host.start_dovecot().await;
        host
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn start_agent(&mut self) {
        self.agent = Some(Agent::start("dovecot/agent.toml", &self.world.server.url(), &self.differs));
    }

    pub(super) async fn start_dovecot(&self) {
        self.run("/usr/sbin/dovecot", &[]);
        let deadline = Instant::now() + super::DEADLINE;
        for port in self.ports {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(Instant::now() < deadline, "Dovecot does not listen: {}", self.log());
                sleep(super::LOOK).await;
            }
        }
    }

    /// `doveadm` with a command.
    pub(super) fn doveadm(&self, command: &str) {
        self.run("/usr/bin/doveadm", &[command]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.path("dovecot.conf")).args(arguments);
        // A file, since Dovecot keeps what it was started with.
        let errors = fs::File::create(self.path("errors")).unwrap();
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).status().expect("Dovecot is installed");
        let errors = fs::read_to_string(self.path("errors")).unwrap();
        assert!(status.success(), "{program} {arguments:?}: {errors}");
    }

    pub(super) async fn log_in(&self, protocol: Protocol, user: &str, password: &str) -> Result<Client, String> {
        Client::log_in(protocol, self.ports[protocol as usize], user, password).await
    }

    /// What Dovecot and the agent have logged.
    pub(super) fn log(&self) -> String {
        let dovecot = fs::read_to_string(self.path("dovecot.log")).unwrap_or_default();
        format!("{dovecot}\n{}", self.agent.as_ref().map(Agent::log).unwrap_or_default())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = Command::new("/usr/bin/doveadm").arg("-c").arg(self.path("dovecot.conf")).arg("stop").output();
    }
}

/// What Dovecot's submission service hands mail to: it takes everything.
async fn start_relay() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let _ = write.write_all(b"220 relay\r\n").await;
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer: &[u8] = if line.starts_with("QUIT") { b"221 bye\r\n" } else { b"250 ok\r\n" };
                    if write.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}
