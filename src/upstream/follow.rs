//! Following a replica: one stream at a time, and the next replica when it breaks. The state machine is the one that the proto's comments describe.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status};
use tracing::{debug, info, warn};

use super::{Watching, messages, sessions::Report};
use crate::proto::{
    self,
    watch_request::{self, Message as Ask},
    watch_response::{self, Message as Told},
};
use latchkey_core::model::{
    change::{Position, Revision},
    clock::{BootTime, Timestamp},
    verdict::Reason,
};

/// Of the messages.
const PROTOCOL_VERSION: u32 = 1;
/// After a stream that broke: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// For the welcome, and for a grant: a replica that is silent for longer is as good as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to ask whether there are leases now, of a replica that has none.
const RENEW_WITHOUT_LEASE: Duration = Duration::from_secs(1);
const SHORTEST_RENEWAL: Duration = Duration::from_millis(50);
/// Sessions in one message.
const SESSIONS_AT_ONCE: usize = 1_000;

pub(super) type ToSend = mpsc::UnboundedSender<proto::WatchRequest>;

/// Leases asked for and not answered, with the clocks from before.
#[derive(Debug, Default)]
struct Asked {
    next: u64,
    open: VecDeque<(u64, BootTime, Timestamp)>,
}

/// Why a stream ended, if not by an error.
enum Ended {
    Draining,
    Closed,
}

impl Watching {
    /// Follows a replica for ever.
    pub async fn run(self: Arc<Self>) {
        let mut retry = RETRY[0];
        let mut without_lease = None;
        loop {
            let replica = *self.followed.borrow();
            let began = self.clock.boot();
            let ended = tokio::select! {
                ended = self.follow(replica) => ended,
                () = self.cut_off(&mut without_lease) => continue,
            };
            self.connected.send_replace(false);
            self.stream_key.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.lock_sessions().end_reports();
            match ended {
                Ok(Ended::Draining) => info!(replica, "the replica drains; the next one is followed"),
                Ok(Ended::Closed) => debug!(replica, "the replica has ended the stream"),
                Err(status) => warn!(replica, error = status.message(), "the replica can't be followed"),
            }
            self.followed.send_replace((replica + 1) % self.settings.replicas.len());
            if self.clock.boot() - began > RETRY[1] {
                retry = RETRY[0];
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY[1]);
        }
    }

