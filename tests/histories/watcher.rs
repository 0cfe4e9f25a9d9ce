//! A watcher, written from the proto's comments: what somebody would write who knows nothing else.
//! Caches what it may, holds leases, keeps sessions, and connects to any replica.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use latchkey::proto::{
    self, Decision, WatchRequest,
    authorization_client::AuthorizationClient,
    watch_request::{self, Message as Request, sessions_opened::Opened},
    watch_response::{self, Message as Response},
};
use latchkey_core::model::clock::BootTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    checker::LEASE,
    dice::Dice,
    history::{Answer, By, Grant, Password, now},
    world::World,
};

/// For the answer to a hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(2);
/// Without a word from the replica, until an impatient watcher looks for another.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// For a login: long enough that one which a stopped replica has got is still answered when it goes
/// on.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(8);
/// Sessions in one message.
const AT_ONCE: usize = 1_000;

pub struct Watcher {
    number: usize,
    world: Arc<World>,
    /// Whether it stays with a replica that says nothing.
    is_patient: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lease_end: BootTime,
    applied: Option<proto::Position>,
    cache: HashMap<(String, Vec<u8>), Cached>,
    /// Counts what was applied.
    step: u64,
    /// The step of the last change of each mailbox and mail service.
    changed: HashMap<Vec<u8>, u64>,
    /// The step at which the cache was emptied last.
    emptied: u64,
    stream: Option<Stream>,
    sessions: HashMap<u64, Kept>,
    next_session: u64,
}

struct Stream {
    key: Vec<u8>,
    replica: usize,
    outbox: mpsc::UnboundedSender<WatchRequest>,
}

struct Cached {
    answer: proto::AuthenticateResponse,
    entry: proto::CacheEntry,
}

/// A session that is open.
struct Kept {
    session: Vec<u8>,
    device_id: String,
    /// 0 when the answer did not say.
    generation: u32,
    /// Its place in the history.
    place: usize,
}

/// What became of a login.
pub struct Judged {
    pub by: By,
    pub answer: Answer,
    /// With ALLOW: the session that it opened.
    pub session: Option<u64>,
}

impl Watcher {
    pub fn new(number: usize, world: Arc<World>, is_patient: bool) -> Arc<Self> {
        Arc::new(Self { number, world, is_patient, state: Mutex::default() })
    }

    /// Judges a login, from the cache if it may. `password` names it for the history.
    pub async fn login(&self, dice: &mut Dice, login: proto::AuthenticateRequest, password: Option<Password>) -> Judged {
        let (replica, applied, asked_at, stream_key) = {
            let mut state = self.state();
            let key = (login.address.clone(), login.password.clone());
            if now() < state.lease_end
                && let Some(Cached { answer, entry }) = state.cache.get(&key).filter(|cached| cached.allows(&login))
            {
                let (answer, generation) = (answer.clone(), entry.generation);
                let session = self.open(&mut state, &answer, generation, password);
                return Judged { by: By::Cache(self.number), answer: self.allowed(&answer), session };
            }
            let own = state.stream.as_ref().map(|stream| stream.replica);
            let replica = own.filter(|_| dice.percent(80)).unwrap_or_else(|| dice.below(self.world.replicas.len()));
            // Any other may know less than the stream's own has told.
            let applied = own.filter(|own| *own == replica).and(state.applied).map(|position| position.revision);
            let key = state.stream.as_ref().filter(|stream| stream.replica == replica).map(|stream| stream.key.clone());
            (replica, applied, state.step, key.unwrap_or_default())
        };
        let by = By::Replica(replica);
        let asked = proto::AuthenticateRequest { stream_key: stream_key.clone(), ..login.clone() };
        let answer = match tokio::time::timeout(LOGIN_TIMEOUT, self.world.authorization(replica).authenticate(asked)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Judged { by, answer: Answer::None(words(&status)), session: None },
            Err(_) => return Judged { by, answer: Answer::None("no answer in time".to_owned()), session: None },
        };
        if answer.decision() != Decision::Allow {
            return Judged { by, answer: Answer::Deny(answer.reason()), session: None };
        }
        let mut state = self.state();
        let generation = answer.cache.as_ref().map_or(0, |entry| entry.generation);
        if let Some(entry) = answer
            .cache
            .clone()
            .filter(|_| state.stream.as_ref().is_some_and(|stream| stream.key == stream_key))
            .filter(|entry| applied.is_some_and(|applied| answer.revision >= applied) && state.may_insert(entry, asked_at))
        {
            state.cache.insert((login.address, login.password), Cached { answer: answer.clone(), entry });
        }
        let session = self.open(&mut state, &answer, generation, password);
        Judged { by, answer: self.allowed(&answer), session }
    }

