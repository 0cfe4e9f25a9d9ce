//! Floor 3: the other end of `Watch`: a process on a mail host that answers logins from a cache of its own, and closes sessions. It runs the replica's cache, memos,
//! policy and lease; what is behind them is not a store but a replica.
//!
//! One task follows a replica ([`Watching::run`]), and another one when that fails. A login ([`Watching::authenticate`]) is answered from memory while a lease
//! runs; else the replica is asked.

mod follow;
mod messages;
mod sessions;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tonic::{
    Code, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use uuid::Uuid;

pub use self::sessions::{CloseSession, SessionNumber};
use self::{follow::ToSend, sessions::OpenSessions};
use crate::proto::{self, authorization_client::AuthorizationClient};
use latchkey_core::{
    cache::{
        mailboxes::{Entry, Load, MailboxCache},
        memos::Memos,
    },
    lease::Lease,
    login::{policy, proof},
    model::{
        change::{Position, Revision},
        clock::SharedClock,
        record::{MailboxRead, MailboxRecord},
        verdict::{Attempt, ProvenPassword, Reason, Session},
    },
};

/// For one login that is asked of a replica.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How a watcher is set up.
pub struct Settings {
    /// The replicas, as channels that connect by themselves. The first that answers is followed.
    pub replicas: Vec<Channel>,
    /// For people.
    pub name: String,
    /// Says who calls.
    pub credentials: Credentials,
    /// Mailboxes cached, at most.
    pub cache_mailboxes: usize,
    /// All sessions are closed after so long without a lease; `None`: they stay.
    pub close_when_cut_off_for: Option<Duration>,
}

/// A bearer token, if one is needed.
#[derive(Clone, Default)]
pub struct Credentials(pub Option<tonic::metadata::MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Client = AuthorizationClient<InterceptedService<Channel, Credentials>>;

/// An answer to a login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub reason: Reason,
    /// With [`Reason::Ok`]: what the session is opened with.
    pub session: Option<Session>,
    /// Whether memory answered it.
    pub is_from_cache: bool,
}

/// No answer: the mail program is told to try later. Never a denial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("no replica answers: {0}")]
    NoReplica(String),
    #[error("the login was refused as malformed: {0}")]
    Malformed(String),
}

/// See the module.
pub struct Watching {
    id: Uuid,
    settings: Settings,
    clock: SharedClock,
    cache: MailboxCache,
    memos: Memos,
    lease: Lease,
    /// What was applied last; `None` while nothing is known.
    applied: Mutex<Option<Position>>,
    sessions: Mutex<OpenSessions>,
    /// The replica that is followed.
    followed: watch::Sender<usize>,
    connected: watch::Sender<bool>,
    /// Of the stream that is followed; empty while there is none.
    stream_key: Mutex<Vec<u8>>,
}

impl Watching {
    pub fn new(settings: Settings, clock: SharedClock, closer: CloseSession) -> Self {
        Self {
            id: Uuid::from_bytes(crate::random::bytes()),
            cache: MailboxCache::with_capacity(settings.cache_mailboxes),
            memos: Memos::with_capacity(settings.cache_mailboxes, &crate::random::bytes()),
            lease: Lease::default(),
            applied: Mutex::default(),
            sessions: Mutex::new(OpenSessions::new(closer)),
            followed: watch::Sender::new(0),
            connected: watch::Sender::new(false),
            stream_key: Mutex::default(),
            settings,
            clock,
        }
    }

    /// Whether answers come from the cache just now.
    pub fn has_lease(&self) -> bool {
        self.lease.holds(self.clock.boot(), self.clock.wall())
    }

