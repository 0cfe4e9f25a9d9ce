//! The one file that chooses codes and reasons. What goes out names no driver, table or path.
//! `docs/errors.md` lists them all.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::convert;
use crate::{
    login::NoAnswer,
    manage::{Refusal, Thing},
    store::{Api, StoreError},
};
use latchkey_core::{
    downstream::{CutOff, ProtocolError},
    model::Invalid,
};

const DOMAIN: &str = "latchkey";
/// When to repeat a call that failed for want of a dependency.
const RETRY: Duration = Duration::from_secs(1);

/// A field out of its bounds.
pub(super) fn invalid(why: &Invalid) -> Status {
    let mut details = with_reason(why.reason);
    details.add_bad_request_violation(why.field, &why.problem);
    Status::with_error_details(Code::InvalidArgument, why.to_string(), details)
}

/// Why a use case refused.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let words = refusal.to_string();
    let plain = |code, reason| Status::with_error_details(code, words.clone(), with_reason(reason));
    match refusal {
        Refusal::Invalid(why) => invalid(why),
        Refusal::ActorNotPermitted => plain(Code::PermissionDenied, "ACTOR_NOT_PERMITTED"),
        Refusal::NotFound(thing) => plain(Code::NotFound, not_found(*thing)),
        Refusal::AlreadyGone(thing, revocation) => {
            let metadata = HashMap::from([
                ("revocation_id".to_owned(), revocation.id.to_string()),
                ("state".to_owned(), convert::revocation(revocation).state().as_str_name().to_owned()),
            ]);
            Status::with_error_details(Code::NotFound, words, ErrorDetails::with_error_info(not_found(*thing), DOMAIN, metadata))
        }
        Refusal::RoleMissing(Api::DeviceCredentials) => role_missing("manager or operator"),
        Refusal::RoleMissing(Api::Directory) => role_missing("provisioner or operator"),
        Refusal::GenericPasswordNotChangeable => plain(Code::FailedPrecondition, "GENERIC_PASSWORD_NOT_CHANGEABLE"),
        Refusal::DeviceIsDisconnected => plain(Code::FailedPrecondition, "DEVICE_IS_DISCONNECTED"),
        Refusal::TooManyDevices(_) => plain(Code::FailedPrecondition, "TOO_MANY_DEVICES"),
        Refusal::EtagMismatch => plain(Code::Aborted, "ETAG_MISMATCH"),
        Refusal::NotEmpty(_) => plain(Code::FailedPrecondition, "NOT_EMPTY"),
        Refusal::OtherOrganization => plain(Code::FailedPrecondition, "OTHER_ORGANIZATION"),
        Refusal::RequestAlreadyDone(device) => {
            let metadata = device.iter().map(|id| ("device_id".to_owned(), id.to_string())).collect::<HashMap<_, _>>();
            let details = ErrorDetails::with_error_info("REQUEST_ALREADY_DONE", DOMAIN, metadata);
            Status::with_error_details(Code::AlreadyExists, words, details)
        }
        Refusal::RequestIdReused => {
            let mut details = with_reason("REQUEST_ID_REUSED");
            details.add_bad_request_violation("request_id", "was used for another call; make a new one");
            Status::with_error_details(Code::InvalidArgument, words, details)
        }
        Refusal::HashingOverloaded => later("HASHING_OVERLOADED", words),
        Refusal::HashingFailed => internal(),
        Refusal::ChangeLost(_) => plain(Code::Aborted, "CHANGE_LOST"),
        Refusal::Store(error) => store(error),
    }
}

/// A login without an answer: never a denial.
pub(super) fn no_answer(why: &NoAnswer) -> Status {
    let reason = match why {
        NoAnswer::StoreUnavailable => "STORE_UNAVAILABLE",
        NoAnswer::HashingOverloaded => "HASHING_OVERLOADED",
        NoAnswer::TooManyChanges => "TOO_MANY_CHANGES",
        NoAnswer::Internal => return internal(),
    };
    later(reason, why.to_string())
}

/// What a watcher did wrong: its stream ends.
pub(super) fn protocol_error(protocol_error: ProtocolError) -> Status {
    let (code, reason) = match protocol_error {
        ProtocolError::AcknowledgesTheFuture | ProtocolError::AcknowledgesBackwards => {
            (Code::InvalidArgument, "BAD_ACKNOWLEDGEMENT")
        }
        ProtocolError::SessionNumberTaken => (Code::InvalidArgument, "SESSION_NUMBER_TAKEN"),
        ProtocolError::SessionNotOpen => (Code::InvalidArgument, "SESSION_NOT_OPEN"),
        ProtocolError::TooManySessions => (Code::ResourceExhausted, "TOO_MANY_SESSIONS"),
        ProtocolError::TooManyWatchers => (Code::ResourceExhausted, "TOO_MANY_WATCHERS"),
        ProtocolError::CutOff => return cut_off(CutOff::TooSlow),
    };
    Status::with_error_details(code, protocol_error.to_string(), with_reason(reason))
}

