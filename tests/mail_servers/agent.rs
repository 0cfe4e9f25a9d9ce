//! The agent of a mail host under test: the binary itself.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal};

/// A port that nobody listens on just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running agent. Killed when dropped.
pub(crate) struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts it, with its sessions remembered in `folder`, and waits until it follows the replica.
    pub(crate) fn start(server: &str, folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LATCHKEY_")) {
            command.env_remove(name);
        }
        command.args(["agent", "--server", server, "--name", "mx1", "--runtime-dir"]).arg(folder).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, writer) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                writer.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while stdout.read_line(&mut line).unwrap() > 0 {
            if line.contains("agent is ready") {
                thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
                return Self { child, log };
            }
            line.clear();
        }
        let status = child.wait().unwrap();
        panic!("the agent has ended: {status}\n{}", log.lock().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a mail program meets that logs in, in one line. See `login.py`.
pub(crate) fn log_in(protocol: &str, port: u16, tls: &str, user: &str, password: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mail_servers/login.py");
    let mut command = Command::new("python3");
    command.args([script, protocol, "127.0.0.1", &port.to_string(), tls, user]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