    /// The mail program has gone.
    pub fn hang_up(&self, session: u64) {
        let mut state = self.state();
        if let Some(kept) = state.sessions.remove(&session) {
            self.world.book.closed(kept.place);
            state.say(Request::SessionsClosed(watch_request::SessionsClosed { numbers: vec![session], revision: 0 }));
        }
    }

    fn allowed(&self, answer: &proto::AuthenticateResponse) -> Answer {
        Answer::Allow { device: self.world.number_of(&answer.device_id) }
    }

    /// Opens a session, and reports it.
    fn open(
        &self,
        state: &mut State,
        answer: &proto::AuthenticateResponse,
        generation: u32,
        password: Option<Password>,
    ) -> Option<u64> {
        // A wrong password that is allowed is a violation already.
        let place = self.world.book.opened(self.number, password?, now());
        state.next_session += 1;
        let number = state.next_session;
        let kept = Kept { session: answer.session.clone(), device_id: answer.device_id.clone(), generation, place };
        let sessions = vec![kept.report(number)];
        state.sessions.insert(number, kept);
        state.say(Request::SessionsOpened(watch_request::SessionsOpened { sessions }));
        Some(number)
    }

    /// Watches for ever.
    pub async fn run(self: Arc<Self>, mut dice: Dice) {
        let watcher_id = dice.uuid();
        let mut number = 0;
        loop {
            number += 1;
            let replica = dice.below(self.world.replicas.len());
            let ended = self.watch(&watcher_id, number, replica).await;
            self.state().stream = None;
            if let Err(status) = ended {
                self.world.stream_ended(self.number, &status);
            }
            tokio::time::sleep(dice.millis(10, 300)).await;
        }
    }

    /// One stream, from its hello to its end.
    async fn watch(&self, watcher_id: &str, number: u64, replica: usize) -> Result<(), Status> {
        let silent = |_| Status::deadline_exceeded("the replica says nothing");
        let unreachable = |error| Status::unavailable(format!("{error}"));
        let channel = self.world.replicas[replica].endpoint.connect().await.map_err(unreachable)?;
        let (outbox, requests) = mpsc::unbounded_channel();
        let hello = watch_request::Hello {
            protocol_version: 1,
            name: format!("watcher-{}", self.number),
            watcher_id: watcher_id.to_owned(),
            resume: self.state().applied,
            observe: false,
        };
        // Nobody has closed the other end yet.
        let _ = outbox.send(WatchRequest { message: Some(Request::Hello(hello)) });
        let mut client = AuthorizationClient::new(channel);
        let opened = client.watch(UnboundedReceiverStream::new(requests));
        let mut messages = tokio::time::timeout(WELCOME_TIMEOUT, opened).await.map_err(silent)??.into_inner();
        let first = tokio::time::timeout(WELCOME_TIMEOUT, messages.message()).await.map_err(silent)??;
        let Some(Response::Welcome(welcome)) = first.and_then(|first| first.message) else {
            return Err(Status::internal("the first message is no welcome"));
        };
        self.welcomed(&welcome, Stream { replica, outbox: outbox.clone(), key: welcome.stream_key.clone() });
        let mut renewals: HashMap<u64, BootTime> = HashMap::new();
        let mut next_renewal = 0;
        let mut renew = tokio::time::interval(LEASE / 5);
        let mut last_heard = now();
        loop {
            tokio::select! {
                message = messages.message() => {
                    last_heard = now();
                    let Some(message) = message?.and_then(|message| message.message) else {
                        return Ok(());
                    };
                    if let Response::Grant(grant) = &message {
                        let asked = renewals.remove(&grant.number).ok_or_else(|| Status::internal("a grant that nobody asked for"))?;
                        self.granted(number, asked, grant)?;
                    } else if self.hear(message) {
                        // Our side closes as the outbox goes.
                        return Ok(());
                    }
                }
                _ = renew.tick() => {
                    if !self.is_patient && now() - last_heard > PATIENCE {
                        return Err(Status::deadline_exceeded("the replica says nothing"));
                    }
                    next_renewal += 1;
                    renewals.insert(next_renewal, now());
                    self.state().say(Request::Renew(watch_request::Renew { number: next_renewal }));
                }
            }
        }
    }

    fn welcomed(&self, welcome: &watch_response::Welcome, stream: Stream) {
        let mut state = self.state();
        if welcome.start_empty {
            state.empty();
        }
        state.applied = welcome.position;
        state.stream = Some(stream);
        let sessions: Vec<_> = state.sessions.iter().map(|(number, kept)| kept.report(*number)).collect();
        for sessions in sessions.chunks(AT_ONCE) {
            state.say(Request::SessionsOpened(watch_request::SessionsOpened { sessions: sessions.to_vec() }));
        }
    }

