//! Messages of the contract to the model, and back. What cannot be read comes from a replica of
//! another version; it is treated with care.

use std::{sync::Arc, time::Duration};

use tonic::Status;
use tonic_types::StatusExt;

use crate::proto::{
    self,
    watch_request::{self, Message as Ask, sessions_opened::Opened},
    watch_response::{self, Message as Response},
};
use latchkey_core::{
    downstream::StreamKey,
    mail_host::{CachedLogins, Message, Opening, Reply, Request, SessionNumber, Standing, Welcome},
    model::{
        address::MailboxKey,
        change::{Change, Ended, Position, Revision, Scope, ServiceKey},
        clock::Timestamp,
        device::{DeviceKind, KeyId, Limits, Tag},
        id::DeviceId,
        network::Networks,
        protocol::Protocol,
        record::{Credential, MailboxRecord},
        verdict::{Attempt, ProvenPassword, Reason, Session},
    },
};

/// To a replica. Bounded by what the replica sends, and by the sessions of this host.
pub(super) type ToSend = tokio::sync::mpsc::UnboundedSender<proto::WatchRequest>;

/// The reason of [`proto::Reason::Throttled`]'s error.
const THROTTLED: &str = "THROTTLED";

pub(super) fn attempt(attempt: &Attempt, stream_key: Option<StreamKey>) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        address: attempt.address.to_string(),
        password: attempt.password.expose().to_vec(),
        protocol: attempt.protocol as i32,
        client_ip: attempt.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        frontend: attempt.frontend.to_string(),
        stream_key: stream_key.map_or_else(Vec::new, |key| key.0.to_vec()),
    }
}

/// What a replica answered to a login. A reason that this version does not know is a denial all the
/// same; what is neither a denial nor an admission that can be read is no answer.
pub(super) fn reply(answer: &proto::AuthenticateResponse) -> Result<Reply, Status> {
    let revision = Revision(answer.revision);
    match answer.decision() {
        proto::Decision::Allow => {
            let session = Session::decode("session", &answer.session)
                .map_err(|_| Status::internal("the replica allows a login with a session that this version cannot read"))?;
            let record = answer.cache.as_ref().and_then(|cache| record(session.password, cache));
            Ok(Reply { reason: Reason::Ok, session: Some(session), revision, record })
        }
        proto::Decision::Deny => {
            let reason = Reason::from_number(answer.reason.into()).filter(|reason| *reason != Reason::Ok);
            Ok(Reply { reason: reason.unwrap_or(Reason::WrongPassword), session: None, revision, record: None })
        }
        proto::Decision::Unspecified => Err(Status::internal("the replica has not decided")),
    }
}

pub(super) fn standing(answer: &proto::CheckSessionResponse) -> Standing {
    if answer.valid {
        return Standing::Valid;
    }
    Standing::Ended(Reason::from_number(answer.reason.into()).unwrap_or(Reason::DeviceDisconnected))
}

pub(super) fn is_throttled(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == THROTTLED)
}

pub(super) fn welcome(welcome: &watch_response::Welcome) -> Result<Welcome, Status> {
    let key = welcome.stream_key.as_slice().try_into();
    Ok(Welcome {
        position: position(welcome.position.unwrap_or_default()),
        start_empty: welcome.start_empty,
        key: StreamKey(key.map_err(|_| Status::internal("stream_key must have 16 bytes"))?),
        lease: welcome.lease.map(duration).unwrap_or_default(),
    })
}

/// One that moves the position. What cannot be read may take access away.
pub(super) fn message(message: Option<Response>) -> Message<Arc<Change>> {
    match message {
        Some(Response::Change(it)) => match change(&it) {
            Some(change) => Message::Change {
                position: change.position(),
                previous: position(it.previous.unwrap_or_default()),
                change: Arc::new(change),
            },
            None => Message::Unknown,
        },
        Some(Response::StartEmpty(it)) => Message::StartEmpty { position: position(it.position.unwrap_or_default()) },
        Some(Response::Grant(it)) => Message::Grant {
            number: it.number,
            duration: it.duration.map(duration).unwrap_or_default(),
            previous: position(it.previous.unwrap_or_default()),
            position: position(it.position.unwrap_or_default()),
        },
        Some(Response::Draining(_)) => Message::Draining,
        _ => Message::Unknown,
    }
}

pub(super) fn close(close: watch_response::CloseSessions) -> (Vec<SessionNumber>, Reason, Revision) {
    let reason = Reason::from_number(close.reason.into()).unwrap_or(Reason::DeviceDisconnected);
    (close.numbers, reason, Revision(close.revision))
}

