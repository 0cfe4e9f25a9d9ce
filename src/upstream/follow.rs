//! Following a replica: one stream at a time, and the next replica when it breaks.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Upstream,
    messages::{self, ToSend},
};
use crate::proto::{
    self,
    watch_request::{self, Message as Ask},
    watch_response::Message as Response,
};
use latchkey_core::mail_host::{ANSWER_TIMEOUT, HangUp, Todo};

/// Of the messages.
const PROTOCOL_VERSION: u32 = 1;
/// After a stream that broke: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    HangUp(HangUp),
    #[error("{}", .0.message())]
    Refused(Status),
    #[error("the replica has ended the stream")]
    Closed,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl Upstream {
    /// Follows a replica for ever.
    pub async fn run(self: Arc<Self>) {
        let mut retry = RETRY[0];
        loop {
            let replica = *self.followed.borrow();
            let began = self.clock.boot();
            let ended = self.follow(replica).await;
            *self.stream() = None;
            self.host.disconnected();
            self.connected.send_replace(false);
            if self.stopping.is_cancelled() {
                return std::future::pending().await;
            }
            match ended {
                Ended::HangUp(HangUp::Draining) => info!(replica, "the replica stops; the next one is followed"),
                Ended::Closed => debug!(replica, "the replica has ended the stream"),
                ended => warn!(replica, why = %ended, "the replica cannot be followed; the next one is tried"),
            }
            self.followed.send_replace((replica + 1) % self.settings.replicas.len());
            if self.clock.boot() - began > RETRY[1] {
                retry = RETRY[0];
            }
            self.polling(tokio::time::sleep(retry)).await;
            retry = (retry * 2).min(RETRY[1]);
        }
    }

    /// One stream, from its hello to its end.
    async fn follow(&self, replica: usize) -> Ended {
        let (to_send, requests) = mpsc::unbounded_channel();
        match self.polling(self.begin(replica, &to_send, requests)).await {
            Ok(messages) => self.hear_all(messages, to_send).await,
            Err(status) => Ended::Refused(status),
        }
    }

    async fn begin(
        &self,
        replica: usize,
        to_send: &ToSend,
        requests: mpsc::UnboundedReceiver<proto::WatchRequest>,
    ) -> Result<Streaming<proto::WatchResponse>, Status> {
        let hello = watch_request::Hello {
            protocol_version: PROTOCOL_VERSION,
            name: self.settings.name.clone(),
            watcher_id: self.id.to_string(),
            resume: self.host.position().map(messages::from_position),
            observe: false,
        };
        // The channel is open: its other end is at hand.
        let _ = to_send.send(proto::WatchRequest { message: Some(Ask::Hello(hello)) });
        let mut client = self.client(replica);
        let mut messages = in_time(client.watch(Request::new(UnboundedReceiverStream::new(requests)))).await??.into_inner();
        let first = in_time(messages.next()).await?.transpose()?.and_then(|first| first.message);
        let Some(Response::Welcome(welcome)) = first else {
            return Err(Status::internal("the replica did not send a welcome"));
        };
        *self.stream() = Some(to_send.clone());
        let todo = self.host.welcomed(messages::welcome(&welcome)?);
        self.carry_out(todo);
        self.connected.send_replace(true);
        info!(replica = welcome.replica, start_empty = welcome.start_empty, "following");
        Ok(messages)
    }

    async fn hear_all(&self, mut messages: Streaming<proto::WatchResponse>, to_send: ToSend) -> Ended {
        // Outside the loop: a host that is never idle renews its lease all the same.
        let mut next_poll = Instant::now();
        let why = loop {
            let todo = tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) => self.hear(message),
                    Some(Err(status)) => return status.into(),
                    None => return Ended::Closed,
                },
                () = tokio::time::sleep_until(next_poll) => {
                    let (todo, pause) = self.host.poll();
                    next_poll = Instant::now() + pause;
                    todo
                }
                () = self.stopping.cancelled() => self.host.stop(),
                () = self.has_reports.notified() => Todo { requests: self.host.take_reports(), ..Todo::default() },
            };
            if let Some(why) = self.carry_out(todo) {
                break why;
            }
        };
        if matches!(why, HangUp::Draining | HangUp::Stopping) {
            // The stream is read to its end, so that the surrender arrives.
            *self.stream() = None;
            drop(to_send);
            while let Ok(Some(Ok(_))) = in_time(messages.next()).await {}
        }
        Ended::HangUp(why)
    }

    fn hear(&self, message: proto::WatchResponse) -> Todo {
        match message.message {
            Some(Response::CloseSessions(close)) => {
                let (numbers, reason, cause) = messages::close(close);
                Todo { close: self.host.close_sessions(&numbers, reason, cause), ..Todo::default() }
            }
            // For observers, and said already.
            Some(Response::Acknowledged(_) | Response::SessionsEnded(_) | Response::Welcome(_)) => Todo::default(),
            message => self.host.hear(messages::message(message)),
        }
    }

    /// Does what the host decided. Answers whether the stream is to end.
    pub(super) fn carry_out(&self, todo: Todo) -> Option<HangUp> {
        let Todo { requests, close, hang_up } = todo;
        if let Some(stream) = &*self.stream() {
            for request in requests {
                // If the stream is ending, the next one begins with all that matters.
                let _ = stream.send(messages::request(request));
            }
        }
        self.close(close);
        hang_up
    }

    /// Waits for something while there is no stream, and does meanwhile what time makes due.
    async fn polling<T>(&self, run: impl Future<Output = T>) -> T {
        let mut run = std::pin::pin!(run);
        loop {
            let (todo, pause) = self.host.poll();
            self.carry_out(todo);
            tokio::select! {
                done = &mut run => return done,
                () = tokio::time::sleep(pause) => (),
            }
        }
    }
}

async fn in_time<T>(run: impl Future<Output = T>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, run).await;
    answer.map_err(|_| Status::deadline_exceeded("the replica does not answer"))
}
