//! Haraka with the plugin of `deploy/haraka`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    agent::{Agent, free_port, log_in},
    server::StoreKind,
    world::{ADDRESS, World},
};

const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Haraka, the agent and a replica.
struct Host {
    world: World,
    agent: Agent,
    haraka: Child,
    port: u16,
    folder: TempDir,
}

impl Host {
    async fn start() -> Self {
        let world = World::new(StoreKind::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("secret"), format!("{SECRET}\n")).unwrap();
        let http = format!("127.0.0.1:{}", free_port());
        let secret = path("secret");
        let arguments = ["--http-listen", &http, "--http-secret-file", secret.to_str().unwrap()];
        let agent = Agent::start(&world.server.url(), folder.path(), &arguments);

        let port = free_port();
        write_configuration(&path("haraka"), port, &http, &path("secret"));
        let mut command = Command::new("node");
        command.arg(haraka()).arg("-c").arg(path("haraka"));
        let log = fs::File::create(path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let haraka = command.spawn().expect("node is installed");
        let host = Self { world, agent, haraka, port, folder };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "Haraka does not listen: {}", host.log());
            sleep(LOOK).await;
        }
        host
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn session(&self, password: &str, mechanism: &str) -> Session {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mail_servers/smtp_session.py");
        let mut command = Command::new("python3");
        command.args([script, &self.port.to_string(), ADDRESS, mechanism]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Session { child, input, output };
        let said = session.say(password);
        assert!(said.starts_with("235 "), "{said}\n{}\n{}", self.log(), self.agent.log());
        session
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.haraka.kill();
        let _ = self.haraka.wait();
    }
}

/// A mail program's session, a line at a time.
struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn say(&mut self, line: &str) -> String {
        self.input.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut said = String::new();
        self.output.read_line(&mut said).unwrap();
        said.trim_end().to_owned()
    }

    fn say_all(&mut self, lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| self.say(line)).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `scripts/test` installs it from npm.
fn haraka() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/haraka/node_modules/Haraka/bin/haraka")
}

/// Haraka's folder: the plugin as it stands in `deploy/haraka`, and mail that goes nowhere.
fn write_configuration(folder: &Path, port: u16, http: &str, secret: &Path) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haraka");
    let mut install = Command::new("node");
    let installed = install.arg(haraka()).arg("-i").arg(folder).stdout(Stdio::null()).status().expect("node is installed");
    assert!(installed.success(), "{installed}");
    fs::copy(deploy.join("plugins/latchkey.js"), folder.join("plugins/latchkey.js")).unwrap();
    let mut ini = fs::read_to_string(deploy.join("config/latchkey.ini")).unwrap();
    for (old, new) in [("127.0.0.1:9000\n", &format!("{http}\n")), ("/etc/latchkey/http-secret", &secret.display().to_string())] {
        let put = ini.replace(old, new);
        assert_ne!(put, ini, "deploy/haraka has no {old:?}");
        ini = put;
    }
    let certified = rcgen::generate_simple_self_signed(["mail.example.com".to_owned()]).unwrap();
    for (name, text) in [
        ("latchkey.ini", ini),
        ("plugins", "tls\nlatchkey\nqueue/discard\n".to_owned()),
        ("smtp.ini", format!("listen=127.0.0.1:{port}\nnodes=0\n")),
        ("me", "mail.example.com\n".to_owned()),
        ("tls.ini", String::new()),
        ("tls_key.pem", certified.signing_key.serialize_pem()),
        ("tls_cert.pem", certified.cert.pem()),
        ("loglevel", "info\n".to_owned()),
    ] {
        fs::write(folder.join("config").join(name), text).unwrap();
    }
}

const MAIL: &str = "MAIL FROM:<alice@example.com>";
const RECIPIENT: &str = "RCPT TO:<bob@example.net>";

#[tokio::test(flavor = "multi_thread")]
async fn haraka_ends_the_session_of_a_disconnected_device_at_its_next_command_and_that_of_no_other() {
    let mut host = Host::start().await;
    let (phone, password) = host.world.add("Phone").await;
    let (_, other_password) = host.world.add("Laptop").await;
    let mut other = host.session(&other_password, "LOGIN");
    let mut sessions = [&[][..], &[MAIL], &[MAIL, RECIPIENT], &[MAIL, RECIPIENT, "DATA"]].map(|lines| {
        let mut session = host.session(&password, "PLAIN");
        let said = session.say_all(lines);
        assert!(said.iter().all(|said| said.starts_with("250 ") || said.starts_with("354 ")), "{said:?}\n{}", host.log());
        session
    });
    host.world.disconnect(&phone).await;
    for (session, next) in sessions.iter_mut().zip([MAIL, RECIPIENT, "DATA", "DATA-END"]) {
        let said = session.say(next);
        assert!(said.starts_with("421 4.7.0 Your password was revoked"), "{next}: {said}\n{}", host.log());
        assert!(session.say("NOOP").starts_with("closed"), "{next}");
    }
    let said = other.say_all(&[MAIL, RECIPIENT, "DATA", "DATA-END", MAIL]);
    let codes: Vec<_> = said.iter().map(|said| &said[..3]).collect();
    assert_eq!(codes, ["250", "250", "354", "250", "250"], "{said:?}\n{}", host.log());
    let said = log_in("smtp", host.port, "starttls", ADDRESS, &password);
    assert!(said.starts_with("REFUSED 535 5.7.8 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn haraka_says_try_later_while_the_replica_or_the_agent_is_down() {
    let mut host = Host::start().await;
    let (_, password) = host.world.add("Phone").await;
    host.world.server.signal(rustix::process::Signal::KILL);
    let said = log_in("smtp", host.port, "starttls", ADDRESS, &password);
    assert!(said.starts_with("REFUSED 454 4.7.0 "), "{said}\n{}", host.log());
    host.agent.kill();
    let said = log_in("smtp", host.port, "starttls", ADDRESS, &password);
    assert!(said.starts_with("REFUSED 454 4.7.0 "), "{said}\n{}", host.log());
}
