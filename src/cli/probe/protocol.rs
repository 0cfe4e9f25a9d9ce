//! What the three protocols have in common: a session is opened, a login is tried, and the session is held.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    conversation::{Conversation, Trouble},
    imap, pop3, smtp,
    target::{Protocol, Target},
};
use latchkey_core::model::secret::Secret;

/// Lines of one answer, at most.
pub(super) const MAX_ANSWER_LINES: usize = 200;

/// Who logs in.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Secret,
}

impl Credentials {
    /// The message of SASL PLAIN (RFC 4616), in base64.
    pub(super) fn plain(&self) -> Zeroizing<String> {
        let message = [b"\0", self.user.as_bytes(), b"\0", self.password.expose()].concat();
        Zeroizing::new(BASE64_STANDARD.encode(Zeroizing::new(message)))
    }
}

/// How a login ended, with the server's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Login {
    Accepted,
    Denied(String),
    /// The server said neither yes nor no: try later, or a limit.
    Unanswered(String),
}

/// What the server offers, in upper case.
#[derive(Default, Debug)]
pub(super) struct Capabilities(Vec<String>);

impl Capabilities {
    pub(super) fn add(&mut self, line: &str) {
        self.0.push(line.trim().to_ascii_uppercase());
    }

    /// Whether one of the words, or of the lines' first words, is this.
    pub(super) fn has(&self, word: &str) -> bool {
        self.0.iter().any(|line| line.split(' ').any(|known| known == word))
    }

    /// Whether a line that begins with `first` names the word too: `AUTH PLAIN LOGIN`.
    pub(super) fn has_in(&self, first: &str, word: &str) -> bool {
        self.0.iter().any(|line| {
            let mut words = line.split([' ', '=']);
            words.next() == Some(first) && words.any(|known| known == word)
        })
    }
}

/// An open connection, ready for a login.
pub(super) struct Opened {
    pub(super) conversation: Conversation,
    pub(super) capabilities: Capabilities,
}

/// Connects, greets, and encrypts if the server can. Fails if a password could be read on the way.
pub(super) async fn open(target: &Target) -> Result<Opened, Trouble> {
    let opened = match target.server.protocol {
        Protocol::Imap => imap::open(target).await,
        Protocol::Pop3 => pop3::open(target).await,
        Protocol::Smtp => smtp::open(target).await,
    }?;
    target.check_secrecy(&opened.conversation)?;
    Ok(opened)
}

/// Tries to log in.
pub(super) async fn log_in(target: &Target, opened: &mut Opened, credentials: &Credentials) -> Result<Login, Trouble> {
    match target.server.protocol {
        Protocol::Imap => imap::log_in(opened, credentials).await,
        Protocol::Pop3 => pop3::log_in(opened, credentials).await,
        Protocol::Smtp => smtp::log_in(opened, credentials).await,
    }
}

/// Says good-bye. Whether the server answers does not matter.
pub(super) async fn leave(target: &Target, opened: &mut Opened) {
    let command: &[u8] = match target.server.protocol {
        Protocol::Imap => b"z LOGOUT",
        Protocol::Pop3 | Protocol::Smtp => b"QUIT",
    };
    if opened.conversation.send(command).await.is_ok() {
        let _ = opened.conversation.line().await;
    }
}
