//! What a proven password may do. Judged at every login, after the proof: never part of a cached
//! verdict.

use crate::model::{
    clock::Timestamp,
    device::DeviceKind,
    record::{Credential, EndReason, EndedCredential, MailboxRecord},
    verdict::{Attempt, Reason},
};

/// Of a current password.
pub fn judge(mailbox: &MailboxRecord, device: &Credential, attempt: &Attempt, now: Timestamp) -> Reason {
    let Some(limits) = &device.limits else {
        return judge_session(mailbox, device, now);
    };
    match judge_session(mailbox, device, now) {
        Reason::Ok if !limits.protocols.allows(attempt.protocol) => Reason::ProtocolNotAllowed,
        Reason::Ok if !limits.networks.allow(attempt.client_ip) => Reason::NetworkNotAllowed,
        reason => reason,
    }
}

/// Of a session that was opened with a current password: what can end while it is open.
pub fn judge_session(mailbox: &MailboxRecord, device: &Credential, now: Timestamp) -> Reason {
    if mailbox.suspended {
        return Reason::MailboxSuspended;
    }
    if device.kind == DeviceKind::Generic && !mailbox.generic_login {
        return Reason::GenericLoginOff;
    }
    if device.user_suspended {
        return Reason::UserSuspended;
    }
    let expire_time = device.limits.as_ref().and_then(|limits| limits.expire_time);
    if expire_time.is_some_and(|end| end <= now) {
        return Reason::DeviceExpired;
    }
    Reason::Ok
}

/// Of a password that works no more.
pub fn judge_ended(device: &EndedCredential) -> Reason {
    match device.end {
        EndReason::Disconnected => Reason::DeviceDisconnected,
        EndReason::Changed => Reason::PasswordChanged,
    }
}
