//! What the dialogs of the three protocols share: who logs in, what the server offers, and how a
//! login ended.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::conversation::Conversation;
use latchkey_core::model::secret::Secret;

/// The environment variable with the password, where a file or a terminal will not do.
pub(super) const PASSWORD_VARIABLE: &str = "LATCHKEY_PROBE_PASSWORD";
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