pub(super) fn request(request: Request) -> proto::WatchRequest {
    let message = match request {
        Request::Renew { number } => Ask::Renew(watch_request::Renew { number }),
        Request::Acknowledge(revision) => Ask::Acknowledge(watch_request::Acknowledge { revision: revision.0 }),
        Request::SessionsOpened(sessions) => {
            let sessions = sessions.into_iter().map(|(number, opening)| opened(number, &opening)).collect();
            Ask::SessionsOpened(watch_request::SessionsOpened { sessions })
        }
        Request::SessionsClosed { numbers, cause } => {
            Ask::SessionsClosed(watch_request::SessionsClosed { numbers, revision: cause.0 })
        }
        Request::SessionsRefused { numbers, cause } => {
            Ask::SessionsRefused(watch_request::SessionsRefused { numbers, revision: cause.0 })
        }
        Request::CachedLogins(counts) => {
            Ask::CachedLogins(watch_request::CachedLogins { counts: counts.into_iter().map(count).collect() })
        }
        Request::Surrender => Ask::Surrender(watch_request::Surrender {}),
    };
    proto::WatchRequest { message: Some(message) }
}

fn opened(number: SessionNumber, opening: &Opening) -> Opened {
    Opened {
        number,
        session: opening.session.encode(),
        protocol: opening.protocol as i32,
        client_ip: opening.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        open_time: Some(from_time(opening.open_time)),
    }
}

fn count(counted: CachedLogins) -> watch_request::cached_logins::Count {
    watch_request::cached_logins::Count {
        session: counted.session.encode(),
        protocol: counted.protocol as i32,
        client_ip: counted.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        frontend: counted.frontend.into_string(),
        reason: Reason::Ok as i32,
        count: counted.count,
        last_time: Some(from_time(counted.last_time)),
    }
}

pub(super) fn from_position(position: Position) -> proto::Position {
    proto::Position { revision: position.revision.0, nonce: position.nonce }
}

fn from_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.unix_seconds(),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

fn duration(duration: prost_types::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

/// A mailbox of which one device is known.
fn record(password: ProvenPassword, cache: &proto::CacheEntry) -> Option<MailboxRecord> {
    let expire_time = cache.expire_time.map(time);
    let limits = Limits {
        protocols: cache.allowed_protocols.iter().map(|number| Protocol::from_number((*number).into())).collect::<Option<_>>()?,
        networks: Networks::parse("allowed_networks", &cache.allowed_networks).ok()?,
        expire_time,
    };
    let device = Credential {
        device_id: password.device_id,
        generation: password.generation,
        tag: Tag::Unknown,
        key: KeyId(0),
        // What it may do as its kind the replica has judged; a change of that ends the entry.
        kind: DeviceKind::Chosen,
        user_suspended: false,
        limits: (limits != Limits::default()).then(|| Box::new(limits)),
    };
    Some(MailboxRecord {
        mailbox_id: password.mailbox_id,
        service: service(&cache.mail_service_key)?,
        suspended: false,
        generic_login: true,
        active: Box::new([device]),
        ended: Box::new([]),
    })
}

/// A change that can't be read is as good as a missed one.
fn change(change: &watch_response::Change) -> Option<Change> {
    let Position { revision, nonce } = position(change.position?);
    let scope = if change.mail_service.is_empty() {
        let keys = change.mailboxes.iter().map(|key| key.as_slice().try_into().ok().map(MailboxKey));
        Scope::Mailboxes(keys.collect::<Option<_>>()?)
    } else {
        Scope::Service(service(&change.mail_service)?)
    };
    let ended = change.ended.iter().map(|ended| {
        Some(Ended {
            device_id: DeviceId::parse("device_id", &ended.device_id).ok()?,
            generation: ended.generation,
            reason: Reason::from_number(ended.reason.into()).unwrap_or(Reason::DeviceDisconnected),
        })
    });
    Some(Change { revision, nonce, scope, ended: ended.collect::<Option<_>>()? })
}

fn position(position: proto::Position) -> Position {
    Position { revision: Revision(position.revision), nonce: position.nonce }
}

fn time(time: prost_types::Timestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

fn service(key: &[u8]) -> Option<ServiceKey> {
    key.try_into().ok().map(|key| ServiceKey(u64::from_be_bytes(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_denial_is_a_denial() {
        let answer = |decision: i32, reason: i32, session: &[u8]| proto::AuthenticateResponse {
            decision,
            reason,
            session: session.to_vec(),
            ..Default::default()
        };
        let (allow, deny) = (proto::Decision::Allow as i32, proto::Decision::Deny as i32);
        for (decision, session) in [(allow, &b"of a newer version"[..]), (allow, b""), (0, b""), (77, b"")] {
            assert!(reply(&answer(decision, 1, session)).is_err(), "{decision}");
        }
        let denied = reply(&answer(deny, 4, b"")).expect("a denial");
        assert_eq!((denied.reason, denied.session), (Reason::DeviceDisconnected, None));
        for reason in [0, 1, 77] {
            assert_eq!(reply(&answer(deny, reason, b"")).expect("a denial").reason, Reason::WrongPassword);
        }
    }
}
