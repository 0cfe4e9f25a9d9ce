//! What SQLite's errors mean to whoever asked. Its own words are logged here, once.

use std::path::Path;

use rusqlite::{Error, ErrorCode};
use tracing::{debug, error};

use crate::store::{OpenError, StoreError};

pub(super) fn store(error: &Error) -> StoreError {
    let words = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => {
            debug!(%error, "a statement met another row");
            StoreError::Conflict("such a row is there already, or one that it needs is not".to_owned())
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Conflict("the database is locked".to_owned()),
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            error!(%error, "the database file can't be written");
            StoreError::CannotWrite("the disk is full, or the file may not be written".to_owned())
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            error!(%error, "the database file is damaged");
            StoreError::Corrupt("the database file is damaged".to_owned())
        }
        _ => {
            error!(error = words, "a statement failed");
            StoreError::Unavailable("a statement failed".to_owned())
        }
    }
}

pub(super) fn open(file: &Path, error: &Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            OpenError::NotOurs(format!("{} is no SQLite database, or a damaged one", file.display()))
        }
        _ => {
            let folder = file.parent().unwrap_or(file).to_owned();
            OpenError::DataDirectory { folder, cause: error.to_string() }
        }
    }
}
