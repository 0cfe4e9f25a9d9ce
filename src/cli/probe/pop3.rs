//! POP3 (RFC 1939, 2449, 2595), as far as a login and a session need it.

use super::{
    conversation::{Conversation, Trouble},
    dialog::{Capabilities, Credentials, Login, MAX_ANSWER_LINES, Opened},
    target::Target,
};

/// Response codes of an `-ERR` that say neither yes nor no (RFC 2449 §8, RFC 3206). `[SYS/PERM]` is
/// among them: no password mends it.
const NO_ANSWER_CODES: [&str; 4] = ["SYS/TEMP", "SYS/PERM", "IN-USE", "LOGIN-DELAY"];

/// A status line: `Ok` with the text after `+OK`, `Err` with that after `-ERR`.
pub(super) fn status(line: &str) -> Option<Result<&str, &str>> {
    let has = |word: &str| line.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    match line {
        line if has("+OK") => Some(Ok(line[3..].trim())),
        line if has("-ERR") => Some(Err(line[4..].trim())),
        _ => None,
    }
}

/// Sends a command, and reads its status line: whether it was `+OK`, and the line.
pub(super) async fn command(conversation: &mut Conversation, command: &[u8]) -> Result<(bool, String), Trouble> {
    conversation.send(command).await?;
    let line = conversation.line().await?;
    match status(&line) {
        Some(status) => Ok((status.is_ok(), line)),
        None => Err(Trouble::Unexpected { expected: "+OK or -ERR", got: line }),
    }
}

pub(super) async fn open(target: &Target) -> Result<Opened, Trouble> {
    let mut conversation = target.connect().await?;
    let greeting = conversation.line().await?;
    if !matches!(status(&greeting), Some(Ok(_))) {
        return Err(Trouble::Unexpected { expected: "a POP3 greeting (+OK)", got: greeting });
    }
    let mut capabilities = capabilities(&mut conversation).await?;
    if !conversation.is_encrypted() && capabilities.has("STLS") {
        let (is_ok, got) = command(&mut conversation, b"STLS").await?;
        if !is_ok {
            return Err(Trouble::Unexpected { expected: "+OK to STLS", got });
        }
        conversation = target.encrypt(conversation).await?;
        capabilities = self::capabilities(&mut conversation).await?;
    }
    Ok(Opened { conversation, capabilities })
}

pub(super) async fn log_in(opened: &mut Opened, credentials: &Credentials) -> Result<Login, Trouble> {
    let conversation = &mut opened.conversation;
    let line = if opened.capabilities.has_in("SASL", "PLAIN") {
        conversation.send(b"AUTH PLAIN").await?;
        let line = conversation.line().await?;
        if line == "+" || line.starts_with("+ ") { command(conversation, credentials.plain().as_bytes()).await?.1 } else { line }
    } else {
        let (is_ok, line) = command(conversation, format!("USER {}", credentials.user).as_bytes()).await?;
        if is_ok {
            let pass = zeroize::Zeroizing::new([b"PASS ", credentials.password.expose()].concat());
            command(conversation, &pass).await?.1
        } else {
            line
        }
    };
    outcome(&line)
}

fn outcome(line: &str) -> Result<Login, Trouble> {
    match status(line) {
        Some(Ok(_)) => Ok(Login::Accepted),
        Some(Err(text)) => {
            let code = text.strip_prefix('[').and_then(|text| text.split(']').next()).unwrap_or_default();
            let is_no_answer = NO_ANSWER_CODES.iter().any(|known| code.eq_ignore_ascii_case(known));
            Ok(if is_no_answer { Login::Unanswered(line.to_owned()) } else { Login::Denied(line.to_owned()) })
        }
        None => Err(Trouble::Unexpected { expected: "+OK or -ERR", got: line.to_owned() }),
    }
}

/// A server without `CAPA` has none.
async fn capabilities(conversation: &mut Conversation) -> Result<Capabilities, Trouble> {
    let mut capabilities = Capabilities::default();
    if !command(conversation, b"CAPA").await?.0 {
        return Ok(capabilities);
    }
    for _ in 0..MAX_ANSWER_LINES {
        let line = conversation.line().await?;
        if line == "." {
            return Ok(capabilities);
        }
        capabilities.add(&line);
    }
    Err(Trouble::TooManyLines(MAX_ANSWER_LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_with_a_code_for_trouble_is_no_answer() {
        assert_eq!(outcome("+OK Logged in.").unwrap(), Login::Accepted);
        for denied in ["-ERR [AUTH] Authentication failed.", "-ERR", "-err wrong"] {
            assert!(matches!(outcome(denied), Ok(Login::Denied(_))), "{denied}");
        }
        for unanswered in ["-ERR [SYS/TEMP] later", "-ERR [in-use] locked", "-ERR [LOGIN-DELAY]"] {
            assert!(matches!(outcome(unanswered), Ok(Login::Unanswered(_))), "{unanswered}");
        }
        for strange in ["", "OK", "+", "é", "-ER", "+O"] {
            assert!(outcome(strange).is_err(), "{strange}");
        }
    }
}
