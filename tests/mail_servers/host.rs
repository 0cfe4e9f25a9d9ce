//! A mail host: a replica with alice's mailbox, and an agent as `deploy/` configures it.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    server::StoreKind,
    world::{ADDRESS, World},
};

/// No test waits for longer.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running agent. Killed when dropped.
pub struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Started with a file of `deploy/`, and what differs in a test.
    pub fn start(configuration: &str, server: &str, differs: &[(&str, String)]) -> Self {
        let mut agent = Self::start_without_waiting(configuration, server, differs);
        let mut stdout = BufReader::new(agent.child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("Latchkey's agent is ready") {
            line.clear();
            let read = stdout.read_line(&mut line).expect("it is read");
            assert!(read > 0, "the agent ended: {}", agent.log());
        }
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        agent
    }

    fn start_without_waiting(configuration: &str, server: &str, differs: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LATCHKEY_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.args(["agent", "--config"]).arg(deployed(configuration)).env("LATCHKEY_SERVER", server);
        command.env("LATCHKEY_LOG_FORMAT", "json").envs(differs.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, writer) = (BufReader::new(child.stderr.take().expect("piped")), Arc::clone(&log));
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                writer.lock().expect("not poisoned").push_str(&line);
                line.clear();
            }
        });
        Self { child, log }
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// A replica with alice's mailbox.
pub async fn world() -> World {
    World::with(StoreKind::Sqlite, &["--lease", "10s"]).await
}

/// Starts a replica that was killed, where it was.
pub fn restart_replica(world: &mut World) {
    let address = world.server.address.clone();
    world.server = world.ground.start_with(&["--lease", "10s", "--listen", &address]);
}

/// The folder where an agent and a mail server of this group meet, as `deploy/*/tmpfiles.conf`
/// makes it.
pub fn sockets_folder(folder: &Path, group: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "mail servers run as root and as users of their own: run scripts/test as root, in a container for example"
    );
    std::fs::create_dir_all(folder).expect("it is made");
    run(Command::new("chgrp").arg(group).arg(folder));
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o2750)).expect("it is ours");
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) {
    let ran = command.output().expect("it runs");
    assert!(ran.status.success(), "{command:?}: {ran:?}");
}

/// What scripts/test installed for the tests.
pub fn tool(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(path)
}

/// The address of every test.
pub const ALICE: &str = ADDRESS;

/// A file of `deploy/`.
pub fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// A folder that other users may enter: mail servers run as users of their own.
pub fn public_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "in {DEADLINE:?} it did not come about that {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A certificate and its key, self-signed, as files.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["mail.example".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("it is written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("it is written");
    (certificate, key)
}

/// A child process, its output kept, that is ended with its group when dropped.
pub struct Process {
    pub child: Child,
    log: Arc<Mutex<String>>,
    name: String,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|cause| panic!("{name} (scripts/test installs it): {cause}"));
        let log = Arc::new(Mutex::new(String::new()));
        for pipe in
            [Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>, Box::new(child.stderr.take().expect("piped"))]
        {
            let writer = Arc::clone(&log);
            thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    writer.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        Self { child, log, name: name.to_owned() }
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
            wait_until("the server stops", || !matches!(self.child.try_wait(), Ok(None)));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.log());
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
            let _ = self.child.wait();
            return;
        }
        self.stop();
    }
}
