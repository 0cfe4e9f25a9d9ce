//! The schema's version, and how it is brought up to date: by one replica at a time, and never
//! without an end.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio_postgres::{Error, error::SqlState};
use tracing::info;

use super::{errors, pooled::ANSWER_TIMEOUT};
use crate::store::{
    OpenError,
    migrations::{self, HISTORY, MAKE_HISTORY, Migration, VERSION, migrations},
};

const MIGRATIONS: [Migration; 5] =
    migrations!("migrations": 1 "initial", 2 "sessions", 3 "session_reports", 4 "event_scopes", 5 "revocations");

/// An arbitrary number, the same in every version. Held until the connection ends.
const LOCK: &str = "SET lock_timeout = 20000; SET statement_timeout = 20000; SELECT pg_advisory_lock(7305808869231650145)";
/// By the server; here a little longer.
const LOCK_TIMEOUT: Duration = Duration::from_secs(22);
/// A version may build an index over every row.
const MIGRATE: &str = "SET lock_timeout = 2000; SET statement_timeout = 3600000";
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3_602);

/// The schema's version (0: there is none), and the one that this program makes of it.
pub(super) async fn versions(client: &Object) -> Result<(i64, i64), OpenError> {
    let known = migrations::known(&MIGRATIONS);
    let exists = "SELECT to_regclass($1::TEXT) IS NOT NULL";
    if !within(ANSWER_TIMEOUT, client.query_one(exists, &[&HISTORY])).await?.get::<_, bool>(0) {
        return Ok((0, known));
    }
    Ok((within(ANSWER_TIMEOUT, client.query_one(VERSION, &[])).await?.get(0), known))
}

/// Brings the schema up to date, if it is not.
pub(super) async fn migrate(pool: &Pool) -> Result<(), OpenError> {
    let client = pool.get().await.map_err(|error| errors::open(&error))?;
    let (found, known) = versions(&client).await?;
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    if found == known {
        return Ok(());
    }
    let migrated = migrate_locked(&client).await;
    // The connection goes, and the lock with it, whatever became of the migration.
    drop(Object::take(client));
    migrated
}

async fn migrate_locked(client: &Object) -> Result<(), OpenError> {
    match tokio::time::timeout(LOCK_TIMEOUT, client.batch_execute(LOCK)).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) => return Err(failed(&error)),
        _ => return Err(OpenError::BeingMigrated),
    }
    // Another replica may have done it meanwhile, and one of a later version more than that.
    let (found, known) = versions(client).await?;
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    within(ANSWER_TIMEOUT, client.batch_execute(MIGRATE)).await?;
    within(ANSWER_TIMEOUT, client.batch_execute(MAKE_HISTORY)).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        let statements = format!("BEGIN;\n{}\nCOMMIT;", migration.statements());
        within(MIGRATION_TIMEOUT, client.batch_execute(&statements)).await?;
        info!(version = migration.version, name = migration.name, "the database's schema was brought up to date");
    }
    Ok(())
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Error>>) -> Result<T, OpenError> {
    let answer = tokio::time::timeout(limit, asked).await;
    answer.map_err(|_| OpenError::Unreachable("it accepts connections and does not answer".to_owned()))?.map_err(|e| failed(&e))
}

/// A connection that broke, or a database that stops or starts, is to be tried again.
fn failed(error: &Error) -> OpenError {
    match error.code() {
        None | Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW) => {
            OpenError::Unreachable(errors::words(error))
        }
        Some(_) => OpenError::Migration(errors::words(error)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_migration_file_is_a_version_and_none_is_left_out() {
        crate::store::migrations::verify_files("postgres", &super::MIGRATIONS);
    }
}
