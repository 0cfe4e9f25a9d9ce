//! Floor 3: the SMTP sessions of this host. Postfix and Exim cannot be told to end a session, but
//! they ask: before each recipient, and at the end of a message. Which login such a question is
//! about is known by the process that asks, since one process serves one SMTP client at a time and
//! the kernel says who is at the other end of a socket.
//!
//! A session lasts from its login until the process ends or another login comes on it. A process
//! that serves several clients in turn says nothing of a client that leaves, so a session may be
//! over for longer than we know.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hashbrown::HashMap;
use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::AbortHandle,
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    authority::{Admission, Authority, SessionNumber, Standing, TooManySessions},
    closing::Closers,
    sockets::PeerProcess,
};
use latchkey_core::model::{
    clock::SharedClock,
    verdict::{Attempt, Reason},
};

/// For judging a login a second time. Postfix waits for its policy server, and its client for
/// Postfix.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A process that asks, held so that its id is not mistaken for a later process's.
pub struct Process {
    pid: i32,
    /// Readable once the process has ended.
    end: AsyncFd<OwnedFd>,
}

impl Process {
    /// Of the peer of a connection that is still open.
    pub fn hold(peer: PeerProcess) -> std::io::Result<Self> {
        let pid = Pid::from_raw(peer.pid).ok_or(std::io::ErrorKind::InvalidInput)?;
        #[expect(deprecated, reason = "what replaces it is unsafe; an OwnedFd keeps its descriptor open, which is all it asks")]
        let end = AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)?;
        Ok(Self { pid: peer.pid, end })
    }
}

/// No session begins: the client is told to try later, and meets the reason then if there still is
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotOpened {
    #[error(transparent)]
    TooMany(#[from] TooManySessions),
    #[error("its password has ended since it was judged ({})", .0.label())]
    Ended(Reason),
}

/// A question about an SMTP session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question<'q> {
    /// Of the process that asks, as the kernel says.
    pub pid: i32,
    /// Whom the mail server takes its client for.
    pub user: &'q str,
    pub client_ip: Option<IpAddr>,
    /// `None` if the mail server does not know it.
    pub client_port: Option<u16>,
}

/// What a question comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    Good,
    Ended(Reason),
    /// No login of this process fits: the agent was restarted, or another client is served now.
    Unknown,
    /// Nobody can judge it now.
    NoAnswer,
}

/// See the module.
pub struct SmtpLogins {
    authority: Arc<dyn Authority>,
    closers: Arc<Closers>,
    clock: SharedClock,
    by_pid: Mutex<HashMap<i32, Login>>,
    /// Sessions whose next question is refused from now on, for the authority to learn.
    refusals: mpsc::UnboundedSender<SessionNumber>,
}

struct Login {
    number: SessionNumber,
    admission: Admission,
    user: Box<str>,
    client_ip: Option<IpAddr>,
    /// Of the first question. The login itself does not say it.
    client_port: Option<u16>,
    ended: Option<Reason>,
    /// Waits for the process's end.
    watch: Option<AbortHandle>,
}

impl SmtpLogins {
    pub fn new(
        authority: Arc<dyn Authority>,
        closers: Arc<Closers>,
        clock: SharedClock,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        // Bounded by the sessions: each is refused once.
        let (refusals, mut to_report) = mpsc::unbounded_channel();
        let logins = Arc::new(Self { authority: Arc::clone(&authority), closers, clock, by_pid: Mutex::default(), refusals });
        let report = async move {
            while let Some(number) = to_report.recv().await {
                authority.refused(number);
            }
        };
        (logins, report)
    }

