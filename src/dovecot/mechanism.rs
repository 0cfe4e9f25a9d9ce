//! The SASL mechanisms that a mail program's password can be asked by: PLAIN (RFC 4616) and LOGIN,
//! which Outlook needs for SMTP. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::command::Response;
use latchkey_core::model::secret::Secret;

/// A user name has at most so many bytes. An address has fewer.
const MAX_USER_BYTES: usize = 512;
/// As `Authenticate` takes them.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// A login under way on one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The client is to answer this, in base64 already.
    Ask(Exchange, &'static str),
    Credentials(Credentials),
    Refuse(Refusal),
}

/// What the client wants to log in with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    pub user: String,
    pub password: Secret,
}

/// Why no password can be judged. That is the client's fault and stays so, hence it is a denial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("an unknown mechanism")]
    Mechanism,
    #[error("not base64")]
    Base64,
    #[error("a malformed response")]
    Malformed,
    #[error("one user may not log in as another")]
    AnotherUser,
    #[error("a user name must be 1 to {MAX_USER_BYTES} bytes of UTF-8")]
    User,
    #[error("a password must be 1 to {MAX_PASSWORD_BYTES} bytes")]
    Password,
}

/// Base64 of what LOGIN asks.
const USERNAME: &str = "VXNlcm5hbWU6";
const PASSWORD: &str = "UGFzc3dvcmQ6";

impl Exchange {
    /// Begins with the response that came with the request, if one did. An empty one is none:
    /// neither mechanism could begin with it, and Exim sends it whenever its client has sent
    /// nothing.
    pub fn begin(mechanism: &str, initial: Option<Response>) -> Step {
        let (exchange, question) = if mechanism.eq_ignore_ascii_case("PLAIN") {
            (Self::Plain, "")
        } else if mechanism.eq_ignore_ascii_case("LOGIN") {
            (Self::LoginUser, USERNAME)
        } else {
            return Step::Refuse(Refusal::Mechanism);
        };
        match initial.filter(|response| !response.0.is_empty()) {
            Some(response) => exchange.answered(&response),
            None => Step::Ask(exchange, question),
        }
    }

    /// Goes on with the client's answer.
    pub fn answered(self, response: &Response) -> Step {
        let Ok(plain) = STANDARD.decode(response.0.as_slice()).map(Zeroizing::new) else {
            return Step::Refuse(Refusal::Base64);
        };
        let outcome = match self {
            Self::Plain => plain_credentials(&plain).map(Step::Credentials),
            Self::LoginUser => user(&plain).map(|user| Step::Ask(Self::LoginPassword { user }, PASSWORD)),
            Self::LoginPassword { user } => password(&plain).map(|password| Step::Credentials(Credentials { user, password })),
        };
        outcome.unwrap_or_else(Step::Refuse)
    }
}

fn plain_credentials(message: &[u8]) -> Result<Credentials, Refusal> {
    let mut parts = message.split(|byte| *byte == 0);
    let (Some(acts_as), Some(name), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Malformed);
    };
    if !acts_as.is_empty() && acts_as != name {
        return Err(Refusal::AnotherUser);
    }
    Ok(Credentials { user: user(name)?, password: password(secret)? })
}

fn user(bytes: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| (1..=MAX_USER_BYTES).contains(&text.len()));
    text.map(str::to_owned).ok_or(Refusal::User)
}

fn password(bytes: &[u8]) -> Result<Secret, Refusal> {
    if (1..=MAX_PASSWORD_BYTES).contains(&bytes.len()) { Ok(Secret::new(bytes.to_vec())) } else { Err(Refusal::Password) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn response(plain: &[u8]) -> Response {
        Response(Zeroizing::new(STANDARD.encode(plain).into_bytes()))
    }

    fn credentials(user: &str, password: &[u8]) -> Step {
        Step::Credentials(Credentials { user: user.to_owned(), password: Secret::new(password.to_vec()) })
    }

    #[test]
    fn plain_takes_the_first_response_or_asks_for_it() {
        let message = response(b"\0alice@example.com\0secret");
        assert_eq!(Exchange::begin("PLAIN", Some(message.clone())), credentials("alice@example.com", b"secret"));
        assert_eq!(Exchange::begin("PLAIN", Some(response(b""))), Exchange::begin("PLAIN", None), "as Exim has it");
        let Step::Ask(exchange, question) = Exchange::begin("plain", None) else { panic!("it asks") };
        assert_eq!(question, "");
        assert_eq!(exchange.answered(&message), credentials("alice@example.com", b"secret"));
    }

    #[test]
    fn login_asks_for_the_user_and_then_for_the_password() {
        let Step::Ask(exchange, question) = Exchange::begin("LOGIN", None) else { panic!("it asks") };
        assert_eq!(STANDARD.decode(question).unwrap(), b"Username:");
        let asked = exchange.answered(&response(b"alice@example.com"));
        assert_eq!(asked, Exchange::begin("LOGIN", Some(response(b"alice@example.com"))), "an initial response is the user");
        let Step::Ask(exchange, question) = asked else { panic!("it asks") };
        assert_eq!(STANDARD.decode(question).unwrap(), b"Password:");
        assert_eq!(exchange.answered(&response(b"se\0cret")), credentials("alice@example.com", b"se\0cret"));
    }

    #[test]
    fn what_names_no_user_and_password_is_refused() {
        let long = [b"\0a\0", &[b'x'; MAX_PASSWORD_BYTES + 1][..]].concat();
        for (message, refusal) in [
            (&b"alice"[..], Refusal::Malformed),
            (b"\0alice", Refusal::Malformed),
            (b"\0alice\0secret\0more", Refusal::Malformed),
            (b"bob\0alice\0secret", Refusal::AnotherUser),
            (b"\0\0secret", Refusal::User),
            (b"\0\xff\0secret", Refusal::User),
            (b"\0alice\0", Refusal::Password),
            (&long, Refusal::Password),
        ] {
            assert_eq!(Exchange::begin("PLAIN", Some(response(message))), Step::Refuse(refusal), "{message:?}");
        }
        assert_eq!(Exchange::begin("PLAIN", Some(response(b"a\0a\0b"))), credentials("a", b"b"));
        assert_eq!(Exchange::begin("CRAM-MD5", None), Step::Refuse(Refusal::Mechanism));
        for rubbish in [&b"*"[..], b"AGEA", b"A", b"AA=A", b"\xff\xff"] {
            let step = Exchange::LoginUser.answered(&Response(Zeroizing::new(rubbish.to_vec())));
            assert!(matches!(step, Step::Refuse(_) | Step::Ask(..)), "{rubbish:?}");
        }
        let not_base64 = Response(Zeroizing::new(b"no base64!".to_vec()));
        assert_eq!(Exchange::Plain.answered(&not_base64), Step::Refuse(Refusal::Base64));
    }

    proptest! {
        #[test]
        fn plain_takes_apart_what_was_put_together(user in "[^\0]{1,40}", secret in vec(1_u8.., 1..40)) {
            let message = [b"\0", user.as_bytes(), b"\0", &secret].concat();
            prop_assert_eq!(Exchange::begin("PLAIN", Some(response(&message))), credentials(&user, &secret));
        }

        #[test]
        fn any_bytes_are_a_step_of_each_exchange(bytes in vec(any::<u8>(), 0..64)) {
            for exchange in [Exchange::Plain, Exchange::LoginUser, Exchange::LoginPassword { user: "a".to_owned() }] {
                let _ = exchange.clone().answered(&Response(Zeroizing::new(bytes.clone())));
                let _ = exchange.answered(&response(&bytes));
            }
        }
    }
}
