//! `Watch`. A task of its own handles what a watcher sends; what it is sent comes straight from its
//! queue in the roster of watchers. Sessions that memory cannot judge are judged here.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt};
use hashbrown::HashMap;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tonic::{Status, Streaming};
use tracing::{debug, info};
use uuid::Uuid;

use super::{
    convert,
    status::{self, invalid, protocol_error},
};
use crate::{
    lifecycle::Drain,
    login::{Login, NoAnswer},
    proto::{
        self,
        watch_request::{self, Message as Request},
        watch_response::{self, Message as Response},
    },
    replication::Feed,
};
use latchkey_core::{
    downstream::{CutOff, Doubtful, End, Hello, Message, Opened, Outbox, QUEUE, StreamKey, Watchers, Welcome},
    model::{
        Invalid,
        address::Address,
        change::{Change, Position, Revision, Scope},
        network::parse_client_ip,
        session::OpenSession,
        verdict::Session,
    },
};

/// Of the messages.
const PROTOCOL_VERSION: u32 = 1;
/// For the first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// After a session could not be judged.
const JUDGE_AGAIN: Duration = Duration::from_secs(1);
/// Mailboxes of which sessions of one watcher are judged at a time: each may cost a read.
const MAILBOXES_AT_ONCE: usize = 16;
/// Sessions in one message.
const MAX_SESSIONS_AT_ONCE: usize = 1_000;
const MAX_NAME_CHARACTERS: usize = 64;

/// What a stream needs.
pub(super) struct WatchService {
    pub login: Arc<Login>,
    pub feed: Arc<Feed>,
    pub drain: Drain,
}

type Sessions = Vec<Doubtful>;

/// What leads from the roster to one watcher's stream.
struct Queue {
    messages: mpsc::Sender<Message>,
    cut_off: oneshot::Sender<CutOff>,
}

impl Outbox for Queue {
    fn send(&mut self, message: Message) -> bool {
        self.messages.try_send(message).is_ok()
    }

    fn cut_off(self: Box<Self>, why: CutOff) {
        // The stream's handler may be gone already.
        let _ = self.cut_off.send(why);
    }
}

/// A watcher that has sent its hello.
struct Connected {
    watchers: Arc<Watchers>,
    number: u64,
    name: String,
    /// Sessions to judge, which a task of their own does.
    doubtful: mpsc::UnboundedSender<Sessions>,
    judge: JoinHandle<()>,
    feed: Arc<Feed>,
    login: Arc<Login>,
}

impl WatchService {
    /// Connects a watcher that sends its hello: answers the messages to it.
    pub(super) async fn connect(self, mut requests: Streaming<proto::WatchRequest>) -> Result<Responses, Status> {
        let hello = tokio::time::timeout(HELLO_TIMEOUT, requests.next()).await;
        let Ok(Some(Ok(proto::WatchRequest { message: Some(Request::Hello(hello)) }))) = hello else {
            return Err(invalid(&Invalid::new("hello", "must be the first message, within 10 seconds")));
        };
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(status::unknown_protocol_version());
        }
        let hello = parse_hello(hello).map_err(|why| invalid(&why))?;
        if hello.resume.is_some_and(|resume| resume.revision > self.feed.applied()) {
            // It comes from a replica that is ahead of this one.
            self.feed.sync().await.map_err(|_| status::no_answer(&NoAnswer::StoreUnavailable))?;
        }
        let (name, key) = (hello.name.clone(), hello.key);
        let watchers = Arc::clone(self.feed.watchers());
        let (queue, messages) = mpsc::channel(QUEUE);
        let (cut, cut_off) = oneshot::channel();
        let outbox = Box::new(Queue { messages: queue, cut_off: cut });
        let Welcome { number, position, starts_empty } = watchers.hello(hello, outbox).map_err(protocol_error)?;
        let (doubtful, to_judge) = mpsc::unbounded_channel();
        let judge = tokio::spawn(judge_sessions(Arc::clone(&self.login), Arc::clone(&watchers), number, to_judge));
        let watcher = Connected { watchers, number, name, doubtful: doubtful.clone(), judge, feed: self.feed, login: self.login };
        info!(watcher = watcher.name, starts_empty, "a watcher has come");
        let welcome = Response::Welcome(watch_response::Welcome {
            protocol_version: PROTOCOL_VERSION,
            replica: watcher.feed.settings().node_name.clone(),
            position: Some(to_position(position)),
            start_empty: starts_empty,
            lease: Some(convert::duration(watcher.feed.longest_grant())),
            stream_key: key.0.to_vec(),
        });
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            let received = AssertUnwindSafe(receive(watcher, requests, self.drain, cut_off)).catch_unwind().await;
            // The watcher has left the roster by now, so its queue ends; this error comes last. The
            // watcher may have hung up.
            let _ = end.send(received.unwrap_or_else(|_| Err(status::internal())));
        });
        Ok(Responses { first: Some(welcome), messages, doubtful, ended: Some(ended) })
    }
}