/// Why the server ends a watcher's stream.
pub(super) fn cut_off(why: CutOff) -> Status {
    match why {
        CutOff::TooSlow => {
            let words = "the messages were not read in time; connect again, with the position reached";
            Status::with_error_details(Code::ResourceExhausted, words, with_reason("WATCHER_TOO_SLOW"))
        }
        CutOff::Replaced => {
            let words = "another stream sent a hello with the same watcher_id";
            Status::with_error_details(Code::Aborted, words, with_reason("WATCHER_REPLACED"))
        }
        CutOff::BeginsAnew => {
            let words = "the database may have lost changes; connect again";
            Status::with_error_details(Code::Aborted, words, with_reason("WATCHER_BEGINS_ANEW"))
        }
    }
}

/// The server is stopping; another replica answers, or this one after its restart.
pub(super) fn draining() -> Status {
    later("SERVER_DRAINING", "the server is stopping; call again".to_owned())
}

/// The server has just started, and its database is not there yet.
pub(super) fn no_database() -> Status {
    store(&StoreError::Unavailable(String::new()))
}

/// More calls at a time than the server accepts.
pub(super) fn overloaded() -> Status {
    let mut details = with_reason("TOO_MANY_CALLS");
    details.set_retry_info(Some(RETRY));
    Status::with_error_details(Code::ResourceExhausted, "too many calls at a time; try later", details)
}

pub(super) fn unknown_caller(problem: &str) -> Status {
    Status::with_error_details(Code::Unauthenticated, problem, with_reason("CALLER_UNKNOWN"))
}

pub(super) fn role_missing(needed: &str) -> Status {
    let words = format!("this caller's roles do not allow this call; it needs {needed}");
    Status::with_error_details(Code::PermissionDenied, words, with_reason("ROLE_MISSING"))
}

pub(super) fn actor_not_allowed() -> Status {
    let words = "only a manager, a provisioner or an operator may name an actor (metadata latchkey-actor)";
    Status::with_error_details(Code::PermissionDenied, words, with_reason("ACTOR_NOT_ALLOWED"))
}

/// A bug. The log has the details.
pub(super) fn internal() -> Status {
    Status::with_error_details(Code::Internal, "internal error; the server's log has the details", with_reason("INTERNAL"))
}

/// A status as a message: what a stream answers for one of its requests.
pub(super) fn in_a_stream(status: &Status) -> tonic_types::Status {
    // Made by ourselves: its details are that message, whole.
    prost::Message::decode(status.details()).ok().filter(|it: &tonic_types::Status| it.code != 0).unwrap_or_else(|| {
        tonic_types::Status { code: status.code() as i32, message: status.message().to_owned(), details: vec![] }
    })
}

/// A guess that was not judged: after the time that a denial takes.
pub(super) fn throttled(retry_after: Option<Duration>) -> Status {
    let mut details = with_reason("THROTTLED");
    details.set_retry_info(Some(retry_after.unwrap_or(RETRY)));
    let words = "too many wrong guesses; the password was not judged; try later";
    Status::with_error_details(Code::ResourceExhausted, words, details)
}

/// A watcher that speaks another version of the protocol.
pub(super) fn unknown_protocol_version() -> Status {
    let why = "must be 1: this server speaks no other version";
    let mut details = with_reason("PROTOCOL_VERSION_UNKNOWN");
    details.add_bad_request_violation("protocol_version", why);
    Status::with_error_details(Code::InvalidArgument, format!("protocol_version {why}"), details)
}

fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) => later("STORE_UNAVAILABLE", "the database does not answer; nothing was changed".to_owned()),
        StoreError::OutcomeUnknown(_) => later(
            "OUTCOME_UNKNOWN",
            "it is not known whether the change was made: repeat the call, with the same request_id".to_owned(),
        ),
        StoreError::Conflict(_) => {
            let mut details = with_reason("CONFLICT");
            details.set_retry_info(Some(RETRY));
            Status::with_error_details(
                Code::Aborted,
                "concurrent changes prevented this one; nothing was changed; try again",
                details,
            )
        }
        StoreError::CannotWrite(_) => {
            later("STORE_CANNOT_WRITE", "the database cannot write (it is full or read-only); nothing was changed".to_owned())
        }
        StoreError::Corrupt(words) => {
            tracing::error!(error = words, "stored data cannot be read");
            internal()
        }
    }
}

fn not_found(thing: Thing) -> &'static str {
    match thing {
        Thing::Organization => "ORGANIZATION_NOT_FOUND",
        Thing::Member => "MEMBER_NOT_FOUND",
        Thing::MailService => "MAIL_SERVICE_NOT_FOUND",
        Thing::Right => "RIGHT_NOT_FOUND",
        Thing::Mailbox => "MAILBOX_NOT_FOUND",
        Thing::Device => "DEVICE_NOT_FOUND",
    }
}

fn later(reason: &str, words: String) -> Status {
    let mut details = with_reason(reason);
    details.set_retry_info(Some(RETRY));
    Status::with_error_details(Code::Unavailable, words, details)
}

fn with_reason(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}
