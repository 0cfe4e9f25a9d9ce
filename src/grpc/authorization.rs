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
    login::Login,
    proto::{self, authenticate_stream_response::Outcome, authorization_server::Authorization},
    replication::Feed,
};
use latchkey_core::model::{
    Invalid,
    verdict::{Attempt, Reason, Session, Verdict},
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

type Watching = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;
type Answers = Pin<Box<dyn Stream<Item = Result<proto::AuthenticateStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Authorization for AuthorizationService {
    async fn authenticate(
        &self,
        request: Request<proto::AuthenticateRequest>,
    ) -> Result<Response<proto::AuthenticateResponse>, Status> {
        frontend(&request)?;
        let request = request.into_inner();
        let want_cache = request.want_cache;
        let attempt = convert::attempt(request).map_err(|why| invalid(&why))?;
        judge(&self.login, &attempt, want_cache).await.map(Response::new)
    }

    type AuthenticateStreamStream = Answers;

    async fn authenticate_stream(
        &self,
        request: Request<Streaming<proto::AuthenticateStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        frontend(&request)?;
        let (login, drain, requests) = (Arc::clone(&self.login), self.drain.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answered_by(ANSWERS, |answers| answer_stream(login, drain, requests, answers)))))
    }

    type WatchStream = Watching;

    async fn watch(&self, request: Request<Streaming<proto::WatchRequest>>) -> Result<Response<Watching>, Status> {
        frontend(&request)?;
        let door = watch::Door { login: Arc::clone(&self.login), feed: Arc::clone(&self.feed), drain: self.drain.clone() };
        Ok(Response::new(Box::pin(door.open(request.into_inner()).await?)))
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

async fn judge(login: &Arc<Login>, attempt: &Attempt, want_cache: bool) -> Result<proto::AuthenticateResponse, Status> {
    let verdict = login.authenticate(attempt).await.map_err(|why| no_answer(&why))?;
    Ok(answer(login, attempt, &verdict, want_cache))
}

fn answer(login: &Login, attempt: &Attempt, verdict: &Verdict, want_cache: bool) -> proto::AuthenticateResponse {
    let mut answer = convert::verdict(verdict, &attempt.address);
    if want_cache {
        answer.cache = login.cacheable(&attempt.address, verdict).map(|it| convert::cache_entry(&it));
    }
    answer
}

/// Answers a stream's requests until it ends, its reader is gone, or the server drains.
async fn answer_stream(
    login: Arc<Login>,
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
                    let parsed = parse(request);
                    match parsed.as_ref().ok().and_then(|(attempt, want_cache)| answer_warm(&login, attempt, *want_cache)) {
                        Some(answer) => outcome(request_id, Ok(answer)),
                        None => {
                            under_way.push(answer_slowly(&login, request_id, parsed));
                            continue;
                        }
                    }
                }
                // What can't be read can't be answered by its number, and nothing after it can be trusted.
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

fn parse(request: proto::AuthenticateStreamRequest) -> Result<(Attempt, bool), Status> {
    let login = request.login.ok_or_else(|| invalid(&Invalid::new("login", "must be set")))?;
    let want_cache = login.want_cache;
    Ok((convert::attempt(login).map_err(|why| invalid(&why))?, want_cache))
}

/// The way of nearly all logins on a stream: no task, no wait.
fn answer_warm(login: &Login, attempt: &Attempt, want_cache: bool) -> Option<proto::AuthenticateResponse> {
    let verdict = login.authenticate_warm(attempt)?;
    Some(answer(login, attempt, &verdict, want_cache))
}

async fn answer_slowly(
    login: &Arc<Login>,
    request_id: u64,
    parsed: Result<(Attempt, bool), Status>,
) -> proto::AuthenticateStreamResponse {
    let answer = match parsed {
        Ok((attempt, want_cache)) => judge(login, &attempt, want_cache).await,
        Err(refused) => Err(refused),
    };
    outcome(request_id, answer)
}

fn outcome(request_id: u64, answer: Result<proto::AuthenticateResponse, Status>) -> proto::AuthenticateStreamResponse {
    let outcome = answer.map_or_else(|status| Outcome::Error(stream_error(&status)), Outcome::Answer);
    proto::AuthenticateStreamResponse { request_id, outcome: Some(outcome) }
}

fn stream_error(status: &Status) -> proto::StreamError {
    let details = status::details(status);
    proto::StreamError {
        code: status.code() as i32,
        message: status.message().to_owned(),
        reason: details.reason,
        retry_after: details.retry_after.map(convert::duration),
    }
}