/// Handles a watcher's messages until one of the two ends the stream; answers the error to end it
/// with.
async fn receive(
    watcher: Connected,
    mut requests: Streaming<proto::WatchRequest>,
    drain: Drain,
    mut cut_off: oneshot::Receiver<CutOff>,
) -> Result<(), Status> {
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            why = &mut cut_off => return Err(why.map_or_else(|_| status::internal(), status::cut_off)),
            request = requests.next() => match request {
                Some(Ok(request)) => watcher.handle(request)?,
                // On a drain it is what we asked for.
                Some(Err(_)) | None => return if is_draining { Err(status::draining()) } else { Ok(()) },
            },
            () = drain.started(), if !is_draining => {
                is_draining = true;
                watcher.watchers.drain(watcher.number);
            }
        }
    }
}

/// The messages to a watcher: its queue, straight, and the error that ends it.
pub(super) struct Responses {
    first: Option<Response>,
    messages: mpsc::Receiver<Message>,
    doubtful: mpsc::UnboundedSender<Sessions>,
    ended: Option<oneshot::Receiver<Result<(), Status>>>,
}

impl Stream for Responses {
    type Item = Result<proto::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(proto::WatchResponse { message: Some(first) })));
        }
        loop {
            match ready!(self.messages.poll_recv(context)) {
                Some(Message::Judge(sessions)) => {
                    // Its task ends with the watcher.
                    let _ = self.doubtful.send(sessions);
                }
                Some(message) => return Poll::Ready(Some(Ok(proto::WatchResponse { message: Some(to_response(message)) }))),
                None => break,
            }
        }
        let Some(ended) = &mut self.ended else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(ended).poll(context));
        self.ended = None;
        Poll::Ready(ended.unwrap_or_else(|_| Err(status::internal())).err().map(Err))
    }
}

impl Connected {
    /// Does what a watcher's message asks for.
    fn handle(&self, request: proto::WatchRequest) -> Result<(), Status> {
        match request.message {
            None => Err(invalid(&Invalid::new("message", "must be set"))),
            Some(Request::Hello(_)) => Err(invalid(&Invalid::new("hello", "must be sent only once, as the first message"))),
            Some(Request::Renew(watch_request::Renew { number })) => {
                self.watchers.renew(self.number, number).map_err(protocol_error)
            }
            Some(Request::Acknowledge(watch_request::Acknowledge { revision })) => {
                self.watchers.acknowledge(self.number, Revision(revision)).map_err(protocol_error)
            }
            Some(Request::SessionsOpened(watch_request::SessionsOpened { sessions })) => {
                if sessions.is_empty() || sessions.len() > MAX_SESSIONS_AT_ONCE {
                    return Err(invalid(&Invalid::new("sessions", "must be 1 to 1,000 at once")));
                }
                sessions.into_iter().try_for_each(|opened| self.opened(opened))
            }
            // Counts go by the change that ended the session's password here; the watcher's figure
            // is for people who read the messages.
            Some(Request::SessionsClosed(watch_request::SessionsClosed { numbers, revision: _ })) => {
                self.ended(&numbers, End::Closed)
            }
            Some(Request::SessionsRefused(watch_request::SessionsRefused { revision: 0, .. })) => {
                Err(invalid(&Invalid::new("revision", "must be set: only a change makes a watcher refuse a session")))
            }
            Some(Request::SessionsRefused(watch_request::SessionsRefused { numbers, revision: _ })) => {
                self.ended(&numbers, End::Refused)
            }
            Some(Request::CachedLogins(watch_request::CachedLogins { counts })) => self.cached_logins(counts),
            Some(Request::Surrender(watch_request::Surrender {})) => self.watchers.surrender(self.number).map_err(protocol_error),
        }
    }

