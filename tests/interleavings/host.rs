//! A mail host that follows a replica: the library's own, over a stream that the test carries.

use std::sync::mpsc;

use shuttle::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
use uuid::Uuid;

use crate::{
    downstream::{Hello, Message, StreamKey, test_stream::Watch},
    mail_host::{self, Close, MailHost, Opening, Reply, Request, Settings, Todo, Welcome},
    model::{
        change::{Position, Revision},
        clock::{SharedClock, Timestamp},
        device::{DeviceKind, KeyId, Tag},
        protocol::Protocol,
        record::{Credential, MailboxRecord},
        secret::Secret,
        verdict::{Attempt, Reason, Session},
    },
    replica::{Answer, LEASE, Replica, step},
};

pub(crate) const NAME: &str = "host";

pub(crate) struct Host {
    replica: Arc<Replica>,
    host: MailHost,
    streams: AtomicU8,
}

/// A stream to the replica.
pub(crate) struct Stream {
    pub(crate) number: u64,
    messages: mpsc::Receiver<Message>,
}

impl Host {
    /// Follows the replica, and has the mailbox in its cache.
    pub(crate) fn new(replica: &Arc<Replica>) -> (Arc<Self>, Stream) {
        let settings = Settings { cache_mailboxes: 100, memo_key: [1; 32], close_when_cut_off_for: None };
        let clock: SharedClock = Arc::clone(&replica.clock) as _;
        let host = MailHost::new(&settings, clock, Arc::new(|| ()));
        let host = Self { replica: Arc::clone(replica), host, streams: AtomicU8::new(0) };
        let stream = host.follow(None);
        host.login();
        (Arc::new(host), stream)
    }

    pub(crate) fn position(&self) -> Position {
        self.host.position().expect("it follows")
    }

    pub(crate) fn follow(&self, resume: Option<Position>) -> Stream {
        let key = StreamKey([self.streams.fetch_add(1, Ordering::SeqCst); 16]);
        let hello = Hello { name: NAME.to_owned(), id: Uuid::from_u128(1), resume, observes: false, key };
        let Watch { number, position, starts_empty, messages, .. } =
            Watch::open(self.replica.watchers(), hello).expect("there is room");
        self.host.disconnected();
        let stream = Stream { number, messages };
        let todo = self.host.welcomed(Welcome { position, start_empty: starts_empty, key, lease: LEASE });
        self.carry_out(&stream, todo);
        stream
    }

    /// Asks for a lease. It counts from before.
    pub(crate) fn renew(&self, stream: &mut Stream) {
        let requests = vec![self.host.renew()];
        self.carry_out(stream, Todo { requests, ..Todo::default() });
    }

    /// Hears the next message, if one is there. Whether one was.
    pub(crate) fn hear(&self, stream: &mut Stream) -> bool {
        step();
        let Ok(message) = stream.messages.try_recv() else {
            return false;
        };
        let todo = match message {
            Message::Change { change, previous } => {
                self.host.hear(mail_host::Message::Change { position: change.position(), previous, change })
            }
            Message::StartEmpty(position) => self.host.hear(mail_host::Message::StartEmpty { position }),
            Message::Granted { number, lease: duration, previous, position } => {
                self.host.hear(mail_host::Message::Grant { number, duration, previous, position })
            }
            Message::Close { numbers, reason, revision } => {
                let close = self.host.close_sessions(&numbers, reason, revision);
                Todo { close, ..Todo::default() }
            }
            Message::Draining => self.host.hear(mail_host::Message::Draining),
            Message::Judge(_) | Message::Acknowledged(_) | Message::SessionsEnded(_) => Todo::default(),
        };
        self.carry_out(stream, todo);
        true
    }

    /// Hears all that was said.
    pub(crate) fn hear_all(&self, stream: &mut Stream) {
        while self.hear(stream) {}
    }

    pub(crate) fn surrender(&self, stream: &Stream) {
        let todo = self.host.stop();
        self.carry_out(stream, todo);
    }

    /// A login, from memory if that can let it in. Never by a password whose end was EFFECTIVE
    /// before.
    pub(crate) fn login(&self) {
        let was_effective = self.replica.is_effective();
        let is_allowed = self.host.answer(&self.attempt()).is_some() || self.ask().is_some_and(|answer| answer.is_allowed);
        assert!(!(was_effective && is_allowed), "a login that began after EFFECTIVE was let in");
    }

    /// A session opens whose login was judged at revision 1. Whether it is to close at once.
    pub(crate) fn open_session(&self) -> Option<Close> {
        let session = self.session(Revision(1));
        let opening = Opening { session, protocol: Protocol::Imap, client_ip: None, open_time: Timestamp(1) };
        self.host.opened(opening).expect("there is room").1
    }

    /// Hears the next change, without answering. The sessions that are to close.
    pub(crate) fn hear_change(&self, stream: &Stream) -> Vec<Close> {
        match stream.messages.try_recv() {
            Ok(Message::Change { change, previous }) => {
                self.host.hear(mail_host::Message::Change { position: change.position(), previous, change }).close
            }
            _ => vec![],
        }
    }

    /// Asks the replica, and remembers what it allows.
    fn ask(&self) -> Option<Answer> {
        let attempt = self.attempt();
        let question = self.host.ask(&attempt);
        let applied = self.host.applied();
        let answer = self.replica.login()?;
        step();
        if answer.is_allowed {
            let (session, record) = (Some(self.session(answer.revision)), Some(self.record()));
            let reply = Reply { reason: Reason::Ok, session, revision: answer.revision, record };
            self.host.answered(question, &attempt, reply, true);
        } else {
            assert!(answer.revision >= applied, "the replica has told of a change, and answers as of before");
        }
        Some(answer)
    }

    fn carry_out(&self, stream: &Stream, todo: Todo) {
        for request in todo.requests {
            step();
            let watchers = self.replica.watchers();
            // The stream may have been replaced meanwhile: then nobody hears it.
            let _ = match request {
                Request::Renew { number } => watchers.renew(stream.number, number),
                Request::Acknowledge(revision) => watchers.acknowledge(stream.number, revision),
                Request::Surrender => watchers.surrender(stream.number),
                _ => Ok(()),
            };
        }
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            address: self.replica.address.clone(),
            password: Secret::from("the password".to_owned()),
            protocol: Protocol::Imap,
            client_ip: None,
            frontend: NAME.into(),
        }
    }

    fn session(&self, revision: Revision) -> Session {
        Session { password: self.replica.password, revision, address: self.replica.address.clone() }
    }

    fn record(&self) -> MailboxRecord {
        let password = self.replica.password;
        let device = Credential {
            device_id: password.device_id,
            generation: password.generation,
            tag: Tag::Unknown,
            key: KeyId(0),
            kind: DeviceKind::Chosen,
            user_suspended: false,
            limits: None,
        };
        MailboxRecord { active: Box::new([device]), ..self.replica.record(false) }
    }
}
