//! Lines of Dovecot's auth-master protocol, as far as a login's mail process speaks it: what each
//! side says, and what of it is passed on.

use std::net::IpAddr;

use crate::dovecot::line::{escape, fields, unescape};

/// Names the admission among the fields of a user: a passdb returns it as
/// `userdb_latchkey_session`.
const SESSION: &[u8] = b"latchkey_session";
const SERVICE: &[u8] = b"latchkey_service";
const CLIENT_IP: &[u8] = b"latchkey_rip";

/// A line that breaks the protocol, or that no mail process has to say. The connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a command that no mail process needs")]
    OtherCommand,
    #[error("a line lacks a field, or has a wrong one")]
    Field,
    #[error("another major version of the protocol")]
    Version,
}

/// What a mail process says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FromProcess {
    Version,
    Request(Request),
    Cancel(u32),
}

/// A login process has handed a client over: who is it?
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub id: u32,
    /// The process of the session, as it says itself.
    pub session_pid: Option<u32>,
    /// The line for Dovecot's authentication server. It compares `session_pid` with its own
    /// socket's peer, which is us, so that goes.
    pub forward: Vec<u8>,
}

/// What Dovecot's authentication server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FromServer {
    /// The user of a request, with its fields.
    User(User),
    /// `FAIL` or `NOTFOUND`.
    Refused(u32),
    /// Of the handshake, or nothing that concerns a request.
    Other,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct User {
    pub id: u32,
    /// `None`: not a login of ours, but of a master user, by OAuth, or of another passdb.
    pub session: Option<Session>,
    /// The line for the mail process: without our fields.
    pub forward: Vec<u8>,
}

/// What our passdb has sent along.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub admission: String,
    pub service: String,
    pub client_ip: Option<IpAddr>,
}

pub(super) fn from_process(line: &[u8]) -> Result<FromProcess, Malformed> {
    let mut parts = fields(line);
    match parts.next() {
        Some(b"VERSION") if parts.next() == Some(b"1") => Ok(FromProcess::Version),
        Some(b"VERSION") => Err(Malformed::Version),
        Some(b"REQUEST") => {
            let id = number(parts.next())?;
            // The login process, its request, and the cookie that proves it. The server checks
            // them.
            if parts.by_ref().take(3).filter(|field| !field.is_empty()).count() < 3 {
                return Err(Malformed::Field);
            }
            let mut session_pid = None;
            let mut forward: Vec<&[u8]> = fields(line).take(5).collect();
            for field in parts {
                match field.strip_prefix(b"session_pid=") {
                    Some(pid) if session_pid.is_none() => session_pid = Some(number(Some(pid))?),
                    Some(_) => return Err(Malformed::Field),
                    None => forward.push(field),
                }
            }
            Ok(FromProcess::Request(Request { id, session_pid, forward: forward.join(&b'\t') }))
        }
        Some(b"CANCEL") => Ok(FromProcess::Cancel(number(parts.next())?)),
        _ => Err(Malformed::OtherCommand),
    }
}

pub(super) fn from_server(line: &[u8]) -> Result<FromServer, Malformed> {
    let mut parts = fields(line);
    match parts.next() {
        Some(b"USER") => {
            let id = number(parts.next())?;
            if parts.next().is_none_or(<[u8]>::is_empty) {
                return Err(Malformed::Field);
            }
            let (mut admission, mut service, mut client_ip) = (None, None, None);
            let mut forward: Vec<&[u8]> = fields(line).take(3).collect();
            for field in parts {
                let at = field.iter().position(|byte| *byte == b'=').unwrap_or(field.len());
                let value = field.get(at + 1..).unwrap_or_default();
                match &field[..at] {
                    SESSION => admission = Some(text(value)?),
                    SERVICE => service = Some(text(value)?),
                    CLIENT_IP => client_ip = Some(text(value)?),
                    _ => forward.push(field),
                }
            }
            let session = match admission {
                None => None,
                Some(admission) => Some(Session {
                    admission,
                    service: service.ok_or(Malformed::Field)?,
                    client_ip: client_ip
                        .filter(|ip| !ip.is_empty())
                        .map(|ip| ip.parse())
                        .transpose()
                        .map_err(|_| Malformed::Field)?,
                }),
            };
            Ok(FromServer::User(User { id, session, forward: forward.join(&b'\t') }))
        }
        Some(b"FAIL" | b"NOTFOUND") => Ok(FromServer::Refused(number(parts.next())?)),
        Some(b"VERSION") if parts.next() != Some(b"1") => Err(Malformed::Version),
        _ => Ok(FromServer::Other),
    }
}

/// The answer to a request whose session may not begin: the mail client is told the text, as a
/// temporary failure.
pub(super) fn fail(id: u32, reason: &str) -> Vec<u8> {
    let mut line = format!("FAIL\t{id}\treason=").into_bytes();
    line.extend_from_slice(&escape(reason.as_bytes()));
    line
}

fn number(field: Option<&[u8]>) -> Result<u32, Malformed> {
    field.and_then(|field| std::str::from_utf8(field).ok()?.parse().ok()).ok_or(Malformed::Field)
}

