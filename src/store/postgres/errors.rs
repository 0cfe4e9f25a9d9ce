//! What PostgreSQL's errors mean to whoever asked, by their SQLSTATE. Its own words are logged
//! here, once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use deadpool_postgres::PoolError;
use tokio_postgres::{
    Error,
    error::{DbError, SqlState},
};
use tracing::{debug, error, warn};

use crate::{
    clock::SystemClock,
    store::{OpenError, StoreError},
};
use latchkey_core::model::clock::{BootTime, Clock};

/// An outage fails every login: it is told once in a while, and with all that it fails only to who
/// wants to know everything.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

macro_rules! tell {
    ($($what:tt)+) => {
        if may_tell() { warn!($($what)+) } else { debug!($($what)+) }
    };
}

fn may_tell() -> bool {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let (now, told) = (SystemClock.boot(), TOLD.load(Ordering::Relaxed));
    let is_due = told == 0 || now - BootTime(told) >= TELL_INTERVAL;
    is_due && TOLD.compare_exchange(told, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Before the commit: nothing was changed.
pub(super) fn store(error: &Error) -> StoreError {
    let Some(state) = error.code() else {
        tell!(error = words(error), "a statement got no answer");
        return StoreError::Unavailable("the connection broke".to_owned());
    };
    match *state {
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::UNIQUE_VIOLATION
        | SqlState::FOREIGN_KEY_VIOLATION => {
            debug!(error = words(error), "a statement met another transaction");
            StoreError::Conflict("another transaction was in the way".to_owned())
        }
        SqlState::DISK_FULL | SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::INSUFFICIENT_PRIVILEGE => {
            error!(error = words(error), "the database can't be written");
            StoreError::CannotWrite("the database's disk is full, or it may not be written".to_owned())
        }
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            tell!(error = words(error), "the database is stopping or starting");
            StoreError::Unavailable("the database is stopping or starting".to_owned())
        }
        SqlState::QUERY_CANCELED => {
            warn!(error = words(error), "a statement took too long");
            StoreError::Unavailable("a statement took too long".to_owned())
        }
        _ => {
            error!(error = words(error), "a statement failed");
            StoreError::Unavailable("a statement failed".to_owned())
        }
    }
}

/// While committing: only an answer from the server that it did not settles that it did not.
pub(super) fn commit(error: &Error) -> StoreError {
    match error.code() {
        // These are answered before anything is committed.
        Some(state) if state.code().starts_with("40") || state.code().starts_with("23") => store(error),
        _ => {
            warn!(error = words(error), "a commit got no clear answer");
            StoreError::OutcomeUnknown("the commit got no clear answer".to_owned())
        }
    }
}

/// Of a statement that commits by itself: an error of the server's says that it changed nothing, a
/// broken connection says nothing.
pub(super) fn write(error: &Error) -> StoreError {
    if error.code().is_some() {
        return store(error);
    }
    tell!(error = words(error), "a write got no clear answer");
    StoreError::OutcomeUnknown("the write got no clear answer".to_owned())
}

pub(super) fn pool(error: &PoolError) -> StoreError {
    tell!(error = pool_words(error), "no connection to the database");
    StoreError::Unavailable("there is no connection".to_owned())
}

/// A server that stops, starts, or has no place left is out of reach for now; one that says
/// anything else has refused.
pub(super) fn open(error: &PoolError) -> OpenError {
    let state = match error {
        PoolError::Backend(error) => error.code(),
        _ => None,
    };
    match state.map(SqlState::code) {
        Some("57P01" | "57P02" | "57P03" | "53300" | "57014") | None => OpenError::Unreachable(pool_words(error)),
        Some(_) => OpenError::Refused(pool_words(error)),
    }
}

/// The driver's and the server's words, with their causes. For the log and for operators.
pub(super) fn words(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} ({})", error.message(), error.code().code());
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

/// "canceling the wait for synchronous replication …": committed here, perhaps on no standby. The
/// server says so with a plain WARNING, in its own language, and answers the commit as done. So
/// each plain WARNING counts.
pub(super) fn is_uncertain_commit(notice: &DbError) -> bool {
    *notice.code() == SqlState::WARNING
}

fn pool_words(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => words(error),
        PoolError::Timeout(_) => "no connection was to be had in time".to_owned(),
        error => error.to_string(),
    }
}
