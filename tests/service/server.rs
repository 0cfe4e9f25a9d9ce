//! A replica under test: the binary itself, started on a free port.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use latchkey::proto::{
    authorization_client::AuthorizationClient, device_credentials_client::DeviceCredentialsClient,
    directory_client::DirectoryClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::postgres::TestDatabase;

/// Which store the replica runs on.
#[derive(Clone, Copy, Debug)]
pub enum StoreKind {
    Sqlite,
    Postgres,
}

/// What the replica stands on: outlives it, so that it can be started again.
pub struct Ground {
    pub folder: TempDir,
    pub database: Option<TestDatabase>,
}

impl Ground {
    pub async fn new(kind: StoreKind) -> Self {
        let database = match kind {
            StoreKind::Sqlite => None,
            StoreKind::Postgres => Some(crate::support::postgres::fresh_database().await),
        };
        Self { folder: tempfile::tempdir().expect("a temporary folder"), database }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// `latchkey serve` on this ground, on a free port, with a short denial delay.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LATCHKEY_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        // What a test may set with a flag stands in the environment.
        command.env("LATCHKEY_LISTEN", "127.0.0.1:0").env("LATCHKEY_DENIAL_DELAY", "50ms").env("LATCHKEY_LOG_FORMAT", "json");
        // Cheap hashes: the tests are about what happens, not about how long it takes.
        command.env("LATCHKEY_ARGON2_MEMORY_KIB", "64").env("LATCHKEY_ARGON2_PASSES", "1");
        if let Some(database) = &self.database {
            command.env("LATCHKEY_DATABASE_URL", &database.url);
        }
        command.arg("serve").arg("--data-dir").arg(self.data_dir()).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self) -> Server {
        self.start_with(&[])
    }

    pub fn start_with(&self, more: &[&str]) -> Server {
        Server::start(self.command(more)).expect("the server starts")
    }
}

/// A running replica. Killed when dropped.
pub struct Server {
    child: Child,
    /// `host:port`.
    pub address: String,
    /// What it printed on standard output before it was ready.
    pub printed: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts it and waits until it says that it is ready; else answers what it wrote.
    pub fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command.spawn().expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let writer = Arc::clone(&log);
        let drained = thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                writer.lock().expect("not poisoned").push_str(&line);
                line.clear();
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut printed = String::new();
        match wait_until_ready(&mut stdout, &mut printed) {
            Some(address) => {
                thread::spawn(move || {
                    let mut rest = Vec::new();
                    let _ = stdout.read_to_end(&mut rest);
                });
                Ok(Self { child, address, printed, log })
            }
            None => {
                let status = child.wait().expect("it ended");
                drained.join().expect("no panic");
                let log = log.lock().expect("not poisoned");
                Err(format!("{status}\n{printed}{log}"))
            }
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.url()).expect("a good URL").connect().await.expect("it listens")
    }

    pub async fn authorization(&self) -> AuthorizationClient<Channel> {
        AuthorizationClient::new(self.channel().await)
    }

    pub async fn devices(&self) -> DeviceCredentialsClient<Channel> {
        DeviceCredentialsClient::new(self.channel().await)
    }

    pub async fn directory(&self) -> DirectoryClient<Channel> {
        DirectoryClient::new(self.channel().await)
    }

    /// What it says of itself to whoever balances load.
    pub async fn health(&self) -> &'static str {
        let mut client = tonic_health::pb::health_client::HealthClient::new(self.channel().await);
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        client.check(request).await.expect("health is told").into_inner().status().as_str_name()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it ends")
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// An operator's command against this server: exit code, standard output, standard error.
    pub fn latchkey(&self, arguments: &[&str], stdin: &str) -> (i32, String, String) {
        use std::io::Write;
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        command.args(arguments).args(["--server", &self.url()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("it reads or ignores it");
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until_ready(stdout: &mut BufReader<ChildStdout>, printed: &mut String) -> Option<String> {
    let mut line = String::new();
    loop {
        line.clear();
        if stdout.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(address) = line.trim_end().strip_prefix("Latchkey is ready on ") {
            return Some(address.to_owned());
        }
        printed.push_str(&line);
    }
}

/// Whether a text stands in a file or in any file of a folder.
pub fn stands_in(text: &str, path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