    /// A login of this process was allowed; what it had before is over.
    pub fn admitted(self: &Arc<Self>, process: &Arc<Process>, admission: &Admission, attempt: &Attempt) -> Result<(), NotOpened> {
        self.forget(process.pid, None);
        let number = self.authority.opened(admission, attempt.protocol, attempt.client_ip, self.clock.wall())?;
        let login = Login {
            number,
            admission: admission.clone(),
            user: attempt.address.as_str().into(),
            client_ip: attempt.client_ip.map(|address| address.to_canonical()),
            client_port: None,
            ended: None,
            watch: None,
        };
        // The process serves its client only after our answer, so nothing asks before this.
        if let Some(before) = self.lock().insert(process.pid, login) {
            self.end(&before);
        }
        let (held, logins) = (Arc::clone(process), Arc::downgrade(self));
        let watch = tokio::spawn(async move {
            // An error is as good as the end: the process cannot be waited for.
            let _ = held.end.readable().await;
            if let Some(logins) = logins.upgrade() {
                logins.forget(held.pid, Some(number));
            }
        });
        let (logins, pid): (Weak<Self>, i32) = (Arc::downgrade(self), process.pid);
        self.closers.on_close(
            number,
            Box::new(move |reason| {
                if let Some(logins) = logins.upgrade() {
                    logins.refuse(pid, number, reason);
                }
            }),
        );
        let mut by_pid = self.lock();
        let Some(login) = by_pid.get_mut(&pid).filter(|login| login.number == number) else {
            // The process has ended already, and nobody waits for the answer.
            return Ok(());
        };
        login.watch = Some(watch.abort_handle());
        login.ended.map_or(Ok(()), |reason| Err(NotOpened::Ended(reason)))
    }

    /// Whether the login that a process has now is still good.
    pub async fn judge(&self, question: &Question<'_>) -> Finding {
        let (number, admission) = match self.find(question) {
            Ok(found) => found,
            Err(finding) => return finding,
        };
        let standing = match timeout(JUDGE_TIMEOUT, self.authority.judge(&admission)).await {
            Ok(Ok(standing)) => standing,
            Ok(Err(cause)) => {
                warn!(user = question.user, %cause, "a session cannot be judged: its client is told to try later");
                return Finding::NoAnswer;
            }
            Err(_) => {
                warn!(user = question.user, "a session was not judged in time: its client is told to try later");
                return Finding::NoAnswer;
            }
        };
        match standing {
            Standing::Ended(reason) => {
                self.refuse(question.pid, number, reason);
                Finding::Ended(reason)
            }
            // A change may have come in while it was judged.
            Standing::Valid => match self.find(question) {
                Ok((still, _)) if still == number => Finding::Good,
                Ok(_) => Finding::Unknown,
                Err(finding) => finding,
            },
        }
    }

    /// How many sessions are open, as far as is known.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, question: &Question<'_>) -> Result<(SessionNumber, Admission), Finding> {
        let mut by_pid = self.lock();
        let login = by_pid.get_mut(&question.pid).ok_or(Finding::Unknown)?;
        let is_its_client = *login.user == *question.user
            && login.client_ip == question.client_ip.map(|address| address.to_canonical())
            && (login.client_port.is_none() || login.client_port == question.client_port);
        if !is_its_client {
            return Err(Finding::Unknown);
        }
        login.client_port = question.client_port;
        match login.ended {
            Some(reason) => Err(Finding::Ended(reason)),
            None => Ok((login.number, login.admission.clone())),
        }
    }

    /// From here on its questions are answered with the reason. Said to the authority once.
    fn refuse(&self, pid: i32, number: SessionNumber, reason: Reason) {
        let mut by_pid = self.lock();
        let Some(login) = by_pid.get_mut(&pid).filter(|login| login.number == number) else { return };
        if login.ended.is_none() {
            login.ended = Some(reason);
            debug!(pid, user = &*login.user, reason = reason.label(), "the session is refused from its next command on");
            // It is read until the process ends.
            let _ = self.refusals.send(number);
        }
    }

    /// Ends the session of a process, or only the one of this number.
    fn forget(&self, pid: i32, only: Option<SessionNumber>) {
        let gone = {
            let mut by_pid = self.lock();
            if by_pid.get(&pid).is_none_or(|login| only.is_some_and(|only| only != login.number)) {
                return;
            }
            by_pid.remove(&pid)
        };
        if let Some(login) = gone {
            self.end(&login);
        }
    }

    fn end(&self, login: &Login) {
        if let Some(watch) = &login.watch {
            watch.abort();
        }
        self.authority.closed(login.number);
        self.closers.forget(login.number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Login>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl fmt::Debug for SmtpLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpLogins").field("sessions", &self.len()).finish_non_exhaustive()
    }
}
