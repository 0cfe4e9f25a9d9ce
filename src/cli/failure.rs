//! Why a command did not do what it was asked: one line of what happened, one of what to do, and
//! how the program ends.

use std::io;

use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{config, exit::Exit, tls};

/// A command that ended otherwise than done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    advice: Option<String>,
    /// Nothing says whether the server carried the call out.
    is_outcome_unknown: bool,
    /// What the server said, for `--json`.
    details: Map<String, Value>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), advice: None, is_outcome_unknown: false, details: Map::new() }
    }

    /// The arguments, or what they lead to, can't be used.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// It was not done, and that is certain.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    pub(super) fn no_answer(message: impl Into<String>) -> Self {
        Self::new(Exit::NoAnswer, message)
    }

    pub(super) fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self.is_outcome_unknown = false;
        self
    }

    /// The command only reads: it may be repeated without a second thought.
    pub(super) fn of_read(mut self) -> Self {
        self.is_outcome_unknown = false;
        self
    }

    /// A failed login check is never a DENY, so 1 stands for DENY alone: what can't be asked is a
    /// matter of usage, all else is no answer.
    pub(super) fn of_login(mut self) -> Self {
        let asked_wrongly = self.details.get("code").is_some_and(|code| code == "INVALID_ARGUMENT");
        if self.exit == Exit::Refused {
            self.exit = if asked_wrongly { Exit::Usage } else { Exit::NoAnswer };
        }
        self
    }

    /// Says it, for people or as JSON, and how the program is to end.
    pub(super) fn report(mut self, as_json: bool) -> Exit {
        if self.is_outcome_unknown {
            let advice = self.advice.map_or(String::new(), |advice| format!("{advice} "));
            self.advice = Some(format!("{advice}The change may have been made: check before you repeat it."));
        }
        if as_json {
            self.details.insert("message".into(), self.message.into());
            self.details.insert("advice".into(), self.advice.into());
            eprintln!("{}", json!({ "error": self.details }));
        } else if !self.message.is_empty() {
            eprintln!("error: {}", super::terminal::printable(&self.message));
            if let Some(advice) = self.advice {
                eprintln!("  {}", super::terminal::printable(&advice));
            }
        }
        self.exit
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever read our output (`head`) has seen enough.
            return Self::new(Exit::Done, "");
        }
        Self::refused(error.to_string())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or("", |info| info.reason.as_str());
        let fields: Vec<_> = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);

        let mut failure = Self::new(exit(status.code()), message(&status));
        failure.advice = advice(reason, status.code(), info.and_then(|info| info.metadata.get("device_id")).map(String::as_str))
            .map(|advice| match retry {
                Some(delay) => format!("{advice} Try again in {}.", config::human(delay)),
                None => advice,
            });
        // These reasons have an advice of their own, which says whether something was changed.
        let says_so = matches!(
            reason,
            "OUTCOME_UNKNOWN"
                | "STORE_UNAVAILABLE"
                | "SERVER_DRAINING"
                | "HASHING_OVERLOADED"
                | "TOO_MANY_CHANGES"
                | "CONFLICT"
                | "STORE_CANNOT_WRITE"
        );
        failure.is_outcome_unknown = failure.exit == Exit::NoAnswer && !says_so;
        if is_broken(&status) {
            failure.advice = Some("Is --server right? If that server expects TLS, write https:// there.".to_owned());
        }
        if let Some(mistake) = tls::mistake(&status) {
            // No call went over that connection.
            failure = Self { exit: Exit::NoAnswer, ..failure }.with_advice(mistake.advice());
        }
        failure.details.insert("code".into(), code_name(status.code()).into());
        failure.details.insert("reason".into(), reason.into());
        if !fields.is_empty() {
            let fields: Vec<_> = fields.iter().map(|f| json!({ "field": f.field, "problem": f.description })).collect();
            failure.details.insert("fields".into(), fields.into());
        }
        if let Some(info) = info.filter(|info| !info.metadata.is_empty()) {
            failure.details.insert("metadata".into(), json!(info.metadata));
        }
        if let Some(delay) = retry {
            failure.details.insert("retry_after_seconds".into(), delay.as_secs_f64().into());
        }
        failure
    }
}