    fn granted(&self, stream: u64, asked: BootTime, grant: &watch_response::Grant) -> Result<(), Status> {
        {
            let mut state = self.state();
            if grant.previous != state.applied {
                return Err(Status::data_loss("a message was lost before a grant"));
            }
            state.applied = grant.position;
        }
        let lease = grant.duration.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
        if !lease.is_zero() {
            let mut state = self.state();
            state.lease_end = state.lease_end.max(asked + lease);
            self.world.book.write().grants.push(Grant { watcher: self.number, stream, asked, heard: now() });
        }
        Ok(())
    }

    /// Does what the replica says; whether the stream is over with that.
    fn hear(&self, message: Response) -> bool {
        let mut state = self.state();
        match message {
            Response::Change(change) => {
                let revision = change.position.map_or(0, |position| position.revision);
                state.forget(&change);
                let ended = |kept: &Kept| {
                    change.ended.iter().any(|it| it.device_id == kept.device_id && it.generation >= kept.generation)
                };
                let numbers: Vec<u64> = state.sessions.iter().filter(|(_, kept)| ended(kept)).map(|(it, _)| *it).collect();
                assert_eq!(change.previous, state.applied, "a message was lost before a change");
                state.applied = change.position;
                state.say(Request::Acknowledge(watch_request::Acknowledge { revision }));
                self.close(&mut state, numbers, revision);
            }
            Response::StartEmpty(watch_response::StartEmpty { position }) => {
                state.empty();
                state.applied = position;
                let revision = position.map_or(0, |position| position.revision);
                state.say(Request::Acknowledge(watch_request::Acknowledge { revision }));
            }
            Response::CloseSessions(close) => {
                self.close(&mut state, close.numbers, close.revision);
            }
            Response::Draining(_) => {
                state.lease_end = BootTime::default();
                state.say(Request::Surrender(watch_request::Surrender {}));
                return true;
            }
            Response::Welcome(_) | Response::Grant(_) | Response::Acknowledged(_) | Response::SessionsEnded(_) => (),
        }
        false
    }

    /// Closes those of them that are still open, and reports it.
    fn close(&self, state: &mut State, numbers: Vec<u64>, revision: u64) {
        let mut closed = vec![];
        for number in numbers {
            if let Some(kept) = state.sessions.remove(&number) {
                self.world.book.closed(kept.place);
                closed.push(number);
            }
        }
        for numbers in closed.chunks(AT_ONCE) {
            state.say(Request::SessionsClosed(watch_request::SessionsClosed { numbers: numbers.to_vec(), revision }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Says it on the stream, if there is one.
    fn say(&self, message: Request) {
        if let Some(stream) = &self.stream {
            // What can't be sent any more, the next stream begins with.
            let _ = stream.outbox.send(WatchRequest { message: Some(message) });
        }
    }

    fn empty(&mut self) {
        self.lease_end = BootTime::default();
        self.step += 1;
        self.emptied = self.step;
        self.cache.clear();
        self.changed.clear();
    }

    fn forget(&mut self, change: &watch_response::Change) {
        self.step += 1;
        let service = Some(&change.mail_service).filter(|service| !service.is_empty());
        for key in change.mailboxes.iter().chain(service) {
            self.changed.insert(key.clone(), self.step);
            self.cache.retain(|_, cached| cached.entry.mailbox_key != *key && cached.entry.mail_service_key != *key);
        }
    }

    /// Whether nothing was applied since `asked_at` that an answer of then may not have seen: step
    /// 4.
    fn may_insert(&self, entry: &proto::CacheEntry, asked_at: u64) -> bool {
        let is_changed = |key: &[u8]| self.changed.get(key).is_some_and(|step| *step > asked_at);
        self.emptied <= asked_at && !is_changed(&entry.mailbox_key) && !is_changed(&entry.mail_service_key)
    }
}

impl Cached {
    /// The load limits no device to networks and gives none an end: such an answer is simply not
    /// used.
    fn allows(&self, login: &proto::AuthenticateRequest) -> bool {
        let protocols = &self.entry.allowed_protocols;
        let is_limited = !self.entry.allowed_networks.is_empty() || self.entry.expire_time.is_some();
        !is_limited && (protocols.is_empty() || protocols.contains(&login.protocol))
    }
}

impl Kept {
    fn report(&self, number: u64) -> Opened {
        let session = self.session.clone();
        Opened { number, session, protocol: proto::Protocol::Imap.into(), ..Opened::default() }
    }
}

/// A status for people.
pub fn words(status: &Status) -> String {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    format!("{:?} {reason} {}", status.code(), status.message())
}