    /// Whether a replica is followed.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// The last change that was applied.
    pub fn applied(&self) -> Revision {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).map_or(Revision::default(), |position| position.revision)
    }

    /// Judges a login: from memory if that can allow it, else by asking a replica.
    pub async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        if let Some(answer) = self.authenticate_warm(attempt) {
            return Ok(answer);
        }
        // Before the replica is asked: changes applied from here on overtake the answer.
        let (load, applied) = (self.cache.begin_load(attempt.address.key()), self.applied());
        let (answer, is_of_followed) = self.ask(attempt).await?;
        let reason = Reason::from_number(answer.reason.into()).filter(|_| answer.reason != 0);
        let is_allowed = answer.decision() == proto::Decision::Allow;
        let session = is_allowed.then(|| Session::decode("session", &answer.session)).and_then(Result::ok);
        let reason = match (is_allowed, reason) {
            (true, _) => Reason::Ok,
            // A reason that this version does not know is a denial all the same.
            (false, Some(Reason::Ok) | None) => Reason::WrongPassword,
            (false, Some(reason)) => reason,
        };
        if let (Some(session), Some(cache)) = (&session, &answer.cache)
            && is_of_followed
            && answer.revision >= applied.0
            && let Some(record) = messages::record(session.password, cache)
        {
            self.remember(load, attempt, session.password, Revision(answer.revision), record);
        }
        Ok(Answer { reason, session, is_from_cache: false })
    }

    /// A session is opened with an allowed login. If its password has ended meanwhile, it is closed at once.
    pub fn opened(&self, session: Session, attempt: &Attempt) -> SessionNumber {
        self.lock_sessions().open(session, attempt.protocol, attempt.client_ip, self.clock.wall())
    }

    /// It has ended, by whomever.
    pub fn closed(&self, number: SessionNumber) {
        self.lock_sessions().close(number);
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.lock_sessions().len()
    }

    fn authenticate_warm(&self, attempt: &Attempt) -> Option<Answer> {
        let entry = self.cache.get(attempt.address.key())?;
        let record = entry.read.mailbox.as_ref()?;
        let device = proof::find_remembered(attempt.password.expose(), record, &self.memos)?;
        // Authority comes last: both must hold after the proof.
        let (now, applied) = (self.clock.wall(), self.applied());
        if !self.lease.holds(self.clock.boot(), now) || !entry.is_current() {
            return None;
        }
        // What is not allowed the replica is to say, and count.
        if policy::judge(record, device, attempt, now) != Reason::Ok {
            return None;
        }
        let password =
            ProvenPassword { mailbox_id: record.mailbox_id, device_id: device.device_id, generation: device.generation };
        let revision = entry.read.revision.max(applied);
        let session = Session { password, revision, address: attempt.address.clone() };
        Some(Answer { reason: Reason::Ok, session: Some(session), is_from_cache: true })
    }

    /// Puts a proven device into the cache, beside those of the mailbox that are there and still current.
    fn remember(&self, load: Load<'_>, attempt: &Attempt, password: ProvenPassword, revision: Revision, record: MailboxRecord) {
        let before: Option<Arc<Entry>> = self.cache.get(attempt.address.key()).filter(|entry| entry.is_current());
        let (mut record, mut revision) = (record, revision);
        if let Some(before) = &before
            && let Some(known) = before.read.mailbox.as_ref().filter(|known| known.mailbox_id == record.mailbox_id)
        {
            let others = known.active.iter().filter(|device| device.device_id != password.device_id).cloned();
            record.active = record.active.into_vec().into_iter().chain(others).collect();
            // The whole is as old as its oldest part.
            revision = revision.min(before.read.revision);
        }
        self.memos.insert(self.memos.of(password.device_id, password.generation, attempt.password.expose()));
        load.finish(MailboxRead { revision, mailbox: Some(record) });
    }

    /// Asks the replica that is followed, and the others if it gives no answer. Also says whether the one that is followed has answered: any other may know less
    /// than that one has told, whatever revision it answers, for that may be of a history that is lost.
    async fn ask(&self, attempt: &Attempt) -> Result<(proto::AuthenticateResponse, bool), NoAnswer> {
        let first = *self.followed.borrow();
        let replicas = self.settings.replicas.len();
        let mut last = "there is none".to_owned();
        let key = self.stream_key();
        for at in 0..replicas {
            let asked_with = if at == 0 { key.clone() } else { vec![] };
            let mut request = tonic::Request::new(messages::attempt(attempt, asked_with));
            request.set_timeout(LOGIN_TIMEOUT);
            match self.client((first + at) % replicas).authenticate(request).await {
                Ok(answer) => {
                    // One that comes after its stream has ended may know less than the next stream told.
                    let is_of_followed = at == 0 && !key.is_empty() && self.stream_key() == key;
                    return Ok((answer.into_inner(), is_of_followed));
                }
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(NoAnswer::Malformed(status.message().to_owned()));
                }
                Err(status) => status.message().clone_into(&mut last),
            }
        }
        Err(NoAnswer::NoReplica(last))
    }

    fn stream_key(&self) -> Vec<u8> {
        self.stream_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_sessions(&self) -> MutexGuard<'_, OpenSessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, replica: usize) -> Client {
        AuthorizationClient::with_interceptor(self.settings.replicas[replica].clone(), self.settings.credentials.clone())
    }

    fn send(&self, to: &ToSend, message: proto::watch_request::Message) {
        // Bounded by what the replica sends, and by the sessions of this host.
        let _ = to.send(proto::WatchRequest { message: Some(message) });
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("name", &self.name).field("replicas", &self.replicas.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("settings", &self.settings).field("applied", &self.applied()).finish_non_exhaustive()
    }
}
