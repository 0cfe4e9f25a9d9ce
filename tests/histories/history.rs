//! What happened, as this process saw it: each thing with its begin and its end, on this process's
//! one clock.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use latchkey::{clock::SystemClock, proto::Reason};
use latchkey_core::model::clock::{BootTime, Clock};

pub fn now() -> BootTime {
    SystemClock.boot()
}

/// A device of the test's, by its number: with a generation it names one password.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Password {
    pub device: usize,
    pub generation: u32,
}

/// A password that a call has answered.
#[derive(Clone, Debug)]
pub struct Issued {
    pub password: Password,
    pub mailbox: usize,
    /// When the call that made it began.
    pub began: BootTime,
    /// From when on it must work everywhere.
    pub good_from: BootTime,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Allow {
        /// Whose password the answer says it is; `None` for a device that the test does not know.
        device: Option<usize>,
    },
    Deny(Reason),
    /// An RPC error, or none at all in time.
    None(String),
}

/// Who answered a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Replica(usize),
    /// A watcher, from its cache.
    Cache(usize),
    /// A mail host, by one of the replicas.
    Host(usize),
}

#[derive(Clone, Debug)]
pub struct Login {
    pub began: BootTime,
    pub ended: BootTime,
    pub mailbox: usize,
    /// `None`: one that nobody ever had.
    pub password: Option<Password>,
    pub by: By,
    pub answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Disconnect,
    Change,
    /// AwaitRevocation, for one that answered PENDING.
    Await,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Effective,
    Pending { effective_by: BootTime },
    None(String),
}

/// A call that revokes: said once, to one replica.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub began: BootTime,
    pub ended: BootTime,
    pub how: How,
    /// With all lower generations of the device.
    pub password: Password,
    pub replica: usize,
    pub outcome: Outcome,
}

/// A session that a watcher had open.
#[derive(Clone, Debug)]
pub struct Session {
    pub watcher: usize,
    pub password: Password,
    pub opened: BootTime,
    /// `None`: open to the end.
    pub closed: Option<BootTime>,
}

/// A lease granted to a watcher: proof that its stream and its replica lived.
#[derive(Clone, Debug)]
pub struct Grant {
    pub watcher: usize,
    /// Which of the watcher's streams.
    pub stream: u64,
    pub asked: BootTime,
    pub heard: BootTime,
}

/// Something that the nemesis did.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: &'static str,
    /// `None`: to the database, and so to all.
    pub replica: Option<usize>,
    pub began: BootTime,
    pub ended: BootTime,
    /// While the database could not be reached, though the replica ran.
    pub outage: Option<(BootTime, BootTime)>,
}

/// Another call that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub began: BootTime,
    pub ended: BootTime,
    pub what: String,
    /// Whether no fault excuses it.
    pub is_refusal: bool,
}

#[derive(Clone, Default, Debug)]
pub struct History {
    pub issued: Vec<Issued>,
    pub logins: Vec<Login>,
    pub revocations: Vec<Revocation>,
    pub sessions: Vec<Session>,
    pub grants: Vec<Grant>,
    pub faults: Vec<Fault>,
    pub failures: Vec<Failure>,
    pub ended: BootTime,
}

/// A history that many write.
#[derive(Default)]
pub struct Book(Mutex<History>);

impl Book {
    pub fn write(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the session's place, for when it closes.
    pub fn opened(&self, watcher: usize, password: Password, opened: BootTime) -> usize {
        let mut history = self.write();
        history.sessions.push(Session { watcher, password, opened, closed: None });
        history.sessions.len() - 1
    }

    pub fn closed(&self, session: usize) {
        self.write().sessions[session].closed = Some(now());
    }

    /// A password that was made PENDING works everywhere earlier than it was sure to.
    pub fn is_good_now(&self, password: Password) {
        let now = now();
        if let Some(issued) = self.write().issued.iter_mut().rfind(|issued| issued.password == password) {
            issued.good_from = issued.good_from.min(now);
        }
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} generation {}", self.device, self.generation)
    }
}

/// A moment, for people: seconds since `start`.
pub fn at(time: BootTime, start: BootTime) -> String {
    if time < start { "before".to_owned() } else { seconds(time - start) }
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}
