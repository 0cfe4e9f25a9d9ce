//! Connections to the file: one that writes, a few that read. Whoever holds one for a transaction
//! gives it back rolled back or committed, also when the caller has hung up in the middle.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, Statement, ToSql, types};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors;
use crate::store::{
    Result, StoreError,
    sql::{Row, Session, Value},
};

/// Reading transactions at a time.
const READERS: usize = 8;
/// Connections kept for single reads, which a login makes on its own thread.
const KEPT_READERS: usize = 16;
/// For another process's lock, which there should be none of.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// For a place among the readers, or for the writer before us: as long as PostgreSQL waits for a
/// lock.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements kept prepared by a connection.
const PREPARED: usize = 128;

pub(super) struct Connections {
    file: PathBuf,
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Vec<Connection>>,
    writing: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// Opens the file as every connection has it.
pub(super) fn open(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let connection = open(file)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

impl Connections {
    pub(super) fn open(file: &Path) -> rusqlite::Result<Self> {
        Ok(Self {
            file: file.to_owned(),
            writer: Mutex::new(Some(open(file)?)),
            readers: Mutex::new(vec![open_reader(file)?]),
            writing: Arc::new(Semaphore::new(1)),
            reading: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// One reading statement, on this thread: by an index it takes some microseconds, less than
    /// handing it to another thread would.
    pub(super) fn query_now(&self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        let connection = self.take_reader()?;
        let rows = query(&connection, sql, parameters).map_err(|error| errors::store(&error));
        self.give_reader(connection);
        rows
    }

    fn take_reader(&self) -> Result<Connection> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(|| open_reader(&self.file).map_err(|error| errors::store(&error)), Ok)
    }

    fn give_reader(&self, connection: Connection) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < KEPT_READERS {
            readers.push(connection);
        }
    }
}

/// A connection in use, and the permit to use it. Rolls back what was not committed when dropped,
/// on whichever thread that is.
struct Held {
    connection: Option<Connection>,
    home: Arc<Connections>,
    is_writer: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if !connection.is_autocommit() && connection.execute_batch("ROLLBACK").is_err() {
            // Closing it rolls back too.
            return;
        }
        if self.is_writer {
            *self.home.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        } else {
            self.home.give_reader(connection);
        }
    }
}

/// One transaction. Its statements run on the blocking threads, in order.
pub(super) struct SqliteSession(Option<Held>);

impl SqliteSession {
    pub(super) async fn read(home: &Arc<Connections>) -> Result<Self> {
        let permit = permit(&home.reading).await?;
        let held = Held { connection: Some(home.take_reader()?), home: Arc::clone(home), is_writer: false, _permit: permit };
        Self::begun(held, "BEGIN DEFERRED").await
    }

    pub(super) async fn write(home: &Arc<Connections>) -> Result<Self> {
        let permit = permit(&home.writing).await?;
        let kept = home.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = match kept {
            Some(connection) => connection,
            None => open(&home.file).map_err(|error| errors::store(&error))?,
        };
        let held = Held { connection: Some(connection), home: Arc::clone(home), is_writer: true, _permit: permit };
        // Takes the write lock at once: a transaction that read first could not get it any more.
        Self::begun(held, "BEGIN IMMEDIATE").await
    }

    async fn begun(held: Held, begin: &'static str) -> Result<Self> {
        let mut session = Self(Some(held));
        session.run(move |connection| connection.execute_batch(begin)).await?;
        Ok(session)
    }

    /// Hands the connection to a blocking thread and back. If the caller goes away meanwhile, it
    /// goes home from there.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let gone = || StoreError::Unavailable("the transaction was given up".to_owned());
        let held = self.0.take().ok_or_else(gone)?;
        let worked = tokio::task::spawn_blocking(move || {
            let outcome = held.connection.as_ref().map(|connection| work(connection).map_err(|error| errors::store(&error)));
            (held, outcome)
        });
        let (held, outcome) = worked.await.map_err(|_| gone())?;
        self.0 = Some(held);
        outcome.ok_or_else(gone)?
    }
}

#[async_trait]
impl Session for SqliteSession {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        let parameters = parameters.to_vec();
        self.run(move |connection| query(connection, sql, &parameters)).await
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        let parameters = parameters.to_vec();
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            bind(&mut statement, &parameters)?;
            Ok(statement.raw_execute()? as u64)
        })
        .await
    }

    async fn commit(&mut self) -> Result<()> {
        self.run(|connection| connection.execute_batch("COMMIT")).await
    }
}

async fn permit(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let Ok(permit) = tokio::time::timeout(WAIT_TIMEOUT, Arc::clone(permits).acquire_owned()).await else {
        return Err(StoreError::Conflict("the transactions before this one take too long".to_owned()));
    };
    permit.map_err(|_| StoreError::Unavailable("the store is closed".to_owned()))
}

fn query(connection: &Connection, sql: &'static str, parameters: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(sql)?;
    let width = statement.column_count();
    bind(&mut statement, parameters)?;
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((0..width).map(|column| row.get_ref(column).map(to_value)).collect::<rusqlite::Result<_>>()?);
    }
    Ok(found)
}

/// To SQLite `$2` is a name, numbered by where it first appears; so parameters are bound by name.
fn bind(statement: &mut Statement<'_>, parameters: &[Value]) -> rusqlite::Result<()> {
    const NAMES: [&str; 16] =
        ["$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15", "$16"];
    if parameters.len() > NAMES.len() {
        return Err(rusqlite::Error::InvalidParameterCount(parameters.len(), NAMES.len()));
    }
    for (name, parameter) in NAMES.iter().zip(parameters) {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, parameter)?;
        }
    }
    Ok(())
}

fn to_value(value: types::ValueRef<'_>) -> Value {
    match value {
        types::ValueRef::Null => Value::Null,
        types::ValueRef::Integer(number) => Value::Int(number),
        // No column holds such: it is refused where it is read.
        types::ValueRef::Real(number) => Value::Text(number.to_string()),
        types::ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        types::ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<types::ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => types::ToSqlOutput::Owned(types::Value::Null),
            Self::Int(number) => types::ToSqlOutput::Owned(types::Value::Integer(*number)),
            Self::Bool(switch) => types::ToSqlOutput::Owned(types::Value::Integer(i64::from(*switch))),
            Self::Text(text) => types::ToSqlOutput::Borrowed(types::ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => types::ToSqlOutput::Borrowed(types::ValueRef::Blob(bytes)),
        })
    }
}
