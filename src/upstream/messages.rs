//! Messages of the contract to the model, and back. What can't be read is `None`: a replica of another version, treated with care by the caller.

use crate::proto::{self, watch_response};
use latchkey_core::model::{
    address::MailboxKey,
    change::{Change, Ended, Position, Revision, Scope, ServiceKey},
    clock::Timestamp,
    device::{DeviceKind, KeyId, Limits, Tag},
    id::DeviceId,
    network::Networks,
    protocol::Protocol,
    record::{Credential, MailboxRecord},
    verdict::{Attempt, ProvenPassword, Reason},
};

pub(super) fn attempt(attempt: &Attempt, stream_key: Vec<u8>) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        address: attempt.address.to_string(),
        password: attempt.password.expose().to_vec(),
        protocol: attempt.protocol as i32,
        client_ip: attempt.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        frontend: attempt.frontend.to_string(),
        stream_key,
    }
}

/// A mailbox of which one device is known.
pub(super) fn record(password: ProvenPassword, cache: &proto::CacheEntry) -> Option<MailboxRecord> {
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
pub(super) fn change(change: &watch_response::Change) -> Option<Change> {
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

pub(super) fn position(position: proto::Position) -> Position {
    Position { revision: Revision(position.revision), nonce: position.nonce }
}

pub(super) fn time(time: prost_types::Timestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

fn service(key: &[u8]) -> Option<ServiceKey> {
    key.try_into().ok().map(|key| ServiceKey(u64::from_be_bytes(key)))
}
