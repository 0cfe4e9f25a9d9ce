//! From messages to the model and back. Pure functions; what comes in is within its bounds when it
//! leaves here.

use prost_types::{Duration as ProtoDuration, Timestamp as ProtoTimestamp};

use crate::{
    login::{Cacheable, CachedLogins},
    manage::{
        devices::{DeviceUpdate, EventsOf, can_change_password},
        mutation::RequestKey,
        revocation::Revocation,
    },
    proto,
    replication::confirmation::{Confirmation, Wait},
};
use latchkey_core::model::{
    Invalid,
    address::Address,
    clock::Timestamp,
    device::{Device, DeviceKind, DeviceName, LastUse, Limits},
    directory::{MailService, Mailbox, Member, Organization, Right, Role},
    event::{Event, Logins, TimeRange},
    id::{DeviceId, MailServiceId, MailboxId, OrganizationId, RequestId, UserId},
    network::{Networks, parse_client_ip},
    protocol::{Protocol, Protocols},
    secret::Secret,
    session::OpenSession,
    verdict::{Attempt, Reason, Session, Verdict},
};

/// RFC 3339's years 0001 to 9999, as google.protobuf.Timestamp has them.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const MAX_CACHED_LOGINS: u32 = 1_000_000_000;
const MAX_REPORT_AGE_MICROS: i64 = 3_600 * 1_000_000;
const MAX_STREAM_KEY_BYTES: usize = 64;
const MAX_PASSWORD_BYTES: usize = 1_024;
const MAX_FRONTEND_CHARACTERS: usize = 64;
/// Longer than any lease lasts.
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(600);
/// Of one device.
const MAX_SESSIONS_SHOWN: usize = 20;

pub(super) fn attempt(request: proto::AuthenticateRequest) -> Result<Attempt, Invalid> {
    let password = Secret::new(request.password);
    if password.expose().is_empty() || password.expose().len() > MAX_PASSWORD_BYTES {
        return Err(Invalid::new("password", "must be 1 to 1,024 bytes"));
    }
    if request.stream_key.len() > MAX_STREAM_KEY_BYTES {
        return Err(Invalid::new("stream_key", "must be at most 64 bytes"));
    }
    Ok(Attempt {
        address: address(&request.address)?,
        password,
        protocol: protocol("protocol", request.protocol)?,
        client_ip: parse_client_ip("client_ip", &request.client_ip)?,
        frontend: frontend(request.frontend)?,
    })
}

