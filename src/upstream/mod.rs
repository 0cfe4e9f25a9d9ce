//! Floor 3: the other end of `Watch`: a process beside mail servers that answers logins from a
//! cache of its own, and learns which sessions a change ends. `latchkey_core::mail_host` decides;
//! this carries it out over gRPC.
//!
//! One task follows a replica ([`Upstream::run`]), and another one when that fails. A login
//! ([`Upstream::authenticate`]) is answered from memory while a lease runs; else a replica is
//! asked.

mod follow;
mod messages;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use uuid::Uuid;

use self::messages::ToSend;
use crate::proto::{self, authorization_client::AuthorizationClient};
pub use latchkey_core::mail_host::{Admission, Answer, Opening, SessionNumber, Standing, TooManySessions};
use latchkey_core::{
    mail_host::{self, Close, MailHost},
    model::{
        change::Revision,
        clock::{BootTime, SharedClock},
        verdict::{Attempt, Reason},
    },
};

/// How long one replica may take for an answer before the next one is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long all of them together may take. Postfix waits for 10 s.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(8);

/// For telling the replica that this process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How this side of `Watch` is set up.
pub struct Settings {
    /// The replicas, as channels that connect by themselves. One is followed, and the next when it
    /// is gone.
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

/// No answer: the mail program is told to try later. Never a denial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("no replica answers: {0}")]
    NoReplica(String),
    #[error("too many wrong guesses: the password was not judged")]
    Throttled,
    #[error("the login was refused as malformed: {0}")]
    Malformed(String),
}

/// Closes a session, for a reason: called once for each. Must not wait. [`Upstream::closed`] says
/// that it has ended.
pub type CloseSession = Arc<dyn Fn(SessionNumber, Reason) + Send + Sync>;

/// See the module.
pub struct Upstream {
    /// Names this process to the replicas.
    id: Uuid,
    settings: Settings,
    clock: SharedClock,
    host: MailHost,
    close_session: CloseSession,
    /// The replica that is followed.
    followed: watch::Sender<usize>,
    connected: watch::Sender<bool>,
    /// To the stream that is followed, if there is one.
    stream: Mutex<Option<ToSend>>,
    has_reports: Arc<Notify>,
    stopping: CancellationToken,
}

impl Upstream {
    pub fn new(settings: Settings, clock: SharedClock, close_session: CloseSession) -> Self {
        let has_reports = Arc::<Notify>::default();
        let host_settings = mail_host::Settings {
            cache_mailboxes: settings.cache_mailboxes,
            memo_key: crate::random::bytes(),
            close_when_cut_off_for: settings.close_when_cut_off_for,
        };
        let wake = Arc::clone(&has_reports);
        let wake = Arc::new(move || wake.notify_one());
        // Hosts spread over the replicas by chance.
        let first = usize::from_ne_bytes(crate::random::bytes()) % settings.replicas.len().max(1);
        Self {
            id: Uuid::from_bytes(crate::random::bytes()),
            host: MailHost::new(&host_settings, Arc::clone(&clock), wake),
            settings,
            clock,
            close_session,
            followed: watch::Sender::new(first),
            connected: watch::Sender::new(false),
            stream: Mutex::default(),
            has_reports,
            stopping: CancellationToken::new(),
        }
    }

    /// Whether answers come from the cache just now.
    pub fn has_lease(&self) -> bool {
        self.host.has_lease()
    }

    /// When the last lease that was granted had been asked for, by this process's clock.
    pub fn granted_from(&self) -> Option<BootTime> {
        self.host.granted_from()
    }

    /// Whether a replica is followed.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// The last change that was applied.
    pub fn applied(&self) -> Revision {
        self.host.applied()
    }

    /// Mailboxes in the cache.
    pub fn cached_mailboxes(&self) -> usize {
        self.host.cached_mailboxes()
    }

    /// Logins answered from the cache that were not reported, for lack of room.
    pub fn uncounted_logins(&self) -> u64 {
        self.host.uncounted_logins()
    }

