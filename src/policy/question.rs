//! A request of Postfix's policy protocol: `name=value` lines, ended by an empty one. Pure.
//! Exim sends the same, as far as it is read here (deploy/exim).

use std::net::IpAddr;

/// Lines of one request, at most. Postfix 3.7 sends about 30.
pub const MAX_ATTRIBUTES: usize = 128;
/// Of one request, all lines together.
pub const MAX_BYTES: usize = 64 << 10;

/// The attributes that tie a question to a login.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Question {
    request: Option<String>,
    pub sasl_username: String,
    pub client_ip: Option<IpAddr>,
    pub client_port: Option<u16>,
    /// For logs: RCPT or END-OF-MESSAGE, for instance.
    pub protocol_state: String,
    attributes: usize,
    bytes: usize,
    seen: u8,
}

/// A request that cannot be answered. Its connection ends, and the mail server says "try later".
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuestionError {
    #[error("a request has more than {MAX_ATTRIBUTES} attributes or {MAX_BYTES} bytes")]
    TooLong,
    #[error("a line is no name=value of UTF-8")]
    Malformed,
    #[error("an attribute stands twice")]
    Twice,
    #[error("the request is not smtpd_access_policy")]
    Kind,
}

impl Question {
    /// Takes a line. `true`: it was the last one.
    pub fn take(&mut self, line: &[u8]) -> Result<bool, QuestionError> {
        if line.is_empty() {
            // Anything else is of a protocol that is not spoken here.
            return if self.request.as_deref() == Some("smtpd_access_policy") { Ok(true) } else { Err(QuestionError::Kind) };
        }
        self.attributes += 1;
        self.bytes += line.len();
        if self.attributes > MAX_ATTRIBUTES || self.bytes > MAX_BYTES {
            return Err(QuestionError::TooLong);
        }
        let at = line.iter().position(|byte| *byte == b'=').ok_or(QuestionError::Malformed)?;
        let (name, value) = (&line[..at], &line[at + 1..]);
        let known: [&[u8]; 5] = [b"request", b"sasl_username", b"client_address", b"client_port", b"protocol_state"];
        // Others may hold what a client said, in any encoding.
        let Some(which) = known.iter().position(|known| *known == name) else { return Ok(false) };
        if self.seen & 1 << which != 0 {
            return Err(QuestionError::Twice);
        }
        self.seen |= 1 << which;
        let value = std::str::from_utf8(value).map_err(|_| QuestionError::Malformed)?;
        match which {
            0 => self.request = Some(value.to_owned()),
            1 => value.clone_into(&mut self.sasl_username),
            2 => self.client_ip = value.parse().ok(),
            3 => self.client_port = value.parse().ok().filter(|port| *port != 0),
            _ => value.clone_into(&mut self.protocol_state),
        }
        Ok(false)
    }

    /// Whether a request has begun.
    pub fn has_begun(&self) -> bool {
        self.attributes > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn parse(text: &[u8]) -> Result<Question, QuestionError> {
        let mut question = Question::default();
        for line in text.split(|byte| *byte == b'\n') {
            if question.take(line)? {
                return Ok(question);
            }
        }
        panic!("it has an end")
    }

    #[test]
    fn what_postfix_asks_is_read() {
        let question = parse(
            b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=2001:db8::7\nclient_port=4711\n\
              helo_name=\xff\nsasl_method=plain\nsasl_username=alice@example.com\nsender=a=b@example.com\ninstance=1a.2b.0\n\n",
        )
        .unwrap();
        assert_eq!(question.sasl_username, "alice@example.com");
        assert_eq!(question.client_ip, Some("2001:db8::7".parse().unwrap()));
        assert_eq!((question.client_port, question.protocol_state.as_str()), (Some(4711), "RCPT"));
    }

    #[test]
    fn what_postfix_does_not_know_is_nothing() {
        let question = parse(b"request=smtpd_access_policy\nclient_address=unknown\nclient_port=0\nsasl_username=\n\n").unwrap();
        assert_eq!((question.client_ip, question.client_port, question.sasl_username.as_str()), (None, None, ""));
    }

    #[test]
    fn a_request_that_is_none_is_refused() {
        assert_eq!(parse(b"\n"), Err(QuestionError::Kind));
        assert_eq!(parse(b"sasl_username=alice@example.com\n\n"), Err(QuestionError::Kind));
        assert_eq!(parse(b"request=junk\n\n"), Err(QuestionError::Kind));
        assert_eq!(parse(b"request\n\n"), Err(QuestionError::Malformed));
        assert_eq!(parse(b"request=smtpd_access_policy\nsasl_username=\xff\n\n"), Err(QuestionError::Malformed));
        assert_eq!(parse(b"request=smtpd_access_policy\nsasl_username=a\nsasl_username=b\n\n"), Err(QuestionError::Twice));
        assert_eq!(parse("x=y\n".repeat(MAX_ATTRIBUTES + 1).as_bytes()), Err(QuestionError::TooLong));
        let long = format!("x={}\n", "y".repeat(16_000)).repeat(5);
        assert_eq!(parse(long.as_bytes()), Err(QuestionError::TooLong));
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_refused(lines in vec(vec(any::<u8>(), 0..40), 0..200)) {
            let mut question = Question::default();
            for line in lines {
                if question.take(&line).is_err() {
                    break;
                }
            }
            prop_assert!(question.attributes <= MAX_ATTRIBUTES + 1);
        }
    }
}
