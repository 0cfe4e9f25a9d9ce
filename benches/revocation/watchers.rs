//! Many watchers in one process, each as small as one can be: it renews, acknowledges, and closes
//! its sessions at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use latchkey::{
    clock::SystemClock,
    proto::{
        self,
        authorization_client::AuthorizationClient,
        watch_request::{self, Message as Ask},
        watch_response::Message as Told,
    },
    random,
};
use latchkey_core::model::{
    clock::{BootTime, Clock},
    verdict::Session,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::transport::Channel;

use crate::server::Server;

/// Streams on one connection, at most: a mail host has a connection of its own, but one process
/// can't open so many.
const PER_CONNECTION: usize = 8;
const RENEWAL: Duration = Duration::from_secs(2);

pub(crate) struct Watchers {
    watchers: Vec<mpsc::UnboundedSender<proto::WatchRequest>>,
    /// When the session of a device was closed.
    closed: Arc<Mutex<HashMap<String, BootTime>>>,
    sessions: Arc<Mutex<HashMap<(usize, String), u64>>>,
}

impl Watchers {
    pub(crate) async fn start(replicas: &[Server], count: usize) -> Self {
        let (closed, sessions) = (Arc::default(), Arc::default());
        let mut watchers = vec![];
        let mut channel: Option<Channel> = None;
        let per_connection = if count > 1_000 { PER_CONNECTION } else { 1 };
        let (welcomed, mut welcomes) = mpsc::unbounded_channel();
        for number in 0..count {
            // Eight in a row to one replica, then the next.
            if number % per_connection == 0 {
                channel = Some(replicas[(number / per_connection) % replicas.len()].channel().await);
            }
            let (to_send, requests) = mpsc::unbounded_channel();
            watchers.push(to_send.clone());
            let watcher = Watcher { number, to_send, closed: Arc::clone(&closed), sessions: Arc::clone(&sessions) };
            tokio::spawn(watcher.run(channel.clone().expect("a channel"), requests, welcomed.clone()));
        }
        for _ in 0..count {
            welcomes.recv().await.expect("each is granted a lease");
        }
        Self { watchers, closed, sessions }
    }

    /// A session is open at a watcher.
    pub(crate) fn open(&self, watcher: usize, session: Vec<u8>) {
        let device = Session::decode("session", &session).expect("a session").password.device_id.to_string();
        let mut sessions = self.sessions.lock().expect("not poisoned");
        let number = sessions.len() as u64;
        sessions.insert((watcher, device), number);
        let opened = watch_request::sessions_opened::Opened {
            number,
            session,
            protocol: proto::Protocol::Imap.into(),
            ..Default::default()
        };
        let message = Some(Ask::SessionsOpened(watch_request::SessionsOpened { sessions: vec![opened] }));
        self.watchers[watcher].send(proto::WatchRequest { message }).expect("it watches");
    }

    /// Until what was said is heard.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    pub(crate) fn closed_at(&self, device: &str) -> BootTime {
        *self.closed.lock().expect("not poisoned").get(device).expect("closed before EFFECTIVE")
    }
}

struct Watcher {
    number: usize,
    to_send: mpsc::UnboundedSender<proto::WatchRequest>,
    closed: Arc<Mutex<HashMap<String, BootTime>>>,
    sessions: Arc<Mutex<HashMap<(usize, String), u64>>>,
}

impl Watcher {
    fn ask(&self, message: Ask) {
        // The benchmark may be over.
        let _ = self.to_send.send(proto::WatchRequest { message: Some(message) });
    }

    async fn run(
        self,
        channel: Channel,
        requests: mpsc::UnboundedReceiver<proto::WatchRequest>,
        welcomed: mpsc::UnboundedSender<()>,
    ) {
        self.ask(Ask::Hello(watch_request::Hello {
            protocol_version: 1,
            name: format!("host-{}", self.number),
            watcher_id: uuid::Uuid::from_bytes(random::bytes()).to_string(),
            resume: None,
            observe: false,
        }));
        let mut client = AuthorizationClient::new(channel);
        let stream = client.watch(UnboundedReceiverStream::new(requests)).await.expect("it is let in");
        let mut told = stream.into_inner();
        let mut renewals = tokio::time::interval(RENEWAL);
        let mut asked = 0;
        loop {
            tokio::select! {
                message = told.next() => match message {
                    Some(Ok(proto::WatchResponse { message: Some(message) })) => self.hear(message, &welcomed),
                    Some(Ok(_)) => (),
                    Some(Err(_)) | None => return,
                },
                _ = renewals.tick() => {
                    asked += 1;
                    self.ask(Ask::Renew(watch_request::Renew { number: asked }));
                }
            }
        }
    }

    fn hear(&self, message: Told, welcomed: &mpsc::UnboundedSender<()>) {
        match message {
            Told::Grant(grant) if grant.number == 1 => {
                let _ = welcomed.send(());
            }
            Told::Change(change) => {
                let revision = change.position.expect("a position").revision;
                self.ask(Ask::Acknowledge(watch_request::Acknowledge { revision }));
                let mut numbers = vec![];
                for ended in change.ended {
                    let session = self.sessions.lock().expect("not poisoned").remove(&(self.number, ended.device_id.clone()));
                    if let Some(number) = session {
                        self.closed.lock().expect("not poisoned").insert(ended.device_id, SystemClock.boot());
                        numbers.push(number);
                    }
                }
                if !numbers.is_empty() {
                    self.ask(Ask::SessionsClosed(watch_request::SessionsClosed { numbers, revision }));
                }
            }
            _ => (),
        }
    }
}