fn exit(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        // Whether the server did it is not known in any of these.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown | Code::DataLoss => {
            Exit::NoAnswer
        }
        _ => Exit::Refused,
    }
}

/// What happened, with each field that the server names.
pub(super) fn message(status: &Status) -> String {
    if let Some(mistake) = tls::mistake(status) {
        return mistake.to_string();
    }
    let mut message = match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => "no answer in time".to_owned(),
        Code::Unavailable if std::error::Error::source(status).is_some() => {
            format!("no connection to the server: {}", tls::root(status))
        }
        _ if is_broken(status) => format!("the connection to the server broke: {}", tls::root(status)),
        _ if status.message().is_empty() => code_name(status.code()).to_owned(),
        _ => status.message().to_owned(),
    };
    for violation in status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default() {
        if !message.contains(&violation.description) {
            message = format!("{message}; {}: {}", violation.field, violation.description);
        }
    }
    message
}

/// Whether the connection ended without an answer.
fn is_broken(status: &Status) -> bool {
    status.message() == "transport error" && std::error::Error::source(status).is_some()
}

/// What to do. By the server's reason where it has one, else by the code.
fn advice(reason: &str, code: Code, device_id: Option<&str>) -> Option<String> {
    let advice = match (reason, code) {
        ("ACTOR_NOT_PERMITTED", _) => {
            "That person needs the right to manage the mail service (`latchkey service grant`), or a role as administrator or legal \
             representative."
        }
        ("THROTTLED", _) => "There were too many wrong guesses at this mailbox, or from this address.",
        ("MAILBOX_NOT_FOUND", _) => "`latchkey mailbox list SERVICE` lists the mailboxes.",
        ("PASSWORD_TOO_WEAK" | "PASSWORD_ALREADY_USED", _) => "Choose another password, or let one be generated.",
        ("TOO_MANY_DEVICES", _) => {
            "Disconnect a device that is no longer used. `latchkey device list ADDRESS` shows when each was last used."
        }
        ("GENERIC_PASSWORD_NOT_CHANGEABLE", _) => {
            "Add a device of its own instead (`latchkey device add`), then disconnect the generic password."
        }
        ("DEVICE_IS_DISCONNECTED", _) => "Add a new device: `latchkey device add`.",
        ("ETAG_MISMATCH", _) => "The list has changed. Check it again before you repeat the command.",
        ("NOT_EMPTY", _) => "Delete what it contains first.",
        ("REQUEST_ALREADY_DONE", _) => {
            let device = device_id.map_or(String::new(), |id| format!(" Device: {id}."));
            return Some(format!("An earlier call did this. To get a password, change the device's password.{device}"));
        }
        ("OUTCOME_UNKNOWN", _) => {
            "Check before you repeat it. A command that ends a password can always be repeated: it waits until the first one is effective."
        }
        ("STORE_UNAVAILABLE" | "SERVER_DRAINING" | "HASHING_OVERLOADED" | "TOO_MANY_CHANGES" | "CONFLICT", _) => {
            "Nothing was changed. Try again in a moment. If it persists, run `latchkey doctor` on the server."
        }
        ("STORE_CANNOT_WRITE", _) => "Nothing was changed. The database is full or read-only: fix that first.",
        (_, Code::Unauthenticated) => "Identify this caller with --token-file, or with --certificate and --key.",
        (_, Code::PermissionDenied) => "This caller's roles do not allow it. See --token-file, --certificate and --actor.",
        (_, Code::NotFound) => "The command's `list` shows what exists.",
        (_, Code::Unimplemented) => "The server does not know this call. It is older than this command, or not Latchkey.",
        (_, Code::ResourceExhausted) => "The server is overloaded.",
        (_, Code::Unavailable) => "Is the server running, and is --server right?",
        (_, Code::Cancelled | Code::DeadlineExceeded) => "Raise --timeout.",
        (_, Code::Internal | Code::Unknown | Code::DataLoss) => "The server's log has the details.",
        _ => return None,
    };
    Some(advice.to_owned())
}

/// A code's name as gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