    fn ended(&self, numbers: &[u64], end: End) -> Result<(), Status> {
        if numbers.is_empty() || numbers.len() > MAX_SESSIONS_AT_ONCE {
            return Err(invalid(&Invalid::new("numbers", "must be 1 to 1,000 at once")));
        }
        self.watchers.sessions_ended(self.number, numbers, end).map_err(protocol_error)
    }

    /// Logins that the watcher answered from its cache are counted as if they had been answered
    /// here.
    fn cached_logins(&self, counts: Vec<watch_request::cached_logins::Count>) -> Result<(), Status> {
        if counts.is_empty() || counts.len() > MAX_SESSIONS_AT_ONCE {
            return Err(invalid(&Invalid::new("counts", "must be 1 to 1,000 at once")));
        }
        let now = self.login.clock.wall();
        let counts = counts.into_iter().map(|count| convert::cached_login(count, now)).collect::<Result<Vec<_>, _>>();
        for cached in &counts.map_err(|why| invalid(&why))? {
            if !self.login.note_cached(cached) {
                debug!(watcher = self.name, "a count names a device that its mailbox does not have; it is not counted");
            }
        }
        Ok(())
    }

    fn opened(&self, opened: watch_request::sessions_opened::Opened) -> Result<(), Status> {
        let refused = |why: Invalid| invalid(&why);
        if i64::try_from(opened.number).is_err() {
            return Err(invalid(&Invalid::new("number", "must be less than 2^63")));
        }
        let session = Session::decode("session", &opened.session).map_err(refused)?;
        let shown = OpenSession {
            password: session.password,
            protocol: convert::protocol("protocol", opened.protocol).map_err(refused)?,
            client_ip: parse_client_ip("client_ip", &opened.client_ip).map_err(refused)?,
            open_time: convert::optional_time("open_time", opened.open_time)
                .map_err(refused)?
                .unwrap_or_else(|| self.login.clock.wall()),
            frontend: self.name.clone(),
        };
        let doubtful = session.clone();
        match self.watchers.session_opened(self.number, opened.number, session, shown).map_err(protocol_error)? {
            Opened::Good | Opened::Closed => (),
            Opened::Doubtful { cause } => self.judge(vec![Doubtful { number: opened.number, session: doubtful, cause }]),
        }
        Ok(())
    }

    fn judge(&self, sessions: Sessions) {
        // It ends with us.
        let _ = self.doubtful.send(sessions);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.judge.abort();
        self.watchers.goodbye(self.number);
        // Revocations that wait for it may go on.
        self.feed.hint();
        debug!(watcher = self.name, "a watcher has gone");
    }
}

