//! Floor 4: Postfix's policy protocol (SMTPD_POLICY_README), by which Postfix asks whether the
//! login of an SMTP session is still good; Exim asks in the same words (deploy/exim).
//!
//! | the session | answer |
//! | --- | --- |
//! | has no login | `DUNNO`: nothing to say |
//! | its login is good | `DUNNO` |
//! | its password has ended | `421 4.7.0 …`: the server says so and disconnects |
//! | its login is not known here: the agent was restarted, or another client is served | `421 4.3.0 …`: the client comes back and logs in anew |
//! | its login cannot be judged | `421 4.3.0 …` |
//!
//! A request that is none (too long, malformed, half a one for [`REQUEST_TIMEOUT`], of another
//! kind) ends the connection: the server then takes its own default, which is to say "try later".

pub mod question;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use self::question::{Question, QuestionError};
use crate::{
    authority::Host,
    dovecot::line::{LineTooLong, Lines},
    lifecycle::Drain,
    smtp_logins::{self, Finding, SmtpLogins},
    sockets::{Listener, PeerProcess, Stream},
};

/// Connections at a time, at one socket.
const MAX_CONNECTIONS: usize = 4_096;
/// From a request's first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For the server to take an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 4 << 10;

/// What the server does: its access(5) actions.
const NOTHING: &str = "DUNNO";
const REVOKED: &str = "421 4.7.0 Your password was revoked";
const UNKNOWN: &str = "421 4.3.0 Please log in again";
const NO_ANSWER: &str = "421 4.3.0 Your login cannot be checked now, please try again later";

/// What was answered, for the gauges.
#[derive(Debug, Default)]
pub struct Counts {
    pub good: AtomicU64,
    pub ended: AtomicU64,
    pub unknown: AtomicU64,
    pub no_answer: AtomicU64,
}

/// Serves until the process drains; never returns.
pub async fn run(listener: Listener, logins: Arc<SmtpLogins>, counts: Arc<Counts>, host: Host) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = host.drain.started() => break,
            place = Arc::clone(&places).acquire_owned() => match place {
                Ok(place) => (place, listener.accept().await),
                // It is never closed.
                Err(_) => break,
            },
        };
        let (place, (stream, peer)) = accepted;
        let (logins, counts, drain) = (Arc::clone(&logins), Arc::clone(&counts), host.drain.clone());
        host.connections.spawn(async move {
            match serve(stream, peer, &logins, &counts, &drain).await {
                Ok(()) => (),
                Err(End::Socket(cause)) => debug!(%cause, "a policy connection ends"),
                Err(end) => warn!(%end, "a policy connection ends"),
            }
            drop(place);
        });
    }
    drop(listener);
    std::future::pending().await
}

#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Line(#[from] LineTooLong),
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error("a request did not come to its end in time")]
    Half,
    #[error("the mail server does not read")]
    SlowReader,
    #[error(transparent)]
    Socket(#[from] std::io::Error),
}

async fn serve(
    mut stream: Stream,
    peer: Option<PeerProcess>,
    logins: &SmtpLogins,
    counts: &Counts,
    drain: &Drain,
) -> Result<(), End> {
    let mut lines = Lines::default();
    let mut question = Question::default();
    let mut since: Option<Instant> = None;
    let mut bytes = [0; READ_BYTES];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut bytes) => read?,
            // The mail server asks anew on another connection.
            () = drain.started() => return Ok(()),
            () = sleep_until(since.unwrap_or_else(Instant::now) + REQUEST_TIMEOUT), if since.is_some() => return Err(End::Half),
        };
        if read == 0 {
            return Ok(());
        }
        lines.push(&bytes[..read]);
        while let Some(line) = lines.next_line()? {
            if question.take(line)? {
                let asked = std::mem::take(&mut question);
                let action = answer(&asked, peer, logins, counts).await;
                let text = format!("action={action}\n\n");
                timeout(WRITE_TIMEOUT, stream.write_all(text.as_bytes())).await.map_err(|_| End::SlowReader)??;
            }
        }
        let is_half = question.has_begun() || lines.has_half_a_line();
        since = is_half.then(|| since.unwrap_or_else(Instant::now));
    }
}

async fn answer(question: &Question, peer: Option<PeerProcess>, logins: &SmtpLogins, counts: &Counts) -> &'static str {
    if question.sasl_username.is_empty() {
        return NOTHING;
    }
    let finding = match peer {
        Some(peer) => {
            let asked = smtp_logins::Question {
                pid: peer.pid,
                user: &question.sasl_username,
                client_ip: question.client_ip,
                client_port: question.client_port,
            };
            logins.judge(&asked).await
        }
        None => Finding::Unknown,
    };
    let (count, action) = match finding {
        Finding::Good => (&counts.good, NOTHING),
        Finding::Ended(_) => (&counts.ended, REVOKED),
        Finding::Unknown => (&counts.unknown, UNKNOWN),
        Finding::NoAnswer => (&counts.no_answer, NO_ANSWER),
    };
    count.fetch_add(1, Relaxed);
    if finding != Finding::Good {
        let client_ip = question.client_ip.map(tracing::field::display);
        let pid = peer.map(|peer| peer.pid);
        info!(
            user = question.sasl_username,
            client_ip,
            pid,
            state = question.protocol_state,
            ?finding,
            "an SMTP session is ended"
        );
    }
    action
}
