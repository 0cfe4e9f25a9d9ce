//! nginx's mail proxy (`auth_http`): the question is in the request's headers, the answer in those
//! of the response.
//!
//! nginx looks at headers only, whatever the status; without `Auth-Status` the client meets an
//! internal error. Each protocol has words of its own for a denial and for "try later": IMAP and
//! POP3 have a response code in the text, SMTP a reply code.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::InvalidHeaderValue};

use super::{Login, Settings, form, log_in};
use crate::authority::Authority;
use latchkey_core::model::{address::Address, protocol::Protocol, secret::Secret, verdict::Attempt};

/// nginx holds a refusal for so long, so that guessing is slow, and lets the client try again on
/// the same connection: many SMTP clients try a second mechanism there before they say why the
/// first was refused.
const WAIT_SECONDS: u64 = 2;
/// From this attempt of a connection on, nginx closes it.
const LAST_ATTEMPT: u64 = 5;
/// Of a user name or a password, decoded.
const MAX_FIELD_BYTES: usize = 1_024;

/// What to tell the client.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Proxy {
        user: Address,
        server: std::net::SocketAddr,
    },
    Denied,
    /// The client asked for what this proxy does not do: a mechanism other than PLAIN and LOGIN, or
    /// mail without a login.
    LoginNeeded,
    TryLater,
}

/// The question, as nginx puts it.
struct Question<'h> {
    protocol: Option<Dialect>,
    attempt: u64,
    headers: &'h HeaderMap,
}

/// The protocols that nginx proxies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    Imap,
    Pop3,
    Smtp,
}

impl Dialect {
    fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"imap" => Some(Self::Imap),
            b"pop3" => Some(Self::Pop3),
            b"smtp" => Some(Self::Smtp),
            _ => None,
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Imap => Protocol::Imap,
            Self::Pop3 => Protocol::Pop3,
            Self::Smtp => Protocol::Smtp,
        }
    }
}

/// Answers nginx. `is_known`: it has brought the secret.
pub(super) async fn answer(headers: &HeaderMap, is_known: bool, settings: &Settings, authority: &dyn Authority) -> HeaderMap {
    let question = Question::of(headers);
    let outcome = if is_known { question.judge(settings, authority).await } else { Outcome::TryLater };
    question.render(&outcome).unwrap_or_default()
}

impl<'h> Question<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let protocol = headers.get("auth-protocol").and_then(|name| Dialect::parse(name.as_bytes()));
        let attempt = text(headers, "auth-login-attempt").and_then(|number| number.parse().ok());
        // Without a number the connection is as good as used up.
        Self { protocol, attempt: attempt.unwrap_or(LAST_ATTEMPT), headers }
    }

    async fn judge(&self, settings: &Settings, authority: &dyn Authority) -> Outcome {
        let Some(dialect) = self.protocol else { return Outcome::TryLater };
        match text(self.headers, "auth-method") {
            Some("plain") => (),
            Some(_) => return Outcome::LoginNeeded,
            None => return Outcome::TryLater,
        }
        // Before the password is judged: a proxy without a place to go is no reason to count a
        // login.
        let Some(server) = settings.backends.get(dialect.protocol().name()).copied() else {
            tracing::warn!(protocol = dialect.protocol().name(), "nginx asks for a protocol that has no --nginx-backend");
            return Outcome::TryLater;
        };
        let (Some(user), Some(password)) = (self.field("auth-user"), self.field("auth-pass")) else { return Outcome::TryLater };
        // No mailbox has such a name, and no device such a password.
        let (Ok(user), Ok(password)) = (user, password) else { return Outcome::Denied };
        let Some(address) = user.expose_text().and_then(|user| Address::parse("user", user).ok()) else { return Outcome::Denied };
        let attempt = Attempt {
            address,
            password,
            protocol: dialect.protocol(),
            client_ip: text(self.headers, "client-ip").and_then(|ip| ip.parse::<IpAddr>().ok()),
            frontend: settings.frontend.clone().into(),
        };
        match log_in(authority, &attempt).await {
            Login::Allowed { user, .. } => Outcome::Proxy { user, server },
            Login::Denied(_) => Outcome::Denied,
            Login::TryLater => Outcome::TryLater,
        }
    }

    /// A percent-encoded header: `None` if it is missing or broken, `Err` if what it says is beyond
    /// every bound.
    fn field(&self, name: &str) -> Option<Result<Secret, ()>> {
        let value = form::decode(self.headers.get(name)?.as_bytes(), false).ok().map(Secret::new)?;
        Some(if (1..=MAX_FIELD_BYTES).contains(&value.expose().len()) { Ok(value) } else { Err(()) })
    }

    /// No value that came from the client goes into a header but the canonical address, which holds
    /// no control characters; and a [`HeaderValue`] can't be made of any.
    fn render(&self, outcome: &Outcome) -> Result<HeaderMap, InvalidHeaderValue> {
        let mut answer = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| -> Result<(), InvalidHeaderValue> {
            answer.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes())?);
            Ok(())
        };
        let (text, code) = match outcome {
            Outcome::Proxy { user, server } => {
                put("auth-status", "OK")?;
                put("auth-server", &server.ip().to_string())?;
                put("auth-port", &server.port().to_string())?;
                put("auth-user", user.as_str())?;
                return Ok(answer);
            }
            Outcome::Denied => match self.protocol {
                Some(Dialect::Imap) => ("[AUTHENTICATIONFAILED] Authentication failed.", ""),
                Some(Dialect::Pop3) => ("[AUTH] Authentication failed.", ""),
                _ => ("Authentication failed.", "535 5.7.8"),
            },
            Outcome::LoginNeeded => match self.protocol {
                Some(Dialect::Imap) => ("[CANNOT] Log in with a user name and password (LOGIN, or AUTHENTICATE PLAIN).", ""),
                Some(Dialect::Pop3) => ("Log in with USER and PASS, or AUTH PLAIN.", ""),
                _ => ("Log in first, with AUTH PLAIN or LOGIN.", "530 5.7.0"),
            },
            Outcome::TryLater => match self.protocol {
                Some(Dialect::Imap) => ("[UNAVAILABLE] Temporary authentication failure. Try again later.", ""),
                Some(Dialect::Pop3) => ("[SYS/TEMP] Temporary authentication failure. Try again later.", ""),
                _ => ("Temporary authentication failure. Try again later.", "454 4.7.0"),
            },
        };
        put("auth-status", text)?;
        if !code.is_empty() {
            put("auth-error-code", code)?;
        }
        if self.attempt < LAST_ATTEMPT {
            put("auth-wait", &WAIT_SECONDS.to_string())?;
        }
        Ok(answer)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