fn text(field: &[u8]) -> Result<String, Malformed> {
    let plain = unescape(field).map_err(|_| Malformed::Field)?;
    String::from_utf8(plain.into_owned()).map_err(|_| Malformed::Field)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_request_goes_on_without_the_process_that_the_server_would_compare() {
        let line = b"REQUEST\t2875719681\t26296\t1\t9430e595bf6c\tsession_pid=26303\trequest_auth_token";
        let forward = b"REQUEST\t2875719681\t26296\t1\t9430e595bf6c\trequest_auth_token".to_vec();
        let request = Request { id: 2_875_719_681, session_pid: Some(26_303), forward };
        assert_eq!(from_process(line), Ok(FromProcess::Request(request)));
    }

    #[test]
    fn what_no_mail_process_needs_is_refused() {
        assert_eq!(from_process(b"VERSION\t1\t1"), Ok(FromProcess::Version));
        assert_eq!(from_process(b"CANCEL\t7"), Ok(FromProcess::Cancel(7)));
        for (line, why) in [
            (&b"VERSION\t2\t0"[..], Malformed::Version),
            (b"PASS\t1\talice@example.com\tservice=imap", Malformed::OtherCommand),
            (b"USER\t1\talice@example.com\tservice=imap", Malformed::OtherCommand),
            (b"LIST\t1", Malformed::OtherCommand),
            (b"", Malformed::OtherCommand),
            (b"REQUEST", Malformed::Field),
            (b"REQUEST\t-1\t2\t3\tabc", Malformed::Field),
            (b"REQUEST\t1\t2\t3", Malformed::Field),
            (b"REQUEST\t1\t2\t3\t", Malformed::Field),
            (b"REQUEST\t1\t2\t3\tabc\tsession_pid=x", Malformed::Field),
            (b"REQUEST\t1\t2\t3\tabc\tsession_pid=1\tsession_pid=2", Malformed::Field),
            (b"CANCEL\t", Malformed::Field),
        ] {
            assert_eq!(from_process(line), Err(why), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_users_fields_are_passed_on_without_ours() {
        let line = b"USER\t7\talice@example.com\tlatchkey_session=00.1.4c\tuid=8\tlatchkey_service=imap\t\
            latchkey_rip=2001:db8::1\thome=/srv/a\x01tb\tbare";
        let session = Session {
            admission: "00.1.4c".to_owned(),
            service: "imap".to_owned(),
            client_ip: Some("2001:db8::1".parse().unwrap()),
        };
        let forward = b"USER\t7\talice@example.com\tuid=8\thome=/srv/a\x01tb\tbare".to_vec();
        assert_eq!(from_server(line), Ok(FromServer::User(User { id: 7, session: Some(session), forward })));
    }

    #[test]
    fn a_user_of_another_passdb_is_passed_on_as_it_is() {
        let line = b"USER\t7\tbob@example.com\tuid=8\tmaster_user=root".to_vec();
        let user = User { id: 7, session: None, forward: line.clone() };
        assert_eq!(from_server(&line), Ok(FromServer::User(user)));
        assert_eq!(from_server(b"NOTFOUND\t7"), Ok(FromServer::Refused(7)));
        assert_eq!(from_server(b"FAIL\t7\treason=x"), Ok(FromServer::Refused(7)));
        assert_eq!(from_server(b"SPID\t7"), Ok(FromServer::Other));
        for line in [&b"USER\t7"[..], b"USER\t7\t", b"USER\t7\ta\tlatchkey_session=x", b"FAIL\tx", b"VERSION\t2\t0"] {
            assert!(from_server(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_refusal_is_one_line_of_three_fields() {
        assert_eq!(fail(7, "a\tb\nc"), b"FAIL\t7\treason=a\x01tb\x01nc");
    }

    proptest! {
        #[test]
        fn any_line_is_understood_or_refused_and_nothing_of_ours_is_passed_on(
            head in prop_oneof![
                Just(&b"REQUEST\t1\t2\t3\tabc"[..]), Just(&b"USER\t1\tu"[..]), Just(&b"FAIL"[..]), Just(&b""[..])
            ],
            fields in vec(prop_oneof![
                vec(any::<u8>().prop_filter("one line", |byte| *byte != b'\n'), 0..32),
                Just(b"session_pid=4".to_vec()),
                Just(b"latchkey_session=a.b.c".to_vec()),
                Just(b"latchkey_service=imap".to_vec()),
            ], 0..6),
        ) {
            let line = [vec![head.to_vec()], fields].concat().join(&b'\t');
            let has = |bytes: &[u8], name: &[u8]| super::fields(bytes).any(|field| field.starts_with(name));
            if let Ok(FromProcess::Request(request)) = from_process(&line) {
                prop_assert!(!has(&request.forward, b"session_pid="));
                prop_assert!(request.forward.len() <= line.len());
            }
            if let Ok(FromServer::User(user)) = from_server(&line) {
                prop_assert!(!has(&user.forward, b"latchkey_session="));
                prop_assert_eq!(user.session.is_some(), has(&line, b"latchkey_session="));
            }
        }
    }
}
