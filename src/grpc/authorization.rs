//! The service `Authorization`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::frontend,
    convert,
    status::{self, invalid, no_answer},
    streaming::{self, answered_by},
    watch,
};
use crate::{
    lifecycle::Drain,
    login::{Cold, Judged, Login},
    proto::{self, authenticate_stream_response::Outcome, authorization_server::Authorization},
    replication::Feed,
};
use latchkey_core::model::{
    Invalid,
    verdict::{Attempt, Reason, Session},
};

/// Requests under way on one stream; then reading pauses.
const MAX_UNDER_WAY: usize = 4_096;
/// Answers that wait to be sent on one stream.
const ANSWERS: usize = 1_024;

/// See the proto.
#[derive(Clone, Debug)]
pub struct AuthorizationService {
    pub login: Arc<Login>,
    pub feed: Arc<Feed>,
    pub drain: Drain,
}

type WatchResponses = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;
type Answers = Pin<Box<dyn Stream<Item = Result<proto::AuthenticateStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Authorization for AuthorizationService {
    async fn authenticate(
        &self,
        request: Request<proto::AuthenticateRequest>,
    ) -> Result<Response<proto::AuthenticateResponse>, Status> {
        frontend(&request)?;
        let request = request.into_inner();
        let key = request.stream_key.clone();
        let attempt = convert::attempt(request).map_err(|why| invalid(&why))?;
        let logins = self.logins();
        match logins.login.authenticate_warm(&attempt) {
            Ok(judged) => Ok(Response::new(logins.answer(&attempt, &judged, &key))),
            Err(cold) => logins.judge(&attempt, &key, cold).await.map(Response::new),
        }
    }

    type AuthenticateStreamStream = Answers;

    async fn authenticate_stream(
        &self,
        request: Request<Streaming<proto::AuthenticateStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        frontend(&request)?;
        let (logins, drain, requests) = (self.logins(), self.drain.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answered_by(ANSWERS, |answers| answer_stream(logins, drain, requests, answers)))))
    }

    type WatchStream = WatchResponses;

    async fn watch(&self, request: Request<Streaming<proto::WatchRequest>>) -> Result<Response<WatchResponses>, Status> {
        frontend(&request)?;
        let (login, feed, drain) = (Arc::clone(&self.login), Arc::clone(&self.feed), self.drain.clone());
        let responses = watch::WatchService { login, feed, drain }.connect(request.into_inner()).await?;
        Ok(Response::new(Box::pin(responses)))
    }

    async fn check_session(
        &self,
        request: Request<proto::CheckSessionRequest>,
    ) -> Result<Response<proto::CheckSessionResponse>, Status> {
        frontend(&request)?;
        let session = Session::decode("session", &request.into_inner().session).map_err(|why| invalid(&why))?;
        let (reason, revision) = self.login.check_session(&session).await.map_err(|why| no_answer(&why))?;
        Ok(Response::new(proto::CheckSessionResponse {
            valid: reason == Reason::Ok,
            reason: convert::reason(reason).into(),
            revision: revision.0,
        }))
    }
}

impl AuthorizationService {
    fn logins(&self) -> Logins {
        Logins { login: Arc::clone(&self.login), feed: Arc::clone(&self.feed) }
    }
}

/// What answers logins, for a stream's task.
struct Logins {
    login: Arc<Login>,
    feed: Arc<Feed>,
}

impl Logins {
    /// Judges a login that memory alone could not allow.
    async fn judge(&self, attempt: &Attempt, key: &[u8], cold: Cold) -> Result<proto::AuthenticateResponse, Status> {
        let judged = self.login.authenticate_cold(attempt, cold).await.map_err(|why| no_answer(&why))?;
        if judged.verdict.reason == Reason::Throttled {
            return Err(status::throttled(judged.verdict.retry_after));
        }
        Ok(self.answer(attempt, &judged, key))
    }

    /// `key`: of the stream that may cache it.
    fn answer(&self, attempt: &Attempt, judged: &Judged, key: &[u8]) -> proto::AuthenticateResponse {
        let mut answer = convert::verdict(&judged.verdict, &attempt.address);
        if !key.is_empty() && self.feed.watchers().is_connected(key) {
            answer.cache = judged.cacheable().map(|it| convert::cache_entry(&attempt.address, &it));
        }
        answer
    }
}

/// Answers a stream's requests until it ends, its reader is gone, or the server drains.
async fn answer_stream(
    logins: Logins,
    drain: Drain,
    mut requests: Streaming<proto::AuthenticateStreamRequest>,
    answers: streaming::Answers<proto::AuthenticateStreamResponse>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        let answer = tokio::select! {
            biased;
            Some(answer) = under_way.next() => answer,
            request = requests.next(), if open && under_way.len() < MAX_UNDER_WAY => match request {
                Some(Ok(request)) => {
                    let request_id = request.request_id;
                    match parse(request) {
                        Err(refused) => outcome(request_id, Err(refused)),
                        // The way of nearly all logins: no task, no wait.
                        Ok((attempt, key)) => match logins.login.authenticate_warm(&attempt) {
                            Ok(judged) => outcome(request_id, Ok(logins.answer(&attempt, &judged, &key))),
                            Err(cold) => {
                                under_way.push(answer_slowly(&logins, request_id, attempt, key, cold));
                                continue;
                            }
                        },
                    }
                }
                // What can't be read can't be answered by its number, and nothing after it can be
                // trusted.
                Some(Err(unreadable)) => {
                    let _ = answers.send(Err(unreadable)).await;
                    return;
                }
                None => {
                    open = false;
                    continue;
                }
            },
            () = drain.started(), if open => {
                open = false;
                continue;
            }
            // Nobody reads the answers any more.
            () = answers.closed() => return,
        };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
    if drain.has_started() {
        let _ = answers.send(Err(status::draining())).await;
    }
}

fn parse(request: proto::AuthenticateStreamRequest) -> Result<(Attempt, Vec<u8>), Status> {
    let login = request.login.ok_or_else(|| invalid(&Invalid::new("login", "must be set")))?;
    let key = login.stream_key.clone();
    Ok((convert::attempt(login).map_err(|why| invalid(&why))?, key))
}

async fn answer_slowly(
    logins: &Logins,
    request_id: u64,
    attempt: Attempt,
    key: Vec<u8>,
    cold: Cold,
) -> proto::AuthenticateStreamResponse {
    outcome(request_id, logins.judge(&attempt, &key, cold).await)
}

fn outcome(request_id: u64, answer: Result<proto::AuthenticateResponse, Status>) -> proto::AuthenticateStreamResponse {
    let outcome = answer.map_or_else(|status| Outcome::Error(status::in_a_stream(&status)), Outcome::Answer);
    proto::AuthenticateStreamResponse { request_id, outcome: Some(outcome) }
}
