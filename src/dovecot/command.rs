//! What a client of the Dovecot authentication protocol says, line by line. Pure.

use std::{borrow::Cow, net::IpAddr};

use zeroize::Zeroizing;

use super::line::{BadEscape, fields, unescape};

/// The name of a service, a mechanism or a session has at most so many bytes.
const MAX_NAME_BYTES: usize = 255;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Version {
        major: u32,
    },
    Process(u32),
    Auth(Box<AuthRequest>),
    /// The client's answer to a question of a mechanism, in base64.
    Continue {
        id: u32,
        response: Response,
    },
    Cancel {
        id: u32,
    },
}

/// A response, in base64. It holds a password, so it is wiped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(pub Zeroizing<Vec<u8>>);

/// A login that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthRequest {
    /// Unique among the open requests of its connection.
    pub id: u32,
    pub mechanism: String,
    pub service: String,
    pub client_ip: Option<IpAddr>,
    /// The mail server's own name for the session, for logs.
    pub session: Option<String>,
    /// Absent or empty, the mechanism has to ask.
    pub initial: Option<Response>,
}

/// A line that this side cannot go on after. Its connection ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    #[error("an unknown command")]
    Unknown,
    #[error("{0}: {1} must be a number of 32 bits")]
    Number(&'static str, &'static str),
    #[error("AUTH: {0} is missing")]
    Missing(&'static str),
    #[error("AUTH: {0} must be UTF-8 and at most {MAX_NAME_BYTES} bytes")]
    Name(&'static str),
    #[error(transparent)]
    Escape(#[from] BadEscape),
}

impl Command {
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let mut fields = fields(line);
        match fields.next().unwrap_or_default() {
            b"VERSION" => Ok(Self::Version { major: number("VERSION", "the major version", fields.next())? }),
            b"CPID" => Ok(Self::Process(number("CPID", "the process", fields.next())?)),
            b"AUTH" => Ok(Self::Auth(Box::new(auth(fields)?))),
            b"CONT" => {
                let id = number("CONT", "the id", fields.next())?;
                let response = Response(Zeroizing::new(fields.next().unwrap_or_default().to_vec()));
                Ok(Self::Continue { id, response })
            }
            b"CANCEL" => Ok(Self::Cancel { id: number("CANCEL", "the id", fields.next())? }),
            _ => Err(CommandError::Unknown),
        }
    }
}

fn auth<'l>(mut fields: impl Iterator<Item = &'l [u8]>) -> Result<AuthRequest, CommandError> {
    let id = number("AUTH", "the id", fields.next())?;
    let mechanism = name("the mechanism", unescape(fields.next().ok_or(CommandError::Missing("the mechanism"))?)?)?;
    let mut request = AuthRequest { id, mechanism, service: String::new(), client_ip: None, session: None, initial: None };
    for field in fields {
        // The last parameter: whatever follows belongs to no one.
        if let Some(response) = field.strip_prefix(b"resp=") {
            request.initial = Some(Response(Zeroizing::new(response.to_vec())));
            break;
        }
        let field = unescape(field)?;
        if let Some(service) = field.strip_prefix(b"service=") {
            request.service = name("service=", Cow::Borrowed(service))?;
        } else if let Some(address) = field.strip_prefix(b"rip=") {
            // Postfix says "unknown" of a client that XCLIENT does not name.
            request.client_ip = std::str::from_utf8(address).ok().and_then(|address| address.parse().ok());
        } else if let Some(session) = field.strip_prefix(b"session=") {
            request.session = Some(name("session=", Cow::Borrowed(session))?);
        }
    }
    if request.service.is_empty() {
        return Err(CommandError::Missing("service="));
    }
    Ok(request)
}