    /// Closes all sessions once there was no lease for as long as the settings allow. Returns when it has.
    async fn cut_off(&self, without_lease: &mut Option<BootTime>) {
        let Some(limit) = self.settings.close_when_cut_off_for else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(limit.min(Duration::from_secs(1)) / 4).await;
            let now = self.clock.boot();
            if self.has_lease() {
                *without_lease = None;
            } else if now - *without_lease.get_or_insert(now) >= limit {
                *without_lease = None;
                let mut sessions = self.lock_sessions();
                if sessions.len() > 0 {
                    warn!(sessions = sessions.len(), "cut off for too long: all sessions are closed");
                    sessions.tell_all_to_close(Reason::DeviceDisconnected);
                }
            }
        }
    }

    async fn follow(&self, replica: usize) -> Result<Ended, Status> {
        let (to_send, requests) = mpsc::unbounded_channel();
        let resume = *self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        self.send(
            &to_send,
            Ask::Hello(watch_request::Hello {
                protocol_version: PROTOCOL_VERSION,
                name: self.settings.name.clone(),
                watcher_id: self.id.to_string(),
                resume: resume.map(|position| proto::Position { revision: position.revision.0, nonce: position.nonce }),
                observe: false,
            }),
        );
        let mut client = self.client(replica);
        let stream = client.watch(Request::new(UnboundedReceiverStream::new(requests)));
        let mut told = in_time(stream).await??.into_inner();
        let welcome = match in_time(told.next()).await? {
            Some(Ok(proto::WatchResponse { message: Some(Told::Welcome(welcome)) })) => welcome,
            Some(Err(status)) => return Err(status),
            _ => return Err(Status::internal("the replica did not say welcome")),
        };
        let position = messages::position(welcome.position.unwrap_or_default());
        if welcome.start_empty || resume.is_none() {
            self.start_empty(position);
        }
        let (open, mut reports) = self.lock_sessions().begin_reports();
        for sessions in open.chunks(SESSIONS_AT_ONCE) {
            let sessions = sessions.to_vec();
            self.send(&to_send, Ask::SessionsOpened(watch_request::SessionsOpened { sessions }));
        }
        *self.stream_key.lock().unwrap_or_else(PoisonError::into_inner) = welcome.stream_key;
        self.connected.send_replace(true);
        info!(replica = welcome.replica, start_empty = welcome.start_empty, "following");
        let lease = welcome.lease.and_then(|lease| Duration::try_from(lease).ok()).unwrap_or_default();
        let renewal = if lease.is_zero() { RENEW_WITHOUT_LEASE } else { (lease / 5).max(SHORTEST_RENEWAL) };
        let mut renewals = tokio::time::interval(renewal);
        let mut asked = Asked::default();
        loop {
            tokio::select! {
                message = told.next() => match message {
                    Some(Ok(proto::WatchResponse { message: Some(Told::Draining(_)) })) => break,
                    Some(Ok(proto::WatchResponse { message: Some(message) })) => self.hear(message, &mut asked, &to_send)?,
                    // It may take access away.
                    Some(Ok(_)) => return Err(self.forget("a message that this version does not know")),
                    Some(Err(status)) => return Err(status),
                    None => return Ok(Ended::Closed),
                },
                _ = renewals.tick() => {
                    let now = self.clock.boot();
                    if asked.open.front().is_some_and(|(_, since, _)| now - *since > ANSWER_TIMEOUT) {
                        return Err(Status::deadline_exceeded("the replica is silent"));
                    }
                    asked.next += 1;
                    asked.open.push_back((asked.next, now, self.clock.wall()));
                    self.send(&to_send, Ask::Renew(watch_request::Renew { number: asked.next }));
                }
                Some(report) = reports.recv() => self.send(&to_send, match report {
                    Report::Opened(opened) => Ask::SessionsOpened(watch_request::SessionsOpened { sessions: vec![*opened] }),
                    Report::Closed(number, cause) => Ask::SessionsClosed(watch_request::SessionsClosed {
                        numbers: vec![number],
                        revision: cause.0,
                    }),
                }),
            }
        }
        // Nobody has to wait for us any more. The stream is read to its end, so that this arrives.
        self.lease.end();
        self.send(&to_send, Ask::Surrender(watch_request::Surrender {}));
        drop(to_send);
        while let Ok(Some(Ok(_))) = in_time(told.next()).await {}
        Ok(Ended::Draining)
    }

    fn hear(&self, message: Told, asked: &mut Asked, to_send: &ToSend) -> Result<(), Status> {
        match message {
            Told::Change(change) => {
                self.check_link(change.previous)?;
                self.apply(&change, to_send);
            }
            Told::StartEmpty(watch_response::StartEmpty { position }) => {
                let position = messages::position(position.unwrap_or_default());
                self.start_empty(position);
                self.acknowledge(position.revision, to_send);
            }
            Told::Grant(watch_response::Grant { number, duration, previous, position }) => {
                self.check_link(previous)?;
                *self.applied.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(messages::position(position.unwrap_or_default()));
                while let Some((open, boot, wall)) = asked.open.pop_front() {
                    if open == number {
                        let left = duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default();
                        self.lease.take(boot, wall, left);
                        break;
                    }
                }
            }
            Told::CloseSessions(watch_response::CloseSessions { numbers, reason, revision }) => {
                let reason = Reason::from_number(reason.into()).unwrap_or(Reason::DeviceDisconnected);
                let mut sessions = self.lock_sessions();
                numbers.into_iter().for_each(|number| sessions.tell_to_close(number, reason, Revision(revision)));
            }
            // The draining is heard by the caller.
            Told::Draining(_) | Told::Welcome(_) | Told::Acknowledged(_) | Told::SessionsEnded(_) => (),
        }
        Ok(())
    }

    /// Refuses a message that does not follow the last one: another was lost between them.
    fn check_link(&self, previous: Option<proto::Position>) -> Result<(), Status> {
        let applied = *self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if previous.map(messages::position) == applied { Ok(()) } else { Err(self.forget("a message was lost")) }
    }

    /// Nothing that is held may be used. The next stream begins empty.
    fn forget(&self, why: &str) -> Status {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.lease.end();
        self.cache.clear(applied.unwrap_or_default().revision);
        Status::data_loss(why.to_owned())
    }

    fn apply(&self, change: &watch_response::Change, to_send: &ToSend) {
        let Some(change) = messages::change(change).map(Arc::new) else {
            // Of a newer version: as good as missed.
            let position = messages::position(change.position.unwrap_or_default());
            self.start_empty(position);
            return self.acknowledge(position.revision, to_send);
        };
        self.cache.apply(&change);
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(change.position());
        self.acknowledge(change.revision, to_send);
        self.lock_sessions().apply(&change);
    }

    fn acknowledge(&self, revision: Revision, to_send: &ToSend) {
        self.send(to_send, Ask::Acknowledge(watch_request::Acknowledge { revision: revision.0 }));
    }

    /// What was applied so far counts no more, and so does a lease: another replica may have granted it for a state that is ahead of this one.
    fn start_empty(&self, at: Position) {
        self.lease.end();
        self.cache.clear(at.revision);
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        self.lock_sessions().begin_at(at);
    }
}

async fn in_time<T>(run: impl Future<Output = T>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, run).await;
    answer.map_err(|_| Status::deadline_exceeded("the replica does not answer"))
}
