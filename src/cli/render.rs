//! The contract's messages in words for people.

use std::io::{self, Write};

use jiff::{Timestamp, tz::TimeZone};

use super::terminal::printable;
use crate::proto::{self, Decision, Reason, event, revocation};

/// A moment in UTC, to the minute; empty if there is none.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> String {
    in_zone(time, TimeZone::UTC, "%Y-%m-%d %H:%MZ")
}

/// A moment in the local time zone, to the second, with its offset.
pub(super) fn exact_time(time: Option<&prost_types::Timestamp>) -> String {
    in_zone(time, TimeZone::system(), "%Y-%m-%d %H:%M:%S %:z")
}

pub(super) fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

pub(super) fn suspended(suspended: bool) -> String {
    if suspended { "suspended" } else { "active" }.to_owned()
}

/// What the contract puts before the names of an enum's values.
const PREFIXES: [&str; 7] = ["PROTOCOL_", "DEVICE_KIND_", "DECISION_", "REASON_", "ROLE_", "PERMISSION_", "TYPE_"];

/// An enum value's name as words: `ROLE_LEGAL_REPRESENTATIVE` is "legal representative".
pub(super) fn name_of(name: &str) -> String {
    let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    bare.to_lowercase().replace('_', " ")
}

/// A device as a row of a list.
pub(super) fn device_row(device: &proto::Device) -> [String; 6] {
    let last_use = device.last_use.as_ref().map_or_else(
        || "never".to_owned(),
        |last_use| format!("{} {}", time(last_use.time.as_ref()), name_of(last_use.protocol().as_str_name())),
    );
    [
        device.display_name.clone(),
        name_of(device.kind().as_str_name()),
        device.device_id.clone(),
        device.user_id.clone(),
        last_use,
        limits(device),
    ]
}

/// What a device may not do, in short; empty if it may all.
fn limits(device: &proto::Device) -> String {
    let mut limits = Vec::new();
    if device.disconnect_time.is_some() {
        return format!("disconnected {}", time(device.disconnect_time.as_ref()));
    }
    if !device.login_enabled {
        limits.push("login off".to_owned());
    }
    if !device.allowed_protocols.is_empty() {
        limits.push(protocols(device));
    }
    limits.extend(device.allowed_networks.iter().cloned());
    if device.expire_time.is_some() {
        limits.push(format!("until {}", time(device.expire_time.as_ref())));
    }
    limits.join(", ")
}

fn protocols(device: &proto::Device) -> String {
    device.allowed_protocols().map(|protocol| name_of(protocol.as_str_name())).collect::<Vec<_>>().join(", ")
}

/// What `device limits` shows.
pub(super) fn limits_pairs(device: &proto::Device) -> Vec<(&'static str, String)> {
    let expires = if device.expire_time.is_some() { exact_time(device.expire_time.as_ref()) } else { "never".to_owned() };
    vec![
        ("Name", device.display_name.clone()),
        ("Protocols", or_all(protocols(device))),
        ("Networks", or_all(device.allowed_networks.join(", "))),
        ("Expires", expires),
    ]
}

fn or_all(text: String) -> String {
    if text.is_empty() { "all".to_owned() } else { text }
}

/// A device, in full.
pub(super) fn device_pairs(device: &proto::Device) -> Vec<(&'static str, String)> {
    let last_use = device.last_use.as_ref().map_or_else(
        || "never".to_owned(),
        |last| {
            let from = if last.client_ip.is_empty() { String::new() } else { format!(" from {}", last.client_ip) };
            format!("{}, {}{from}", exact_time(last.time.as_ref()), name_of(last.protocol().as_str_name()))
        },
    );
    let changes = match device.generation {
        0 | 1 => "never changed".to_owned(),
        2 => "changed once".to_owned(),
        generation => format!("changed {} times", generation - 1),
    };
    vec![
        ("Name", device.display_name.clone()),
        ("Address", device.address.clone()),
        ("Id", device.device_id.clone()),
        ("Kind", name_of(device.kind().as_str_name())),
        ("User", device.user_id.clone()),
        ("Protocols", or_all(protocols(device))),
        ("Networks", or_all(device.allowed_networks.join(", "))),
        ("Login", if device.login_enabled { String::new() } else { "switched off".to_owned() }),
        ("Created", exact_time(device.create_time.as_ref())),
        ("Expires", exact_time(device.expire_time.as_ref())),
        ("Last used", last_use),
        ("Password", format!("{changes}{}", if device.can_change_password { "" } else { ", cannot be changed" })),
        ("Sessions", if device.live_sessions == 0 { String::new() } else { device.live_sessions.to_string() }),
        ("Disconnected", exact_time(device.disconnect_time.as_ref())),
    ]
}