fn number(command: &'static str, what: &'static str, field: Option<&[u8]>) -> Result<u32, CommandError> {
    let digits = field.filter(|field| !field.is_empty() && field.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    number.ok_or(CommandError::Number(command, what))
}

fn name(what: &'static str, bytes: Cow<'_, [u8]>) -> Result<String, CommandError> {
    if bytes.len() > MAX_NAME_BYTES {
        return Err(CommandError::Name(what));
    }
    String::from_utf8(bytes.into_owned()).map_err(|_| CommandError::Name(what))
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn request(line: &str) -> AuthRequest {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Auth(request)) => *request,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn response(text: &str) -> Option<Response> {
        Some(Response(Zeroizing::new(text.as_bytes().to_vec())))
    }

    /// INTEGRATION: what each mail server was seen to send.
    #[test]
    fn the_requests_of_each_mail_server_are_read() {
        let postfix = request("AUTH\t1\tPLAIN\tservice=smtp\tnologin\tlip=127.0.0.1\trip=192.0.2.7\tsecured\tresp=AGE=");
        assert_eq!((postfix.service.as_str(), postfix.client_ip), ("smtp", Some([192, 0, 2, 7].into())));
        assert_eq!(postfix.initial, response("AGE="));
        let exim = request("AUTH\t7\tLOGIN\tservice=smtp\trip=::1\tlip=::1\tnologin\tresp=");
        assert_eq!((exim.id, exim.initial), (7, response("")));
        assert_eq!(request("AUTH\t1\tPLAIN\tservice=radicale").initial, None);
        let dovecot = request("AUTH\t9\tPLAIN\tservice=imap\tsecured=tls\tsession=a+b/c\trip=192.0.2.7\trport=4711\tresp=AA");
        assert_eq!(dovecot.session.as_deref(), Some("a+b/c"));
    }

    #[test]
    fn nothing_is_read_behind_the_response() {
        let request = request("AUTH\t1\tPLAIN\tservice=smtp\tresp=AA\trip=192.0.2.7\tservice=imap\tresp=BB");
        assert_eq!((request.service.as_str(), request.client_ip), ("smtp", None));
        assert_eq!(request.initial, response("AA"));
    }

    #[test]
    fn a_line_that_breaks_the_protocol_is_refused_with_what_is_wrong() {
        for (line, words) in [
            ("", "unknown command"),
            ("HELLO\t1", "unknown command"),
            ("VERSION", "VERSION: the major version"),
            ("VERSION\tone", "32 bits"),
            ("CPID\t-1", "32 bits"),
            ("CPID\t+1", "32 bits"),
            ("CPID\t4294967296", "32 bits"),
            ("AUTH", "AUTH: the id"),
            ("AUTH\t1", "the mechanism is missing"),
            ("AUTH\t1\tPLAIN", "service= is missing"),
            ("AUTH\t1\tPLAIN\tservice=", "service= is missing"),
            ("AUTH\t1\tPLAIN\tservice=sm\x01x", "escape"),
            ("CONT\tx\tAA", "CONT: the id"),
            ("CANCEL\t", "CANCEL: the id"),
        ] {
            let error = Command::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{line:?}: {error}");
        }
        let long = format!("AUTH\t1\tPLAIN\tservice={}", "x".repeat(256));
        assert!(Command::parse(long.as_bytes()).unwrap_err().to_string().contains("255 bytes"));
        assert!(Command::parse(b"AUTH\t1\tPLAIN\tservice=\xff").unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn no_command_shows_a_response() {
        let shown = format!("{:?}", request("AUTH\t1\tPLAIN\tservice=smtp\tresp=c2VjcmV0"));
        assert!(shown.contains("[redacted]") && !shown.contains("c2VjcmV0"));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(
            words in vec(prop_oneof![Just("AUTH"), Just("CONT"), Just("1"), Just("PLAIN"), Just("service=smtp"), Just("resp="), Just("rip=")], 0..8),
            rest in vec(any::<u8>(), 0..64),
        ) {
            let mut line = words.join("\t").into_bytes();
            line.extend(rest);
            if let Ok(Command::Auth(request)) = Command::parse(&line) {
                prop_assert!(!request.service.is_empty());
            }
        }
    }
}