/// Judges sessions, each until there is an answer. The watcher is sent those that are no longer
/// valid, to close.
async fn judge_sessions(
    login: Arc<Login>,
    watchers: Arc<Watchers>,
    watcher: u64,
    mut sessions: mpsc::UnboundedReceiver<Sessions>,
) {
    let judge = async |doubtful: Doubtful| {
        let (reason, revision) = loop {
            match login.check_session(&doubtful.session).await {
                Ok(judged) => break judged,
                Err(_) => tokio::time::sleep(JUDGE_AGAIN).await,
            }
        };
        watchers.judged(watcher, &doubtful, reason, revision);
    };
    while let Some(batch) = sessions.recv().await {
        // One mailbox's after each other: the first may cost a read, and the others find it in the
        // cache.
        let mut by_mailbox: HashMap<Address, Sessions> = HashMap::new();
        for doubtful in batch {
            by_mailbox.entry(doubtful.session.address.clone()).or_default().push(doubtful);
        }
        let mailboxes = futures_util::stream::iter(by_mailbox.into_values());
        mailboxes
            .for_each_concurrent(MAILBOXES_AT_ONCE, async |mailbox| {
                for session in mailbox {
                    judge(session).await;
                }
            })
            .await;
    }
}

fn parse_hello(hello: watch_request::Hello) -> Result<Hello, Invalid> {
    let watch_request::Hello { protocol_version: _, name, watcher_id, resume, observe } = hello;
    let characters = name.chars().count();
    if characters == 0 || characters > MAX_NAME_CHARACTERS || name.chars().any(char::is_control) {
        return Err(Invalid::new("name", "must be 1 to 64 characters, no control characters"));
    }
    let id = Uuid::try_parse(&watcher_id).map_err(|_| Invalid::new("watcher_id", "must be a UUID (36 characters)"))?;
    let resume = resume.map(|position| Position { revision: Revision(position.revision), nonce: position.nonce });
    Ok(Hello { name, id, resume, observes: observe, key: StreamKey(crate::random::bytes()) })
}

fn to_position(position: Position) -> proto::Position {
    proto::Position { revision: position.revision.0, nonce: position.nonce }
}

fn to_response(message: Message) -> Response {
    match message {
        Message::Change { change, previous } => Response::Change(to_change(&change, previous)),
        Message::StartEmpty(position) => {
            Response::StartEmpty(watch_response::StartEmpty { position: Some(to_position(position)) })
        }
        Message::Granted { number, lease, previous, position } => Response::Grant(watch_response::Grant {
            number,
            duration: Some(convert::duration(lease)),
            previous: Some(to_position(previous)),
            position: Some(to_position(position)),
        }),
        Message::Close { numbers, reason, revision } => Response::CloseSessions(watch_response::CloseSessions {
            numbers,
            reason: convert::reason(reason).into(),
            revision: revision.0,
        }),
        Message::Draining => Response::Draining(watch_response::Draining {}),
        // Judged here; see the caller.
        Message::Judge(_) => Response::CloseSessions(watch_response::CloseSessions::default()),
        Message::Acknowledged(it) => Response::Acknowledged(watch_response::Acknowledged {
            revision: it.revision.0,
            name: it.name,
            is_replica: it.is_replica,
            took: Some(convert::duration(it.took)),
        }),
        Message::SessionsEnded(it) => Response::SessionsEnded(watch_response::SessionsEnded {
            revision: it.revision.0,
            name: it.name,
            closed_sessions: it.closed,
            refused_sessions: it.refused,
            took: Some(convert::duration(it.took)),
        }),
    }
}

fn to_change(change: &Change, previous: Position) -> watch_response::Change {
    let (mailboxes, mail_service) = match &change.scope {
        Scope::Mailboxes(keys) => (keys.iter().map(|key| key.0.to_vec()).collect(), vec![]),
        Scope::Service(service) => (vec![], service.0.to_be_bytes().to_vec()),
    };
    let ended = change.ended.iter().map(|ended| watch_response::change::Ended {
        device_id: ended.device_id.to_string(),
        generation: ended.generation,
        reason: convert::reason(ended.reason).into(),
    });
    watch_response::Change {
        position: Some(to_position(change.position())),
        previous: Some(to_position(previous)),
        mailboxes,
        mail_service,
        ended: ended.collect(),
    }
}
