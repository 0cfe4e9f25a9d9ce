//! What the measurement says: seconds from the revoking command's end, and whether the password was
//! revoked.

use std::io::{self, Write};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    hold::How,
    measure::{Measured, Tried},
    protocol::Login,
    target::Server,
};
use crate::{cli::terminal::printable, exit::Exit};

/// What the server did with the password, all in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Logins are denied, and the session has ended.
    Revoked,
    /// The last login that was answered was let in.
    StillAccepted,
    /// Logins are denied, and the session goes on.
    SessionOpen,
    /// No login after the revocation got a yes or a no.
    Unknown,
}

/// The figures, in seconds from the end of the revoking command.
#[derive(Debug)]
pub(super) struct Report<'m> {
    measured: &'m Measured,
    last_accepted: Option<&'m Tried>,
    /// The first one that was denied after the last one that was let in.
    first_denied: Option<&'m Tried>,
    /// Of the logins that began after the revocation.
    accepted: usize,
    denied: usize,
    unanswered: usize,
    last_unanswered: Option<&'m str>,
    pub(super) verdict: Verdict,
}

impl<'m> Report<'m> {
    pub(super) fn of(measured: &'m Measured) -> Self {
        let mut logins: Vec<_> = measured.logins.iter().collect();
        logins.sort_by_key(|tried| tried.begun);
        let last_accepted = logins.iter().copied().rfind(|tried| tried.login == Login::Accepted);
        let denied_after = |tried: &&&Tried| {
            matches!(tried.login, Login::Denied(_)) && last_accepted.is_none_or(|accepted| tried.begun > accepted.begun)
        };
        let first_denied = logins.iter().find(denied_after).copied();
        let after: Vec<_> = logins.iter().filter(|tried| tried.begun >= measured.revoked).collect();
        let accepted = after.iter().filter(|tried| tried.login == Login::Accepted).count();
        let denied = after.iter().filter(|tried| matches!(tried.login, Login::Denied(_))).count();
        let last_unanswered = after.iter().rev().find_map(|tried| match &tried.login {
            Login::Unanswered(words) => Some(words.as_str()),
            Login::Accepted | Login::Denied(_) => None,
        });
        let verdict = if accepted + denied == 0 {
            Verdict::Unknown
        } else if first_denied.is_none() {
            Verdict::StillAccepted
        } else if measured.session.is_none() {
            Verdict::SessionOpen
        } else {
            Verdict::Revoked
        };
        Self {
            measured,
            last_accepted,
            first_denied,
            accepted,
            denied,
            unanswered: after.len() - accepted - denied,
            last_unanswered,
            verdict,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Revoked => Exit::Done,
            Verdict::StillAccepted | Verdict::SessionOpen => Exit::Refused,
            Verdict::Unknown => Exit::NoAnswer,
        }
    }

    pub(super) fn write_json(&self, out: &mut dyn Write, server: &Server, user: &str) -> io::Result<()> {
        let time = |tried: &Tried| json!({ "begun_seconds": self.seconds(tried.begun), "answered_seconds": self.seconds(tried.answered) });
        let session = self.measured.session.as_ref().map(|end| {
            let how = match end.how {
                How::Closed => "closed",
                How::Refused => "refused",
            };
            json!({ "ended_seconds": self.seconds(end.at), "how": how, "words": end.words })
        });
        let report: Value = json!({
            "server": server.to_string(),
            "user": user,
            "held_by": self.measured.way,
            "verdict": match self.verdict {
                Verdict::Revoked => "revoked",
                Verdict::StillAccepted => "still_accepted",
                Verdict::SessionOpen => "session_open",
                Verdict::Unknown => "unknown",
            },
            "command_seconds": -self.seconds(self.measured.command_began),
            "last_accepted": self.last_accepted.map(time),
            "first_denied": self.first_denied.map(time),
            "session_ended": session,
            "logins_after": { "accepted": self.accepted, "denied": self.denied, "unanswered": self.unanswered },
            "is_cut_short": self.measured.is_cut_short,
        });
        writeln!(out, "{report}")
    }

