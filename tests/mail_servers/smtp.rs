//! An SMTP client: Python's smtplib, led from here.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

/// A server's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub code: i64,
    pub text: String,
}

impl Reply {
    /// Code and beginning of the text.
    pub fn is(&self, code: i64, text: &str) -> bool {
        self.code == code && self.text.starts_with(text)
    }
}

/// One SMTP connection.
pub struct Client {
    child: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let mut client = Self::start();
        let greeting = client.order(&json!({ "do": "connect", "port": port }));
        assert!(greeting.is(220, ""), "{greeting:?}");
        client
    }

    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail_servers/smtp_client.py");
        let mut child =
            Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let (orders, replies) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, orders, replies: BufReader::new(replies) }
    }

    /// Connected, with EHLO and STARTTLS done.
    pub fn connect_tls(port: u16) -> Self {
        let mut client = Self::connect(port);
        let started = client.order(&json!({ "do": "starttls" }));
        assert!(started.is(220, ""), "{started:?}");
        client
    }

    pub fn auth(&mut self, mechanism: &str, user: &str, password: &str) -> Reply {
        self.order(&json!({ "do": "auth", "mechanism": mechanism, "user": user, "password": password }))
    }

    pub fn command(&mut self, line: &str) -> Reply {
        self.order(&json!({ "do": "command", "line": line }))
    }

    /// Sends bytes that get no answer of their own.
    pub fn send(&mut self, text: &str) {
        self.order(&json!({ "do": "send", "text": text }));
    }

    pub fn read(&mut self) -> Reply {
        self.order(&json!({ "do": "read" }))
    }

    /// Whether the server has closed the connection.
    pub fn is_at_end(&mut self) -> bool {
        self.order(&json!({ "do": "at_end" })).code == 1
    }

    fn order(&mut self, order: &Value) -> Reply {
        writeln!(self.orders, "{order}").expect("the client runs");
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("the client runs");
        let reply: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the client ended: {line}"));
        Reply { code: reply["code"].as_i64().expect("a code"), text: reply["text"].as_str().expect("a text").to_owned() }
    }
}

/// So many logins of this password, each on a connection of its own: how often each code was
/// answered.
pub fn logins(port: u16, user: &str, password: &str, count: u32) -> BTreeMap<String, u32> {
    let mut client = Client::start();
    let order = json!({ "do": "logins", "port": port, "count": count, "mechanism": "PLAIN", "user": user, "password": password });
    let reply = client.order(&order);
    assert_eq!(reply.code, 0, "{reply:?}");
    serde_json::from_str(&reply.text).expect("counts")
}

/// Those that [`logins`] counts if all were answered alike.
pub fn all(code: &str, count: u32) -> BTreeMap<String, u32> {
    BTreeMap::from([(code.to_owned(), count)])
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
