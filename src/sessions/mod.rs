//! Floor 3: sessions of mail clients that are a process of their own, as Dovecot's are. Each is
//! opened with an admitted login that is judged a second time, is closed by a signal to its
//! process, and counts as closed once that process was seen to end. They are remembered while the
//! agent restarts.

pub mod process;
mod record;

use std::{
    fmt, fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashbrown::HashMap;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::{
    process::{NoProcess, Process, boot_id},
    record::Record,
};
use crate::authority::{Host, NoAnswer, SessionNumber, Standing, TooManySessions};
use latchkey_core::model::{protocol::Protocol, verdict::Reason};

/// For the second judgement. The upstream has a shorter one of its own.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Records read at the start; more are no work of ours.
const MAX_RECORDS: usize = 1_000_000;

/// How sessions are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where open sessions are remembered.
    pub folder: PathBuf,
    /// How long a process may take to end by itself before it is killed.
    pub kill_after: Duration,
}

/// What a session begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The text of the login's admission.
    pub admission: String,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
}

/// Why a session does not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the login has ended since it was answered: {}", .0.label())]
    Ended(Reason),
    #[error("the login cannot be judged a second time: {0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("the login cannot be judged a second time: it took too long")]
    TimedOut,
    #[error("the session does not carry the admission of a login as the agent answered it")]
    NotAdmitted,
    #[error(transparent)]
    TooMany(#[from] TooManySessions),
    #[error("the session cannot be remembered in the runtime directory: {0}")]
    NotRemembered(io::Error),
}

/// All open sessions, by process.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    host: Host,
    settings: Settings,
    boot_id: String,
    open: Mutex<HashMap<i32, Open>>,
}

/// A session and its process.
struct Open {
    number: SessionNumber,
    /// Cancelled when the session is over and its process is not watched any more.
    released: CancellationToken,
}

/// How far a session has got. Its close may be asked for before its mail process may begin.
enum Phase {
    Opening(Option<Reason>),
    Open,
}

/// What closes a session.
struct Closing {
    process: Process,
    phase: Mutex<Phase>,
    asked: CancellationToken,
}