fn frontend(name: String) -> Result<Box<str>, Invalid> {
    if name.len() > MAX_FRONTEND_CHARACTERS && name.chars().count() > MAX_FRONTEND_CHARACTERS {
        return Err(Invalid::new("frontend", "must be at most 64 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(Invalid::new("frontend", "must not hold control characters"));
    }
    Ok(name.into_boxed_str())
}

/// Logins that a watcher answered from its cache. Times of its clock count within the last hour.
pub(super) fn cached_login(count: proto::watch_request::cached_logins::Count, now: Timestamp) -> Result<CachedLogins, Invalid> {
    const FROM_CACHE: [Reason; 4] = [Reason::Ok, Reason::ProtocolNotAllowed, Reason::NetworkNotAllowed, Reason::DeviceExpired];
    let last_time = optional_time("last_time", count.last_time)?.unwrap_or(now);
    let reason = Reason::from_number(count.reason.into()).filter(|reason| FROM_CACHE.contains(reason));
    if !(1..=MAX_CACHED_LOGINS).contains(&count.count) {
        return Err(Invalid::new("count", "must be 1 to 1,000,000,000"));
    }
    Ok(CachedLogins {
        session: Session::decode("session", &count.session)?,
        protocol: protocol("protocol", count.protocol)?,
        client_ip: parse_client_ip("client_ip", &count.client_ip)?,
        frontend: frontend(count.frontend)?,
        reason: reason.ok_or_else(|| {
            Invalid::new(
                "reason",
                "must be REASON_OK, REASON_PROTOCOL_NOT_ALLOWED, REASON_NETWORK_NOT_ALLOWED or REASON_DEVICE_EXPIRED",
            )
        })?,
        count: count.count,
        last_time: Timestamp(last_time.0.clamp(now.0 - MAX_REPORT_AGE_MICROS, now.0)),
    })
}

pub(super) fn verdict(verdict: &Verdict, address: &Address) -> proto::AuthenticateResponse {
    let session = verdict
        .password
        .filter(|_| verdict.is_allowed())
        .map(|password| Session { password, revision: verdict.revision, address: address.clone() }.encode());
    proto::AuthenticateResponse {
        decision: if verdict.is_allowed() { proto::Decision::Allow } else { proto::Decision::Deny }.into(),
        reason: reason(verdict.reason).into(),
        device_id: verdict.password.map_or_else(String::new, |password| password.device_id.to_string()),
        session: session.unwrap_or_default(),
        revision: verdict.revision.0,
        cache: None,
    }
}

pub(super) fn duration(duration: std::time::Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn reason(reason: Reason) -> proto::Reason {
    proto::Reason::try_from(reason as i32).unwrap_or(proto::Reason::Unspecified)
}

pub(super) fn address(typed: &str) -> Result<Address, Invalid> {
    Address::parse("address", typed)
}

pub(super) fn device_id(text: &str) -> Result<DeviceId, Invalid> {
    DeviceId::parse("device_id", text)
}

pub(super) fn optional_user(text: &str) -> Result<Option<UserId>, Invalid> {
    if text.is_empty() { Ok(None) } else { UserId::parse("user_id", text).map(Some) }
}

pub(super) fn protocol(field: &'static str, number: i32) -> Result<Protocol, Invalid> {
    Protocol::from_number(number.into()).ok_or_else(|| Invalid::new(field, Protocol::ONE_OF))
}

pub(super) fn protocols(numbers: &[i32]) -> Result<Protocols, Invalid> {
    numbers.iter().map(|number| protocol("allowed_protocols", *number)).collect()
}

pub(super) fn optional_time(field: &'static str, time: Option<ProtoTimestamp>) -> Result<Option<Timestamp>, Invalid> {
    time.map(|time| {
        if TIMESTAMP_SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos) {
            Ok(Timestamp(time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000))
        } else {
            Err(Invalid::new(field, "must be a time between the years 1 and 9999, with 0 to 999,999,999 nanoseconds"))
        }
    })
    .transpose()
}

pub(super) fn limits(
    allowed_protocols: &[i32],
    allowed_networks: &[String],
    expire_time: Option<ProtoTimestamp>,
) -> Result<Limits, Invalid> {
    Ok(Limits {
        protocols: protocols(allowed_protocols)?,
        networks: Networks::parse("allowed_networks", allowed_networks)?,
        expire_time: optional_time("expire_time", expire_time)?,
    })
}

pub(super) fn device_update(request: &proto::UpdateDeviceRequest) -> Result<DeviceUpdate, Invalid> {
    let paths = request.update_mask.as_ref().map_or(&[][..], |mask| &mask.paths);
    if paths.is_empty() {
        return Err(Invalid::new("update_mask", "must name at least one field"));
    }
    let mut update = DeviceUpdate::default();
    for path in paths {
        match path.as_str() {
            "display_name" => update.name = Some(DeviceName::parse("display_name", &request.display_name)?),
            "user_id" => update.user = Some(optional_user(&request.user_id)?),
            "allowed_protocols" => update.protocols = Some(protocols(&request.allowed_protocols)?),
            "allowed_networks" => {
                update.networks = Some(Networks::parse("allowed_networks", &request.allowed_networks)?);
            }
            "expire_time" => update.expire_time = Some(optional_time("expire_time", request.expire_time)?),
            _ => {
                return Err(Invalid::new(
                    "update_mask",
                    "must name only display_name, user_id, allowed_protocols, allowed_networks, expire_time",
                ));
            }
        }
    }
    Ok(update)
}

/// Whose events are asked for.
pub(super) fn events_of(scope: Option<&proto::list_events_request::Scope>) -> Result<EventsOf, Invalid> {
    use proto::list_events_request::Scope;
    Ok(match scope {
        None => return Err(Invalid::new("scope", "must be an address, mailbox_id, mail_service_id or organization_id")),
        Some(Scope::Address(typed)) => EventsOf::Mailbox(address(typed)?),
        Some(Scope::MailboxId(id)) => EventsOf::MailboxId(MailboxId::parse("mailbox_id", id)?),
        Some(Scope::MailServiceId(id)) => EventsOf::Service(MailServiceId::parse("mail_service_id", id)?),
        Some(Scope::OrganizationId(id)) => EventsOf::Organization(OrganizationId::parse("organization_id", id)?),
    })
}

pub(super) fn time_range(start: Option<ProtoTimestamp>, end: Option<ProtoTimestamp>) -> Result<TimeRange, Invalid> {
    let range = TimeRange { start: optional_time("start_time", start)?, end: optional_time("end_time", end)? };
    match (range.start, range.end) {
        (Some(start), Some(end)) if end <= start => Err(Invalid::new("end_time", "must be after start_time")),
        _ => Ok(range),
    }
}

/// What a watcher may cache of an answer.
pub(super) fn cache_entry(address: &Address, cacheable: &Cacheable<'_>) -> proto::CacheEntry {
    let limits = cacheable.limits;
    proto::CacheEntry {
        mailbox_key: address.key().0.to_vec(),
        mail_service_key: cacheable.service.0.to_be_bytes().to_vec(),
        generation: cacheable.generation,
        allowed_protocols: limits.into_iter().flat_map(|it| it.protocols.iter()).map(|protocol| protocol as i32).collect(),
        allowed_networks: limits.into_iter().flat_map(|it| &it.networks.0).map(ToString::to_string).collect(),
        expire_time: limits.and_then(|limits| limits.expire_time).map(time),
    }
}

/// `parts` name the call and its target.
pub(super) fn request_key(id: &str, parts: &[&str]) -> Result<Option<RequestKey>, Invalid> {
    if id.is_empty() {
        return Ok(None);
    }
    Ok(Some(RequestKey::new(RequestId::parse("request_id", id)?, parts)))
}

/// How long a call waits for its revocation. Absent: until it is effective.
pub(super) fn wait(max_wait: Option<ProtoDuration>) -> Result<Wait, Invalid> {
    let Some(max_wait) = max_wait else {
        return Ok(Wait::UntilEffective);
    };
    let is_canonical = max_wait.seconds >= 0 && (0..1_000_000_000).contains(&max_wait.nanos);
    let wait = std::time::Duration::try_from(max_wait).ok().filter(|wait| is_canonical && *wait <= MAX_WAIT);
    wait.map(Wait::AtMost).ok_or_else(|| Invalid::new("max_wait", "must be 0 to 600 seconds"))
}

pub(super) fn role(number: i32) -> Result<Role, Invalid> {
    Role::from_number(number.into())
        .ok_or_else(|| Invalid::new("role", "must be one of ROLE_LEGAL_REPRESENTATIVE, ROLE_ADMINISTRATOR, ROLE_COLLABORATOR"))
}

pub(super) fn time(time: Timestamp) -> ProtoTimestamp {
    ProtoTimestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// `sessions`: of the whole mailbox, the newest first.
pub(super) fn device(device: &Device, mailbox: &Mailbox, sessions: &[OpenSession]) -> proto::Device {
    let sessions: Vec<_> = sessions.iter().filter(|session| session.password.device_id == device.device_id).collect();
    let generic_login = mailbox.generic_login && mailbox.service_generic_login;
    proto::Device {
        device_id: device.device_id.to_string(),
        address: mailbox.address.to_string(),
        display_name: device.name.as_str().to_owned(),
        kind: kind(device.kind).into(),
        user_id: device.user.as_ref().map_or_else(String::new, ToString::to_string),
        allowed_protocols: device.limits.protocols.iter().map(|protocol| protocol as i32).collect(),
        allowed_networks: device.limits.networks.0.iter().map(ToString::to_string).collect(),
        create_time: Some(time(device.create_time)),
        expire_time: device.limits.expire_time.map(time),
        disconnect_time: device.disconnection.map(|disconnection| time(disconnection.time)),
        last_use: device.last_use.as_ref().map(last_use),
        generation: device.generation,
        can_change_password: can_change_password(device),
        login_enabled: device.kind != DeviceKind::Generic || generic_login,
        live_sessions: u32::try_from(sessions.len()).unwrap_or(u32::MAX),
        sessions: sessions.into_iter().take(MAX_SESSIONS_SHOWN).map(live_session).collect(),
    }
}

fn live_session(session: &OpenSession) -> proto::LiveSession {
    proto::LiveSession {
        open_time: Some(time(session.open_time)),
        protocol: session.protocol as i32,
        client_ip: session.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        frontend: session.frontend.clone(),
    }
}

fn last_use(last: &LastUse) -> proto::device::LastUse {
    proto::device::LastUse {
        time: Some(time(last.time)),
        client_ip: last.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        protocol: last.protocol as i32,
    }
}

fn kind(kind: DeviceKind) -> proto::DeviceKind {
    match kind {
        DeviceKind::Generated => proto::DeviceKind::Generated,
        DeviceKind::Chosen => proto::DeviceKind::Chosen,
        DeviceKind::Generic => proto::DeviceKind::Generic,
    }
}

pub(super) fn revocation(revocation: &Revocation) -> proto::Revocation {
    let (state, closed, unconfirmed, effective_by) = match &revocation.confirmation {
        Confirmation::Effective(sessions) => (proto::revocation::State::Effective, sessions, vec![], None),
        Confirmation::Pending { unconfirmed, effective_by, sessions } => {
            let unconfirmed = unconfirmed.iter().map(|process| proto::revocation::UnconfirmedProcess {
                process_id: process.node_id.map_or_else(String::new, |id| id.to_string()),
                display_name: process.name.clone(),
            });
            (proto::revocation::State::Pending, sessions, unconfirmed.collect(), Some(time(*effective_by)))
        }
    };
    let unconfirmed_sessions = closed
        .silent
        .iter()
        .map(|host| proto::revocation::UnconfirmedSessions { host: host.name.clone(), sessions: host.sessions });
    proto::Revocation {
        revocation_id: revocation.id.to_string(),
        revision: revocation.id.0.revision.0,
        state: state.into(),
        closed_sessions: closed.closed,
        refused_sessions: closed.refused,
        unconfirmed_sessions: unconfirmed_sessions.collect(),
        unconfirmed,
        effective_by,
        ended_devices: revocation.ended_devices,
    }
}

pub(super) fn event(event: &Event) -> proto::Event {
    proto::Event {
        event_id: event.event_id.to_string(),
        time: Some(time(event.time)),
        r#type: event.kind as i32,
        organization_id: or_empty(event.organization_id.as_ref()),
        mail_service_id: or_empty(event.mail_service_id.as_ref()),
        mailbox_id: or_empty(event.mailbox_id.as_ref()),
        user_id: or_empty(event.user.as_ref()),
        device_id: or_empty(event.device_id.as_ref()),
        device_display_name: event.device_name.clone(),
        actor_user_id: event.actor.clone(),
        caller: event.caller.clone(),
        peer: event.peer.clone(),
        revision: event.revision.0,
        detail: event.detail.clone(),
        logins: event.logins.as_ref().map(logins),
    }
}

fn or_empty(id: Option<&impl ToString>) -> String {
    id.map_or_else(String::new, ToString::to_string)
}

fn logins(logins: &Logins) -> proto::event::Logins {
    let decision = match logins.reason {
        Reason::Ok => proto::Decision::Allow,
        // Not judged.
        Reason::Throttled => proto::Decision::Unspecified,
        _ => proto::Decision::Deny,
    };
    proto::event::Logins {
        decision: decision.into(),
        reason: reason(logins.reason).into(),
        protocol: logins.protocol as i32,
        client_ip: logins.client_ip.map_or_else(String::new, |ip| ip.to_string()),
        from_several_addresses: logins.from_several_addresses,
        frontend: logins.frontend.clone(),
        count: logins.count,
        last_time: Some(time(logins.last_time)),
    }
}

pub(super) fn organization(organization: Organization) -> proto::Organization {
    proto::Organization {
        organization_id: organization.organization_id.to_string(),
        display_name: organization.display_name,
        create_time: Some(time(organization.create_time)),
    }
}

pub(super) fn member(member: &Member) -> proto::Member {
    proto::Member {
        organization_id: member.organization_id.to_string(),
        user_id: member.user.to_string(),
        role: member.role as i32,
        suspended: member.suspended,
    }
}

pub(super) fn mail_service(service: MailService) -> proto::MailService {
    proto::MailService {
        mail_service_id: service.mail_service_id.to_string(),
        organization_id: service.organization_id.to_string(),
        display_name: service.display_name,
        generic_login_enabled: service.generic_login,
        create_time: Some(time(service.create_time)),
    }
}

pub(super) fn right(right: &Right) -> proto::Right {
    proto::Right { mail_service_id: right.mail_service_id.to_string(), user_id: right.user.to_string() }
}

pub(super) fn mailbox(mailbox: &Mailbox) -> proto::Mailbox {
    proto::Mailbox {
        address: mailbox.address.to_string(),
        mail_service_id: mailbox.mail_service_id.to_string(),
        mailbox_id: mailbox.mailbox_id.to_string(),
        suspended: mailbox.suspended,
        generic_login_enabled: mailbox.generic_login,
        create_time: Some(time(mailbox.create_time)),
    }
}
