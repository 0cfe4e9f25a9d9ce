//! IMAP (RFC 9051), as far as a login and a session need it.

use super::{
    conversation::{Conversation, Trouble},
    dialog::{Capabilities, Credentials, Login, MAX_ANSWER_LINES, Opened},
    target::Target,
};

/// Response codes of a `NO` that say neither yes nor no (RFC 9051 §7.1, RFC 5530).
const NO_ANSWER_CODES: [&str; 7] = ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "CONTACTADMIN", "ALERT", "PRIVACYREQUIRED"];

/// A tagged answer: `OK`, `NO` or `BAD`, with its text.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    No(String),
    Bad(String),
}

/// A line of the server, as far as it matters here.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Line<'l> {
    Tagged(Status),
    Continue,
    Bye(&'l str),
    Capability(&'l str),
    Other,
}

/// Reads a line; `tag` is that of the command under way.
pub(super) fn parse<'l>(line: &'l str, tag: &str) -> Line<'l> {
    if line == "+" || line.starts_with("+ ") {
        return Line::Continue;
    }
    let Some((first, rest)) = line.split_once(' ') else { return Line::Other };
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let word = word.to_ascii_uppercase();
    match (first, word.as_str()) {
        ("*", "BYE") => Line::Bye(text),
        ("*", "CAPABILITY") => Line::Capability(text),
        ("*", _) => Line::Other,
        (first, "OK") if first == tag => Line::Tagged(Status::Ok),
        (first, "NO") if first == tag => Line::Tagged(Status::No(text.to_owned())),
        (first, "BAD") if first == tag => Line::Tagged(Status::Bad(text.to_owned())),
        _ => Line::Other,
    }
}

pub(super) async fn open(target: &Target) -> Result<Opened, Trouble> {
    let mut conversation = target.connect().await?;
    let greeting = conversation.line().await?;
    if !greeting.to_ascii_uppercase().starts_with("* OK") {
        return Err(Trouble::Unexpected { expected: "an IMAP greeting (* OK)", got: greeting });
    }
    let mut capabilities = capabilities(&mut conversation).await?;
    if !conversation.is_encrypted() && capabilities.has("STARTTLS") {
        match command(&mut conversation, "t", b"STARTTLS").await? {
            Status::Ok => conversation = target.encrypt(conversation).await?,
            Status::No(got) | Status::Bad(got) => return Err(Trouble::Unexpected { expected: "OK to STARTTLS", got }),
        }
        capabilities = self::capabilities(&mut conversation).await?;
    }
    Ok(Opened { conversation, capabilities })
}

pub(super) async fn log_in(opened: &mut Opened, credentials: &Credentials) -> Result<Login, Trouble> {
    let conversation = &mut opened.conversation;
    let status = if opened.capabilities.has("AUTH=PLAIN") {
        conversation.send(b"a AUTHENTICATE PLAIN").await?;
        match answer(conversation, "a", true).await? {
            // Refused before the password was sent.
            Some(Status::Ok) => return Err(Trouble::Unexpected { expected: "+ to AUTHENTICATE", got: "OK".to_owned() }),
            Some(refused) => refused,
            None => {
                conversation.send(credentials.plain().as_bytes()).await?;
                tagged(conversation, "a").await?
            }
        }
    } else {
        log_in_by_literals(conversation, credentials).await?
    };
    Ok(outcome(status))
}

/// `LOGIN` with literals (RFC 9051 §4.3), which take any bytes.
async fn log_in_by_literals(conversation: &mut Conversation, credentials: &Credentials) -> Result<Status, Trouble> {
    let (user, password) = (credentials.user.as_bytes(), credentials.password.expose());
    conversation.send(format!("a LOGIN {{{}}}", user.len()).as_bytes()).await?;
    if let Some(refused) = answer(conversation, "a", true).await? {
        return Ok(refused);
    }
    conversation.send(&[user, format!(" {{{}}}", password.len()).as_bytes()].concat()).await?;
    if let Some(refused) = answer(conversation, "a", true).await? {
        return Ok(refused);
    }
    conversation.send(password).await?;
    tagged(conversation, "a").await
}

