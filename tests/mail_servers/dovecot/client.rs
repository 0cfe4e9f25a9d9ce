//! A mail client of each protocol, as far as a session needs one.

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// In the order of the ports of `Host`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Imap,
    Pop3,
    Submission,
    Sieve,
}

impl Protocol {
    pub(super) const ALL: [Self; 4] = [Self::Imap, Self::Pop3, Self::Submission, Self::Sieve];
}

/// A session.
#[derive(Debug)]
pub(super) struct Client {
    protocol: Protocol,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Logs in, or returns the server's words; empty if it has hung up.
    pub(super) async fn log_in(protocol: Protocol, port: u16, user: &str, password: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|cause| cause.to_string())?;
        let mut client = Self { protocol, stream: BufReader::new(stream) };
        let plain = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        let answer = match protocol {
            Protocol::Imap => {
                client.line().await;
                client.say(&format!("a LOGIN \"{user}\" \"{password}\"")).await;
                client.until(|line| line.starts_with("a ")).await
            }
            Protocol::Pop3 => {
                client.line().await;
                client.say(&format!("USER {user}")).await;
                client.line().await;
                client.say(&format!("PASS {password}")).await;
                client.line().await
            }
            Protocol::Submission => {
                client.line().await;
                client.say("EHLO client.example").await;
                client.until(|line| line.starts_with("250 ")).await;
                client.say(&format!("AUTH PLAIN {plain}")).await;
                client.line().await
            }
            Protocol::Sieve => {
                client.until(|line| line.starts_with("OK")).await;
                client.say(&format!("AUTHENTICATE \"PLAIN\" \"{plain}\"")).await;
                client.until(|line| ["OK", "NO", "BYE"].iter().any(|word| line.starts_with(word))).await
            }
        };
        let is_in = ["a OK", "+OK", "235", "OK"].iter().any(|good| answer.starts_with(good));
        if is_in { Ok(client) } else { Err(answer) }
    }

    /// Begins IDLE, in IMAP.
    pub(super) async fn idle(&mut self) {
        self.say("b IDLE").await;
        assert_eq!(self.line().await, "+ idling");
    }

    /// Ends IDLE if it is in it.
    pub(super) async fn done(&mut self) {
        self.say("DONE").await;
        let answer = self.until(|line| line.starts_with("b ")).await;
        assert!(answer.starts_with("b OK"), "{answer}");
    }

    /// Whether the session answers a command that changes nothing.
    pub(super) async fn is_open(&mut self) -> bool {
        let (command, good) = match self.protocol {
            Protocol::Imap => ("c NOOP", "c OK"),
            Protocol::Pop3 => ("NOOP", "+OK"),
            Protocol::Submission => ("NOOP", "250"),
            Protocol::Sieve => ("NOOP", "OK"),
        };
        self.say(command).await;
        self.until(|line| line.starts_with(good)).await.starts_with(good)
    }

    /// What the server says until it hangs up.
    pub(super) async fn last_words(&mut self) -> String {
        let mut words = String::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return words;
            }
            words = line;
        }
    }

    async fn say(&mut self, command: &str) {
        // A server that has hung up is noticed by its answer.
        let _ = self.stream.write_all(format!("{command}\r\n").as_bytes()).await;
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(super::DEADLINE, self.stream.read_line(&mut line)).await.expect("the server answers in time");
        if read.is_err() { String::new() } else { line.trim_end().to_owned() }
    }

    async fn until(&mut self, is_last: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.line().await;
            if line.is_empty() || is_last(&line) {
                return line;
            }
        }
    }
}