    /// Names this process, for [`Admission::encode`].
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Judges a login: from memory if that can allow it, else by asking a replica. A denial takes
    /// the time that the replica gives it.
    pub async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        match self.host.answer(attempt) {
            Some(answer) => Ok(answer),
            None => within_login_timeout(self.ask(attempt)).await,
        }
    }

    /// Judges a session a second time, just before it opens.
    pub async fn judge(&self, admission: &Admission) -> Result<Standing, NoAnswer> {
        match self.host.standing(admission) {
            Some(standing) => Ok(standing),
            None => within_login_timeout(self.check(admission)).await,
        }
    }

    /// A session opens with an allowed login. If its password has ended meanwhile, it is closed at
    /// once.
    pub fn opened(&self, opening: Opening) -> Result<SessionNumber, TooManySessions> {
        let (number, close) = self.host.opened(opening)?;
        self.close(close);
        Ok(number)
    }

    /// A session has ended, by whomever.
    pub fn closed(&self, number: SessionNumber) {
        self.host.closed(number);
    }

    /// A session that was to close is still connected, and every further command in it is refused.
    pub fn refused(&self, number: SessionNumber) {
        self.host.refused(number);
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.host.sessions()
    }

    /// Stops using the cache and tells the replica so, that no revocation waits for this process.
    /// It is to be called last; it takes at most one second.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let mut connected = self.connected();
        // A replica that does not hear of it waits for the lease.
        let _ = tokio::time::timeout(STOP_TIMEOUT, connected.wait_for(|connected| !connected)).await;
    }

    async fn ask(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        let question = self.host.ask(attempt);
        let mut last = "there is none".to_owned();
        for (at, replica) in self.replicas_by_preference().enumerate() {
            let is_followed = at == 0 && question.stream_key().is_some();
            let key = question.stream_key().filter(|_| is_followed);
            let mut client = self.client(replica);
            let answer = in_time(client.authenticate(messages::attempt(attempt, key))).await;
            match answer.and_then(|answer| messages::reply(&answer.into_inner())) {
                Ok(reply) => return Ok(self.host.answered(question, attempt, reply, is_followed)),
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(NoAnswer::Malformed(status.message().to_owned()));
                }
                Err(status) if messages::is_throttled(&status) => return Err(NoAnswer::Throttled),
                Err(status) => status.message().clone_into(&mut last),
            }
        }
        Err(NoAnswer::NoReplica(last))
    }

    async fn check(&self, admission: &Admission) -> Result<Standing, NoAnswer> {
        let mut last = "there is none".to_owned();
        for replica in self.replicas_by_preference() {
            let request = proto::CheckSessionRequest { session: admission.session.encode() };
            match in_time(self.client(replica).check_session(request)).await {
                Ok(answer) => return Ok(messages::standing(&answer.into_inner())),
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(NoAnswer::Malformed(status.message().to_owned()));
                }
                Err(status) => status.message().clone_into(&mut last),
            }
        }
        Err(NoAnswer::NoReplica(last))
    }

    /// The one that is followed first, then the others.
    fn replicas_by_preference(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, all) = (*self.followed.borrow(), self.settings.replicas.len());
        (0..all).map(move |at| (first + at) % all)
    }

    fn close(&self, close: impl IntoIterator<Item = Close>) {
        for Close { number, reason } in close {
            (self.close_session)(number, reason);
        }
    }

    fn client(&self, replica: usize) -> Client {
        AuthorizationClient::with_interceptor(self.settings.replicas[replica].clone(), self.settings.credentials.clone())
    }

    fn stream(&self) -> std::sync::MutexGuard<'_, Option<ToSend>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within_login_timeout<T>(run: impl Future<Output = Result<T, NoAnswer>>) -> Result<T, NoAnswer> {
    let timed_out = |_| NoAnswer::NoReplica("the answer took too long".to_owned());
    tokio::time::timeout(LOGIN_TIMEOUT, run).await.map_err(timed_out)?
}

/// One replica's answer. A replica that is stopped or cut off must not use up the time of the next
/// one.
async fn in_time<T>(run: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = |_| Status::deadline_exceeded("the replica does not answer");
    tokio::time::timeout(ANSWER_TIMEOUT, run).await.map_err(silent)?
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

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("settings", &self.settings).field("applied", &self.applied()).finish_non_exhaustive()
    }
}
