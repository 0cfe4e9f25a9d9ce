//! SMTP submission (RFC 5321, 3207, 4954), as far as a login and a session need it.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    conversation::{Conversation, Trouble},
    dialog::{Capabilities, Credentials, Login, MAX_ANSWER_LINES, Opened},
    target::Target,
};

/// An address literal, which every server takes as a name.
const EHLO: &[u8] = b"EHLO [127.0.0.1]";
/// The server is about to close the connection (RFC 5321 §3.8).
pub(super) const CLOSING: u16 = 421;

/// A whole reply.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The lines' texts.
    pub(super) lines: Vec<String>,
}

impl Reply {
    /// As the server said it, on one line.
    pub(super) fn words(&self) -> String {
        format!("{} {}", self.code, self.lines.join(" "))
    }
}

/// A line of a reply: its code, whether it is the last, and its text.
pub(super) fn parse(line: &str) -> Option<(u16, bool, &str)> {
    let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    if !(200..600).contains(&code) {
        return None;
    }
    match line.as_bytes().get(3) {
        None => Some((code, true, "")),
        Some(b' ') => Some((code, true, &line[4..])),
        Some(b'-') => Some((code, false, &line[4..])),
        Some(_) => None,
    }
}

pub(super) async fn reply(conversation: &mut Conversation) -> Result<Reply, Trouble> {
    let mut lines = Vec::new();
    let mut first = None;
    for _ in 0..MAX_ANSWER_LINES {
        let line = conversation.line().await?;
        let parsed = parse(&line).filter(|(code, ..)| *first.get_or_insert(*code) == *code);
        let Some((code, is_last, text)) = parsed else {
            return Err(Trouble::Unexpected { expected: "an SMTP reply", got: line });
        };
        lines.push(text.to_owned());
        if is_last {
            return Ok(Reply { code, lines });
        }
    }
    Err(Trouble::TooManyLines(MAX_ANSWER_LINES))
}

pub(super) async fn command(conversation: &mut Conversation, command: &[u8]) -> Result<Reply, Trouble> {
    conversation.send(command).await?;
    reply(conversation).await
}

pub(super) async fn open(target: &Target) -> Result<Opened, Trouble> {
    let mut conversation = target.connect().await?;
    let greeting = reply(&mut conversation).await?;
    if greeting.code != 220 {
        return Err(Trouble::Unexpected { expected: "an SMTP greeting (220)", got: greeting.words() });
    }
    let mut capabilities = capabilities(&mut conversation).await?;
    if !conversation.is_encrypted() && capabilities.has("STARTTLS") {
        let ready = command(&mut conversation, b"STARTTLS").await?;
        if ready.code != 220 {
            return Err(Trouble::Unexpected { expected: "220 to STARTTLS", got: ready.words() });
        }
        conversation = target.encrypt(conversation).await?;
        capabilities = self::capabilities(&mut conversation).await?;
    }
    Ok(Opened { conversation, capabilities })
}

pub(super) async fn log_in(opened: &mut Opened, credentials: &Credentials) -> Result<Login, Trouble> {
    let (conversation, capabilities) = (&mut opened.conversation, &opened.capabilities);
    let reply = if capabilities.has_in("AUTH", "PLAIN") {
        let auth = Zeroizing::new(format!("AUTH PLAIN {}", *credentials.plain()));
        command(conversation, auth.as_bytes()).await?
    } else if capabilities.has_in("AUTH", "LOGIN") {
        log_in_by_prompts(conversation, credentials).await?
    } else {
        return Err(Trouble::NotOffered("neither AUTH PLAIN nor AUTH LOGIN"));
    };
    Ok(outcome(&reply))
}

async fn log_in_by_prompts(conversation: &mut Conversation, credentials: &Credentials) -> Result<Reply, Trouble> {
    let asked = command(conversation, b"AUTH LOGIN").await?;
    if asked.code != 334 {
        return Ok(asked);
    }
    let asked = command(conversation, BASE64_STANDARD.encode(&credentials.user).as_bytes()).await?;
    if asked.code != 334 {
        return Ok(asked);
    }
    let password = Zeroizing::new(BASE64_STANDARD.encode(credentials.password.expose()));
    command(conversation, password.as_bytes()).await
}

fn outcome(reply: &Reply) -> Login {
    match reply.code {
        235 => Login::Accepted,
        500..600 => Login::Denied(reply.words()),
        _ => Login::Unanswered(reply.words()),
    }
}

async fn capabilities(conversation: &mut Conversation) -> Result<Capabilities, Trouble> {
    let hello = command(conversation, EHLO).await?;
    if hello.code != 250 {
        return Err(Trouble::Unexpected { expected: "250 to EHLO", got: hello.words() });
    }
    let mut capabilities = Capabilities::default();
    hello.lines.iter().skip(1).for_each(|line| capabilities.add(line));
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_line_has_a_code_and_says_whether_it_is_the_last() {
        assert_eq!(parse("250-SIZE 1"), Some((250, false, "SIZE 1")));
        assert_eq!(parse("250 OK"), Some((250, true, "OK")));
        assert_eq!(parse("421"), Some((421, true, "")));
        for strange in ["", "25", "250_", "2500 x", "abc d", "é50 x", "100 x", "999 x", "+50 x", "-12 x"] {
            assert_eq!(parse(strange), None, "{strange:?}");
        }
    }

    #[test]
    fn only_a_permanent_refusal_is_a_denial() {
        let login = |code| outcome(&Reply { code, lines: vec![String::new()] });
        assert_eq!(login(235), Login::Accepted);
        assert!(matches!(login(535), Login::Denied(_)));
        assert!(matches!(login(454), Login::Unanswered(_)) && matches!(login(421), Login::Unanswered(_)));
    }
}