    pub(super) fn write_words(&self, out: &mut dyn Write, server: &Server, user: &str) -> io::Result<()> {
        writeln!(out, "{server} as {}, a session held by {}", printable(user), self.measured.way)?;
        writeln!(
            out,
            "The revoking command took {:.3} s. Times count from its end.",
            -self.seconds(self.measured.command_began)
        )?;
        writeln!(out)?;
        for (what, tried) in [("Last login accepted", self.last_accepted), ("First login denied", self.first_denied)] {
            match tried {
                Some(tried) => {
                    let (begun, answered) = (self.seconds(tried.begun), self.seconds(tried.answered));
                    writeln!(out, "  {what:<20} sent at {begun:.3} s, answered at {answered:.3} s")?;
                }
                None => writeln!(out, "  {what:<20} none")?,
            }
        }
        match &self.measured.session {
            Some(end) => {
                let how = match end.how {
                    How::Closed => "closed",
                    How::Refused => "refused",
                };
                writeln!(out, "  {:<20} {how} at {:.3} s: {}", "Held session", self.seconds(end.at), printable(&end.words))?;
            }
            None => writeln!(out, "  {:<20} still open", "Held session")?,
        }
        let Self { accepted, denied, unanswered, .. } = self;
        writeln!(out, "  {:<20} {accepted} accepted, {denied} denied, {unanswered} without an answer", "Logins afterwards")?;
        if let Some(words) = self.last_unanswered {
            writeln!(out, "  {:<20} {}", "Last without answer", printable(words))?;
        }
        writeln!(out)?;
        let limit = if self.measured.is_cut_short { " It ended early: --max-logins were tried." } else { "" };
        writeln!(
            out,
            "{}{limit}",
            match self.verdict {
                Verdict::Revoked => "Revoked: logins are denied, and the session has ended.",
                Verdict::StillAccepted => "NOT REVOKED: the password was still accepted at the end.",
                Verdict::SessionOpen => "NOT REVOKED: logins are denied, but the session was still open at the end.",
                Verdict::Unknown => "UNKNOWN: no login after the revocation got a yes or a no.",
            }
        )
    }

    /// From the end of the command; negative before it. In whole microseconds.
    fn seconds(&self, at: Instant) -> f64 {
        let revoked = self.measured.revoked;
        let seconds =
            at.checked_duration_since(revoked).map_or_else(|| -(revoked - at).as_secs_f64(), |after| after.as_secs_f64());
        (seconds * 1e6).round() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::probe::hold::End;

    fn measured(logins: &[(i64, &str)], session: Option<u64>) -> Measured {
        let began = Instant::now();
        let revoked = began + Duration::from_secs(100);
        let at = |millis: i64| began + Duration::from_millis((100_000 + millis).unsigned_abs());
        let logins = logins.iter().map(|(millis, answer)| Tried {
            begun: at(*millis),
            answered: at(millis + 10),
            login: match *answer {
                "yes" => Login::Accepted,
                "no" => Login::Denied("NO".to_owned()),
                _ => Login::Unanswered("later".to_owned()),
            },
        });
        let session = session.map(|millis| End { at: at(millis.cast_signed()), how: How::Closed, words: "* BYE".to_owned() });
        Measured { way: "IDLE", command_began: began, revoked, logins: logins.collect(), session, is_cut_short: false }
    }

    fn verdict(logins: &[(i64, &str)], session: Option<u64>) -> Verdict {
        Report::of(&measured(logins, session)).verdict
    }

    #[test]
    fn a_password_is_revoked_once_logins_are_denied_and_the_session_has_ended() {
        let logins = [(-50, "yes"), (50, "yes"), (100, "no"), (150, "later")];
        assert_eq!(verdict(&logins, Some(5)), Verdict::Revoked);
        assert_eq!(verdict(&logins, None), Verdict::SessionOpen);
        assert_eq!(verdict(&[(-50, "yes"), (50, "no"), (100, "yes")], Some(5)), Verdict::StillAccepted);
        assert_eq!(verdict(&[(-50, "yes"), (50, "later")], Some(5)), Verdict::Unknown);
        // Denied before the command had ended: it revoked before it returned.
        assert_eq!(verdict(&[(-50, "yes"), (-10, "no"), (20, "no")], Some(0)), Verdict::Revoked);
    }

    #[test]
    fn times_count_from_the_end_of_the_command_and_may_be_negative() {
        let measured = measured(&[(-50, "yes"), (100, "no")], Some(5));
        let report = Report::of(&measured);
        let mut out = Vec::new();
        report.write_json(&mut out, &Server::parse("imaps://mail.example.com").unwrap(), "alice").unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["last_accepted"], json!({ "begun_seconds": -0.05, "answered_seconds": -0.04 }));
        assert_eq!(json["session_ended"]["ended_seconds"], json!(0.005));
        assert_eq!((&json["command_seconds"], &json["server"]), (&json!(100.0), &json!("imaps://mail.example.com:993")));
    }
}
