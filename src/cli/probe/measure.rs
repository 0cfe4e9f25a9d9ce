//! The measurement: logins one after the other, while a session is held and a command revokes the
//! password.

use std::{
    ffi::OsString,
    io,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    hold::{End, Held},
    protocol::{self, Credentials, Login},
    target::Target,
};
use crate::cli::failure::Failure;

/// Logins under way at a time: a server may take seconds to deny one.
const LOGINS_AT_ONCE: usize = 8;
/// For the good-bye after a login.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to measure.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// From one login's beginning to the next one's.
    pub(super) every: Duration,
    /// From the command's end on.
    pub(super) limit: Duration,
    /// It ends earlier once the session has ended and no login was accepted for so long.
    pub(super) settle: Duration,
    /// For one login, from the connection to the answer.
    pub(super) timeout: Duration,
    pub(super) max_logins: usize,
    pub(super) command: Vec<OsString>,
    pub(super) command_timeout: Duration,
}

/// A login that was tried.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    /// Just before the password was sent.
    pub(super) begun: Instant,
    pub(super) answered: Instant,
    pub(super) login: Login,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Measured {
    /// What kept the session busy.
    pub(super) way: &'static str,
    pub(super) command_began: Instant,
    pub(super) revoked: Instant,
    /// In the order in which they were answered.
    pub(super) logins: Vec<Tried>,
    pub(super) session: Option<End>,
    /// It ended because `max_logins` were tried.
    pub(super) is_cut_short: bool,
}