impl Sessions {
    /// Makes the folder if it is missing.
    pub fn new(host: Host, settings: Settings) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.folder)?;
        Ok(Self(Arc::new(Inner { host, settings, boot_id: boot_id()?, open: Mutex::default() })))
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes up the sessions that an agent before this one has left. To be called once, before the
    /// mail servers ask. Returns how many go on.
    pub fn resume(&self) -> io::Result<usize> {
        let inner = &self.0;
        let mut resumed = 0;
        for entry in fs::read_dir(&inner.settings.folder)?.take(MAX_RECORDS) {
            let path = entry?.path();
            match Record::read(&path) {
                Ok(record) if path.file_name().and_then(|name| name.to_str()) == Some(&record.process.pid.to_string()) => {
                    if inner.resume(&record) {
                        resumed += 1;
                        continue;
                    }
                }
                Ok(_) => warn!(path = %path.display(), "a session's record has the name of another process; it is removed"),
                Err(cause) => warn!(path = %path.display(), %cause, "a session's record cannot be read; it is removed"),
            }
            if let Err(cause) = fs::remove_file(&path) {
                warn!(path = %path.display(), %cause, "a session's record cannot be removed");
            }
        }
        Ok(resumed)
    }

    /// Begins a session in a process. It was judged a second time when this returns, and from then
    /// on a revocation closes it.
    pub async fn begin(&self, process: Process, opening: Opening) -> Result<(), Refusal> {
        let inner = &self.0;
        let authority = &inner.host.authority;
        let admission = authority.decode(&opening.admission).ok_or(Refusal::NotAdmitted)?;
        let standing = tokio::time::timeout(JUDGE_TIMEOUT, authority.judge(&admission));
        if let Standing::Ended(reason) = standing.await.map_err(|_| Refusal::TimedOut)?? {
            return Err(Refusal::Ended(reason));
        }
        let record = Record {
            boot_id: inner.boot_id.clone(),
            process: process.id(),
            admission: opening.admission,
            protocol: opening.protocol,
            client_ip: opening.client_ip,
            open_time: inner.host.clock.wall(),
        };
        let pid = process.id().pid;
        // A session of another client, in the same process, is over.
        self.release(pid);
        record.write(&inner.settings.folder).map_err(Refusal::NotRemembered)?;
        let opened = inner.open(process, &record, Phase::Opening(None));
        opened.inspect_err(|_| inner.forget_record(pid))
    }

    /// A process has no session any more: its client has gone and it takes another, or the session
    /// did not begin.
    pub fn release(&self, pid: i32) {
        self.0.release(pid);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resume(self: &Arc<Self>, record: &Record) -> bool {
        let pid = record.process.pid;
        if record.boot_id != self.boot_id {
            debug!(pid, "a session of another boot is forgotten");
            return false;
        }
        let process = match Process::reopen(record.process) {
            Ok(process) => process,
            Err(NoProcess::System(cause)) => {
                // Its record stays, so that the next start can try again.
                error!(pid, %cause, "a session that was open before the agent's start cannot be watched, and is not closed");
                return true;
            }
            Err(cause) => {
                debug!(pid, %cause, "a session has ended while no agent ran");
                return false;
            }
        };
        match self.open(process, record, Phase::Open) {
            Ok(()) => true,
            Err(cause) => {
                error!(pid, %cause, "a session that was open before the agent's start cannot be kept, and is not closed");
                false
            }
        }
    }

    /// Reports a session, and watches its process.
    fn open(self: &Arc<Self>, process: Process, record: &Record, phase: Phase) -> Result<(), Refusal> {
        let authority = &self.host.authority;
        let admission = authority.decode(&record.admission).ok_or(Refusal::NotAdmitted)?;
        let number = authority.opened(&admission, record.protocol, record.client_ip, record.open_time)?;
        let closing = Arc::new(Closing { process, phase: Mutex::new(phase), asked: CancellationToken::new() });
        let to_close = Arc::clone(&closing);
        self.host.closers.on_close(number, Box::new(move |reason| to_close.close(reason)));
        if let Some(reason) = closing.begin() {
            authority.closed(number);
            self.host.closers.forget(number);
            return Err(Refusal::Ended(reason));
        }
        let released = CancellationToken::new();
        let before = self.lock().insert(record.process.pid, Open { number, released: released.clone() });
        // Of another client that the process was asked for at the same time.
        if let Some(before) = before {
            self.end(&before);
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = closing.until_ended(inner.settings.kill_after) => inner.ended(closing.process.id().pid, number),
                () = released.cancelled() => (),
            }
        });
        Ok(())
    }

    /// The process of this very session has ended.
    fn ended(&self, pid: i32, number: SessionNumber) {
        let open = {
            let mut all = self.lock();
            if all.get(&pid).is_none_or(|open| open.number != number) {
                return;
            }
            all.remove(&pid)
        };
        if let Some(open) = open {
            self.forget_record(pid);
            self.end(&open);
        }
    }

    fn release(&self, pid: i32) {
        let Some(open) = self.lock().remove(&pid) else { return };
        self.forget_record(pid);
        self.end(&open);
    }

    fn end(&self, open: &Open) {
        open.released.cancel();
        self.host.authority.closed(open.number);
        self.host.closers.forget(open.number);
    }

    fn forget_record(&self, pid: i32) {
        if let Err(cause) = Record::remove(&self.settings.folder, pid) {
            warn!(pid, %cause, "a session's record cannot be removed");
        }
    }
}

impl Closing {
    /// The mail process may go on, or the reason why it may not.
    fn begin(&self) -> Option<Reason> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Opening(Some(reason)) => Some(reason),
            _ => {
                *phase = Phase::Open;
                None
            }
        }
    }

    fn close(&self, reason: Reason) {
        {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            if let Phase::Opening(asked) = &mut *phase {
                *asked = Some(reason);
                return;
            }
        }
        let pid = self.process.id().pid;
        match self.process.terminate() {
            Ok(()) => info!(pid, reason = reason.label(), "a session is closed: its process was asked to end"),
            Err(cause) => error!(pid, %cause, "a session cannot be closed: the agent needs CAP_KILL, or to be root"),
        }
        self.asked.cancel();
    }

    /// Returns when the process has ended, by itself or because its session was to be closed.
    async fn until_ended(&self, kill_after: Duration) {
        tokio::select! {
            () = self.process.ended() => return,
            () = self.asked.cancelled() => (),
        }
        if !self.process.ends_within(kill_after).await {
            let pid = self.process.id().pid;
            warn!(pid, "a process that was asked to end has not, and is killed");
            if let Err(cause) = self.process.kill() {
                error!(pid, %cause, "a process cannot be killed");
            }
            self.process.ended().await;
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("open", &self.len()).finish_non_exhaustive()
    }
}