fn outcome(status: Status) -> Login {
    match status {
        Status::Ok => Login::Accepted,
        Status::Bad(text) => Login::Unanswered(format!("BAD {text}")),
        Status::No(text) => {
            let code = text.strip_prefix('[').and_then(|text| text.split([']', ' ']).next()).unwrap_or_default();
            let is_no_answer = NO_ANSWER_CODES.iter().any(|known| code.eq_ignore_ascii_case(known));
            if is_no_answer { Login::Unanswered(format!("NO {text}")) } else { Login::Denied(format!("NO {text}")) }
        }
    }
}

pub(super) async fn capabilities(conversation: &mut Conversation) -> Result<Capabilities, Trouble> {
    conversation.send(b"c CAPABILITY").await?;
    let mut capabilities = Capabilities::default();
    for _ in 0..MAX_ANSWER_LINES {
        let line = conversation.line().await?;
        match parse(&line, "c") {
            Line::Capability(text) => capabilities.add(text),
            Line::Tagged(Status::Ok) => return Ok(capabilities),
            Line::Tagged(_) | Line::Bye(_) => return Err(Trouble::Unexpected { expected: "OK to CAPABILITY", got: line }),
            Line::Continue | Line::Other => (),
        }
    }
    Err(Trouble::TooManyLines(MAX_ANSWER_LINES))
}

pub(super) async fn command(conversation: &mut Conversation, tag: &str, command: &[u8]) -> Result<Status, Trouble> {
    conversation.send(&[tag.as_bytes(), b" ", command].concat()).await?;
    tagged(conversation, tag).await
}

async fn tagged(conversation: &mut Conversation, tag: &str) -> Result<Status, Trouble> {
    let got = "+".to_owned();
    answer(conversation, tag, false).await?.ok_or(Trouble::Unexpected { expected: "a tagged answer", got })
}

/// The tagged answer; `None` for a `+`, where one may come.
pub(super) async fn answer(conversation: &mut Conversation, tag: &str, may_continue: bool) -> Result<Option<Status>, Trouble> {
    for _ in 0..MAX_ANSWER_LINES {
        let line = conversation.line().await?;
        match parse(&line, tag) {
            Line::Tagged(status) => return Ok(Some(status)),
            Line::Continue if may_continue => return Ok(None),
            Line::Bye(_) => return Err(Trouble::Unexpected { expected: "an answer", got: line }),
            Line::Continue | Line::Capability(_) | Line::Other => (),
        }
    }
    Err(Trouble::TooManyLines(MAX_ANSWER_LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_with_a_code_for_trouble_is_no_answer() {
        let login = |line: &str| match parse(line, "a") {
            Line::Tagged(status) => outcome(status),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(login("a OK [CAPABILITY IMAP4rev1] Logged in"), Login::Accepted);
        assert_eq!(login("a ok"), Login::Accepted);
        for denied in ["a NO [AUTHENTICATIONFAILED] Authentication failed.", "a NO wrong", "a no [EXPIRED] x", "a NO"] {
            assert!(matches!(login(denied), Login::Denied(_)), "{denied}");
        }
        for unanswered in
            ["a NO [UNAVAILABLE] Temporary", "a NO [unavailable]", "a NO [INUSE x] y", "a NO [LIMIT] z", "a BAD what?"]
        {
            assert!(matches!(login(unanswered), Login::Unanswered(_)), "{unanswered}");
        }
    }

    #[test]
    fn lines_of_other_commands_and_broken_lines_are_none_of_ours() {
        for line in ["b OK done", "", " ", "*", "* ", "a", "aOK", "OK a", "a OKAY", "++", "* 1 EXISTS"] {
            assert_eq!(parse(line, "a"), Line::Other, "{line:?}");
        }
        assert_eq!(parse("* BYE Server shutting down.", "a"), Line::Bye("Server shutting down."));
        assert_eq!(parse("* bye", "a"), Line::Bye(""));
    }
}
