//! The session that is held open while the password is revoked, and how it ends.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    conversation::Trouble,
    imap, pop3,
    protocol::{self, Credentials, Login, Opened},
    smtp,
    target::{Protocol, Target},
};

/// RFC 9051 §6.3.13 wants IDLE said again before 29 minutes are over.
const IDLE_AGAIN: Duration = Duration::from_mins(10);

/// What keeps the session busy, so that its end is seen.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Way {
    /// IMAP IDLE: the server says by itself that it ends.
    Idle,
    /// NOOP, again and again.
    Noop,
    /// SMTP: the beginning of a mail to this address, which is never sent.
    Recipient(String),
}

/// A session that is open.
pub(super) struct Held {
    opened: Opened,
    protocol: Protocol,
    way: Way,
}

/// When and how it ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: Instant,
    pub(super) how: How,
    /// What the server said.
    pub(super) words: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    Closed,
    /// The connection is open, and commands are refused.
    Refused,
}

impl Held {
    /// Opens it; `Err` in the login is why there is none.
    pub(super) async fn begin(target: &Target, credentials: &Credentials) -> Result<Result<Self, Login>, Trouble> {
        let mut opened = protocol::open(target).await?;
        match protocol::log_in(target, &mut opened, credentials).await? {
            Login::Accepted => (),
            refused => return Ok(Err(refused)),
        }
        let protocol = target.server.protocol;
        let mut held = Self { opened, protocol, way: Way::Noop };
        match protocol {
            Protocol::Imap => {
                held.opened.capabilities = imap::capabilities(&mut held.opened.conversation).await?;
                if held.opened.capabilities.has("IDLE") && held.idle().await? {
                    held.way = Way::Idle;
                }
            }
            Protocol::Smtp if is_plain_address(&credentials.user) => {
                // If this server takes no such mail before the revocation, a refusal after it says
                // nothing.
                let way = Way::Recipient(credentials.user.clone());
                if held.begin_mail(&credentials.user).await?.is_none_or(|refusal| refusal.code == smtp::CLOSING) {
                    held.way = way;
                }
            }
            Protocol::Pop3 | Protocol::Smtp => (),
        }
        Ok(Ok(held))
    }

    /// For people.
    pub(super) fn way(&self) -> &'static str {
        match self.way {
            Way::Idle => "IDLE",
            Way::Noop => "NOOP",
            Way::Recipient(_) => "RCPT",
        }
    }

    /// Waits for the end, however long that takes. A server that is silent has not ended the
    /// session.
    pub(super) async fn until_end(mut self, every: Duration) -> End {
        loop {
            let step = match self.way.clone() {
                Way::Idle => self.wait_idle().await,
                Way::Noop => self.noop().await,
                Way::Recipient(address) => self.begin_mail(&address).await.map(|refusal| refusal.map(|refusal| refusal.words())),
            };
            let (how, words) = match step {
                Ok(None) => {
                    sleep(every).await;
                    continue;
                }
                Ok(Some(words)) if words.starts_with("421") || words.starts_with("* BYE") => (How::Closed, words),
                Ok(Some(words)) => (How::Refused, words),
                Err(Trouble::Unexpected { got, .. }) => (How::Closed, got),
                Err(trouble) => (How::Closed, trouble.to_string()),
            };
            return End { at: Instant::now(), how, words };
        }
    }

    /// Begins to idle; `false` if the server does not want to.
    async fn idle(&mut self) -> Result<bool, Trouble> {
        self.opened.conversation.send(b"i IDLE").await?;
        Ok(imap::answer(&mut self.opened.conversation, "i", true).await?.is_none())
    }

    /// Reads until the server says good-bye (`Some`), or IDLE has to be said again.
    async fn wait_idle(&mut self) -> Result<Option<String>, Trouble> {
        let again = Instant::now() + IDLE_AGAIN;
        while let Ok(line) = timeout(again - Instant::now(), self.opened.conversation.line()).await {
            let line = line?;
            if matches!(imap::parse(&line, "i"), imap::Line::Bye(_) | imap::Line::Tagged(_)) {
                return Ok(Some(line));
            }
        }
        self.opened.conversation.send(b"DONE").await?;
        imap::answer(&mut self.opened.conversation, "i", false).await?;
        let is_idle = self.idle().await?;
        Ok((!is_idle).then(|| "IDLE is refused".to_owned()))
    }

    /// What the server said, if it refused.
    async fn noop(&mut self) -> Result<Option<String>, Trouble> {
        let conversation = &mut self.opened.conversation;
        match self.protocol {
            Protocol::Imap => Ok(match imap::command(conversation, "n", b"NOOP").await? {
                imap::Status::Ok => None,
                imap::Status::No(words) => Some(format!("NO {words}")),
                imap::Status::Bad(words) => Some(format!("BAD {words}")),
            }),
            Protocol::Pop3 => {
                let (is_ok, line) = pop3::command(conversation, b"NOOP").await?;
                Ok((!is_ok).then_some(line))
            }
            Protocol::Smtp => {
                let reply = smtp::command(conversation, b"NOOP").await?;
                Ok(is_refusal(reply.code).then(|| reply.words()))
            }
        }
    }

    /// Sender, recipient, and back. The reply, if one was refused for good.
    async fn begin_mail(&mut self, address: &str) -> Result<Option<smtp::Reply>, Trouble> {
        for command in [format!("MAIL FROM:<{address}>"), format!("RCPT TO:<{address}>"), "RSET".to_owned()] {
            let reply = smtp::command(&mut self.opened.conversation, command.as_bytes()).await?;
            if is_refusal(reply.code) {
                if reply.code != smtp::CLOSING {
                    smtp::command(&mut self.opened.conversation, b"RSET").await?;
                }
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }
}

/// Other temporary refusals (greylisting, a full disk) say nothing about the password.
fn is_refusal(code: u16) -> bool {
    code == smtp::CLOSING || code >= 500
}

/// Whether it may stand between angle brackets as it is.
fn is_plain_address(user: &str) -> bool {
    user.contains('@') && user.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\\\"".contains(&byte))
}