/// An entry of the audit trail, as a row.
pub(super) fn event_row(event: &proto::Event) -> [String; 6] {
    let names = [&event.device_display_name, &event.device_id, &event.user_id];
    let about = names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
    let by = match (event.actor_user_id.as_str(), event.caller.as_str()) {
        ("", caller) => caller.to_owned(),
        (actor, "") => actor.to_owned(),
        (actor, caller) => format!("{actor} ({caller})"),
    };
    let when = time(event.time.as_ref());
    match &event.logins {
        Some(logins) if event.r#type() == event::Type::Login => {
            let decision = match logins.decision() {
                Decision::Allow => "login",
                Decision::Deny => "login denied",
                Decision::Unspecified => "login not judged",
            };
            let times = if logins.count > 1 { format!(", {} times", logins.count) } else { String::new() };
            let reason = if logins.reason() == Reason::Ok {
                String::new()
            } else {
                format!(": {}", name_of(logins.reason().as_str_name()))
            };
            let detail = format!("{}{times}{reason}", name_of(logins.protocol().as_str_name()));
            let from = if logins.from_several_addresses { "other addresses".to_owned() } else { logins.client_ip.clone() };
            [when, decision.to_owned(), about, logins.frontend.clone(), from, detail]
        }
        _ => [when, name_of(event.r#type().as_str_name()), about, by, event.peer.clone(), event.detail.clone()],
    }
}

/// How far a revocation has come, as a sentence.
pub(super) fn revocation(revocation: Option<&proto::Revocation>) -> String {
    let Some(it) = revocation.filter(|it| it.revision != 0) else { return "There was nothing to revoke.".to_owned() };
    let closed = match it.closed_sessions {
        0 => String::new(),
        1 => " 1 session was closed.".to_owned(),
        n => format!(" {n} sessions were closed."),
    };
    let refused = match it.refused_sessions {
        0 => String::new(),
        1 => " 1 session is refused at its next command.".to_owned(),
        n => format!(" {n} sessions are refused at their next command."),
    };
    let silent: Vec<_> = it.unconfirmed_sessions.iter().map(|host| printable(&host.host)).collect();
    let silent = if silent.is_empty() { String::new() } else { format!(" Sessions at {} are not confirmed.", silent.join(", ")) };
    let closed = format!("{closed}{refused}{silent}");
    if it.state() == revocation::State::Effective {
        return format!("Effective everywhere.{closed}");
    }
    let nodes: Vec<_> = it
        .unconfirmed
        .iter()
        .map(|process| if process.display_name.is_empty() { &process.process_id } else { &process.display_name })
        .map(|n| printable(n))
        .collect();
    let unconfirmed = if nodes.is_empty() { String::new() } else { format!(" Not yet confirmed by {}.", nodes.join(", ")) };
    format!(
        "Committed. Effective everywhere by {} at the latest.{unconfirmed}{closed}\n\
         To wait for it: latchkey revocation await {}",
        exact_time(it.effective_by.as_ref()),
        printable(&it.revocation_id)
    )
}

/// What a call did to the devices that its revocation counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Disconnected,
    /// They are there, and denied.
    Barred,
    /// Either.
    LostAccess,
    /// Their passwords were replaced, or are denied.
    Passwords,
    /// It is not known what.
    Concerned,
}

impl Ended {
    fn words(self, count: u32) -> String {
        let (one, many) = match self {
            Self::Disconnected => ("1 device was disconnected.", "devices were disconnected."),
            Self::Barred => ("1 device cannot log in.", "devices cannot log in."),
            Self::LostAccess => ("1 device lost access.", "devices lost access."),
            Self::Passwords => ("1 password ended.", "passwords ended."),
            Self::Concerned => ("1 device is concerned.", "devices are concerned."),
        };
        match count {
            0 => String::new(),
            1 => format!("{one} "),
            n => format!("{n} {many} "),
        }
    }
}

/// Writes what a call revoked beside what it was for, if it revoked anything.
pub(super) fn write_revocation(out: &mut dyn Write, it: Option<&proto::Revocation>, ended: Ended) -> io::Result<()> {
    match it.filter(|it| it.revision != 0) {
        Some(it) => writeln!(out, "{}{}", ended.words(it.ended_devices), revocation(Some(it))),
        None => Ok(()),
    }
}

/// Why a login was let in or not, for the operator at the phone.
pub(super) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "a reason that this version does not know",
        Reason::Ok => "the password is a current one",
        Reason::UnknownAddress => "there is no such mailbox",
        Reason::WrongPassword => "no device of this mailbox has this password, or recently had it",
        Reason::DeviceDisconnected => "the password is right, but its device was disconnected",
        Reason::PasswordChanged => "this was the device's password before it was changed",
        Reason::MailboxSuspended => "the mailbox is suspended",
        Reason::ProtocolNotAllowed => "the device may not use this protocol",
        Reason::NetworkNotAllowed => "the device may not be used from this network address",
        Reason::DeviceExpired => "the device has expired",
        Reason::GenericLoginOff => "the generic password is switched off for logins",
        Reason::UserSuspended => "the person whose device this is, is suspended",
        Reason::Throttled => "too many wrong guesses from this address, or at this mailbox",
        Reason::MailboxDeleted => "the mailbox was deleted",
    }
}

fn in_zone(time: Option<&prost_types::Timestamp>, zone: TimeZone, format: &str) -> String {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .map_or_else(String::new, |time| time.to_zoned(zone).strftime(format).to_string())
}
