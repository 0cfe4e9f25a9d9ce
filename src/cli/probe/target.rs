//! Which server to probe, and how: `imaps://mail.example.com`, `smtp://127.0.0.1:587`.

use std::{fmt, net::IpAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};

use super::conversation::{Conversation, Trouble};

/// RFC 1035 §2.3.4.
const MAX_HOST_BYTES: usize = 253;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
        }
    }
}

/// A server's address, as it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Server {
    pub(super) protocol: Protocol,
    /// TLS from the first byte on.
    pub(super) is_implicit_tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Server {
    /// For clap: the error says what is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("must be like imaps://mail.example.com or smtp://127.0.0.1:587")?;
        let (protocol, is_implicit_tls, usual_port) = match scheme.to_ascii_lowercase().as_str() {
            "imap" => (Protocol::Imap, false, 143),
            "imaps" => (Protocol::Imap, true, 993),
            "pop3" => (Protocol::Pop3, false, 110),
            "pop3s" => (Protocol::Pop3, true, 995),
            "smtp" => (Protocol::Smtp, false, 587),
            "smtps" => (Protocol::Smtp, true, 465),
            _ => return Err("must begin with imap://, imaps://, pop3://, pop3s://, smtp:// or smtps://".to_owned()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("an IPv6 address wants a ] at its end")?,
            None => rest.find(':').map_or((rest, ""), |at| rest.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?,
            None if port.is_empty() => usual_port,
            None => return Err("after the address only a port may follow".to_owned()),
        };
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
        if !(1..=MAX_HOST_BYTES).contains(&host.len()) || !is_name {
            return Err("the host must be a name or an IP address, of at most 253 bytes, without a user or a path".to_owned());
        }
        Ok(Self { protocol, is_implicit_tls, host: host.to_owned(), port })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, is_implicit_tls, host, port } = self;
        let secure = if *is_implicit_tls { "s" } else { "" };
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}{secure}://{open}{host}{close}:{port}", protocol.name())
    }
}

/// A server, and what a connection to it needs.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) tls: Arc<ClientConfig>,
    /// Whose certificate the server must have.
    pub(super) tls_name: ServerName<'static>,
    /// A password may be sent without TLS.
    pub(super) may_be_clear: bool,
}

impl Target {
    /// A connection, before the greeting; over TLS if that comes first.
    pub(super) async fn connect(&self) -> Result<Conversation, Trouble> {
        let conversation = Conversation::connect(&self.server.host, self.server.port).await?;
        if self.server.is_implicit_tls { self.encrypt(conversation).await } else { Ok(conversation) }
    }

    pub(super) async fn encrypt(&self, conversation: Conversation) -> Result<Conversation, Trouble> {
        conversation.encrypt(Arc::clone(&self.tls), self.tls_name.clone()).await
    }

    /// Refuses to send a password that anybody on the way could read.
    pub(super) fn check_secrecy(&self, conversation: &Conversation) -> Result<(), Trouble> {
        if conversation.is_encrypted() || self.may_be_clear {
            return Ok(());
        }
        Err(Trouble::NotOffered("no TLS, and the password would cross the network in the clear (--allow-cleartext permits it)"))
    }
}
