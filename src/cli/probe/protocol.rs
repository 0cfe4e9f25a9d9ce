//! The three protocols behind one interface: a session is opened, a login is tried, and the session
//! is held.

pub(super) use super::dialog::{Credentials, Login, Opened};
use super::{
    conversation::Trouble,
    imap, pop3, smtp,
    target::{Protocol, Target},
};

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