pub(super) async fn measure(target: &Target, credentials: &Credentials, plan: &Plan) -> Result<Measured, Failure> {
    let held = hold(target, credentials, plan).await?;
    let way = held.way();
    let mut session = JoinSet::new();
    session.spawn(held.until_end(plan.every));
    let mut logins = JoinSet::new();
    let mut seen = Measured {
        way,
        command_began: Instant::now(),
        revoked: Instant::now(),
        logins: Vec::new(),
        session: None,
        is_cut_short: false,
    };
    // One login before, so that a server with a cache has the password in it.
    seen.logins.push(try_login(target, credentials, plan.timeout).await);
    seen.command_began = Instant::now();
    let mut command = std::pin::pin!(run_command(plan));
    let mut revoked: Option<Instant> = None;
    let mut ticks = interval(plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut started = 1;
    while !seen.is_settled(revoked, plan) {
        let limit = revoked.map_or_else(|| Instant::now() + plan.command_timeout, |revoked| revoked + plan.limit);
        tokio::select! {
            ended = command.as_mut(), if revoked.is_none() => revoked = Some(ended?),
            Some(Ok(end)) = session.join_next() => seen.session = Some(end),
            Some(Ok(tried)) = logins.join_next() => seen.logins.push(tried),
            _ = ticks.tick(), if logins.len() < LOGINS_AT_ONCE => {
                if started == plan.max_logins {
                    seen.is_cut_short = true;
                    break;
                }
                started += 1;
                let (target, credentials, timeout) = (target.clone(), credentials.clone(), plan.timeout);
                logins.spawn(async move { try_login(&target, &credentials, timeout).await });
            }
            () = sleep_until(limit), if revoked.is_some() => break,
        }
    }
    // Whether the last ones are let in matters most.
    while let Some(tried) = logins.join_next().await {
        seen.logins.extend(tried.ok());
    }
    seen.revoked = match revoked {
        Some(revoked) => revoked,
        None => command.await?,
    };
    Ok(seen)
}

impl Measured {
    /// Whether nothing more is to be expected.
    fn is_settled(&self, revoked: Option<Instant>, plan: &Plan) -> bool {
        let Some(revoked) = revoked else { return false };
        let accepted = self.logins.iter().filter(|tried| tried.login == Login::Accepted).map(|tried| tried.answered).max();
        let quiet_since = accepted.map_or(revoked, |accepted| accepted.max(revoked));
        self.session.is_some()
            && quiet_since.elapsed() >= plan.settle
            && self.logins.iter().any(|tried| tried.begun >= quiet_since && matches!(tried.login, Login::Denied(_)))
    }
}

/// Opens the session. If that can't be done there is nothing to measure.
async fn hold(target: &Target, credentials: &Credentials, plan: &Plan) -> Result<Held, Failure> {
    let server = &target.server;
    match timeout(plan.timeout, Held::begin(target, credentials)).await {
        Ok(Ok(Ok(held))) => Ok(held),
        Ok(Ok(Err(Login::Denied(words)))) => {
            Err(Failure::refused(format!("{server} denies this password before anything was revoked: {words}")))
        }
        Ok(Ok(Err(Login::Unanswered(words)))) => Err(Failure::no_answer(format!("{server} does not answer a login: {words}"))),
        Ok(Ok(Err(Login::Accepted))) => Err(Failure::no_answer(format!("{server}: the session is not open"))),
        Ok(Err(trouble)) => Err(Failure::no_answer(format!("{server}: {trouble}"))),
        Err(_) => Err(Failure::no_answer(format!("{server}: no session within the time that --timeout gives"))),
    }
}

/// One login on a connection of its own.
async fn try_login(target: &Target, credentials: &Credentials, limit: Duration) -> Tried {
    let mut begun = Instant::now();
    let mut opened = None;
    let outcome = timeout(limit, async {
        let opened = opened.insert(protocol::open(target).await?);
        begun = Instant::now();
        protocol::log_in(target, opened, credentials).await
    });
    let login = match outcome.await {
        Ok(Ok(login)) => login,
        Ok(Err(trouble)) => Login::Unanswered(trouble.to_string()),
        Err(_) => Login::Unanswered(super::conversation::Trouble::TimedOut.to_string()),
    };
    let answered = Instant::now();
    if let Some(mut opened) = opened {
        // A session that is left open counts at the server.
        let _ = timeout(LEAVE_TIMEOUT, protocol::leave(target, &mut opened)).await;
    }
    Tried { begun, answered, login }
}

/// Runs the revoking command; the moment at which it ended. What it prints goes to our standard
/// error.
async fn run_command(plan: &Plan) -> Result<Instant, Failure> {
    let Some((program, arguments)) = plan.command.split_first() else {
        return Err(Failure::usage("the command that revokes is missing: put it after --"));
    };
    let named = program.to_string_lossy();
    let ended = wait_for(program, arguments, plan.command_timeout).await;
    match ended {
        Ok(Some((status, at))) if status.success() => Ok(at),
        Ok(Some((status, _))) => Err(Failure::no_answer(format!("the revoking command `{named}` failed: {status}"))),
        Ok(None) => Err(Failure::no_answer(format!("the revoking command `{named}` did not end within --command-timeout"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::usage(format!("the revoking command `{named}` is not there: {error}")))
        }
        Err(error) => Err(Failure::no_answer(format!("the revoking command `{named}` can't be run: {error}"))),
    }
}

/// `None`: it took too long, and was killed.
async fn wait_for(program: &OsString, arguments: &[OsString], limit: Duration) -> io::Result<Option<(ExitStatus, Instant)>> {
    let mut command = Command::new(program);
    // The probe's password is no business of the command's.
    command.args(arguments).env_remove(super::dialog::PASSWORD_VARIABLE).stdin(Stdio::null()).stdout(io::stderr());
    let mut child = command.spawn()?;
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut ended = tokio::task::spawn_blocking(move || (child.wait(), Instant::now()));
    let is_late = match timeout(limit, &mut ended).await {
        Ok(outcome) => {
            let (status, at) = outcome?;
            return status.map(|status| Some((status, at)));
        }
        Err(_) => pidfd_send_signal(&process, Signal::KILL).is_ok(),
    };
    let (status, at) = ended.await?;
    // It may have ended by itself just now.
    status.map(|status| (!is_late).then_some((status, at)))
}
